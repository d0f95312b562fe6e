"""Metrics of maps: how faithful, steady and simple they are, whether they depend on the class; and which method to trust by them.

mu_fidelity (Bhatt et al., 2020): how the map's sum over squares that are taken away correlates with what the score loses.
infidelity (Yeh et al., 2019): the share of those losses that the sums, by their best scale, do not account for; even_infidelity
is that of a map which is the same everywhere.
max_sensitivity (Yeh et al., 2019): the largest change of the map, as a share of it, for images that differ by a little noise.
random_logit (Sixt et al., 2020): structural similarity to the map of another class. entropy (Bhatt et al., 2020), gini
(Chalasani et al., 2020): how widely a map's energy is spread, and how unequally. pointing, energy_inside: see `on_object`.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.attribution import heat
from pipeline.attribution.baselines import baseline
from pipeline.attribution.explainer import Explained, Explainer
from pipeline.attribution.objects import ObjectMask, on_object
from pipeline.attribution.plan import MapKey
from pipeline.attribution.sanity.similarity import structure
from pipeline.attribution.targets import ClassTarget
from pipeline.drawing import plots
from pipeline.sources.picking import Picked
from pipeline.store.columns import append_row
from pipeline.store.tables import INDEX

CELLS, SAMPLES, REMOVED = 8, 64, 0.2  # squares along a side, draws of squares, and the share of them that is taken away
_COPIES, _NOISE = 4, 0.02  # noisy images, and how far each value may move, of the range of pixels

# Whether a higher value is better; by these, methods are ranked.
BETTER = {"mu_fidelity": True, "infidelity": False, "max_sensitivity": False, "random_logit": False}
_LEAST = 1e-3  # by which a value must be better to be so: maps that are equal differ by rounding

_Values = Mapping[MapKey, Mapping[str, Mapping[Hashable, float]]]  # by method and layer, metric, and image with its target


class MapMetrics:
    """Collects the metrics of maps, batch by batch.

    columns: those of index/metrics.parquet.
    without_object: the keys of the images in which no object is known.
    """

    def __init__(self, explainer: Explainer, objects: ObjectMask | None = None) -> None:
        """objects: where the objects of the images are, if that is known."""
        self._explainer, self._objects = explainer, objects
        self.columns: dict[str, list[Any]] = {field.name: [] for field in INDEX["metrics"]}
        self.without_object: dict[str, None] = {}

    def add(self, explained: Explained) -> None:
        """The metrics of every map of a batch."""
        batch, targets = explained.batch, self._explainer.plan.targets
        images = batch.images.astype(np.float32)
        bands = self._explainer.bands or images.shape[-1]
        noisy = [self._explainer.maps(copy, explained.asked) for copy in _noisy(images, bands)]
        count = explained.logits.shape[-1]
        others = self._explainer.maps(images, (explained.classes + max(1, count // 2)) % count)
        squares, removed = removals(*images.shape[1:3])
        even = removed @ np.bincount(squares.ravel())
        for index, picked in enumerate(batch.picked):
            lost = self._lost(images[index], bands, explained.asked[index], removed[:, squares])
            for slot in explained.slots[index]:
                number = int(explained.classes[index, slot])
                object_mask = self._mask(picked, number)
                for key, values in explained.maps_of(index, slot).items():
                    measured = {
                        **complexity(values),
                        **faithfulness(_sums(values, squares) @ removed.T, lost[:, slot]),
                        "even_infidelity": faithfulness(even, lost[:, slot])["infidelity"],
                        "max_sensitivity": sensitivity(values, [copy[key][index, slot] for copy in noisy]),
                    }
                    if isinstance(targets[slot], ClassTarget) and explained.logits.ndim == 2:
                        measured["random_logit"] = structure(heat.energy(values), heat.energy(others[key][index, slot]))
                    if object_mask is not None:
                        measured |= on_object(values, object_mask)
                    for metric, value in measured.items():
                        row = (picked.example, picked.image.key, *key, number, targets[slot].title(number), metric, value)
                        append_row(self.columns, row)

    def plot(self) -> bytes:
        """The metrics of each method as a PNG."""
        return plots.metrics(self.columns, BETTER)

    def _mask(self, picked: Picked, number: int) -> np.ndarray | None:
        """Where the object is, if it is known and the network was shown some of it."""
        mask = None if self._objects is None else self._objects(picked, number)
        if mask is not None and mask.any():
            return mask
        if self._objects is not None:
            self.without_object[picked.image.key] = None
        return None

    def _lost(self, image: np.ndarray, bands: int, asked: np.ndarray, masks: np.ndarray) -> np.ndarray:
        """The loss of each target's score as squares are taken away: float64 (samples, targets)."""
        empty = baseline(image, self._explainer.plan.settings.baseline, bands)
        images = np.stack([image, *(np.where(mask[..., np.newaxis], empty, image) for mask in masks)])
        scores = self._explainer.answer(images, np.broadcast_to(asked, (len(images), *asked.shape)), ()).scores.astype(np.float64)
        return scores[0] - scores[1:]


def removals(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """The number of the square of each pixel, int (height, width), and which are taken away, bool (samples, squares)."""
    rows, cols = (np.arange(side) * min(CELLS, side) // side for side in (height, width))
    squares = rows[:, np.newaxis] * (cols[-1] + 1) + cols
    count = int(squares.max()) + 1
    order = np.random.default_rng(0).random((SAMPLES, count)).argsort(axis=1)
    return squares, order < max(1, round(REMOVED * count))


def faithfulness(sums: np.ndarray, lost: np.ndarray) -> dict[str, float]:
    """From the map's sums over what is taken away and what the score lost, (samples,) each; zeros account for nothing."""
    if not sums.any() or not lost.any():
        return {"mu_fidelity": 0.0, "infidelity": 1.0}
    scale = (sums @ lost) / (sums @ sums)
    missed = ((scale * sums - lost) ** 2).sum() / (lost @ lost)
    correlation = float(np.corrcoef(sums, lost)[0, 1]) if np.ptp(sums) and np.ptp(lost) else 0.0
    return {"mu_fidelity": correlation, "infidelity": float(missed)}


def sensitivity(values: np.ndarray, others: Sequence[np.ndarray]) -> float:
    """The largest distance of a map to others, as a share of its length; 0 for a map of zeros."""
    exact = values.astype(np.float64)  # squares of what relevance can come to are too large for float32
    length = float(np.linalg.norm(exact))
    return max(float(np.linalg.norm(other - exact)) for other in others) / length if length else 0.0


def complexity(values: np.ndarray) -> dict[str, float]:
    """Entropy of the shares of a map's energy, in nats, and their Gini coefficient: 0 where all positions have the same."""
    powers = np.sort(heat.energy(values).ravel().astype(np.float64))
    if not powers.any():
        return {"entropy": 0.0, "gini": 0.0}
    shares, count = powers / powers.sum(), len(powers)
    some = shares[shares > 0]
    return {
        "entropy": float(-(some * np.log(some)).sum()),
        "gini": float((2 * np.arange(1, count + 1) - count - 1) @ shares / count),
    }


def verdict(columns: Mapping[str, Sequence[Any]]) -> list[str]:
    """The methods, the most trustworthy first, and in words which to trust.

    In each metric a method stands behind those that are better by more than twice the standard error of the difference, over
    the same images: what chance may have done does not count. Methods are sorted by the mean of these ranks, then by infidelity.
    """
    values = _of_methods(columns)
    means = {
        key: {metric: float(np.mean(list(by_image.values()))) for metric, by_image in metrics.items()}
        for key, metrics in values.items()
    }
    ranks = {}
    for key, metrics in values.items():
        measured = [metric for metric in BETTER if metric in metrics]
        ahead = [sum(_ahead(other[metric], metrics[metric], BETTER[metric]) for other in values.values()) for metric in measured]
        ranks[key] = 1 + float(np.mean(ahead))
    order = sorted(ranks, key=lambda key: (ranks[key], means[key]["infidelity"]))
    lines = [
        f"{_name(key)}: mean rank {ranks[key]:.1f}; "
        + ", ".join(
            f"{metric} {mean:.2f} ± {np.std(list(values[key][metric].values())):.2f}" for metric, mean in means[key].items()
        )
        for key in order
    ]
    return [*lines, " ".join(_words(order, values, means, ranks))]


def _words(
    order: Sequence[MapKey], values: _Values, means: Mapping[MapKey, Mapping[str, float]], ranks: Mapping[MapKey, float]
) -> Iterator[str]:
    """The sentences of the verdict."""
    first, best = order[0], means[order[0]]
    equal = [_name(key) for key in order[1:] if ranks[key] == ranks[first]]
    yield f"For this network and these images, trust {_name(first)} first" + (
        f", or as well {', '.join(equal)}, which cannot be told apart from it." if equal else "."
    )
    yield (
        f"Its maps account for {1 - best['infidelity']:.0%} of what the score loses; a map that is the same everywhere would for "
        f"{1 - best['even_infidelity']:.0%}."
    )
    if best["infidelity"] > 0.5:
        yield "That is less than half of it: take none of these maps for more than a hint."
    useless = [_name(key) for key in order if not _ahead(values[key]["infidelity"], values[key]["even_infidelity"], False)]
    if useless:
        yield f"Maps that account for no more than that, as far as these images can tell: {', '.join(useless)}."
    blind = [_name(key) for key in order if means[key].get("random_logit", 0) > 0.9]
    if blind:
        yield f"Maps that hardly change with the class, and so do not explain it: {', '.join(blind)}."
    unsteady = [_name(key) for key in order if means[key]["max_sensitivity"] > 1]
    if unsteady:
        yield f"Maps that noise nobody sees turns into others: {', '.join(unsteady)}."


def _ahead(ours: Mapping[Hashable, float], theirs: Mapping[Hashable, float], up: bool) -> bool:
    """Whether values of some images are better than others of the same images by more than chance may do."""
    gained = np.array([(1 if up else -1) * (ours[image] - theirs[image]) for image in ours if image in theirs])
    if not len(gained):
        return False
    error = float(np.std(gained, ddof=1)) / np.sqrt(len(gained)) if len(gained) > 1 else 0.0
    return bool(gained.mean() > max(2 * error, _LEAST))


def _of_methods(columns: Mapping[str, Sequence[Any]]) -> _Values:
    """The values of each metric by image and target, by method and layer."""
    values: dict[MapKey, dict[str, dict[Hashable, float]]] = {}
    names = ("method", "layer", "metric", "value", "example", "key", "class", "target")
    for method, layer, metric, value, *image in zip(*(columns[name] for name in names), strict=True):
        values.setdefault((method, layer), {}).setdefault(metric, {})[tuple(image)] = value
    return values


def _name(key: MapKey) -> str:
    return f"{key[0]} at {key[1]}" if key[1] else key[0]


def _sums(values: np.ndarray, squares: np.ndarray) -> np.ndarray:
    """A map's sum over each square: float64 (squares,); of maps in colours, that of their energy."""
    large = heat.enlarge(heat.energy(values) if values.ndim == 3 else values, *squares.shape)
    return np.bincount(squares.ravel(), large.ravel())


def _noisy(images: np.ndarray, bands: int) -> Iterator[np.ndarray]:
    for copy in range(_COPIES):
        noise = np.random.default_rng(copy).uniform(-1, 1, images.shape[1:]) * 255 * _NOISE
        noise[..., bands:] = 0
        yield (images + noise).astype(np.float32)
