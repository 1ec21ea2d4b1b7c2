"""The questions: each is a function in a file of its own that returns a `Finding`."""
