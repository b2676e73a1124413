"""Command lines: declares every flag, once."""
