"""`[data]`: the images, and how they are resized to the network's input."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipeline.spec.paths import HoldsPath, PathText
from pipeline.spec.table import Batch, Positive, Side, Table


class WindowSpec(Table):
    """`data.window`: slide a square over large images; each position is an example."""

    size: Side
    stride: Side
    align: Literal["corner", "middle"] = "corner"


Band = Annotated[int, Field(ge=0, lt=4096, strict=True)]


class DataSpec(Table):
    """`[data]`: the images, and how they are resized to the network's input."""

    source: Annotated[str, HoldsPath(source_of="data")]
    data_dir: PathText | None = None
    image: str | None = None
    label: str | None = None
    labels: PathText | None = None
    limit: Positive | None = None
    batch: Batch = 64
    bands: tuple[Band, Band, Band] | None = None
    max_pixels: Side = 2**28
    resize: Literal["crop", "pad", "stretch"] = "crop"
    window: WindowSpec | None = None
    on_bad: Literal["skip", "fail"] = "skip"
    max_bad: Annotated[float, Field(ge=0, le=1)] = 0.01
