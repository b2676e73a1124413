"""Synthetic hospitals for trying the program out."""
