"""Presents a run to people: progress, tables, pictures, report pages."""
