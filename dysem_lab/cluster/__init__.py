"""Captures too large for one run: texts streamed in, shards out, here or on a Ray cluster."""
