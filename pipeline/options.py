"""Dispatch: how a job's scan is run; nothing of it shows in the results."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Dispatch:
    """How a job's scan is run; nothing of it shows in the results.

    engine: who runs the shards, of `pipeline.engines.registry.ENGINES`. workers: of an engine that has several.
    save_every: seconds between two saves of what was found so far.
    update: whether data that only grew are scanned from where they grew.
    """

    engine: str = "local"
    workers: int | None = None
    save_every: float = 60.0
    update: bool = False
