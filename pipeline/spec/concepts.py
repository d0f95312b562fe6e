"""`[concepts]`: which concepts channels are named by, and when a name is one."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from pipeline.spec.table import Positive, Table


class ConceptsSpec(Table):
    """`[concepts]`: which concepts channels are named by, and when a name is one."""

    labels: bool = True
    images: Positive = 10_000
    top_k: Annotated[int, Field(gt=0, le=100, strict=True)] = 5
    chance: Annotated[float, Field(ge=0, le=1)] = 0.05
