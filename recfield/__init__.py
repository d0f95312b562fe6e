"""Which input pixels each unit of a network sees, found by probe images alone."""

from recfield.errors import BatchDependent, RandomForward, UnprovenField, UnsolvableField
from recfield.field import ReceptiveField

__all__ = ["BatchDependent", "RandomForward", "ReceptiveField", "UnprovenField", "UnsolvableField"]
