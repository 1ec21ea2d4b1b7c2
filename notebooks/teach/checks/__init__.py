"""The self-checks of the lessons in the folder above, one module per lesson."""
