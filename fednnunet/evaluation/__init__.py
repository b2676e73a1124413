"""How good a model is on test cases: predictions, metrics of each case, and aggregates over cases and sites."""
