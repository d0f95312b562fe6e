"""The fields of a network's units: what can change one, and what does."""

from pipeline.fields.solving import as_ratio, field_columns, solve_fields, solve_in_groups

__all__ = ["as_ratio", "field_columns", "solve_fields", "solve_in_groups"]
