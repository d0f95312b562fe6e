"""Images that can be read, among those that a stage looks at by itself; those that cannot are named, or end the stage."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np

from pipeline.errors import TooManyBad, UnusableData
from pipeline.progress import counted
from pipeline.sources.fit import Fit
from pipeline.sources.source import Image, Shard, Source, drawn


@dataclass
class PassedOver:
    """Images that cannot be read, and that a stage has passed over.

    on_bad: of the spec: "fail" to stop at the first. images: the reasons, by key.
    """

    on_bad: Literal["skip", "fail"] = "skip"
    images: dict[str, str] = field(default_factory=dict)

    def add(self, key: str, reason: str) -> None:
        """Take one. Raises: TooManyBad, where the spec says so."""
        if self.on_bad == "fail":
            raise TooManyBad(f'{key!r} cannot be read: {reason}. Repair the file, or set data.on_bad = "skip".')
        self.images[key] = reason

    def sentences(self) -> list[str]:
        """What to say of them, if there are any."""
        if not self.images:
            return []
        key, reason = next(iter(self.images.items()))
        return [f"{counted(len(self.images), 'image')} passed over, such as {key!r}, which cannot be read: {reason}."]


class GivenImage(NamedTuple):
    """An image as the network is given it, (height, width, bands)."""

    example: int
    given: np.ndarray
    key: str
    label: str | None


@dataclass(frozen=True, eq=False)
class ReadableImages:
    """The images of a source that can be read, as a network is given them.

    passed_over: takes the others.
    """

    source: Source
    fit: Fit
    passed_over: PassedOver

    def __len__(self) -> int:
        """The number of examples, whether they can be read or not."""
        return len(self.source)

    def of(self, examples: Iterable[int]) -> list[GivenImage]:
        """Those of some examples that can be read, in ascending order. Raises: TooManyBad, as `PassedOver` does."""
        return [
            GivenImage(example, image.given(self.fit), image.key, image.label)
            for example, image in fetch_readable(self.source, examples, self.passed_over)
        ]


def fetch_readable(source: Source, examples: Iterable[int], passed_over: PassedOver) -> Iterator[tuple[int, Image]]:
    """The examples that can be read, in ascending order, with their original pixels. Raises: TooManyBad, as `PassedOver` does."""
    asked = sorted(set(examples))
    done = 0
    while done < len(asked):
        try:
            for example, image in source.fetch(asked[done:]):
                yield example, image
                done += 1
        except UnusableData as error:
            passed_over.add(*_reason(source, asked[done], error))
            done += 1


def _reason(source: Source, example: int, error: UnusableData) -> tuple[str, str]:
    """The key of an example that cannot be fetched, and why it cannot be read."""
    element = next(drawn(source.stream(Shard(), example).take(1).as_numpy_iterator()))
    return element["key"].decode(), element["error"].decode() or str(error.args[0]).rstrip(".")
