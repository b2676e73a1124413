"""Fingerprints: what a site measures and how measurements merge. Pure: no Flower, no network, no torch."""
