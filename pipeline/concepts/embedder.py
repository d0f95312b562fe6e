"""Embedder: a network, one layer of which embeds the images of a source."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.models.network import Network
from pipeline.sources.source import Shard, Source

if TYPE_CHECKING:
    import tensorflow as tf


@dataclass(frozen=True)
class Embedder:
    """A network that embeds images, and the images as it takes them."""

    network: Network
    source: Source

    def vectors(self, layer: str, chosen: np.ndarray, batch: int, progress: Callable[[int, int], None]) -> np.ndarray:
        """The means, over the image, of a layer's maps for some images that can be read, in their order.

        Args:
            layer: the layer's name, or "logits".
            chosen: bool (examples,): which images.
            batch: images that run through the network at a time, at most.

        Returns: float64 (images, channels).
        """
        import tensorflow as tf

        from pipeline.compiled.compile import compile_pass
        from pipeline.compiled.microbatches import microbatch_size

        size, marks = microbatch_size(self.network, batch), tf.constant(chosen)

        def pooled(maps: dict[str, tf.Tensor]) -> tf.Tensor:
            value = maps[layer]
            return value if value.shape.rank == 2 else tf.reduce_mean(value, axis=[1, 2])

        def is_chosen(example: dict[str, tf.Tensor]) -> tf.Tensor:
            return tf.gather(marks, example["example"]) & tf.equal(example["error"], "")

        embed = compile_pass(self.network, [layer], size, pooled)
        vectors: list[np.ndarray] = []
        for example in self.source.stream(Shard()).filter(is_chosen).batch(size):
            count = len(example["image"])
            pixels = tf.pad(example["image"], [(0, size - count), (0, 0), (0, 0), (0, 0)])
            vectors += list(np.asarray(embed(pixels))[:count].astype(np.float64))
            progress(len(vectors), int(chosen.sum()))
        return np.array(vectors)
