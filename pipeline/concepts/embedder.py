"""Embedder: a network, one layer of which embeds the images of a source."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from pipeline.models.network import Network
from pipeline.sources.fit import Fit
from pipeline.sources.source import Shard, Source, drawn

if TYPE_CHECKING:
    import tensorflow as tf

    from pipeline.compiled.freezing import Pass


@dataclass(frozen=True)
class Embedder:
    """A network that embeds images, and the images as it takes them."""

    network: Network
    source: Source
    _passes: dict[tuple[str, int], Pass] = field(default_factory=dict, repr=False, compare=False)

    def vectors(self, layer: str, chosen: np.ndarray, batch: int, progress: Callable[[int, int], None]) -> np.ndarray:
        """The means, over the image, of a layer's maps for some images that can be read, in their order.

        Args:
            layer: the layer's name, or "logits".
            chosen: bool (examples,): which images.
            batch: images that run through the network at a time, at most.

        Returns: float64 (images, channels).
        """
        import tensorflow as tf

        embed, size = self._compiled(layer, batch)
        marks = tf.constant(chosen)

        def is_chosen(example: dict[str, tf.Tensor]) -> tf.Tensor:
            return tf.gather(marks, example["example"]) & tf.equal(example["error"], "")

        vectors: list[np.ndarray] = []
        for example in drawn(self.source.stream(Shard()).filter(is_chosen).batch(size)):
            count = len(example["image"])
            pixels = tf.pad(example["image"], [(0, size - count), (0, 0), (0, 0), (0, 0)])
            vectors += list(np.asarray(embed(pixels))[:count].astype(np.float64))
            progress(len(vectors), int(chosen.sum()))
        return np.array(vectors)

    def of_pictures(self, layer: str, pictures: Iterable[np.ndarray], fit: Fit, batch: int) -> np.ndarray:
        """The same of pictures, uint8 (h, w, 3), that are fitted to the network's input: float64 (pictures, channels)."""
        embed, size = self._compiled(layer, batch)
        vectors: list[np.ndarray] = []
        waiting: list[np.ndarray] = []

        def run() -> None:
            padded = np.stack([*waiting, *[np.zeros_like(waiting[0])] * (size - len(waiting))])
            vectors.extend(np.asarray(embed(padded))[: len(waiting)].astype(np.float64))
            waiting.clear()

        for picture in pictures:
            waiting.append(fit.apply(picture))
            if len(waiting) == size:
                run()
        if waiting:
            run()
        return np.array(vectors)

    def _compiled(self, layer: str, batch: int) -> tuple[Pass, int]:
        """The pass that gives the vectors of so many images at a time, and that number."""
        import tensorflow as tf

        from pipeline.compiled.compile import compile_pass
        from pipeline.compiled.microbatches import microbatch_size

        def pooled(maps: dict[str, tf.Tensor]) -> tf.Tensor:
            value = maps[layer]
            return value if value.shape.rank == 2 else tf.reduce_mean(value, axis=[1, 2])

        key, size = (layer, batch), microbatch_size(self.network, batch)
        if key not in self._passes:
            self._passes[key] = compile_pass(self.network, [layer], size, pooled)
        return self._passes[key], size
