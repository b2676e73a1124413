"""Weights: layout, packing, averaging. Pure: no Flower, no network."""
