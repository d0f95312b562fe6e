"""Companions: a source whose images carry, in bands behind them, what a network's other inputs are given for each example."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import UnusableData
from pipeline.sources.columns import Column
from pipeline.sources.decode import Decoder
from pipeline.sources.fit import Fit
from pipeline.sources.records import digest_of
from pipeline.sources.source import Image, Shard, Source

if TYPE_CHECKING:
    import tensorflow as tf

    from pipeline.sources.images import Images
    from pipeline.sources.windows import Windows


@dataclass(frozen=True)
class InputColumn:
    """A column that an input of the network is given: its values have this shape."""

    column: Column
    shape: tuple[int, ...]

    def value(self, record: int) -> np.ndarray:
        """The value of one record. Raises: UnusableData."""
        value = self.column.value(record)
        name = repr(self.column.name)
        if value is None:
            raise UnusableData(f"its column {name} is null")
        if value.shape != self.shape and (value.ndim != 1 or value.size != int(np.prod(self.shape))):
            raise UnusableData(f"its column {name} has the shape {value.shape}, and the network takes {self.shape}")
        if not np.isfinite(value).all():
            raise UnusableData(f"its column {name} holds NaN or infinity")
        return value.reshape(self.shape)


@dataclass(frozen=True)
class Companions:
    """The examples of a source, with what other inputs are given for each: a `Source`.

    columns: by input; sources: by input, each of as many examples.
    pack: the values of one example, by input -> float32 (height, width, bands).
    """

    source: Images | Windows
    fit: Fit
    columns: Mapping[str, InputColumn]
    sources: Mapping[str, Source]
    pack: Callable[[Mapping[str, np.ndarray]], np.ndarray]

    @property
    def labels(self) -> list[str] | None:
        return self.source.labels

    @property
    def decoder(self) -> Decoder:
        return self.source.decoder

    def __len__(self) -> int:
        return len(self.source)

    def digest(self, count: int | None = None) -> str:
        columns = {name: of.column.name for name, of in self.columns.items()}
        return digest_of(self.source.digest(count), columns, {name: other.digest(count) for name, other in self.sources.items()})

    def stream(self, shard: Shard, start: int = 0) -> tf.data.Dataset:
        import tensorflow as tf

        height, width = self.fit.height, self.fit.width
        bands = self.pack(self._zeros()).shape[2]

        def joined(example: dict[str, tf.Tensor], *others: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
            flattened = [example["example"], example["error"]]
            flattened += [other[key] for other in others for key in ("image", "error")]
            packed, error = tf.numpy_function(self._packed, flattened, [tf.float32, tf.string])
            packed.set_shape((height, width, bands))
            error.set_shape(())
            image = tf.concat([tf.cast(example["image"], tf.float32), packed], axis=2)
            return {**example, "image": image, "error": error}

        streams = (self.source.stream(shard, start), *(other.stream(shard, start) for other in self.sources.values()))
        return tf.data.Dataset.zip(streams).map(joined)

    def find(self, key: str) -> int | None:
        return self.source.find(key)

    def fetch(self, examples: Iterable[int]) -> Iterator[tuple[int, Image]]:
        chosen = sorted(set(examples))
        streams = [self.source.fetch(chosen), *(other.fetch(chosen) for other in self.sources.values())]
        for (example, image), *others in zip(*streams, strict=True):
            images = {name: other.given(self.fit) for name, (_, other) in zip(self.sources, others, strict=True)}
            try:
                packed = self.pack(images | self._values(example))
            except UnusableData as error:
                raise UnusableData(
                    f"example {example}, {image.key!r}: {error.args[0]}. Mend the data, or leave the example out."
                ) from None
            yield example, replace(image, packed=packed)

    def values(self, example: int) -> dict[str, np.ndarray]:
        """The values of the other inputs for one example. Raises: UnusableData."""
        images = {name: image.given(self.fit) for name, other in self.sources.items() for _, image in other.fetch([example])}
        return images | self._values(example)

    def _values(self, example: int) -> dict[str, np.ndarray]:
        record = self.source.record_of(example)
        return {name: column.value(record) for name, column in self.columns.items()}

    def _zeros(self) -> dict[str, np.ndarray]:
        image = np.zeros((self.fit.height, self.fit.width, self.decoder.depth), np.float32)
        return {**dict.fromkeys(self.sources, image), **{name: np.zeros(of.shape) for name, of in self.columns.items()}}

    def _packed(self, example: np.int64, error: bytes, *others: Any) -> tuple[np.ndarray, bytes]:
        """The bands packed behind one image, and the reason why it cannot be read: b"" where it can."""
        reasons = [error, *(b"its image for the other input: " + bytes(reason) for reason in others[1::2] if reason)]
        values = self._zeros()
        if not any(reasons):
            try:
                values = {**dict(zip(self.sources, others[::2], strict=True)), **self._values(int(example))}
            except UnusableData as problem:
                reasons = [str(problem.args[0]).encode()]
        return self.pack(values), next((reason for reason in reasons if reason), b"")
