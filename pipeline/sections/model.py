"""`[model]`: the network and which of its layers to look at."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StrictBool

from pipeline.sections.table import Size, Table, a_list

PREPROCESSING = ("auto", "none", "unit", "symmetric", "caffe", "torch", "standardize")


class ModelSpec(Table):
    """`[model]`: the network and which of its layers to look at."""

    source: str
    weights: str = "imagenet"
    layers: Annotated[list[str], BeforeValidator(a_list), Field(min_length=1)]
    preprocess: Literal["auto", "none", "unit", "symmetric", "caffe", "torch", "standardize"] = "auto"
    labels: str | None = None
    top: StrictBool = True
    size: Size | None = None
    inputs: dict[str, bool | int | float | str | list[Any]] = {}
    logits: str | None = None
    trusted: StrictBool = False
    custom: str | None = None
