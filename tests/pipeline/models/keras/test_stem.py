"""The preprocessing inferred for a file: what the model does itself is never done twice, and what is not known is asked."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from pipeline.errors import WrongSpec
from pipeline.models.registry import open_network
from pipeline.spec.model import ModelSpec

SIDE = 32


def opened(model: Any, folder: Path) -> Any:
    model.save(folder / "net.keras")
    return open_network(ModelSpec(source=f"file:{folder / 'net.keras'}", layers=["*"], trusted=True))


def behind(*steps: Any, net: Any = None) -> Any:
    """A classifier, or another network, behind some steps."""
    x = inputs = keras.Input((SIDE, SIDE, 3))
    for step in steps:
        x = step(x)
    if net is not None:
        return keras.Model(inputs, net(x))
    x = keras.layers.Conv2D(4, 3, activation="relu")(x)
    return keras.Model(inputs, keras.layers.Dense(5)(keras.layers.GlobalAveragePooling2D()(x)))


@cache
def mobilenet() -> Any:
    return keras.applications.MobileNet(
        weights=None, alpha=0.25, classes=5, input_shape=(SIDE, SIDE, 3), classifier_activation=None
    )


def augmentation() -> Any:
    return keras.Sequential([keras.layers.RandomFlip(), keras.layers.RandomRotation(0.1), keras.layers.RandomContrast(0.2)])


class Mystery(keras.layers.Layer):
    """A weightless layer of one's own."""

    def call(self, images: Any) -> Any:
        return images / 127.5 - 1.0


FAMILIES = {
    name: getattr(keras.applications, name).preprocess_input
    for name in ("vgg16", "resnet50", "mobilenet_v2", "resnet_v2", "densenet", "xception", "inception_v3", "nasnet")
}

INSIDE = {
    **{f"{name}.preprocess_input": (function,) for name, function in FAMILIES.items()},
    "Rescaling": (keras.layers.Rescaling(1 / 127.5, -1),),
    "three scales": (keras.layers.Rescaling([1 / 50, 1 / 60, 1 / 70], [-2, -2, -1]),),
    "Normalization": (keras.layers.Normalization(mean=[120.0, 115.0, 100.0], variance=[3600.0, 3500.0, 3700.0]),),
    "Rescaling, then Normalization": (
        keras.layers.Rescaling(1 / 255),
        keras.layers.Normalization(mean=[0.485, 0.456, 0.406], variance=[0.0524, 0.0502, 0.0506]),
    ),
    "a product": (lambda x: x * (1 / 255.0),),
    "resized first": (keras.layers.Resizing(SIDE, SIDE), keras.layers.Rescaling(1 / 255)),
    "channels turned and means taken": (lambda x: x[..., ::-1] - np.array([103.9, 116.8, 123.7], "float32"),),
}


@pytest.mark.parametrize("augmented", [False, True], ids=["plain", "behind augmentation"])
@pytest.mark.parametrize("steps", INSIDE.values(), ids=INSIDE)
def test_what_a_model_does_to_its_pixels_is_not_done_again(steps: Any, augmented: Any, pixels: Any, tmp_path: Path) -> None:
    model = behind(*([augmentation()] * augmented), *steps)
    network = opened(model, tmp_path)
    assert network.settings["preprocess"].value == "none" and "its own" in network.settings["preprocess"].reason
    images = pixels(2, SIDE, SIDE)
    outputs = network.trace(network.preprocess(images), ["logits"])["logits"]
    np.testing.assert_allclose(outputs, model(images.astype(np.float32), training=False), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("where", ["inside", "outside", "behind augmentation"])
def test_a_nested_application_is_given_what_it_was_trained_with_once(where: Any, pixels: Any, tmp_path: Path) -> None:
    net = mobilenet()
    steps = {
        "inside": [keras.applications.mobilenet.preprocess_input],
        "outside": [],
        "behind augmentation": [augmentation(), keras.layers.Resizing(SIDE, SIDE)],
    }[where]
    network = opened(behind(*steps, net=net), tmp_path)
    assert str(network.settings["preprocess"]).startswith("none (its own" if where == "inside" else "symmetric (MobileNet)")
    images = pixels(2, SIDE, SIDE)
    outputs = network.trace(network.preprocess(images), ["logits"])["logits"]
    np.testing.assert_allclose(outputs, net(images / np.float32(127.5) - 1, training=False), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("net", [mobilenet, None], ids=["an application", "a network of one's own"])
@pytest.mark.parametrize(
    "step",
    [
        lambda: Mystery(),
        lambda: keras.layers.Lambda(lambda x: x / 127.5 - 1),
        lambda: lambda x: keras.ops.power(x / 255.0, 2.2),
        lambda: lambda x: x - keras.ops.mean(x, axis=(1, 2), keepdims=True),
    ],
    ids=["layer", "lambda", "power", "mean of the image"],
)
def test_a_step_that_is_not_known_is_named_and_the_preprocessing_asked_for(step: Any, net: Any, tmp_path: Path) -> None:
    with keras.saving.custom_object_scope({"Mystery": Mystery}), pytest.raises(WrongSpec) as caught:
        opened(behind(step(), net=net and net()), tmp_path)
    message = str(caught.value)
    assert "between the image and Conv2D" in message and "which convscope does not know" in message
    assert "Name it in model.preprocess: none, unit" in message
    if isinstance(step(), (Mystery, keras.layers.Lambda)):
        assert '"none" is likely' in message and "gives -1 to 1" in message


def test_an_unknown_step_that_leaves_pixels_alone_makes_the_mode_of_the_application_likely(tmp_path: Path) -> None:
    with pytest.raises(WrongSpec, match=r'"symmetric" is likely \(MobileNet\)'):
        opened(behind(keras.layers.Lambda(lambda x: x), net=mobilenet()), tmp_path)


@pytest.mark.parametrize(
    ("steps", "says"),
    [
        ([keras.layers.Rescaling(2.0, -1.0)], 'would give Conv2D .* -1 to 509 .*With "unit" it would be -1 to 1'),
        ([keras.layers.Normalization(mean=[0.485, 0.456, 0.406], variance=[0.05, 0.05, 0.05])], 'With "unit" it would be'),
        ([keras.layers.Rescaling(1 / 255), keras.layers.Rescaling(1 / 255)], "0 to 0.00392"),
        (
            [lambda x: keras.ops.clip(x, 0, 1)],
            'own Clip .* 0 to 1, but no difference between some greys for .*With "unit" it would be 0 to 1, which is likely',
        ),
        ([lambda x: x[..., ::-1]], "0 to 255 for pixels as they are"),
        ([], "pixels reach Conv2D .* as they are, and it is no network of keras.applications"),
        ([keras.layers.BatchNormalization()], "pixels reach BatchNormalization"),
    ],
    ids=[
        "made for 0 to 1",
        "normalised from 0 to 1",
        "twice",
        "clipped to 0 and 1",
        "turned alone",
        "nothing",
        "batch normalisation",
    ],
)
def test_where_the_rule_does_not_decide_the_error_says_what_it_saw(steps: Any, says: Any, tmp_path: Path) -> None:
    with pytest.raises(WrongSpec, match=says):
        opened(behind(*steps), tmp_path)


def test_two_branches_that_are_fed_differently_are_asked_about(tmp_path: Path) -> None:
    inputs = keras.Input((SIDE, SIDE, 3))
    raw, scaled = keras.layers.Conv2D(2, 3, name="raw")(inputs), keras.layers.Conv2D(2, 3, name="scaled")(inputs / 255.0)
    model = keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(raw + scaled)))
    with pytest.raises(WrongSpec, match="pixels reach Conv2D 'raw' as they are"):
        opened(model, tmp_path)


def test_a_layer_of_ones_own_with_the_name_of_a_known_one_is_not_known(tmp_path: Path) -> None:
    class Rescaling(Mystery):
        pass

    with keras.saving.custom_object_scope({"Rescaling": Rescaling}), pytest.raises(WrongSpec, match="stands Rescaling"):
        opened(behind(Rescaling()), tmp_path)


def test_grey_networks_are_measured_in_grey(tmp_path: Path, pixels: Any) -> None:
    x = inputs = keras.Input((SIDE, SIDE, 1))
    x = keras.layers.Concatenate()([x, x, x])
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(x))))
    assert opened(model, tmp_path).settings["preprocess"].value == "none"
