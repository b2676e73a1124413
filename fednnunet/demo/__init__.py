"""Hospitals made up for trying the program out."""
