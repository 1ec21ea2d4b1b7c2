"""A loaded model, its forward passes, what they read or change, and the store of vectors."""
