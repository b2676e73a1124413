"""The program that aggregates: Flower strategies, and the checks before any work starts."""
