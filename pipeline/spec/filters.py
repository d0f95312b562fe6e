"""`[filters]`: which kernels to draw, and how many tiles of each."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipeline.spec.table import Positive, Rewritten, Table, a_list


class FiltersSpec(Table):
    """`[filters]`: which kernels to draw, and how many tiles of each."""

    layers: Annotated[list[str], Rewritten(a_list), Field(min_length=1)] | None = None
    sort: Literal["norm", "channel"] = "norm"
    filters: Positive | None = None
    inputs: Positive | None = None
