"""Connects coordinator and nodes, and defines the messages between them."""
