"""`[data]`: the images, and how they are resized to the network's input."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, FiniteFloat

from pipeline.spec.paths import HoldsPath, PathText
from pipeline.spec.table import Batch, Positive, Rewritten, Side, Table


class WindowSpec(Table):
    """`data.window`: slide a square over large images; each position is an example."""

    size: Side
    stride: Side
    align: Literal["corner", "middle"] = "corner"


Band = Annotated[int, Field(ge=0, lt=4096, strict=True)]


def _rises(value: tuple[float, float]) -> tuple[float, float]:
    if not value[0] < value[1]:
        raise ValueError("the first of the two values must be below the second")
    return value


Range = Annotated[tuple[FiniteFloat, FiniteFloat], AfterValidator(_rises)]


def _in_a_list(value: Any) -> Any:
    """One range stands for all bands."""
    return [value] if isinstance(value, (list, tuple)) and value and not isinstance(value[0], (list, tuple)) else value


class DataSpec(Table):
    """`[data]`: the images, and how they are resized to the network's input."""

    source: Annotated[str, HoldsPath(source_of="data")]
    data_dir: PathText | None = None
    image: str | None = None
    label: str | None = None
    labels: PathText | None = None
    limit: Positive | None = None
    batch: Batch = 64
    bands: Annotated[tuple[Band, ...], Field(min_length=1)] | None = None
    rgb: tuple[Band, Band, Band] | None = None
    range: Annotated[list[Range], Rewritten(_in_a_list), Field(min_length=1)] | None = None
    max_pixels: Side = 2**28
    resize: Literal["crop", "pad", "stretch"] = "crop"
    window: WindowSpec | None = None
    on_bad: Literal["skip", "fail"] = "skip"
    max_bad: Annotated[float, Field(ge=0, le=1)] = 0.01
