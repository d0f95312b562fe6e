"""`[gradcam]`: what made the network decide: for which images and classes, by which methods, and whether to check them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator

from pipeline.attribution.methods import METHODS
from pipeline.spec.picks import Picks, Texts
from pipeline.spec.table import AlsoNamed, Batch, a_list

if TYPE_CHECKING:
    MethodName = str
else:
    MethodName = Literal[tuple(METHODS)]
Check = Literal["randomisation", "curves"]


def a_list_of_targets(value: Any) -> Any:
    """One number or text stands for a list of one."""
    return [value] if isinstance(value, (int, str)) and not isinstance(value, bool) else value


class GradcamSpec(Picks):
    """`[gradcam]`: maps of the evidence for a class, for the images picked.

    layers: empty for the last convolutional one.
    targets: "predicted", "label", numbers, or names.
    sanity: checks of the maps.
    steps: the most points of a path, for methods that sum over one.
    """

    methods: Annotated[list[MethodName], BeforeValidator(a_list), Field(min_length=1)] = [
        "gradcam",
        "guided_backprop",
        "guided_gradcam",
    ]
    layers: Texts = []
    targets: Annotated[
        list[Annotated[int, Field(ge=0, strict=True)] | Annotated[str, Field(min_length=1)]],
        BeforeValidator(a_list_of_targets),
        Field(min_length=1),
        AlsoNamed("classes"),
    ] = ["predicted"]
    sanity: Annotated[list[Check], BeforeValidator(a_list), AlsoNamed("trust")] = []
    steps: Annotated[int, Field(ge=2, strict=True)] = 256
    batch: Batch = 16

    @field_validator("methods", "targets", "sanity")
    @classmethod
    def _once_each(cls, value: list[Any]) -> list[Any]:
        return list(dict.fromkeys(value))
