"""SmoothGrad, SquareGrad and VarGrad: the mean, the mean square and the variance of any method's maps of noisy images."""

from __future__ import annotations

import numpy as np

from pipeline.attribution.methods.method import Evidence, Method

_SAMPLES = 32
_TITLES = {
    "smoothgrad": ("SmoothGrad", "Smilkov et al., 2017"),
    "squaregrad": ("SquareGrad", "Hooker et al., 2019"),
    "vargrad": ("VarGrad", "Adebayo et al., 2018"),
}
KINDS = tuple(_TITLES)


def around(kind: str, method: Method) -> Method:
    """One of `KINDS` around a method: of its maps with their signs, before anything is taken off.

    Squares and variances have no sign: they are summed over the bands, and drawn as heat.
    """
    title, paper = _TITLES[kind]
    name, title = (kind, title) if method.name == "gradient" else (f"{kind}-{method.name}", f"{title} of {method.title}")

    def explain(evidence: Evidence, layer: str | None) -> np.ndarray:
        count = evidence.settings.samples or _SAMPLES
        pixels = evidence.images[..., : evidence.bands]
        deviations = evidence.settings.noise * np.ptp(pixels, axis=(1, 2, 3), keepdims=True)
        sums = squares = np.zeros(())
        for sample in range(count):  # the same noise for every image, so that the batch does not change the map
            noise = np.random.default_rng(sample).normal(size=pixels.shape[1:]).astype(np.float32)
            images = evidence.images.copy()
            images[..., : evidence.bands] += deviations * noise
            maps = method.explain(evidence.with_images(images, method.needs(layer)), layer).astype(np.float64)
            if kind != "squaregrad":
                sums = sums + maps
            if kind != "smoothgrad":
                squares = squares + np.square(maps, out=maps)
        mean, square = sums / count, squares / count
        values = {"smoothgrad": mean, "squaregrad": square, "vargrad": square - mean**2}[kind]
        if kind != "smoothgrad":
            values = np.maximum(values.sum(axis=-1) if method.draws == "colours" else values, 0)
        return values.astype(np.float32)

    draws = method.draws if kind == "smoothgrad" else "heat"
    return Method(name, title, paper, method.looks_at, draws, method.needs, explain)
