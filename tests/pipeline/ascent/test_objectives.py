"""Objectives: their values, their gradients, their sums, and those that no network has."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from pipeline.ascent import objectives as all_objectives
from pipeline.ascent.objectives import TERMS, channel, direction, evaluate, keys_of, layer, logit, neuron, stack
from pipeline.errors import UnknownLayer, WrongSpec
from pipeline.models.network import LOGITS, LayerInfo
from pipeline.spec.patterns import ObjectiveSpec

VECTOR = (0.5, -1.0, 0.0, 2.0, 1.0)
OBJECTIVES = [
    channel("second", 3),
    neuron("second", 2),
    neuron("first", 1, row=0, col=9),
    layer("first"),
    logit(2),
    direction("second", VECTOR),
    channel("first", 1) - channel("first", 2),
    0.7 * channel("second", 0) + 0.3 * logit(1),
    -2 * (layer("second") - logit(0)) + direction("second", VECTOR),
]


@pytest.fixture(scope="module")
def value_and_gradient(smooth: Any) -> Any:
    """A function: objectives of one form, images -> their values, and the gradient of each image's value, in float32."""

    def run(objectives: Any, images: Any) -> Any:
        def look(images: Any) -> Any:
            maps = smooth.trace(smooth.preprocess(images), objectives[0].layers)
            values = evaluate(objectives[0].form, maps, stack(objectives))
            return values, tf.gradients(values, images)[0]

        return [tensor.numpy() for tensor in tf.function(look, autograph=False)(tf.constant(images, tf.float32))]

    return run


@pytest.fixture(scope="module")
def images() -> Any:
    return np.random.default_rng(3).uniform(0, 255, (2, 12, 12, 3)).astype(np.float32)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
def test_the_gradient_of_every_objective_is_what_small_differences_say(
    objective: Any, value_and_gradient: Any, images: Any
) -> None:
    random = np.random.default_rng(4)
    _, gradient = value_and_gradient([objective] * 2, images)
    assert np.abs(gradient).max(axis=(1, 2, 3)).min() > 0
    for _ in range(3):
        # Along the gradient itself too: there the difference is largest.
        along = gradient + random.normal(0, np.abs(gradient).mean(), gradient.shape)
        along /= np.sqrt((along**2).sum(axis=(1, 2, 3), keepdims=True))
        step = 4.0  # of 255
        above, _ = value_and_gradient([objective] * 2, images + step * along)
        below, _ = value_and_gradient([objective] * 2, images - step * along)
        np.testing.assert_allclose((above - below) / (2 * step), (gradient * along).sum(axis=(1, 2, 3)), rtol=2e-2)


def test_values_are_those_of_the_maps(smooth: Any, value_and_gradient: Any, images: Any) -> None:
    maps = smooth.trace(smooth.preprocess(images), ["first", "second", LOGITS])
    first, second, logits = (maps[name].numpy() for name in ("first", "second", LOGITS))
    unit = np.array(VECTOR) / np.linalg.norm(VECTOR)
    expected = {
        channel("second", 3): second[..., 3].mean(axis=(1, 2)),
        neuron("second", 2): second[:, 2, 2, 2],
        neuron("first", 1, row=0, col=9): first[:, 0, 9, 1],
        layer("first"): (first**2).mean(axis=(1, 2, 3)),
        logit(2): logits[:, 2],
        direction("second", VECTOR): (second @ unit).mean(axis=(1, 2)),
        0.7 * channel("second", 0) + 0.3 * logit(1): 0.7 * second[..., 0].mean(axis=(1, 2)) + 0.3 * logits[:, 1],
        channel("first", 1) - channel("first", 2): (first[..., 1] - first[..., 2]).mean(axis=(1, 2)),
    }
    for objective, values in expected.items():
        np.testing.assert_allclose(value_and_gradient([objective] * 2, images)[0], values, rtol=1e-5, err_msg=str(objective))


def test_every_image_of_a_batch_has_an_objective_of_its_own(value_and_gradient: Any, images: Any) -> None:
    objectives = [2 * channel("second", 1) - logit(0), 0.5 * channel("second", 4) + logit(2)]
    together, gradients = value_and_gradient(objectives, images)
    for number, objective in enumerate(objectives):
        value, gradient = value_and_gradient([objective], images[number : number + 1])
        np.testing.assert_allclose(together[number], value[0], rtol=1e-5)
        np.testing.assert_allclose(gradients[number], gradient[0], rtol=1e-4, atol=1e-8)


def test_the_middle_of_an_oblong_map_is_half_way_down_and_across() -> None:
    maps = np.random.default_rng(0).normal(size=(2, 4, 7, 3)).astype(np.float32)
    both = [neuron("x", 1), neuron("x", 2, row=3)]
    values = evaluate(both[0].form, {"x": tf.constant(maps)}, stack(both))
    np.testing.assert_array_equal(values, [maps[0, 2, 3, 1], maps[1, 3, 3, 2]])


def test_an_infinity_in_another_channel_leaves_the_value_and_the_gradient_alone() -> None:
    maps = tf.constant([[[[1.0, np.inf, 3.0]]], [[[np.nan, 2.0, 3.0]]]])
    objectives = [channel("x", 2), channel("x", 1)]
    with tf.GradientTape() as tape:
        tape.watch(maps)
        values = evaluate(objectives[0].form, {"x": maps}, stack(objectives))
    np.testing.assert_array_equal(values, [3.0, 2.0])
    np.testing.assert_array_equal(tape.gradient(values, maps).numpy()[:, 0, 0], [[0, 0, 1], [0, 1, 0]])


def test_objectives_of_different_forms_do_not_share_a_batch() -> None:
    with pytest.raises(ValueError, match="2 forms"):
        stack([channel("first", 1), channel("second", 1)])


def test_an_objective_is_written_as_python_would_read_it() -> None:
    names = {"channel": channel, "neuron": neuron, "layer": layer, "logit": logit, "direction": direction}
    assert str(0.7 * channel("mixed5", 12) + 0.3 * logit(207)) == '0.7 * channel("mixed5", 12) + 0.3 * logit(207)'
    assert -layer("a") == -1 * layer("a") and str(-layer("a")) == '-layer("a")'
    for objective in OBJECTIVES:
        assert eval(str(objective), names) == objective


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (channel("second", 5), r"there is no channel 5: second has 5 \(0 to 4\)"),
        (channel("second", -1), "no channel -1"),
        (neuron("first", 0, row=10, col=0), r"no row 10: first has 10 \(0 to 9\)"),
        (neuron("first", 0, row=0, col=-2), "no col -2"),
        (neuron("first", 0, row=9, col=8), r"no col 8: first has 8 \(0 to 7\)"),
        (logit(0) + logit(3), r"no class 3: it has 3 \(0 to 2\)"),
        (direction("second", [1, 2]), "has 5 numbers, not 2"),
        (direction("second", [0] * 5), "of length 0"),
        (direction("second", [1, 2, 3, 4, np.nan]), "of length nan"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_a_network_does_not_have_is_named_before_work_starts(objective: Any, message: Any) -> None:
    layers = {name: LayerInfo(name, "", shape) for name, shape in (("first", (10, 8, 4)), ("second", (4, 4, 5)))}
    layers[LOGITS] = LayerInfo(LOGITS, "", (1, 1, 3))
    with pytest.raises(WrongSpec, match=message):
        objective.check(layers, "smooth")


def test_a_layer_or_a_classifier_that_is_not_there_is_named() -> None:
    layers = {"first": LayerInfo("first", "", (10, 10, 4))}
    with pytest.raises(UnknownLayer, match="'frist' is not in smooth; nearest: first"):
        layer("frist").check(layers, "smooth")
    with pytest.raises(UnknownLayer, match="with a classifier"):
        logit(0).check(layers, "smooth")


def test_every_kind_of_term_has_a_python_function_that_takes_the_keys_of_the_spec() -> None:
    values = {"layer": "first", "channel": 1, "row": 2, "col": 3, "number": 4, "vector": [1.0, 2.0]}
    for kind, term in TERMS.items():
        keys = {key: values[key] for key in keys_of(term)}
        (weight, made), *others = getattr(all_objectives, kind)(**keys).terms
        assert weight == 1 and not others and made == term(**keys)
        assert ObjectiveSpec(name="x", terms=[{"kind": kind, **keys}]).objective() == getattr(all_objectives, kind)(**keys)
