"""`[atlas]`: the map of what a layer sees, its grids, and how their icons are made."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, StrictBool, field_validator

from pipeline.spec.table import Batch, Positive, Rewritten, Table, a_list

Grid = Annotated[int, Field(ge=2, le=256, strict=True)]


class AtlasSpec(Table):
    """`[atlas]`: the map of what a layer sees, its grids, and how their icons are made."""

    layers: Annotated[list[str] | None, Rewritten(a_list)] = None
    vectors: Positive = 20_000
    per_image: Positive = 4
    neighbours: Annotated[int, Field(ge=2, le=1000, strict=True)] = 15
    grids: list[Grid] = [8, 16]
    least: Positive = 3
    icons: StrictBool = True
    steps: Annotated[int, Field(ge=1, le=100_000, strict=True)] = 128
    batch: Batch = 16
    seed: Annotated[int, Field(ge=0, lt=2**31, strict=True)] = 0
    checkpoint: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 60.0
    projector: StrictBool = False

    @field_validator("grids")
    @classmethod
    def _coarse_first(cls, value: list[int]) -> list[int]:
        return sorted(set(value))
