"""Widgets on the same calls, each usable without widgets."""
