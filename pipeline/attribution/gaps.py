"""Gaps: the share of a score for which a map does not account, where the method promises all of it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pipeline.attribution.methods import method_named
from pipeline.attribution.methods.expected_gradients import EXPECTED_GRADIENTS, SAMPLES
from pipeline.attribution.methods.integrated_gradients import INTEGRATED_GRADIENTS
from pipeline.spec.gradcam import GradcamSpec

MOST = 0.01  # of a score: maps that miss more of it are spoken of
_SEVERAL = 10  # scores: beyond, percents are no longer read


def gaps_of(
    columns: Mapping[str, Sequence[Any]], spec: GradcamSpec, inputs: Collection[str] = ()
) -> tuple[dict[str, float], list[str]]:
    """The largest gap of each method that knows its maps', of index/attributions.parquet, and a sentence for each too large.

    inputs: the names that `model.inputs` gives values: the image, and others.
    """
    known = [(method, gap) for method, gap in zip(columns["method"], columns["gap"], strict=True) if gap is not None]
    largest = {name: max(gap for method, gap in known if method == name) for name, _ in known}
    lines = []
    for name, gap in largest.items():
        if gap > MOST:
            more = f" Raise gradcam.steps = {spec.steps}."
            if name.startswith("lrp_") and {*inputs} - {"image"}:
                more = " The rest may be due to the network's other inputs, of which the map shows nothing."
            elif name == INTEGRATED_GRADIENTS.name and "boxes" in columns["head"]:
                more = " Another detection takes over on the path, which no number of steps mends: trust lrp_epsilon_plus_flat."
            elif name == EXPECTED_GRADIENTS.name:
                more = f" Raise gradcam.samples = {spec.samples or SAMPLES}."
            elif name == "lrp_epsilon":
                more = " The rule divides by sums, and some are near zero: trust lrp_epsilon_plus_flat instead."
            elif name != INTEGRATED_GRADIENTS.name:
                more = ""  # of relevance, what operations without weights could not pass on
            missing = sum(other > MOST for method, other in known if method == name)
            worst = f"{gap:.1%}" if gap < _SEVERAL else f"{gap:.2g} times the score"
            many = "1 map does not add up to its score" if missing == 1 else f"{missing:,} maps do not add up to their scores"
            lines.append(
                f"{method_named(name).title}: {many} within {MOST:.0%}; the worst misses {worst}.{more} "
                f"See the column gap of index/attributions.parquet."
            )
    return largest, lines
