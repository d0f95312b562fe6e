"""Receptive fields (what can change a unit) and effective fields (what does, in one image)."""

from pipeline.fields.cache import FieldCache
from pipeline.fields.solving import as_ratio, field_columns, solve_fields, solve_in_groups

__all__ = ["FieldCache", "as_ratio", "field_columns", "solve_fields", "solve_in_groups"]
