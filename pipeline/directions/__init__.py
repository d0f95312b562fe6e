"""Directions in the space of a layer's channels: a sample of vectors, and what is found in it."""
