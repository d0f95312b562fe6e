"""Metrics of maps: how faithful, steady and simple they are, whether they depend on the class; and which method to trust by them.

mu_fidelity (Bhatt et al., 2020): how the map's sum over squares that are taken away correlates with what the score loses.
infidelity (Yeh et al., 2019): the share of those losses that the sums, by their best scale, do not account for.
max_sensitivity (Yeh et al., 2019): the largest change of the map, as a share of it, for images that differ by a little noise.
random_logit (Sixt et al., 2020): structural similarity to the map of another class. entropy (Bhatt et al., 2020), gini
(Chalasani et al., 2020): how widely a map's energy is spread, and how unequally. pointing, energy_inside: see `on_object`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
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
        noisy = [self._explainer.maps(copy, explained.classes) for copy in _noisy(images, bands)]
        count = explained.logits.shape[-1]
        others = self._explainer.maps(images, (explained.classes + max(1, count // 2)) % count)
        squares, removed = removals(*images.shape[1:3])
        for at, picked in enumerate(batch.picked):
            lost = self._lost(images[at], bands, explained.classes[at], removed[:, squares])
            for slot in explained.slots[at]:
                number = int(explained.classes[at, slot])
                object_mask = self._mask(picked, number)
                for key, maps in explained.maps.items():
                    values = maps[at, slot]
                    measured = {
                        **complexity(values),
                        **faithfulness(_sums(values, squares) @ removed.T, lost[:, slot]),
                        "max_sensitivity": sensitivity(values, [copy[key][at, slot] for copy in noisy]),
                    }
                    if isinstance(targets[slot], ClassTarget) and explained.logits.ndim == 2:
                        measured["random_logit"] = structure(heat.energy(values), heat.energy(others[key][at, slot]))
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

    def _lost(self, image: np.ndarray, bands: int, classes: np.ndarray, masks: np.ndarray) -> np.ndarray:
        """What each target's score loses as squares are taken away: float64 (samples, targets)."""
        empty = baseline(image, self._explainer.plan.settings.baseline, bands)
        images = np.stack([image, *(np.where(mask[..., np.newaxis], empty, image) for mask in masks)])
        scores = self._explainer.answer(images, np.tile(classes, (len(images), 1)), ()).scores.astype(np.float64)
        return scores[0] - scores[1:]


def removals(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """The number of the square of each pixel, int (height, width), and which are taken away, bool (samples, squares)."""
    rows, cols = (np.arange(side) * min(CELLS, side) // side for side in (height, width))
    squares = rows[:, np.newaxis] * (cols[-1] + 1) + cols
    count = int(squares.max()) + 1
    order = np.random.default_rng(0).random((SAMPLES, count)).argsort(axis=1)
    return squares, order < max(1, round(REMOVED * count))


def faithfulness(sums: np.ndarray, lost: np.ndarray) -> dict[str, float]:
    """From the map's sums over what is taken away and what the score lost, (samples,) each; flat ones account for nothing."""
    if np.ptp(sums) == 0 or np.ptp(lost) == 0:
        return {"mu_fidelity": 0.0, "infidelity": 1.0}
    scale = (sums @ lost) / (sums @ sums)
    missed = ((scale * sums - lost) ** 2).sum() / (lost @ lost)
    return {"mu_fidelity": float(np.corrcoef(sums, lost)[0, 1]), "infidelity": float(missed)}


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
    """The methods, the most trustworthy first, and in words which to trust: by the mean of their ranks, then by infidelity."""
    means, spread = _of_methods(columns)
    ranks = {}
    for key, own in means.items():
        signs = {metric: -1 if up else 1 for metric, up in BETTER.items() if metric in own}
        ahead = [sum(sign * means[other][metric] < sign * own[metric] for other in means) for metric, sign in signs.items()]
        ranks[key] = 1 + float(np.mean(ahead))
    order = sorted(ranks, key=lambda key: (ranks[key], means[key]["infidelity"]))
    lines = [
        f"{_name(key)}: mean rank {ranks[key]:.1f}; "
        + ", ".join(f"{metric} {mean:.2f} ± {spread[key][metric]:.2f}" for metric, mean in means[key].items())
        for key in order
    ]
    best = means[order[0]]
    words = f"For this network and these images, trust {_name(order[0])} first"
    words += f": its maps account for {1 - best['infidelity']:.0%} of what the score loses."
    if best["infidelity"] > 0.5:
        words += " That is less than half: take none of these maps for more than a hint."
    blind = [_name(key) for key in order if means[key].get("random_logit", 0) > 0.9]
    if blind:
        words += f" Maps that hardly change with the class, and so do not explain it: {', '.join(blind)}."
    unsteady = [_name(key) for key in order if means[key]["max_sensitivity"] > 1]
    if unsteady:
        words += f" Maps that noise nobody sees turns into others: {', '.join(unsteady)}."
    return [*lines, words]


def _of_methods(columns: Mapping[str, Sequence[Any]]) -> tuple[dict[MapKey, dict[str, float]], dict[MapKey, dict[str, float]]]:
    """The mean and the standard deviation of every metric, by method and layer."""
    values: dict[MapKey, dict[str, list[float]]] = {}
    for method, layer, metric, value in zip(*(columns[name] for name in ("method", "layer", "metric", "value")), strict=True):
        values.setdefault((method, layer), {}).setdefault(metric, []).append(value)
    means, deviations = (
        {key: {metric: float(of(several)) for metric, several in metrics.items()} for key, metrics in values.items()}
        for of in (np.mean, np.std)
    )
    return means, deviations


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
