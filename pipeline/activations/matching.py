"""Matching: which channels of two scans respond alike to the same images, one for one."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from pipeline.activations.correlation import FEWEST, Standardized, correlations
from pipeline.activations.distribution import Distribution
from pipeline.activations.part_file import WHOLE, SavedPart, read_part
from pipeline.errors import ConvscopeError, WrongSpec
from pipeline.progress import counted
from pipeline.store.places import Place

_Nearest = dict[tuple[str, int], tuple[float, tuple[str, int]]]  # by layer and position: the correlation, and the other's


@dataclass(frozen=True)
class Matching:
    """Which channel of a second job answers to each channel of a first.

    how: by what they were matched, in words.
    across: where they were matched over all layers: layer and position in the first, those in the second, and the correlation.
    pairs: by layer, the position of the second's channel for the position of the first's, and their correlation; empty
        where channels are matched by their numbers.
    """

    how: str
    pairs: dict[str, dict[int, tuple[int, float]]] = field(default_factory=dict)
    across: list[tuple[str, int, str, int, float]] | None = None


def match_across(first: Place, second: Place) -> Matching:
    """The universal channels of two jobs over the same data: pairs of which each is the other's nearest, over all layers, by the
    correlation of their responses to the same images (Rosetta neurons, Dravid et al. 2023).

    The networks need not be alike. Memory holds the correlations of one layer of each at a time.

    Raises: WrongSpec, where the jobs have other data, too few images in common, or no state of a scan, or one of another format;
        Fault, for one that is damaged.
    """
    parts = []
    for folder in (first, second):
        try:
            parts.append(read_part(folder / WHOLE))
        except FileNotFoundError:
            raise WrongSpec(
                f"compare --match needs the state of both scans: {folder} lacks {WHOLE}. Run its job again."
            ) from None
        except WrongSpec:
            raise WrongSpec(
                f"compare --match needs the state of both scans: another version of convscope wrote {folder / WHOLE}. "
                "Run its job again with this one: run --anew."
            ) from None
    a, b = parts
    if a.provenance.data != b.provenance.data:
        raise WrongSpec("compare --match needs two jobs over the same data: these ran on different ones.")
    ours, theirs = a.part.of(Distribution), b.part.of(Distribution)
    best: tuple[_Nearest, _Nearest] = {}, {}
    images = 0
    for layer, of_ours in ours.items():
        for other_layer, of_theirs in theirs.items():
            x, y = _shared(of_ours, of_theirs)
            images = len(x)
            if images < FEWEST:
                raise WrongSpec(f"compare --match needs {FEWEST} images that both jobs have seen: these have {images} in common.")
            alike = np.nan_to_num(correlations(x, y))
            _keep_nearest(best[0], layer, other_layer, alike)
            _keep_nearest(best[1], other_layer, layer, alike.T)
    pairs = [(*unit, *other, value) for unit, (value, other) in best[0].items() if other in best[1] and best[1][other][1] == unit]
    return Matching(f"over all layers, each the other's nearest by its responses to {counted(images, 'image')}", across=pairs)


def _keep_nearest(best: _Nearest, layer: str, other_layer: str, alike: np.ndarray) -> None:
    """For each channel of a layer, keep the nearest of another network's layer where it is nearer than those of earlier ones."""
    for position, other in enumerate(alike.argmax(axis=1).tolist()):
        value = float(alike[position, other])
        if value > (best[layer, position][0] if (layer, position) in best else 0.0):
            best[layer, position] = value, (other_layer, other)


def match_channels(first: Place, second: Place) -> Matching:
    """Match the channels of each layer that two jobs share by the correlation of their responses to the same images, so that
    the sum of the correlations is largest (Li et al. 2016, "Convergent learning"; the Hungarian method).

    A retrained network may permute its channels: their numbers then mean nothing. The images are those of the first scan's
    sample that the second has too. Where the jobs have other data, or no state of a scan, numbers are all there is.
    """
    try:
        a, b = (read_part(folder / WHOLE) for folder in (first, second))
    except (FileNotFoundError, ConvscopeError):
        return Matching("by number: a job keeps no state of its scan (scan.part) that this version reads")
    if a.provenance.data != b.provenance.data:
        return Matching("by number: the jobs ran on different data")
    ours, theirs = a.part.of(Distribution), b.part.of(Distribution)
    pairs, images = {}, 0
    for layer in ours:
        if layer in theirs:
            shared = _shared(ours[layer], theirs[layer])
            images = len(shared[0])
            if images >= FEWEST:
                pairs[layer] = _assign(*shared, _same(a, b, layer))
    if not pairs:
        return Matching(f"by number: the jobs have fewer than {FEWEST} images in common")
    return Matching(f"by the correlation of their responses to {counted(images, 'image')} that both have seen", pairs)


def _shared(first: Distribution, second: Distribution) -> tuple[Standardized, Standardized]:
    """Both samples' responses to the images of both, in one order, as `Distribution.standardized` gives them."""
    _, ours, theirs = np.intersect1d(first.order, second.order, return_indices=True)
    return (
        replace(first, order=first.order[ours], sample=first.sample[ours]).standardized(),
        replace(second, order=second.order[theirs], sample=second.sample[theirs]).standardized(),
    )


def _same(first: SavedPart, second: SavedPart, layer: str) -> bool:
    """Whether position means the same channel in both scans of a layer."""
    names = "activations.channels"
    same = first.provenance.settings.get(names) == second.provenance.settings.get(names)
    return same and first.part.channels[layer] == second.part.channels[layer]


def _assign(first: Standardized, second: Standardized, numbered: bool) -> dict[int, tuple[int, float]]:
    """{channel of the first: (channel of the second, correlation)}, of responses to the same images.

    Among equals a channel's own number wins. Pairs without a correlation, as those of channels that never vary, are left out.
    """
    from scipy.optimize import linear_sum_assignment

    alike = correlations(first, second)
    worth = np.nan_to_num(alike) + (1e-9 * np.eye(*alike.shape) if numbered else 0)
    pairs = zip(*linear_sum_assignment(worth, maximize=True), strict=True)
    return {int(a): (int(b), float(alike[a, b])) for a, b in pairs if np.isfinite(alike[a, b])}
