"""What happens during a run: the schema of events, their files, and what passes them on."""
