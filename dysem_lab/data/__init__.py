"""Sentence pairs and classification texts, from files, the hub or the demo set."""
