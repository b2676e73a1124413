"""Command lines: every flag is declared here, once."""
