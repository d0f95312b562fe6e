"""`[patterns]`: which objectives get a picture, and how gradient ascent makes it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

from pydantic import Field, StrictBool, create_model, field_validator, model_validator

from pipeline.ascent.objectives import TERMS, Finite, Index, Objective, keys_of
from pipeline.spec.activations import all_or_numbers
from pipeline.spec.table import AlsoNamed, Batch, Rewritten, Table, a_list

Share = Annotated[float, Field(ge=0, le=1)]


class _Weighted(Table):
    """`[[patterns.objectives]]`, one of its terms: a measure of a layer, and how much it counts."""

    kind: Literal[tuple(TERMS)]  # type: ignore[valid-type]
    weight: Finite = 1.0

    @model_validator(mode="after")
    def _has_the_keys_of_its_kind(self) -> _Weighted:
        keys = keys_of(TERMS[self.kind])
        given = self.model_fields_set - {"kind", "weight"}
        for key in sorted({key for key, required in keys.items() if required} - given):
            raise ValueError(f"a term of kind {self.kind!r} needs the key {key!r}")
        for key in sorted(given - set(keys)):
            raise ValueError(f"a term of kind {self.kind!r} has no use for the key {key!r}")
        return self

    def objective(self) -> Objective:
        """The term as Python users would write it."""
        return Objective(((self.weight, TERMS[self.kind](**self.model_dump(exclude={"kind", "weight"}, exclude_unset=True))),))


if TYPE_CHECKING:
    TermSpec = _Weighted
else:  # its keys are those of all kinds of terms
    _KEYS = {
        key: hint
        for term in TERMS.values()
        for key, hint in get_type_hints(term, include_extras=True).items()
        if key in keys_of(term)
    }
    TermSpec = create_model(
        "TermSpec", __base__=_Weighted, __doc__=_Weighted.__doc__, **{key: (hint | None, None) for key, hint in _KEYS.items()}
    )


class ObjectiveSpec(Table):
    """`[[patterns.objectives]]`: a named sum of terms, and a picture that raises it."""

    name: Annotated[str, Field(min_length=1)]
    terms: Annotated[list[TermSpec], Field(min_length=1)]

    def objective(self) -> Objective:
        """The sum of its terms."""
        first, *others = (term.objective() for term in self.terms)
        return sum(others, start=first)


class ShakeSpec(Table):
    """`patterns.shake`: the transforms of the picture before each step; shares are of its side."""

    pad: Share = 0.05
    jitter: Share = 0.04
    scale: Share = 0.08
    rotate: Annotated[float, Field(ge=0, le=180)] = 8.0


class PatternsSpec(Table):
    """`[patterns]`: which objectives get a picture, and how gradient ascent makes it."""

    layers: Annotated[list[str] | None, Rewritten(a_list)] = None
    channels: Literal["all"] | Annotated[list[Index], Field(min_length=1)] = "all"
    target: Literal["channel", "neuron"] = "channel"
    objectives: list[ObjectiveSpec] = []
    sign: Literal["positive", "negative", "both"] = "positive"
    variants: Annotated[int, Field(ge=1, le=32, strict=True)] = 1
    diversity: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1.0
    steps: Annotated[int, Field(ge=1, le=100_000, strict=True)] = 128
    batch: Batch = 16
    seed: Annotated[int, Field(ge=0, lt=2**31, strict=True)] = 0
    canvas: Annotated[Literal["fourier", "pixels"], AlsoNamed("parametrization")] = "fourier"
    decorrelated: StrictBool = True
    decay: Annotated[float, Field(ge=0, le=4)] = 1.0
    contrast: Annotated[float, Field(gt=0, le=10)] = 0.1
    optimiser: Literal["adam", "sgd"] = "adam"
    rate: Annotated[float, Field(gt=0, le=100)] = 0.1
    tv: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    l2: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    shake: Annotated[ShakeSpec, AlsoNamed("transforms")] = ShakeSpec()
    snapshot: Annotated[float, Field(gt=0, allow_inf_nan=False), AlsoNamed("checkpoint")] = 60.0

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
