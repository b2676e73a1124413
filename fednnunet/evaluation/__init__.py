"""Evaluates models on test cases: predictions, metrics by case, and aggregates over cases and sites."""
