"""Class activation maps and gradients: against hand calculation, an independent library, and every shape of network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from explaining import compile_explanations
from stirring import stir
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from pipeline.attribution.explanation_graph import check_explanations
from pipeline.attribution.targets import PREDICTED
from pipeline.compiled.graph_walk import last_convolution
from pipeline.errors import UnusableModel, WrongSpec
from pipeline.models.registry import open_network
from pipeline.spec.model import ModelSpec

layers = keras.layers
ALL = ("gradcam", "hirescam", "gradcam++")


def close(values: Any, other: Any) -> Any:
    return np.abs(values - other).max() < 1e-4 * np.abs(other).max()


def test_a_two_layer_network_gives_what_a_hand_calculates(opened: Any) -> None:
    x = inputs = keras.Input((2, 2, 1))
    maps = layers.Conv2D(2, 1, use_bias=False, name="maps")(x)
    model = keras.Model(inputs, layers.Dense(2, use_bias=False)(layers.Flatten()(maps)))
    weights = np.array([[1, -2, 3, 4, -5, 6, 7, 8], np.zeros(8)]).T  # of class 0: channels 0 and 1 of each place in turn
    model.set_weights([np.array([[[[2.0, -1.0]]]]), weights])
    grey = np.array([[10, 20], [30, 40]])
    images = np.repeat(grey[np.newaxis, ..., np.newaxis], 3, axis=-1).astype(np.uint8)
    network = opened(model)
    run = compile_explanations(network, [*((method, "maps") for method in ALL), ("gradient", None)], 1, 2)
    outputs = run(images, np.array([[0, 1]], np.int32))
    first, second = 2 * grey / 255, -grey / 255  # the two channels
    slopes = weights[:, 0].reshape(2, 2, 2)
    mean = slopes.mean(axis=(0, 1))  # 1.5 and 4
    np.testing.assert_allclose(
        outputs.maps["gradcam", "maps"][0, 0], np.maximum(mean[0] * first + mean[1] * second, 0), rtol=1e-5
    )
    hires = np.maximum(slopes[..., 0] * first + slopes[..., 1] * second, 0)
    np.testing.assert_allclose(outputs.maps["hirescam", "maps"][0, 0], hires, rtol=1e-5)
    sums = np.array([first.sum(), second.sum()])
    alphas = slopes**2 / (2 * slopes**2 + sums * slopes**3)
    plus = (alphas * np.maximum(slopes, 0)).sum(axis=(0, 1))
    np.testing.assert_allclose(
        outputs.maps["gradcam++", "maps"][0, 0], np.maximum(plus[0] * first + plus[1] * second, 0), rtol=1e-5, atol=1e-7
    )
    by_grey = (2 * slopes[..., 0] - slopes[..., 1]) / 255
    luma = np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(outputs.maps["gradient", None][0, 0], by_grey[..., np.newaxis] * luma, rtol=1e-5)
    assert not outputs.maps["gradcam", "maps"][0, 1].any() and not outputs.maps["gradient", None][0, 1].any()


@pytest.mark.filterwarnings("ignore:.*structure of .inputs.:UserWarning")  # tf-keras-vis gives Keras a list of one
def test_grad_cam_and_gradients_are_those_of_tf_keras_vis(rectified: Any, opened: Any, photos: Any) -> None:
    from tf_keras_vis.gradcam import Gradcam
    from tf_keras_vis.saliency import Saliency

    logits = keras.Model(rectified.input, rectified.layers[-1].output)
    logits.layers[-1].activation = keras.activations.linear  # theirs is given a network without a softmax
    images = photos(3, 16, 16)
    scores = lambda output: tf.gather(output, [4, 0, 2], batch_dims=1)  # noqa: E731
    fed = tf.constant(images, tf.float32) / 255
    theirs = Gradcam(logits)(scores, fed, penultimate_layer="end", expand_cam=False, normalize_cam=False).numpy()
    saliency = Saliency(logits)(scores, fed, keepdims=True, normalize_map=False, gradient_modifier=None)
    saliency = np.asarray(saliency)
    rectified.layers[-1].activation = keras.activations.softmax
    run = compile_explanations(opened(rectified), [("gradcam", "end"), ("gradient", None)], 3, 1)
    outputs = run(images, np.array([[4], [0], [2]], np.int32))
    assert theirs.max() > 0 and close(outputs.maps["gradcam", "end"][:, 0], theirs)
    assert close(outputs.maps["gradient", None][:, 0] * 255, saliency)


def test_a_layer_in_a_nested_model_is_explained_as_one_outside(rectified: Any, opened: Any, photos: Any) -> None:
    inner = rectified.get_layer("inner")
    x = rectified.get_layer("first").output
    for name in ("core", "norm"):
        x = inner.get_layer(name)(x)
    x = core = keras.ops.relu(x)
    x = rectified.get_layer("six")(inner.get_layer("deep")(x))
    x = rectified.get_layer("last")(rectified.get_layer("end")(x) + 0.25)
    x = rectified.get_layer("hidden")(rectified.get_layer("mean")(x))
    flat = opened(keras.Model(rectified.input, rectified.get_layer("classes")(x), name="flat"))
    nested, images = opened(rectified), photos(2, 16, 16)
    names = [layer.name for layer in nested.layers() if layer.name.startswith("inner/")]
    relu = next(name for name in names if "relu" in name)
    own = next(layer.name for layer in flat.layers() if layer.shape == (14, 14, 6) and "relu" in layer.name)
    assert core is not None
    classes = np.array([[1], [3]], np.int32)
    for name, twin in ((relu, own), ("inner/deep", "deep")):
        ours = compile_explanations(nested, [(method, name) for method in ALL], 2, 1)(images, classes)
        theirs = compile_explanations(flat, [(method, twin) for method in ALL], 2, 1)(images, classes)
        for method in ALL:
            assert theirs.maps[method, twin].any() and close(ours.maps[method, name], theirs.maps[method, twin])


def test_a_layer_without_a_map_is_a_map_of_one_position(rectified: Any, opened: Any, photos: Any) -> None:
    images, hidden = photos(2, 16, 16), rectified.get_layer("hidden")
    outputs = compile_explanations(opened(rectified), [("gradcam", "hidden")], 2, 2)(images, np.array([[1, 4], [0, 2]], np.int32))
    numbers = keras.Model(rectified.input, hidden.output)(images / 255.0).numpy()
    slopes = rectified.get_layer("classes").kernel.numpy()  # by which a logit depends on them
    expected = [
        [np.maximum(numbers[image] @ slopes[:, number], 0) for number in row] for image, row in enumerate([[1, 4], [0, 2]])
    ]
    assert np.max(expected) > 0
    np.testing.assert_allclose(outputs.maps["gradcam", "hidden"][..., 0, 0], expected, rtol=1e-4, atol=1e-6)


def test_the_last_convolution_is_found_by_walking_back(rectified: Any, opened: Any, plain_networks: Any) -> None:
    assert last_convolution(opened(rectified)).name == "last"
    for model, name in plain_networks:
        assert last_convolution(opened(model)).name == name


@pytest.fixture
def plain_networks() -> Any:
    def network(build: Any, size: Any = 12) -> Any:
        inputs = keras.Input((size, size, 3))
        return keras.Model(inputs, build(inputs))

    def gated(x: Any) -> Any:  # a gate and a classifier that are convolutions of single places
        x = layers.Conv2D(4, 3, activation="relu", name="seen")(x)
        gate = layers.Conv2D(4, 1, activation="sigmoid", name="gate")(layers.GlobalAveragePooling2D(keepdims=True)(x))
        x = layers.GlobalAveragePooling2D(keepdims=True)(layers.Multiply(name="scaled")([x, gate]))
        return layers.Flatten()(layers.Conv2D(5, 1, name="scores")(x))

    def pooled(x: Any) -> Any:
        x = layers.MaxPooling2D()(layers.Conv2D(4, 3, name="only")(x))
        return layers.Dense(3)(layers.Flatten()(layers.Dropout(0.5)(x)))

    def joined(x: Any) -> Any:
        x = layers.Conv2D(4, 3, padding="same", name="stem")(x)
        x = layers.Concatenate(name="both")([x, layers.Conv2D(2, 1, activation="relu", name="branch")(x)])
        return layers.Dense(3)(layers.GlobalMaxPooling2D()(x))

    def nested(x: Any) -> Any:
        inner = keras.Sequential(
            [keras.Input((12, 12, 3)), layers.Conv2D(3, 3, name="core"), layers.ReLU(name="act")], name="net"
        )
        return layers.Dense(3)(layers.Flatten()(layers.AveragePooling2D(2)(inner(x))))

    def depthwise(x: Any) -> Any:
        x = layers.DepthwiseConv2D(3, name="own")(layers.Conv2D(4, 3, name="stem")(x))
        return layers.Dense(3)(layers.GlobalMaxPooling2D()(x))

    def enlarged(x: Any) -> Any:
        x = layers.Conv2DTranspose(4, 3, name="wider")(layers.Conv2D(4, 3, name="stem")(x))
        return layers.Dense(3)(layers.GlobalMaxPooling2D()(x))

    named = {gated: "scaled", pooled: "only", joined: "both", nested: "net/act", depthwise: "own", enlarged: "wider"}
    return [(network(build), name) for build, name in named.items()]


def test_a_frozen_graph_gives_what_its_keras_twin_gives(rectified: Any, opened: Any, photos: Any, tmp_path: Path) -> None:
    concrete = tf.function(lambda images: rectified(images, training=False), autograph=False).get_concrete_function(
        tf.TensorSpec((None, 16, 16, 3), tf.float32)
    )
    path = tmp_path / "twin.pb"
    path.write_bytes(convert_variables_to_constants_v2(concrete).graph.as_graph_def().SerializeToString())
    frozen = open_network(ModelSpec(source=f"frozen:{path}", layers=["*"], preprocess="unit"))
    network, images = opened(rectified), photos(2, 16, 16)
    here, there = last_convolution(network).name, last_convolution(frozen).name
    assert there.endswith(("last_1/Relu", "last/Relu"))
    classes, pixels = np.array([[PREDICTED, 2], [PREDICTED, 0]], np.int32), [("gradient", None), ("guided_backprop", None)]
    ours = compile_explanations(network, [("gradcam", here), *pixels], 2, 2)
    theirs = compile_explanations(frozen, [("gradcam", there), *pixels], 2, 2)
    assert ours.guide == theirs.guide
    ours, theirs = ours(images, classes), theirs(images, classes)
    assert close(theirs.logits, ours.logits) and np.array_equal(ours.classes, theirs.classes)
    assert close(theirs.maps["gradcam", there], ours.maps["gradcam", here])
    for key in pixels:
        assert close(theirs.maps[key], ours.maps[key])


def test_every_image_and_class_of_a_batch_gets_what_it_gets_alone(rectified: Any, opened: Any, photos: Any) -> None:
    network, images = opened(rectified), photos(4, 16, 16)
    keys = [("gradcam", "last"), ("gradient", None), ("guided_backprop", None)]
    together = compile_explanations(network, keys, 4, 3)(images, np.tile(np.array([[PREDICTED, 1, 4]], np.int32), (4, 1)))
    alone = compile_explanations(network, keys, 1, 1)
    assert np.array_equal(together.classes[:, 0], together.logits.argmax(axis=1))
    for image in range(4):
        for slot in range(3):
            single = alone(images[image : image + 1], together.classes[image : image + 1, slot : slot + 1])
            for key in keys:
                np.testing.assert_allclose(together.maps[key][image, slot], single.maps[key][0, 0], rtol=1e-4, atol=1e-6)


def test_each_head_of_a_network_is_explained_by_name(opened: Any, photos: Any) -> None:
    inputs = keras.Input((10, 10, 3))
    x = layers.Conv2D(4, 3, activation="relu", name="shared")(inputs)
    other = layers.Conv2D(4, 3, activation="relu", name="own")(x)
    heads = [layers.Dense(3, name=name)(layers.GlobalAveragePooling2D()(y)) for name, y in (("one", x), ("two", other))]
    model = stir(keras.Model(inputs, heads))
    with pytest.raises(WrongSpec, match="several outputs"):
        last_convolution(opened(model))
    assert last_convolution(opened(model, logits="one")).name == "shared"
    assert last_convolution(opened(model, logits="two")).name == "own"
    with pytest.raises(WrongSpec, match="do not depend on 'own'"):
        compile_explanations(opened(model, logits="one"), [("gradcam", "own")], 1, 1)
    with pytest.raises(WrongSpec, match="do not depend on 'own'"):
        check_explanations(opened(model, logits="one"), ["own"])


def test_a_grouped_convolution_is_explained_as_keras_differentiates_it(opened: Any, photos: Any) -> None:
    inputs = keras.Input((10, 10, 4 - 1))
    x = layers.Conv2D(4, 3, activation="relu", name="stem")(inputs)
    x = layers.Conv2D(4, 3, groups=2, name="grouped")(x)
    model = stir(keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling2D()(x))))
    assert last_convolution(opened(model)).name == "grouped"
    keys, images = [("gradcam", "grouped"), ("gradient", None)], photos(1, 10, 10)
    outputs = compile_explanations(opened(model), keys, 1, 1)(images, np.array([[1]], np.int32))
    with tf.GradientTape() as tape:
        pixels = tf.constant(images, tf.float32)
        tape.watch(pixels)
        score = model(pixels / 255)[0, 1]
    assert close(outputs.maps["gradient", None][:, 0], tape.gradient(score, pixels).numpy())


def test_a_network_without_a_convolution_says_so(opened: Any) -> None:
    inputs = keras.Input((4, 4, 3))
    model = keras.Model(inputs, layers.Dense(3)(layers.Flatten()(inputs)), name="flat")
    with pytest.raises(UnusableModel, match="no convolution with a map"):
        last_convolution(opened(model))


def test_the_callers_model_stays_as_it_was(rectified: Any, opened: Any, photos: Any) -> None:
    def state() -> Any:
        return [value.numpy().tobytes() for value in rectified.weights], [str(layer.get_config()) for layer in rectified.layers]

    before, images = state(), photos(2, 16, 16)
    logits = rectified(images / 255.0, training=False).numpy()
    compile_explanations(opened(rectified), [("gradcam", "last"), ("guided_backprop", None)], 2, 1)(
        images, np.array([[1], [1]], np.int32)
    )
    assert state() == before and np.array_equal(logits, rectified(images / 255.0, training=False).numpy())
    with tf.GradientTape() as tape:  # nor do its gradients follow the guide
        pixels = tf.constant(images / 255.0, tf.float32)
        tape.watch(pixels)
        score = tf.reduce_sum(tf.math.log(rectified(pixels, training=False))[:, 1])
    assert tape.gradient(score, pixels).numpy().any()


def test_gradients_too_small_for_half_precision_are_not_zero(opened: Any) -> None:
    def build(policy: str) -> Any:
        x = inputs = keras.Input((224, 224, 3))
        x = layers.Conv2D(4, 3, padding="same", name="last", dtype=policy)(x)
        x = layers.GlobalAveragePooling2D(dtype=policy)(layers.ReLU(dtype=policy)(x))
        return keras.Model(inputs, layers.Dense(1000, name="classes", dtype=policy)(x))

    half, whole = build("mixed_float16"), build("float32")
    random = np.random.default_rng(0)
    half.get_layer("last").set_weights([random.normal(0, 0.3, (3, 3, 3, 4)), np.full(4, 0.3)])
    half.get_layer("classes").set_weights([random.normal(0, 2e-4, (4, 1000)), np.zeros(1000)])
    whole.set_weights(half.get_weights())
    images, classes = random.integers(0, 256, (1, 224, 224, 3), np.uint8), np.array([[7]], np.int32)
    # By hand: the gradient by each active place of the last map is the class's weight over the number of places.
    maps = np.asarray(whole.get_layer("last")(images / np.float32(255)))[0]
    weights = (maps > 0).mean((0, 1)) * np.asarray(whole.get_layer("classes").kernel)[:, 7] / 224**2
    right = np.maximum((maps * weights).sum(-1), 0)
    assert right.max() > 0
    for model in (half, whole):
        outputs = compile_explanations(opened(model), [("gradcam", "last")], 1, 1)(images, classes).maps["gradcam", "last"][0, 0]
        assert np.abs(outputs - right).max() < 0.02 * right.max()
