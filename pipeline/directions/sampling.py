"""A sample of activation vectors, chosen by hash: the same for the same data and network, however a scan is sharded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from pipeline.models.network import LayerInfo, Network
from pipeline.scrambling import scrambled
from pipeline.sources.readable import ReadableImages

BATCH = 16  # images in a pass


@dataclass(frozen=True, eq=False)
class VectorSample:
    """Vectors of a layer, one at a position of a map each.

    vectors: float32 (n, channels), all finite. examples: int64 (n,), ascending; rows, cols: int32 (n,).
    left_out: vectors with NaN or infinity.
    images: by example, the key and the label of the image.
    """

    vectors: np.ndarray
    examples: np.ndarray
    rows: np.ndarray
    cols: np.ndarray
    left_out: int = 0
    images: Mapping[int, tuple[str, str | None]] = field(default_factory=dict)


@dataclass(frozen=True)
class SamplePlan:
    """How many vectors of each layer to take: at most `vectors`, at most `per_image` of them of one example."""

    vectors: int
    per_image: int
    seed: int = 0

    def positions(self, layer: LayerInfo) -> int:
        """The number of positions taken from one example."""
        return min(self.per_image, self.vectors, layer.shape[0] * layer.shape[1])

    def examples(self, layer: LayerInfo) -> int:
        """The number of examples needed for that."""
        return self.vectors // self.positions(layer)

    def size(self, layer: LayerInfo, examples: int) -> int:
        """How many vectors the sample has of a data set of so many examples, where all can be read and are finite."""
        return self.positions(layer) * min(self.examples(layer), examples)


Progress = Callable[[int, int], None]


def sample_vectors(
    network: Network, layers: Sequence[LayerInfo], images: ReadableImages, plan: SamplePlan, progress: Progress
) -> dict[str, VectorSample]:
    """Sample vectors of some layers: of the examples whose scrambled numbers are the least, as many as it takes, and of each the
    positions whose scrambled numbers are the least. Examples that cannot be read give way to the next.

    Only these examples are decoded, in a pass of their own, so the sample costs the same for any size of the data set, and does
    not depend on how a scan is divided.
    """
    most = max(map(plan.examples, layers))
    order = np.argsort(scrambled(scrambled(np.array([plan.seed]))[0] ^ np.arange(len(images), dtype=np.uint64)), kind="stable")
    chosen: dict[str, list[tuple[int, np.ndarray, np.ndarray]]] = {layer.name: [] for layer in layers}
    take = vector_reader(network, layers, [plan.positions(layer) for layer in layers])
    about: dict[int, tuple[str, str | None]] = {}
    looked_at, done, total = 0, 0, min(most, len(order))
    while done < total and looked_at < len(order):
        batch = [int(example) for example in order[looked_at : looked_at + min(BATCH, total - done)]]
        looked_at += len(batch)
        read = {image.example: image for image in images.of(batch)}
        sampled = [example for example in batch if example in read]
        if not sampled:
            continue
        positions = [_positions(sampled, layer, plan) for layer in layers]
        vectors = take([read[example].given for example in sampled], positions)
        about |= {example: (read[example].key, read[example].label) for example in sampled}
        for layer, of_layer, at in zip(layers, vectors, positions, strict=True):
            for number, example in enumerate(sampled):
                if done + number < plan.examples(layer):
                    chosen[layer.name].append((example, at[number], of_layer[number]))
        done += len(sampled)
        progress(done, total)
    progress(total, total)
    return {layer.name: replace(_sample(layer, chosen[layer.name]), images=about) for layer in layers}


def _positions(examples: Sequence[int], layer: LayerInfo, plan: SamplePlan) -> np.ndarray:
    """Where each example is looked at: int32 (examples, positions), into the map in reading order, ascending."""
    positions = layer.shape[0] * layer.shape[1]
    keys = scrambled(np.array(examples, np.uint64) + np.uint64(plan.seed << 33))
    order = np.argsort(scrambled(keys[:, np.newaxis] ^ np.arange(positions, dtype=np.uint64)), axis=1, kind="stable")
    return np.sort(order[:, : plan.positions(layer)], axis=1).astype(np.int32)


def _sample(layer: LayerInfo, chosen: list[tuple[int, np.ndarray, np.ndarray]]) -> VectorSample:
    chosen = sorted(chosen, key=lambda sample: sample[0])
    if not chosen:
        none = np.zeros(0, np.int32)
        return VectorSample(np.zeros((0, layer.channels), np.float32), none.astype(np.int64), none, none)
    places = np.concatenate([positions for _, positions, _ in chosen])
    vectors = np.concatenate([of_example for _, _, of_example in chosen])
    examples = np.repeat([example for example, _, _ in chosen], [len(positions) for _, positions, _ in chosen])
    finite = np.isfinite(vectors).all(axis=1)
    rows, cols = np.divmod(places[finite], layer.shape[1])
    return VectorSample(vectors[finite], examples[finite], rows.astype(np.int32), cols.astype(np.int32), int((~finite).sum()))


def vectors_at(
    network: Network, layer: LayerInfo, images: ReadableImages, at: Mapping[int, Sequence[int]]
) -> dict[tuple[int, int], np.ndarray]:
    """The vectors of a layer at some positions of some examples, {(example, position in reading order): float32 (channels,)}.

    Examples that cannot be read, and vectors that are not finite, are left out.
    """
    width = max(map(len, at.values()), default=1)
    take = vector_reader(network, [layer], [width])
    vectors: dict[tuple[int, int], np.ndarray] = {}
    examples = sorted(at)
    for first in range(0, len(examples), BATCH):
        read = {image.example: image.given for image in images.of(examples[first : first + BATCH])}
        read_examples = sorted(read)
        if read_examples:
            positions = np.array(
                [[*at[example], *[at[example][0]] * (width - len(at[example]))] for example in read_examples], np.int32
            )
            (values,) = take([read[example] for example in read_examples], [positions])
            for example, of_example in zip(read_examples, values, strict=True):
                pairs = zip(at[example], of_example, strict=False)
                vectors |= {(example, int(position)): value for position, value in pairs if np.isfinite(value).all()}
    return vectors


def vector_reader(
    network: Network, layers: Sequence[LayerInfo], counts: Sequence[int]
) -> Callable[[Sequence[np.ndarray], Sequence[np.ndarray]], list[np.ndarray]]:
    """Compile a pass that reads vectors of layers: of up to 16 images as the network is given them, and int32 (images, count)
    positions for each layer, in reading order of its map.

    Returns: a callable that gives float32 (images, count, channels) for each layer.
    """
    import tensorflow as tf

    from pipeline.compiled.compile import compile_pass, network_input

    names = [layer.name for layer in layers]

    def gather(maps: dict[str, tf.Tensor], *positions: tf.Tensor) -> list[tf.Tensor]:
        flat = [tf.reshape(maps[layer.name], (BATCH, layer.shape[0] * layer.shape[1], layer.channels)) for layer in layers]
        return [tf.gather(of_layer, at, batch_dims=1) for of_layer, at in zip(flat, positions, strict=True)]

    run = compile_pass(network, names, BATCH, gather, [tf.TensorSpec((BATCH, count), tf.int32) for count in counts])
    spec = network_input(network, BATCH)

    def read(images: Sequence[np.ndarray], positions: Sequence[np.ndarray]) -> list[np.ndarray]:
        filled = np.zeros(spec.shape.as_list(), spec.dtype.as_numpy_dtype)
        filled[: len(images)] = images
        padded = [np.pad(at, ((0, BATCH - len(at)), (0, 0))) for at in positions]
        return [np.asarray(values)[: len(images)] for values in run(filled, *padded)]

    return read
