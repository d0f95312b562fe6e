"""The solver finds, for every unit, the box that the layer graph gives."""

from __future__ import annotations

import agreement
import keras
import networks
import numpy as np
import oracle
import pytest
import zoo
from keras import layers as L

from recfield import BatchDependent, RandomForward, ReceptiveField

BATCHES = (1, 4, 8, 16)


def solved(model: keras.Model, layers: list[str], batch: int = 8) -> dict[str, ReceptiveField]:
    return ReceptiveField.of_layers((batch, *model.inputs[0].shape[1:]), networks.forward(model, layers))


@pytest.mark.parametrize(("name", "batch"), [(name, BATCHES[place % 4]) for place, name in enumerate(zoo.ZOO)])
def test_every_unit_has_its_box(name: str, batch: int) -> None:
    model = zoo.build(name)
    layers = networks.maps(model)
    # Half a dozen depths, the last always among them.
    agreement.assert_agree(solved(model, layers[:: -max(1, len(layers) // 6)], batch), oracle.fields(model))


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("name", ["residual", "inception", "bilinear_upsampling", "deep", "dead_channel", "single_channel"])
def test_other_weights_give_the_same_boxes(name: str, seed: int) -> None:
    model = zoo.build(name, seed)
    layer = networks.maps(model)[-1]
    agreement.assert_agree(solved(model, [layer]), oracle.fields(model))


@pytest.mark.parametrize("name", ["inception", "dense_blocks", "grouped_after_concatenation", "factorised_reduction", "u_net"])
def test_every_channel_has_its_box_where_channels_differ(name: str) -> None:
    model = zoo.build(name)
    # A single rectified channel may be off in one place for all but a few images in a thousand.
    networks.awaken(model)
    kinds = (L.Concatenate, L.BatchNormalization, L.ReLU, L.DepthwiseConv2D)
    assert_channels_agree(model, [name for name in networks.maps(model) if isinstance(model.get_layer(name), kinds)])


@pytest.mark.parametrize("name", ["inception", "factorised_reduction"])
def test_every_rectified_channel_has_its_box_where_channels_differ(name: str) -> None:
    model = zoo.build(name)
    layers = [name for name in networks.maps(model) if isinstance(model.get_layer(name), L.Concatenate)]
    assert_channels_agree(model, layers, asleep=0.1)


def assert_channels_agree(model: keras.Model, layers: list[str], asleep: float = 0.0) -> None:
    """All channels have the oracle's boxes, but for a share that is said to sleep and has its layer's."""
    expected = oracle.fields(model)
    for layer, field in solved(model, layers).items():
        for channel in range(expected[layer].channels):
            boxes = field.channel_boxes(channel)
            own = expected[layer].channel_boxes(channel)
            one = agreement.compare(layer, boxes, field.boxes if channel in field.dead_channels else own)
            assert not one.difference, f"{layer}, channel {channel}: {one.difference}"
        assert len(field.dead_channels) <= asleep * expected[layer].channels


def test_a_dead_channel_gets_the_box_of_its_layer_and_is_named() -> None:
    model = zoo.build("dead_channel")
    field = solved(model, ["partly_dead"])["partly_dead"]
    assert (field.channel_boxes(2) == field.boxes).all()
    assert list(field.dead_channels) == [2]


def test_layers_solved_together_have_the_boxes_they_have_alone() -> None:
    model = zoo.build("residual")
    layers = networks.maps(model)
    together = solved(model, layers)
    alone = ReceptiveField((4, *model.inputs[0].shape[1:]), networks.forward_one(model, layers[-1]))
    assert (together[layers[-1]].boxes == alone.boxes).all()


def test_all_layers_are_solved_in_one_pass() -> None:
    model = zoo.build("residual")
    layers = networks.maps(model)
    sent = 0

    def counted(images: np.ndarray) -> dict[str, np.ndarray]:
        nonlocal sent
        sent += len(images)
        return run(images)

    run = networks.forward(model, layers)
    fields = ReceptiveField.of_layers((8, 28, 28, 3), counted)
    assert {field.probes for field in fields.values()} == {sent}
    apart = sum(solved(model, [layer])[layer].probes for layer in layers)
    assert sent < apart / 3


@pytest.mark.parametrize(
    ("name", "layer", "whole"),
    [("squeeze_and_excite", "gated", True), ("global_pooling", None, True), ("head", None, True), ("plain", None, False)],
)
def test_a_field_that_is_the_whole_image_says_so(name: str, layer: str | None, whole: bool) -> None:
    model = zoo.build(name)
    layer = layer or networks.maps(model)[-1]
    assert solved(model, [layer])[layer].is_global is whole


@pytest.mark.parametrize(
    "name", ["MobileNetV2", *(pytest.param(name, marks=pytest.mark.slow) for name in ("ResNet50", "InceptionV3", "DenseNet121"))]
)
def test_three_depths_of_a_real_architecture_agree(name: str) -> None:
    model = networks.application(name, {"InceptionV3": 75}.get(name, 64))
    result = agreement.solve(model, agreement.three_depths(model), batch=16)
    print(result.line(name))
    assert not [one for one in result.agreements if one.difference], result.agreements


def test_efficientnet_sees_the_whole_image_behind_its_first_gate() -> None:
    model = networks.application("EfficientNetB0", 64)
    layers = ["stem_conv", "block1a_dwconv", "block1a_se_excite", "block2a_expand_conv"]
    fields = solved(model, layers, 16)
    agreement.assert_agree(fields, oracle.fields(model))
    assert [fields[layer].is_global for layer in layers] == [False, False, True, True]


def test_dropout_left_on_is_named() -> None:
    model = zoo.chain(16, 16, zoo.conv(), lambda: L.Dropout(0.5), zoo.conv())()
    with pytest.raises(RandomForward):
        ReceptiveField((4, 16, 16, 3), networks.forward_one(model, model.layers[-1].name, training=True))
    assert ReceptiveField((4, 16, 16, 3), networks.forward_one(model, model.layers[-1].name)).size == (5, 5)


@pytest.mark.parametrize("batch", [2, 8])
def test_batch_normalisation_in_training_mode_is_named(batch: int) -> None:
    model = zoo.chain(16, 16, zoo.conv(), L.BatchNormalization, zoo.conv())()
    with pytest.raises(BatchDependent):
        ReceptiveField((batch, 16, 16, 3), networks.forward_one(model, model.layers[-1].name, training=True))
    assert ReceptiveField((batch, 16, 16, 3), networks.forward_one(model, model.layers[-1].name)).size == (5, 5)


@pytest.mark.parametrize("batch", [1, 8])
def test_sums_of_a_single_number_in_another_order_are_no_randomness(batch: int) -> None:
    random = np.random.default_rng(0)

    def forward(images: np.ndarray) -> np.ndarray:
        terms = random.permuted(images.reshape(len(images), -1), axis=1)
        return np.cumsum(terms, axis=1, dtype=np.float32)[:, -1].reshape(-1, 1, 1, 1)

    assert ReceptiveField((batch, 12, 12, 3), forward).is_global


def test_a_map_that_depends_on_no_pixel_has_empty_boxes() -> None:
    field = ReceptiveField((4, 12, 12, 3), lambda images: np.ones((len(images), 3, 4, 2), np.float32))
    assert field.boxes.shape == (3, 4, 4) and not field.boxes.any()
    assert field.size == (0, 0) and not field.is_global
