"""Membership inference against a site's own models, which measures what they tell about its cases."""
