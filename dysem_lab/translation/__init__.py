"""Texts in other languages: parallel tables, seq2seq models, Apertium, and one cache."""
