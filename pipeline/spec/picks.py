"""The keys by which stages that work on a few images select them."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from pipeline.spec.paths import PathText
from pipeline.spec.table import Positive, Rewritten, Table, a_list

Texts = Annotated[list[Annotated[str, Field(min_length=1)]], Rewritten(a_list)]


class Picks(Table):
    """The selected images: examples and keys of the data set, and files; if none is named, the first few examples."""

    examples: list[Annotated[int, Field(ge=0, le=2**53, strict=True)]] = []
    keys: Texts = []
    files: Annotated[list[Annotated[PathText, Field(min_length=1)]], Rewritten(a_list)] = []
    first: Positive = 4

    def read_files(self) -> list[str]:
        return self.files
