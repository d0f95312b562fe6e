"""`[data]`: the images, and how they are resized to the network's input."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipeline.spec.paths import HoldsPath, PathText
from pipeline.spec.table import Positive, Table


class WindowSpec(Table):
    """`data.window`: slide a square over large images; each position is an example."""

    size: Positive
    stride: Positive
    align: Literal["corner", "middle"] = "corner"


class DataSpec(Table):
    """`[data]`: the images, and how they are resized to the network's input."""

    source: Annotated[str, HoldsPath(source_of="data")]
    data_dir: PathText | None = None
    image: str | None = None
    label: str | None = None
    labels: PathText | None = None
    limit: Positive | None = None
    batch: Positive = 64
    resize: Literal["crop", "pad", "stretch"] = "crop"
    window: WindowSpec | None = None
    on_bad: Literal["skip", "fail"] = "skip"
    max_bad: Annotated[float, Field(ge=0, le=1)] = 0.01
