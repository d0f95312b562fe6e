"""Data sets: one file a kind, one protocol for all."""
