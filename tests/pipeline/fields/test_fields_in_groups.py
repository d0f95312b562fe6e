"""Fields of many layers at once: group by group, each group of bounded size, with the same boxes as in one pass."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from pipeline.errors import FieldUnsolved
from pipeline.fields import solving as fields
from pipeline.models.keras.model import keras_network
from pipeline.models.network import LayerInfo, in_groups


@pytest.fixture
def network() -> Any:
    x = inputs = keras.Input((24, 24, 3))
    for index in range(6):
        x = keras.layers.Conv2D(4, 3, padding="same", strides=2 if index == 2 else 1, name=f"conv{index}")(x)
    return keras_network(keras.Model(inputs, x), "six", None, "unit")


def test_groups_hold_the_same_boxes_as_one_pass(network: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    layers = network.layers()
    together = fields.solve_fields(network, layers)
    monkeypatch.setattr(fields, "_MOST_BYTES", 4 * 8 * (24 * 24 * 3 + 2 * 24 * 24 * 4))  # two large maps at a time
    groups = list(fields.solve_in_groups(network, layers))
    assert [list(group) for group in groups] == [["conv0", "conv1"], ["conv2", "conv3", "conv4", "conv5"]]
    apart = fields.solve_fields(network, layers)
    assert list(apart) == list(together) == [layer.name for layer in layers]
    for name, field in apart.items():
        np.testing.assert_array_equal(field.boxes, together[name].boxes)


@pytest.mark.parametrize(
    "clamp",
    [keras.layers.ReLU(6), lambda x: keras.ops.clip(x, 5.0, 6.0), lambda x: keras.ops.minimum(x, -1e4)],
    ids=["ReLU6", "clip", "minimum"],
)
def test_units_that_are_always_at_a_clamp_see_what_they_are_made_from(clamp: Any) -> None:
    """No image changes what they give, but winners rank by what is behind the clamp, and are cropped to what that sees."""
    inputs = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(1, 5, bias_initializer=keras.initializers.Constant(900), name="conv")(inputs)
    network = keras_network(keras.Model(inputs, clamp(x)), "saturated", None, "none")
    before, behind = (fields.solve_fields(network, network.layers())[layer.name] for layer in network.layers())
    assert behind.size == (5, 5)
    np.testing.assert_array_equal(behind.boxes, before.boxes)


def test_hundreds_of_layers_never_stand_in_one_group_of_more_than_the_bound() -> None:
    rng = np.random.default_rng(0)
    layers = [LayerInfo(f"layer{index}", "Conv2D", tuple(int(n) for n in rng.integers(1, 40, 3))) for index in range(400)]
    layers.insert(200, LayerInfo("huge", "Conv2D", (100, 100, 64)))
    groups = list(in_groups(layers, 100_000))
    assert [layer for group in groups for layer in group] == layers
    sizes = [sum(int(np.prod(layer.shape)) for layer in group) for group in groups]
    assert all(size <= 100_000 or len(group) == 1 for size, group in zip(sizes, groups, strict=True))
    assert len(groups) < 2 * sum(sizes) / 100_000 + 2


def test_a_group_is_solved_only_when_it_is_asked_for(network: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fields, "_MOST_BYTES", 1)
    solved = []
    monkeypatch.setattr(
        fields, "_solve", lambda network, group: solved.append(len(group)) or {layer.name: layer for layer in group}
    )
    groups = fields.solve_in_groups(network, network.layers())
    next(groups)
    next(groups)
    assert solved == [1, 1]


def test_fields_are_solved_on_the_cpu_where_there_is_a_gpu_too(network: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    configs, session = [], tf.compat.v1.Session

    def kept(*args: Any, config: Any, **options: Any) -> Any:
        configs.append(config)
        return session(*args, config=config, **options)

    monkeypatch.setattr(tf.compat.v1, "Session", kept)
    fields.solve_fields(network, network.layers()[:1])
    assert [dict(config.device_count) for config in configs] == [{"GPU": 0}]


class _Noise(keras.layers.Layer):
    def call(self, x: Any) -> Any:
        return x + tf.random.normal(tf.shape(x))


class _Log(keras.layers.Layer):
    def call(self, x: Any) -> Any:
        return tf.math.log(x)


@pytest.fixture
def faulty() -> Any:
    x = inputs = keras.Input((24, 24, 3))
    x = keras.layers.Conv2D(4, 3, name="before")(x)
    broken = [_Noise(name="random")(x), _Log(name="nan")(x)]
    x = keras.layers.Conv2D(4, 3, name="after")(x)
    return keras_network(keras.Model(inputs, [x, *broken]), "faulty", None, "unit")


def test_layers_without_a_field_are_named_and_do_not_hold_up_the_others(faulty: Any) -> None:
    unsolved: dict[str, str] = {}
    (solved,) = fields.solve_in_groups(faulty, faulty.layers(), None, unsolved)
    assert {name: field.size for name, field in solved.items()} == {"before": (3, 3), "after": (5, 5)}
    assert list(unsolved) == ["nan", "random"]
    assert "returned NaN or infinity in nan" in unsolved["nan"] and "is random" in unsolved["random"]


def test_a_layer_without_a_field_is_an_error_where_its_field_is_needed(faulty: Any) -> None:
    with pytest.raises(FieldUnsolved, match="faulty: .*NaN or infinity in nan"):
        fields.solve_fields(faulty, faulty.layers())
