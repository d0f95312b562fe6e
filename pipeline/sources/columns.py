"""Columns: numbers that a data set has for each of its images, for networks with other inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from pipeline.errors import UnusableData, WrongSpec

if TYPE_CHECKING:
    from pipeline.sources.records import Records


class Column(Protocol):
    """The values of one column of a data set."""

    @property
    def name(self) -> str:
        """The column's name in the spec."""

    def value(self, record: int) -> np.ndarray | None:
        """The numbers of one record, of any shape; None where there is none. Raises: UnusableData, for what is no number."""


@dataclass(frozen=True)
class TextColumn:
    """Numbers that are written as text: one, or several with spaces between them, for each record."""

    name: str
    texts: tuple[str, ...]

    def value(self, record: int) -> np.ndarray | None:
        words = self.texts[record].split()
        return numbers(self.name, words if len(words) > 1 else words[0]) if words else None


def column_of(records: Records, name: str) -> Column:
    """A column of some records. Raises: UnknownName; WrongSpec, for a kind of source without columns."""
    column = getattr(records, "column", None)
    of_records: Column | None = None if column is None else column(name)
    if of_records is None:
        raise WrongSpec(
            f"{records.name} has no columns, so {name!r} cannot be one of them. Use parquet:, tfds:, or list: with a file "
            "whose first line names its columns: path, label and others."
        )
    return of_records


def numbers(name: str, value: Any) -> np.ndarray:
    """A value, or lists of values, as float64. Raises: UnusableData, for what is no number, or lists of unequal lengths."""
    try:
        array = np.array(value, np.float64)
    except (TypeError, ValueError):
        raise UnusableData(f"its column {name!r} holds {str(value)[:40]!r}, which is not numbers of one shape") from None
    return array
