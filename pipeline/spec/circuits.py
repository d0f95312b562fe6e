"""`[circuits]`: which layers to take apart into earlier channels, and how many of these to list."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from pipeline.spec.table import Rewritten, Table, a_list


class CircuitsSpec(Table):
    """`[circuits]`: which layers to take apart into earlier channels, and how many of these to list."""

    layers: Annotated[list[str] | None, Rewritten(a_list)] = None
    top_k: Annotated[int, Field(gt=0, le=100, strict=True)] = 5
    winners: Annotated[int, Field(ge=0, le=1000, strict=True)] = 3
