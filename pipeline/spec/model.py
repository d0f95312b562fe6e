"""`[model]`: the network and which of its layers to look at."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, StrictBool, ValidationInfo, field_validator, model_validator

from pipeline.spec.paths import HoldsPath, PathText
from pipeline.spec.table import Size, Table, a_list

PREPROCESSING = ("auto", "none", "unit", "symmetric", "caffe", "torch", "standardize")


class InputSpec(Table):
    """`model.inputs.NAME`: what an input of the network beside its image is given, where that is no constant."""

    column: str | None = None
    image: Literal["same"] | None = None
    file: PathText | None = None
    source: Annotated[str, HoldsPath(source_of="data")] | None = None

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if len(self.model_fields_set) != 1:
            raise ValueError("takes exactly one of column, image, file and source")
        return self


class ModelSpec(Table):
    """`[model]`: the network and which of its layers to look at."""

    source: Annotated[str, HoldsPath(source_of="model")]
    weights: Annotated[str, HoldsPath(words=("imagenet", "none"))] = "imagenet"
    layers: Annotated[list[str], BeforeValidator(a_list), Field(min_length=1)]
    preprocess: Literal["auto", "none", "unit", "symmetric", "caffe", "torch", "standardize"] = "auto"
    labels: Annotated[str, HoldsPath(words=("imagenet",))] | None = None
    top: StrictBool = True
    size: Size | None = None
    inputs: dict[str, bool | int | float | str | list[Any] | InputSpec] = {}
    logits: str | None = None
    head: Literal["auto", "softmax", "sigmoid", "linear", "embedding", "map"] = "auto"
    trusted: StrictBool = False
    allow: Annotated[list[str], BeforeValidator(a_list)] = []
    custom: PathText | None = None
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    xla: StrictBool = False

    @field_validator("xla")
    @classmethod
    def _in_float32(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("precision") != "float32":
            raise ValueError("does not go together with a reduced model.precision: choose one of them")
        return value
