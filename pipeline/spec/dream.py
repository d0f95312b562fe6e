"""`[dream]`: the pictures for DeepDream, and the classes to draw."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, StrictBool, field_validator

from pipeline.spec.picks import Picks
from pipeline.spec.table import AlsoNamed, Batch, Positive, Rewritten, Table, a_list

Number = Annotated[int, Field(ge=0, le=2**53, strict=True)]
Finite = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Colour = Annotated[float, Field(ge=0, le=255)]
Steps = Annotated[int, Field(ge=1, le=100_000, strict=True)]
Rate = Annotated[float, Field(gt=0, le=1)]
Share = Annotated[float, Field(ge=0, le=1)]
NAMES = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}  # of layers, which then count the same
Levels = Annotated[int, Field(ge=0, le=10, strict=True)]


class OctaveSpec(Table):
    """`[[dream.visualization.octaves]]`: one size of the picture, and the steps made at it."""

    scale: Annotated[float, Field(gt=0, le=16)] = 1.0
    iter_n: Steps
    start_sigma: Finite = 0.44
    end_sigma: Finite = 0.304


def _octaves(*steps: int) -> list[OctaveSpec]:
    return [OctaveSpec(scale=1.4, iter_n=iter_n, start_sigma=0.44, end_sigma=0.304) for iter_n in steps]


class VisualizationSpec(Table):
    """`[dream.visualization]`: pictures of classes, octave by octave."""

    octaves: Annotated[list[OctaveSpec], Field(min_length=1)] = _octaves(190, 150, 150, 10)
    background_color: tuple[Colour, Colour, Colour] = (10.0, 90.0, 140.0)
    classes: Annotated[list[Number], Field(min_length=1)] = [1, 2, 3, 4, 5]
    layer: str | None = None
    use_bilateral: StrictBool = True
    use_tv_bregman: StrictBool = True
    step: Rate = 0.01
    levels: Levels = 4
    shift: Share = 1.0

    @field_validator("classes")
    @classmethod
    def _classes_once(cls, value: list[int]) -> list[int]:
        return list(dict.fromkeys(value))


class ZoomSpec(Table):
    """`dream.zoom`: zooming into each picture, frame by frame."""

    frames: Annotated[int, Field(ge=1, le=100_000, strict=True)]
    scale: Annotated[float, Field(ge=1, le=4)] = 1.05
    fps: Annotated[float, Field(gt=0, le=240)] = 15.0


class DreamSpec(Picks):
    """`[dream]`: DeepDream on the images picked, and its table `visualization`; where that is given, `first` is not used."""

    layers: Annotated[
        dict[str, Annotated[float, Field(allow_inf_nan=False)]] | None, Rewritten(lambda v: _weighted(v), NAMES)
    ] = None
    num_octave: Annotated[int, Field(ge=1, le=32, strict=True)] = 3
    octave_scale: Annotated[float, Field(gt=1, le=16)] = 1.4
    iterations: Steps = 20
    step: Rate = 0.01
    max_loss: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    levels: Levels = 3
    shift: Share = 1.0
    longest: Positive | None = None
    zoom: ZoomSpec | None = None
    visualization: VisualizationSpec | None = None
    batch: Batch = 4
    seed: Annotated[int, Field(ge=0, lt=2**31, strict=True)] = 0
    snapshot: Annotated[float, Field(gt=0, allow_inf_nan=False), AlsoNamed("checkpoint")] = 60.0


def _weighted(value: Any) -> Any:
    """A list of layers gives each the weight 1."""
    value = a_list(value)
    if isinstance(value, list) and not all(isinstance(layer, str) for layer in value):
        raise ValueError("is a list of names of layers, or a table of their weights")
    return dict.fromkeys(value, 1.0) if isinstance(value, list) else value
