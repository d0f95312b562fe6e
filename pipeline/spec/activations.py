"""`[activations]`: the sizes of the heaps, and how winners are cropped."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from pipeline.spec.table import Table


class ActivationsSpec(Table):
    """`[activations]`: the sizes of the heaps, by what they are ordered, and how winners are cropped."""

    top_k: Annotated[int, Field(gt=0, le=1000, strict=True)] = 9
    bottom_k: Annotated[int, Field(ge=0, le=1000, strict=True)] = 0
    label_k: Annotated[int, Field(ge=0, le=1000, strict=True)] = 0
    per_image: Annotated[int | None, Field(gt=0, le=1000, strict=True)] = None
    channels: Literal["all"] | Annotated[list[Annotated[int, Field(ge=0, le=2**53, strict=True)]], Field(min_length=1)] = "all"
    rank: Literal["response", "relevance"] = "response"
    crop: Literal["auto", "map", "field", "channel", "effective", "image"] = "auto"
    crop_size: Annotated[int, Field(ge=16, le=65_500, strict=True)] = 128

    @field_validator("channels", mode="before")
    @classmethod
    def _all_or_numbers(cls, value: Any) -> Any:
        return all_or_numbers(value)


def all_or_numbers(value: Any) -> Any:
    """What a key for channels holds, as it is: "all", or numbers, each once. Raises: ValueError."""
    numbers = isinstance(value, list) and value and all(type(number) is int and number >= 0 for number in value)
    if value != "all" and not numbers:
        raise ValueError("is 'all' or a list of channel numbers, from 0")
    if numbers and len(set(value)) != len(value):
        raise ValueError("a channel is named twice")
    return value
