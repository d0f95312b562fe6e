"""`[model]`: the network and which of its layers to look at."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import Field, StrictBool, ValidationInfo, field_validator, model_validator

from pipeline.spec.paths import HoldsPath, PathText
from pipeline.spec.table import Rewritten, Size, Table, a_list

PREPROCESSING = ("auto", "none", "unit", "symmetric", "caffe", "torch", "standardize")


Preprocess = Literal["auto", "none", "unit", "symmetric", "caffe", "torch", "standardize"]


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


CHOSEN = "auto"  # instead of names of layers: one a stage of the network, see `pipeline.models.selection`
ALL = "all"  # instead of a layer of logits: every output in turn


class BoxesSpec(Table):
    """`[model.boxes]`: how a detector gives its boxes, which no network says itself.

    boxes, scores: the outputs that hold them, where that is not clear.
    objectness: whether the number behind the place says that there is an object at all.
    background: the class that is no object.
    transposed: whether each box is a column of the outputs, not a row.
    """

    format: Literal["yxyx", "xyxy", "xywh", "cxcywh", "offsets"]
    unit: Literal["pixels", "share"] | None = None
    boxes: str | None = None
    scores: str | None = None
    objectness: StrictBool | None = None
    background: Annotated[int, Field(ge=0, strict=True)] | None = None
    transposed: StrictBool | None = None

    @model_validator(mode="after")
    def _of_a_unit(self) -> BoxesSpec:
        if self.unit is None and self.format != "offsets":
            raise ValueError('needs unit: "pixels" of the network\'s input, or "share" of it')
        return self


class TokensSpec(Table):
    """`model.tokens`: how (batch, tokens, width) lies on the image, where the network does not tell.

    grid: rows and columns, read row by row. extra: tokens before them that are of no place, such as the class token.
    """

    grid: Size
    extra: Annotated[int, Field(ge=0, strict=True)] = 0

    @property
    def count(self) -> int:
        return self.grid[0] * self.grid[1] + self.extra


class ModelSpec(Table):
    """`[model]`: the network and which of its layers to look at."""

    source: Annotated[str, HoldsPath(source_of="model")]
    weights: Annotated[str, HoldsPath(words=("imagenet", "none"))] = "imagenet"
    layers: Annotated[list[str], Rewritten(a_list), Field(min_length=1)] = [CHOSEN]
    preprocess: Preprocess = "auto"
    labels: Annotated[str, HoldsPath(words=("imagenet",))] | None = None
    top: StrictBool = True
    size: Size | None = None
    directions: Annotated[list[Annotated[PathText, Field(min_length=1)]], Rewritten(a_list)] = []
    tokens: TokensSpec | None = None
    inputs: dict[str, bool | int | float | str | list[Any] | InputSpec] = {}
    logits: str | None = None
    head: Literal["auto", "softmax", "sigmoid", "linear", "embedding", "map", "boxes"] = "auto"
    boxes: BoxesSpec | None = None
    trusted: StrictBool = False
    allow: Annotated[list[str], Rewritten(a_list)] = []
    custom: PathText | None = None
    precision: Literal["float32", "bfloat16", "float16", "tf32"] = "float32"
    xla: StrictBool = False

    @model_validator(mode="after")
    def _one_output_or_all(self) -> ModelSpec:
        if self.boxes is not None and self.head not in ("auto", "boxes"):
            raise ValueError(f'boxes is for head = "boxes", not {self.head!r}: leave one of them out')
        if self.head == "boxes" and self.boxes is None:
            raise ValueError(
                'head = "boxes" needs boxes: how the network gives its boxes, such as '
                'boxes = { format = "xyxy", unit = "pixels" }; see docs/gradcam.md'
            )
        if self.logits == ALL and (self.head != "auto" or self.boxes is not None):
            raise ValueError('logits = "all" finds a head for each output: leave head and boxes out, or name one output')
        if self.logits is not None and self.boxes is not None:
            raise ValueError("boxes names a detector's outputs itself: leave logits out")
        return self

    @field_validator("xla")
    @classmethod
    def _in_float32(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("precision") != "float32":
            raise ValueError("does not go together with a reduced model.precision: choose one of them")
        return value
