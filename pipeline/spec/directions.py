"""`[directions]`: which directions to look for in the space of a layer's channels, and in which sample of vectors."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import Field, field_validator

from pipeline.spec.table import Positive, Rewritten, Table, a_list

METHODS = ("pca", "ica", "nmf", "kmeans", "topk", "jumprelu")


class DirectionsSpec(Table):
    """`[directions]`: which directions to look for in the space of a layer's channels, and in which sample of vectors."""

    layers: Annotated[list[str] | None, Rewritten(a_list)] = None
    methods: Annotated[list[str], Rewritten(a_list)] = ["pca16", "kmeans16"]
    vectors: Positive = 20_000
    per_image: Positive = 8
    seed: Annotated[int, Field(ge=0, lt=2**31, strict=True)] = 0
    sparsity: Positive = 16
    split: Positive | None = None
    steps: Annotated[int, Field(ge=1, le=1_000_000, strict=True)] = 2000
    checkpoint: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 60.0

    @field_validator("methods")
    @classmethod
    def _methods_and_numbers(cls, value: list[str]) -> list[str]:
        for method in value:
            if not re.fullmatch(rf"({'|'.join(METHODS)})[1-9][0-9]{{0,4}}", method):
                raise ValueError(f"{method!r} is not {', '.join(METHODS[:-1])} or {METHODS[-1]} with a number behind it: nmf64")
        return list(dict.fromkeys(value))
