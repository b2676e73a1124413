"""The program that aggregates: the stages of each task, and the checks before it starts."""
