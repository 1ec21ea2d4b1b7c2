"""Texts of a corpus on disk, and the nearest ones to a query: exactly, on the joint sets."""
