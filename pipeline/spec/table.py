"""What the tables of a spec share: their base, and the types of their keys."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


class Table(BaseModel):
    """A table of the spec: unknown keys are errors, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


def a_list(value: Any) -> Any:
    """One text stands for a list of one."""
    return [value] if isinstance(value, str) else value


def height_and_width(value: Any) -> Any:
    """One number stands for a square."""
    return (value, value) if isinstance(value, int) and not isinstance(value, bool) else value


Positive = Annotated[int, Field(gt=0, strict=True)]
Size = Annotated[tuple[Positive, Positive], BeforeValidator(height_and_width)]
