"""Weight randomisation: the weights of a traced network become random layer by layer, from the logits back to the images.

The network itself stays as it is: its graph is given other weights.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pipeline.attribution.explainer import Explainer

_MOST_STEPS = 12  # networks are made random in as many steps at most


class WeightRandomisation:
    """Explains with the network's own weights, and with random ones from the logits down to some layer.

    The random numbers are the same for every batch. Their standard deviations are those of the weights that they
    replace, so that signals neither die nor explode.

    weights: from the logits back. noise: the random numbers in the place of each, by its source.
    """

    def __init__(self, explainer: Explainer, most_steps: int = _MOST_STEPS) -> None:
        """The explainer's graph must have its weights."""
        self._explainer, self.weights = explainer, explainer.graph.weights
        random = np.random.default_rng(0)
        self.noise = {
            weight.source: random.normal(0, float(weight.values.std()), weight.values.shape).astype(weight.values.dtype)
            for weight in self.weights
        }
        count = len(self.weights)
        self._steps = sorted({0, 1, *(round(at) for at in np.linspace(0, count, min(count, most_steps) + 1))})

    def steps(self, cascading: bool = True) -> Iterator[tuple[int, str, Explainer]]:
        """The explainer as more and more layers are random, none first and all last; or only those since the step before.

        Yields: how many weights there are down to the last that is random, its layer ("" at first), and who explains with them.
        """
        for before, step in zip([0, *self._steps], self._steps, strict=False):
            random = {weight.source: self.noise[weight.source] for weight in self.weights[0 if cascading else before : step]}
            layer = self.weights[step - 1].layer if step else ""
            yield step, layer, self._explainer.with_run(self._explainer.graph.with_weights(random))
