"""`[patterns]`: what is dreamed, and how the pictures climb."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StrictBool, field_validator, model_validator

from pipeline.spec.activations import all_or_numbers
from pipeline.spec.table import Positive, Table, a_list

Number = Annotated[int, Field(ge=0, strict=True)]
Share = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(allow_inf_nan=False)]

# The keys of a term, by its kind: those that it needs, and those that it may have.
_TERMS: dict[str, tuple[set[str], set[str]]] = {
    "channel": ({"layer", "channel"}, set()),
    "neuron": ({"layer", "channel"}, {"row", "col"}),
    "layer": ({"layer"}, set()),
    "logit": ({"number"}, set()),
    "direction": ({"layer", "vector"}, set()),
}


class TermSpec(Table):
    """`[[patterns.objectives]]`, one of its terms: a measure of a layer, and how much it counts."""

    kind: Literal["channel", "neuron", "layer", "logit", "direction"]
    weight: Weight = 1.0
    layer: str | None = None
    channel: Number | None = None
    row: Number | None = None
    col: Number | None = None
    number: Number | None = None
    vector: list[Weight] | None = None

    @model_validator(mode="after")
    def _has_the_keys_of_its_kind(self) -> TermSpec:
        needed, allowed = _TERMS[self.kind]
        given = self.model_fields_set - {"kind", "weight"}
        for key in sorted(needed - given):
            raise ValueError(f"a term of kind {self.kind!r} needs the key {key!r}")
        for key in sorted(given - needed - allowed):
            raise ValueError(f"a term of kind {self.kind!r} has no use for the key {key!r}")
        return self


class ObjectiveSpec(Table):
    """`[[patterns.objectives]]`: a named sum of terms, and a picture that raises it."""

    name: Annotated[str, Field(min_length=1)]
    terms: Annotated[list[TermSpec], Field(min_length=1)]


class ShakeSpec(Table):
    """`patterns.shake`: how the picture is moved before each step; shares are of its side."""

    pad: Share = 0.05
    jitter: Share = 0.04
    scale: Share = 0.08
    rotate: Annotated[float, Field(ge=0, le=180)] = 8.0


class PatternsSpec(Table):
    """`[patterns]`: what is dreamed, and how the pictures climb."""

    layers: Annotated[list[str] | None, BeforeValidator(a_list)] = None
    channels: Literal["all"] | Annotated[list[Number], Field(min_length=1)] = "all"
    target: Literal["channel", "neuron"] = "channel"
    objectives: list[ObjectiveSpec] = []
    sign: Literal["positive", "negative", "both"] = "positive"
    variants: Annotated[int, Field(ge=1, le=32, strict=True)] = 1
    diversity: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    steps: Annotated[int, Field(ge=1, le=100_000, strict=True)] = 128
    batch: Positive = 16
    seed: Annotated[int, Field(ge=0, lt=2**31, strict=True)] = 0
    canvas: Literal["fourier", "pixels"] = "fourier"
    decorrelated: StrictBool = True
    decay: Annotated[float, Field(ge=0, le=4)] = 1.0
    contrast: Annotated[float, Field(gt=0, le=10)] = 0.1
    optimiser: Literal["adam", "sgd"] = "adam"
    rate: Annotated[float, Field(gt=0, le=100)] = 0.1
    tv: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    l2: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    shake: ShakeSpec = ShakeSpec()
    snapshot: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 60.0

    @field_validator("channels", mode="before")
    @classmethod
    def _all_or_numbers(cls, value: Any) -> Any:
        return all_or_numbers(value)

    @field_validator("objectives")
    @classmethod
    def _names_once(cls, value: list[ObjectiveSpec]) -> list[ObjectiveSpec]:
        names = [objective.name for objective in value]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two objectives are named {name!r}")
        return value

    @model_validator(mode="after")
    def _variants_fit_a_batch(self) -> PatternsSpec:
        if self.variants > self.batch:
            raise ValueError(f"batch = {self.batch} holds no {self.variants} variants of one pattern. Raise it")
        return self
