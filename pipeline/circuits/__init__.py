"""Circuits: which earlier channels a channel is made from, by weights, and by what they add to its winners."""
