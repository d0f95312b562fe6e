"""Sanity checks of attribution maps: weight randomisation, and deletion and insertion curves."""
