"""The questions: each is a function in a file of its own that returns a `Finding`.

What is in its table, its docstring says. Beside it are `table`, which makes the numbers; `figure`,
which draws a table under a line of `Facts`; and `caption`, which says in a line what matters of it.
"""
