"""Every compared system: texts in, sentence vectors out."""
