"""RunOptions: how a job is run, as opposed to what it computes."""

from __future__ import annotations

import os
from dataclasses import dataclass

MOST_SHARDS = 1_000_000  # of a job


@dataclass(frozen=True)
class RunOptions:
    """How a job's scan is run. No result depends on any of these.

    engine: who scans the shards, a key of `pipeline.engines.registry.ENGINES`.
    workers: how many; None lets the engine decide. The local engine has none.
    save_every: seconds between two saves of an unfinished scan.
    update: whether a data set that has only grown is scanned from where it grew.
    anew: whether the saved state and the finished stages of earlier runs are discarded; of a shard, its own state alone.
    cache: whether fields that were solved before are read, and those solved now are kept for later jobs.
    """

    engine: str = "local"
    workers: int | None = None
    save_every: float = 60.0
    update: bool = False
    anew: bool = False
    cache: bool = True

    @property
    def leaves_gpus(self) -> bool:
        """Whether the process that runs the job must leave this machine's GPUs to Ray's workers.

        Ray knows nothing of what the process that starts a job computes, and gives every GPU to a worker. Not, where Ray
        itself has given it one, as `ray job submit --entrypoint-num-gpus 1` does.
        """
        submitted = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
        return self.engine == "ray" and not (submitted and os.environ.get("CUDA_VISIBLE_DEVICES"))
