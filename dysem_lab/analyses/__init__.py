"""Measurements: a study of a model on data in, tidy tables out."""
