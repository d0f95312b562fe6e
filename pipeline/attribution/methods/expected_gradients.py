"""Expected gradients: integrated gradients from the data set's own images, one point of a path at random for each."""

from __future__ import annotations

import numpy as np

from pipeline.attribution.methods.method import AtPixels, Evidence, Method

SAMPLES = 64
_LEAST = 2e-4  # of a difference of scores: in a smaller one, nothing can be told from rounding


def _explain(evidence: Evidence, layer: str | None) -> np.ndarray:
    references, bands = evidence.settings.references, evidence.bands
    assert references is not None
    count = evidence.settings.samples or SAMPLES
    random = np.random.default_rng(0)
    # One point in each of as many equal parts of the path, in a random order, each with a reference in turn.
    points = ((random.permutation(count) + random.random(count)) / count).astype(np.float32)
    numbers = np.arange(count) % len(references)
    maps, gaps = [], []
    for image, asked in zip(evidence.images, evidence.asked, strict=True):
        targets = np.broadcast_to(asked, (count, *asked.shape))
        starts = np.repeat(image[np.newaxis], count, axis=0)
        starts[..., :bands] = references[numbers][..., :bands]
        between = starts + points[:, np.newaxis, np.newaxis, np.newaxis] * (image - starts)
        _, gradients = evidence.at(AtPixels(), between, targets)
        maps.append(np.einsum("nthwc,nhwc->thw", gradients, (image - starts)[..., :bands]) / count)
        first = min(count, len(references))
        ends = evidence.scores(np.concatenate([image[np.newaxis], starts[:first]]), targets[:1].repeat(first + 1, axis=0))
        gained = (ends[0] - np.average(ends[1:], axis=0, weights=np.bincount(numbers, minlength=first))).astype(np.float64)
        gaps.append(np.abs(maps[-1].sum(axis=(1, 2)) - gained) / np.maximum(np.abs(gained), _LEAST))
    evidence.gaps[EXPECTED_GRADIENTS.name] = np.stack(gaps)
    return np.stack(maps).astype(np.float32)


EXPECTED_GRADIENTS = Method(
    name="expected_gradients",
    title="expected gradients",
    paper="Erion et al., 2021",
    looks_at="pixels",
    draws="signed",
    needs=lambda layer: (AtPixels(),),
    explain=_explain,
)
