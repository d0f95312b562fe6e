"""The tables of a job spec, one module each: their keys, types and defaults."""
