"""Metrics of maps: by their formulas, and on a network whose map a hand knows."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pandas as pd
from explaining import explainer_of
from stirring import stir

from bench import methods
from pipeline.attribution.explainer import ImageBatch
from pipeline.attribution.sanity.metrics import MapMetrics, complexity, faithfulness, sensitivity, verdict


def test_energy_in_one_place_has_no_entropy_and_energy_everywhere_has_no_gini() -> None:
    peak, flat = np.zeros((4, 5)), np.full((4, 5), -3.0)
    peak[2, 1] = 7
    assert complexity(peak) == {"entropy": 0.0, "gini": 0.95}
    assert np.isclose(complexity(flat)["entropy"], np.log(20)) and np.isclose(complexity(flat)["gini"], 0)
    values = np.array([[1.0, 2.0, 5.0]])
    pairs = sum(abs(a - b) for a in values[0] for b in values[0]) / (2 * 9 * values.mean())  # the mean difference of all pairs
    assert np.isclose(complexity(values)["gini"], pairs)
    assert complexity(np.zeros((2, 2))) == {"entropy": 0.0, "gini": 0.0}


def test_faithfulness_is_a_correlation_and_what_the_best_scale_leaves_over() -> None:
    random = np.random.default_rng(0)
    sums, noise = random.normal(size=200), random.normal(size=200)
    exact, noisy = faithfulness(sums, 3 * sums), faithfulness(sums, 3 * sums + noise)
    assert np.isclose(exact["mu_fidelity"], 1) and np.isclose(exact["infidelity"], 0)
    lost = 3 * sums + noise
    assert np.isclose(noisy["mu_fidelity"], np.corrcoef(sums, lost)[0, 1])
    scales = np.linspace(0, 6, 6001)
    best = min(((scale * sums - lost) ** 2).sum() for scale in scales) / (lost**2).sum()
    assert np.isclose(noisy["infidelity"], best, rtol=1e-3)
    assert faithfulness(np.zeros(9), random.normal(size=9)) == {"mu_fidelity": 0.0, "infidelity": 1.0}
    even = faithfulness(np.full(200, 7.0), lost + 4)  # of a map that is the same everywhere: the mean loss is all it knows
    assert even["mu_fidelity"] == 0 and np.isclose(even["infidelity"], lost.var() / ((lost + 4) ** 2).mean(), rtol=0.1)


def test_sensitivity_is_that_of_the_worst_copy() -> None:
    values = np.array([[3.0, 4.0]])
    assert sensitivity(values, [values, values + np.array([0, 1.0]), values * 3]) == 2.0
    large = np.full((2, 2), 1e25, np.float32)  # relevance in a deep network can be
    assert np.isclose(sensitivity(large, [-large]), 2)


def test_the_map_of_a_linear_network_is_faithful_and_the_verdict_prefers_it(opened: Any, photos: Any) -> None:
    inputs = keras.Input((16, 16, 3))
    model = stir(keras.Model(inputs, keras.layers.Dense(4)(keras.layers.Flatten()(inputs)), name="linear"))
    explainer = explainer_of(opened(model), [("input_x_gradient", None), ("gradient", None)], 2)
    images = photos(2, 16, 16)
    picked = [SimpleNamespace(example=number, image=SimpleNamespace(key=f"{number}.png")) for number in range(2)]
    metrics = MapMetrics(explainer)
    metrics.add(explainer.explain(ImageBatch(picked, images, [[1], [2]])))
    columns = metrics.columns
    rows = {
        (key, method, metric): value
        for key, method, metric, value in zip(columns["key"], columns["method"], columns["metric"], columns["value"], strict=True)
    }
    for key in ("0.png", "1.png"):
        assert rows[key, "input_x_gradient", "mu_fidelity"] > 0.999 and rows[key, "input_x_gradient", "infidelity"] < 1e-3
        assert rows[key, "gradient", "mu_fidelity"] < 0.9 and rows[key, "gradient", "max_sensitivity"] < 1e-4
        assert rows[key, "gradient", "random_logit"] < 0.9
    first, second, words = verdict(columns)
    assert first.startswith("input_x_gradient: mean rank") and second.startswith("gradient: mean rank")
    assert "trust input_x_gradient first. Its maps account for 100% of what the score loses; a map that is the same" in words


def table(**methods: Any) -> dict[str, list[Any]]:
    """Columns of metrics, from the values of ten images by metric and method; what is not given is the same for all."""
    columns: dict[str, list[Any]] = {
        name: [] for name in ("method", "layer", "metric", "value", "example", "key", "class", "target")
    }
    for method, metrics in methods.items():
        for metric, values in {"infidelity": 0.3, "even_infidelity": 0.6, "max_sensitivity": 0.1, **metrics}.items():
            for image, value in enumerate(np.broadcast_to(values, 10).tolist()):
                for name, cell in zip(columns, (method, None, metric, value, image, f"{image}.png", 0, "0"), strict=True):
                    columns[name].append(cell)
    return columns


def test_what_chance_may_have_done_ranks_no_method() -> None:
    noise = np.random.default_rng(0).normal(0, 0.2, 10)
    noise -= noise.mean()
    *lines, words = verdict(table(steady={"mu_fidelity": 0.5}, chance={"mu_fidelity": 0.52 + noise}, worse={"mu_fidelity": 0.2}))
    assert [line.partition(";")[0] for line in lines] == [
        "steady: mean rank 1.0",
        "chance: mean rank 1.0",
        "worse: mean rank 1.7",
    ]
    assert "trust steady first, or as well chance, which cannot be told apart from it." in words
    *lines, _ = verdict(table(steady={"mu_fidelity": 0.5}, better={"mu_fidelity": 0.52 + noise / 100}))
    assert lines[0].startswith("better: mean rank 1.0") and lines[1].startswith("steady: mean rank 1.3")


def test_maps_that_say_no_more_than_an_even_one_are_named() -> None:
    random = np.random.default_rng(0)
    *_, words = verdict(table(good={}, useless={"infidelity": 0.59 + random.normal(0, 0.1, 10)}, poor={"infidelity": 0.9}))
    assert (
        "trust good first. Its maps account for 70% of what the score loses; a map that is the same everywhere would for 40%."
        in words
    )
    assert "Maps that account for no more than that, as far as these images can tell: useless, poor." in words
    assert "That is less than half of it" in verdict(table(poor={"infidelity": 0.9}))[-1]


def test_the_documents_table_ranks_methods_over_files_which_have_no_number() -> None:
    """pandas reads what is missing in a column of numbers as NaN, which equals nothing."""
    columns = table(poor={"infidelity": 0.9}, good={})
    frame = pd.DataFrame({**columns, "example": [None] * len(columns["key"])}).astype({"example": float})
    ranked = [line for line in methods.table(frame) if line.startswith("| `")]
    assert [line.split("`")[1] for line in ranked] == ["good", "poor"]
    assert ranked[0].split("|")[2].strip() == "1.0" and ranked[1].split("|")[2].strip() != "1.0"
