"""The encoders as sentence-transformers and MTEB want them."""
