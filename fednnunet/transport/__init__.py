"""Connections between coordinator and nodes."""
