"""`[featuremaps]`: which images and layers, and how to draw their maps."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipeline.spec.picks import Picks
from pipeline.spec.table import Positive, Rewritten, a_list


class FeaturemapsSpec(Picks):
    """`[featuremaps]`: which images and layers, and how to draw their maps."""

    layers: Annotated[list[str], Rewritten(a_list), Field(min_length=1)] | None = None
    scale: Literal["map", "layer"] = "map"
    colours: Literal["viridis", "grey", "cividis", "inferno"] = "viridis"
    channels: Positive = 4096
