"""Concept vectors (Kim et al., "Interpretability beyond feature attribution", 2018): what tells a concept's images from others.

A vector is trained on the means of a layer's maps over their positions, since a direction applies at all of them alike.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from pipeline.directions.sampling import BATCH
from pipeline.errors import WrongSpec
from pipeline.models.network import LayerInfo, Network
from pipeline.store.direction_sets import DirectionSet

METHOD = "cav"
FEWEST = 10  # images of a set
_HELD_OUT = 1 / 3  # of each set: images on which a vector's accuracy is measured, and which it is not trained on


@dataclass(frozen=True, eq=False)
class EmbeddedImages:
    """Images as layers see them.

    digests: of what the network is given, one an image: the same image in two sets is known by it.
    vectors: by layer, the means of its maps: float32 (images, channels), all finite.
    """

    digests: tuple[str, ...]
    vectors: Mapping[str, np.ndarray]

    def first(self, count: int) -> EmbeddedImages:
        """The first so many of them."""
        return EmbeddedImages(self.digests[:count], {layer: values[:count] for layer, values in self.vectors.items()})


def embed(
    network: Network, layers: Sequence[LayerInfo], images: Iterable[np.ndarray], progress: Callable[[int], None]
) -> EmbeddedImages:
    """Embed images, as the network is given them; those of which any layer has NaN or infinity are left out."""
    read = _mean_reader(network, layers)
    digests: list[str] = []
    rows: list[list[np.ndarray]] = [[] for _ in layers]
    waiting = iter(images)
    while batch := list(islice(waiting, BATCH)):
        values = read(batch)
        finite = np.all([np.isfinite(of_layer).all(axis=1) for of_layer in values], axis=0)
        digests += [_digest(image) for image, usable in zip(batch, finite, strict=True) if usable]
        for of_layer, kept in zip(values, rows, strict=True):
            kept.append(of_layer[finite])
        progress(len(digests))
    nothing = [np.zeros((0, layer.channels), np.float32) for layer in layers]
    vectors = {layer.name: np.concatenate([none, *kept]) for layer, none, kept in zip(layers, nothing, rows, strict=True)}
    return EmbeddedImages(tuple(digests), vectors)


def _mean_reader(network: Network, layers: Sequence[LayerInfo]) -> Callable[[Sequence[np.ndarray]], list[np.ndarray]]:
    """Compile a pass that gives the means of layers' maps for up to BATCH images: float32 (images, channels) for each."""
    import tensorflow as tf

    from pipeline.compiled.compile import compile_pass, network_input

    names = [layer.name for layer in layers]
    run = compile_pass(network, names, BATCH, lambda maps: [tf.reduce_mean(maps[name], axis=(1, 2)) for name in names])
    spec = network_input(network, BATCH)

    def read(images: Sequence[np.ndarray]) -> list[np.ndarray]:
        filled = np.zeros(spec.shape.as_list(), spec.dtype.as_numpy_dtype)
        filled[: len(images)] = images
        return [np.asarray(values)[: len(images)] for values in run(filled)]

    return read


def _digest(image: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()


@dataclass(frozen=True, eq=False)
class VectorRuns:
    """The vectors of one set of images, trained against several others.

    vectors: float64 (runs, channels), of length 1, towards the set.
    offsets: float64 (runs,): an image's mean vector x lies on the set's side where x · vector + offset is above 0.
    accuracies: float64 (runs,): the share of held-out images that lie on their own side.
    """

    vectors: np.ndarray
    offsets: np.ndarray
    accuracies: np.ndarray

    @property
    def agreement(self) -> float:
        """The mean cosine of two runs' vectors: how much one run's depends on the images that it took."""
        count, total = len(self.vectors), self.vectors.sum(axis=0)
        return float((total @ total - (self.vectors**2).sum()) / (count * (count - 1)))

    def mean_set(self, layer: str, concept: str, network: str) -> DirectionSet:
        """The set `LAYER@cav_CONCEPT`: one direction, the mean of the vectors, to which the mean of their own distances responds.

        Raises: WrongSpec, where the vectors of all runs cancel one another.
        """
        mean = self.vectors.mean(axis=0)
        length = float(np.linalg.norm(mean))
        if length < 1e-6:
            raise WrongSpec(f"directions.concepts.{concept}: the vectors of its runs at {layer} cancel out. Name other images.")
        direction, offset = mean / length, self.offsets.mean() / length
        every = (direction[:, np.newaxis], np.array([offset]), direction[np.newaxis], -offset * direction)
        encoder, bias, decoder, boundary = (np.ascontiguousarray(array, np.float32) for array in every)
        name = f"{METHOD}_{concept}"
        return DirectionSet(layer, name, METHOD, "linear", encoder, bias, decoder, boundary, labels=[concept], network=network)


def train_vector(positive: np.ndarray, negative: np.ndarray, seed: Sequence[int]) -> tuple[np.ndarray, float, float]:
    """A concept vector: of logistic regression (scikit-learn; weight 1 of its penalty), on vectors scaled by one number.

    Args:
        positive, negative: float32 (images, channels). seed: of the split into what is trained on and what is held out.

    Returns: float64 (channels,) of length 1, zeros where the two cannot be told apart; its offset; the held-out accuracy.
    """
    from sklearn.linear_model import LogisticRegression

    random = np.random.default_rng(list(seed))
    parts = [vectors[random.permutation(len(vectors))].astype(np.float64) for vectors in (positive, negative)]
    held = [max(1, round(_HELD_OUT * len(vectors))) for vectors in parts]
    x, tested = (
        np.concatenate(halves) for halves in zip(*((p[n:], p[:n]) for p, n in zip(parts, held, strict=True)), strict=True)
    )
    y = np.repeat([1, 0], [len(vectors) - count for vectors, count in zip(parts, held, strict=True)])
    truth = np.repeat([1, 0], held)
    mean = x.mean(axis=0)
    scale = float(np.sqrt(((x - mean) ** 2).mean())) or 1.0
    fitted = LogisticRegression(max_iter=1000).fit((x - mean) / scale, y)
    accuracy = float(fitted.score((tested - mean) / scale, truth))
    vector = fitted.coef_[0] / scale
    length = float(np.linalg.norm(vector))
    offset = float(fitted.intercept_[0] - mean @ vector)
    return (vector / length, offset / length, accuracy) if length > 0 else (vector, 0.0, accuracy)


@dataclass(frozen=True, eq=False)
class Counterexamples:
    """The images that concepts are told from, of which each run takes others.

    pool: all of them. size: how many a run takes. runs: how many there are.
    """

    pool: EmbeddedImages
    size: int
    runs: int
    seed: int = 0

    def vectors_of(self, positive: EmbeddedImages, layer: str) -> VectorRuns:
        """The vectors of a set, run by run."""
        from threadpoolctl import threadpool_limits

        with threadpool_limits(1):  # many small problems, in which threads would wait for one another
            vectors, offsets, accuracies = zip(*(self._run(positive, layer, run) for run in range(self.runs)), strict=True)
        return VectorRuns(np.stack(vectors), np.array(offsets), np.array(accuracies))

    def random_set(self, number: int) -> EmbeddedImages:
        """A set of the pool's own images, which stands for no concept."""
        return self._rows(np.random.default_rng([self.seed, 1, number]).permutation(len(self.pool.digests))[: self.size])

    def _run(self, positive: EmbeddedImages, layer: str, run: int) -> tuple[np.ndarray, float, float]:
        known = set(positive.digests)
        order = np.random.default_rng([self.seed, 0, run]).permutation(len(self.pool.digests))
        others = [row for row in order if self.pool.digests[row] not in known][: self.size]
        negative = self.pool.vectors[layer][np.array(others)]
        return train_vector(positive.vectors[layer], negative, [self.seed, 2, run])

    def _rows(self, rows: np.ndarray) -> EmbeddedImages:
        vectors = {layer: values[rows] for layer, values in self.pool.vectors.items()}
        return EmbeddedImages(tuple(self.pool.digests[row] for row in rows), vectors)


def set_size(concepts: Mapping[str, EmbeddedImages], pool: EmbeddedImages, most: int) -> int:
    """The size that all sets are cut to: that of the smallest concept, and at most half of the counterexamples.

    Raises: WrongSpec, for a concept or counterexamples with too few images.
    """
    known = {digest for images in concepts.values() for digest in images.digests}
    others = set(pool.digests)
    free = len(others - known)
    for name, images in concepts.items():
        if len(images.digests) < FEWEST:
            raise WrongSpec(
                f"directions.concepts.{name} has {len(images.digests)} images that can be used; a concept vector needs {FEWEST}. "
                "Add images."
            )
    size = min(most, free, len(others) // 2, *(len(images.digests) for images in concepts.values()))
    if size < FEWEST:
        raise WrongSpec(
            f"concepts are told from {len(others):,} images, {free:,} of them in no concept. Each run needs {FEWEST}, "
            f"and as many for a random set beside them. Name at least {2 * FEWEST} others in directions.against."
        )
    return size
