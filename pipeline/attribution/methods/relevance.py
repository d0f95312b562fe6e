"""Layer-wise relevance propagation: the score shared out from the logits to the pixels; all of it, or what one channel passes."""

from __future__ import annotations

import numpy as np

from pipeline.attribution.methods.method import Evidence, Method, Relevance

_LEAST = 2e-4  # of a score: in a smaller one, nothing can be told from rounding
_TITLES = {
    "lrp_epsilon": ("LRP epsilon", "Bach et al., 2015"),
    "lrp_zplus": ("LRP z+", "Montavon et al., 2017"),
    "lrp_epsilon_plus_flat": ("LRP epsilon + z+ + flat", "Lapuschkin et al., 2019"),
    "lrp_epsilon_gamma_box": ("LRP epsilon + gamma + box", "Montavon et al., 2019"),
}


def relevance(name: str, layer: str | None = None, channel: int | None = None) -> Method:
    """A method of relevance propagation, by its name in the spec.

    layer, channel: that through which all relevance goes that the maps show (Achtibat et al., 2023); absent: all.
    """
    title, paper = _TITLES[name]
    quantity = Relevance(name.removeprefix("lrp_"), layer, channel)

    def explain(evidence: Evidence, layer: str | None) -> np.ndarray:
        maps = evidence.of(quantity)
        if quantity.layer is None:
            missed = np.abs(maps.sum(axis=(2, 3), dtype=np.float64) - evidence.score)
            evidence.gaps[name] = missed / np.maximum(np.abs(evidence.score), _LEAST)
        return maps

    return Method(name, title, paper, "pixels", "signed", lambda layer: (quantity,), explain)


LRP = tuple(relevance(name) for name in _TITLES)
