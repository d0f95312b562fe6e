"""The job spec: one TOML file, one module a table, validated once, at the door."""

from pipeline.spec.data import DataSpec
from pipeline.spec.job_spec import STAGES, JobSpec, load_spec, parse_spec
from pipeline.spec.model import ModelSpec

__all__ = ["STAGES", "DataSpec", "JobSpec", "ModelSpec", "load_spec", "parse_spec"]
