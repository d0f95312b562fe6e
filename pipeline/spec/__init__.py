"""The tables of a job spec, one module each; `pipeline.load` reads and validates them."""

from pipeline.spec.data import DataSpec
from pipeline.spec.job_spec import STAGES, JobSpec, StageName
from pipeline.spec.model import ModelSpec

__all__ = ["STAGES", "DataSpec", "JobSpec", "ModelSpec", "StageName"]
