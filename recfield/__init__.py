"""Receptive fields of any network, measured with probe images."""

from recfield.errors import BatchDependent, RandomForward, UnprovenField, UnsolvableField
from recfield.field import ReceptiveField

__all__ = ["BatchDependent", "RandomForward", "ReceptiveField", "UnprovenField", "UnsolvableField"]
