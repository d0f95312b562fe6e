"""Gaps: what a stage says of maps that do not add up to their scores."""

from __future__ import annotations

from pipeline.attribution.gaps import gaps_of
from pipeline.spec.gradcam import GradcamSpec


def test_a_sentence_for_each_method_that_misses_more_than_a_percent_says_what_to_do() -> None:
    rows = [("gradcam", None), ("integrated_gradients", 0.004), ("integrated_gradients", 0.025), ("expected_gradients", 0.3)]
    rows += [("lrp_epsilon", 4.8e12), ("lrp_zplus", 1e-6)]
    columns = {"method": [method for method, _ in rows], "gap": [gap for _, gap in rows], "head": ["softmax"] * len(rows)}
    largest, lines = gaps_of(columns, GradcamSpec(steps=64))
    assert largest == {"integrated_gradients": 0.025, "expected_gradients": 0.3, "lrp_epsilon": 4.8e12, "lrp_zplus": 1e-6}
    integrated, expected, relevance = lines
    assert integrated.startswith("integrated gradients: 1 map does not add up to its score within 1%; the worst misses 2.5%.")
    assert "Raise gradcam.steps = 64." in integrated and "Raise gradcam.samples = 64." in expected
    assert "misses 4.8e+12 times the score" in relevance and "trust lrp_epsilon_plus_flat instead" in relevance


def test_what_more_steps_do_not_mend_is_not_put_down_to_them() -> None:
    columns = {"method": ["integrated_gradients", "lrp_zplus"], "gap": [0.2, 0.9], "head": ["boxes", "boxes"]}
    _, (integrated, relevance) = gaps_of(columns, GradcamSpec(), {"image": "left", "right": 0.5})
    assert "Another detection takes over on the path" in integrated and "gradcam.steps" not in integrated
    assert "other inputs" in relevance and "trust" not in relevance
    assert "other inputs" not in gaps_of(columns, GradcamSpec(), {"image": "left"})[1][1]
