"""`frozen:` graphs read as networks: layers, shapes, maps, logits, gradients, other inputs, control flow, digests."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

sys.path.insert(0, str(Path(__file__).parent))

from frozen_graphs import (
    convolve,
    freeze_v1,
    frozen_with_phase,
    opened,
    plain,
    plain_by_hand,
    random_images,
    v1,
    weights,
    with_phase_by_hand,
    write,
)

from pipeline.compiled.compile import compile_tap
from pipeline.errors import UnknownLayer, UnusableModel, WrongSpec
from pipeline.models.network import LayerInfo
from pipeline.models.registry import select_layers


def test_the_tensors_that_images_change_are_layers_and_weights_are_not(tmp_path: Path) -> None:
    assert opened(freeze_v1(tmp_path, plain, ["end"])).layers() == [
        LayerInfo("conv/Conv2D", "Conv2D", (4, 4, 4)),
        LayerInfo("conv/Relu", "Relu", (4, 4, 4)),
        LayerInfo("pool", "Mean", (1, 1, 4)),
        LayerInfo("MatMul", "MatMul", (1, 1, 5)),
        LayerInfo("scores", "BiasAdd", (1, 1, 5)),
        LayerInfo("Reshape", "Reshape", (1, 1, 5)),
        LayerInfo("prob", "Softmax", (1, 1, 5)),
        LayerInfo("end", "Reshape", (1, 1, 5)),
    ]


def test_maps_and_logits_are_what_the_graph_computes(tmp_path: Path) -> None:
    network = opened(freeze_v1(tmp_path, plain, ["end"]))
    images = random_images(3, 8, 8, 3)
    outputs = network.trace(images, ["conv/Relu", "logits", "conv/Relu:0", "prob"])
    expected, logits = plain_by_hand(images)
    np.testing.assert_allclose(outputs["conv/Relu"], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(outputs["logits"], logits, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(outputs["conv/Relu:0"], outputs["conv/Relu"])
    np.testing.assert_allclose(outputs["prob"][:, 0, 0], tf.nn.softmax(logits), rtol=1e-5)


def test_the_frozen_tap_reads_it_like_any_network(tmp_path: Path, pixels: Any) -> None:
    network = opened(freeze_v1(tmp_path, plain, ["end"]), preprocess="symmetric")
    images = pixels(3, 8, 8)
    expected, _ = plain_by_hand(images / np.float32(127.5) - 1)
    np.testing.assert_allclose(compile_tap(network, ["conv/Relu"], 3)(images)["conv/Relu"], expected, rtol=1e-4, atol=1e-4)


def test_layers_are_chosen_by_name_with_or_without_their_number_and_by_glob(tmp_path: Path) -> None:
    def build() -> None:
        x = convolve(v1.placeholder(tf.float32, (None, 8, 8, 3), name="input"), weights(3, 3, 3, 4), name="a/conv")
        tf.concat([-part for part in tf.split(x, 2, axis=3, name="a/split")], 3, name="end")

    network = opened(freeze_v1(tmp_path, build))

    def chosen(*patterns: Any) -> Any:
        return [layer.name for layer in select_layers(network, patterns)]

    assert chosen("a/conv") == chosen("a/conv:0") == chosen("*conv:0") == ["a/conv"]
    assert chosen("a/*") == ["a/conv", "a/split", "a/split:1"]
    assert chosen("a/split:1") == ["a/split:1"]
    with pytest.raises(UnknownLayer, match="nearest: a/conv"):
        chosen("a/conb:0")
    maps = network.trace(random_images(2, 8, 8, 3), ["a/conv", "a/split", "a/split:1"])
    np.testing.assert_array_equal(tf.concat([maps["a/split"], maps["a/split:1"]], 3), maps["a/conv"])


def test_only_what_the_layers_need_is_imported(tmp_path: Path) -> None:
    network = opened(freeze_v1(tmp_path, plain, ["end"]))
    traced = tf.function(lambda x: network.trace(x, ["conv/Conv2D"])).get_concrete_function(tf.TensorSpec((2, 8, 8, 3)))
    types = {operation.type for operation in traced.graph.get_operations()}
    assert "Conv2D" in types and not types & {"Relu", "MatMul", "Mean"}


def test_a_batch_that_was_frozen_in_gives_way_to_any(tmp_path: Path) -> None:
    def build() -> None:
        plain((1, 8, 8, 3))
        x = tf.reshape(v1.get_default_graph().get_tensor_by_name("conv/Relu:0"), (1, 64), name="flat")
        tf.reshape(x, (1, 8, 8, 1), name="square")

    network = opened(freeze_v1(tmp_path, build, ["end", "square"]))
    images = random_images(3, 8, 8, 3)
    outputs = network.trace(images, ["scores", "flat", "square"])
    expected, logits = plain_by_hand(images)
    np.testing.assert_allclose(outputs["scores"][:, 0, 0], logits, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(outputs["flat"], np.reshape(expected, (3, 1, 1, 64)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(outputs["square"], np.reshape(expected, (3, 8, 8, 1)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("shape", [None, (None, None, None, 3), (None, None, None, None)])
def test_a_placeholder_of_open_shape_takes_the_size_of_the_spec(tmp_path: Path, shape: Any) -> None:
    path = freeze_v1(tmp_path, lambda: plain(shape), ["end"])
    network = opened(path, size=(10, 12))
    assert network.input_shape == (10, 12, 3) and network.layers()[0].shape == (5, 6, 4)
    with pytest.raises(WrongSpec, match="any size. Say which: model.size"):
        opened(path)


def test_shapes_that_only_a_run_can_tell_are_found_by_running(tmp_path: Path) -> None:
    def build() -> None:
        x = convolve(v1.placeholder(tf.float32, (None, 8, 8, 3), name="input"), weights(3, 3, 3, 4))
        side = tf.cast(tf.shape(tf.where(tf.fill((6,), True)))[0], tf.int32)  # 6, though nobody can tell from the graph
        tf.image.resize(x, tf.stack([side, side + 1]), name="end")

    network = opened(freeze_v1(tmp_path, build))
    assert network.layers()[-1].shape == (6, 7, 4)
    assert network.trace(tf.zeros((2, 8, 8, 3)), [network.layers()[-1].name])[network.layers()[-1].name].shape == (2, 6, 7, 4)


def test_a_grey_network_of_open_channels_is_shown_one_channel(tmp_path: Path, pixels: Any) -> None:
    def build() -> None:
        convolve(v1.placeholder(tf.float32, name="input"), weights(3, 3, 1, 2), name="conv")

    network = opened(freeze_v1(tmp_path, build), size=6, preprocess="unit")
    assert network.input_shape == (6, 6, 1)
    grey = (pixels(2, 6, 6) @ np.array([0.299, 0.587, 0.114]))[..., None].astype(np.float32) / 255
    outputs = compile_tap(network, ["conv"], 2)(pixels(2, 6, 6))["conv"]
    np.testing.assert_allclose(outputs, convolve(grey, weights(3, 3, 1, 2)), rtol=1e-4, atol=1e-5)
    with pytest.raises(WrongSpec, match="'caffe' is for colour"):
        opened(tmp_path / "net.pb", size=6, preprocess="caffe")


def test_half_precision_graphs_are_fed_and_read_in_single(tmp_path: Path) -> None:
    def build() -> None:
        image = v1.placeholder(tf.float16, (None, 8, 8, 3), name="input")
        tf.nn.relu(convolve(image, weights(3, 3, 3, 4).astype(np.float16)), name="end")

    network = opened(freeze_v1(tmp_path, build))
    images = random_images(2, 8, 8, 3)
    outputs = network.trace(images, ["end"])["end"]
    assert outputs.dtype == tf.float32 and network.layers()[-1].shape == (8, 8, 4)
    np.testing.assert_allclose(outputs, tf.nn.relu(convolve(images, weights(3, 3, 3, 4))), atol=0.05)


def test_whole_numbers_that_are_cast_give_way_to_the_floats_they_become(tmp_path: Path) -> None:
    def build() -> None:
        image = v1.placeholder(tf.uint8, (None, 8, 8, 3), name="input")
        tf.multiply(convolve(tf.cast(image, tf.float32), weights(3, 3, 3, 4)), 2.0, name="end")

    network = opened(freeze_v1(tmp_path, build))
    images = random_images(2, 8, 8, 3)
    np.testing.assert_allclose(network.trace(images, ["end"])["end"], 2 * convolve(images, weights(3, 3, 3, 4)), atol=1e-5)


@pytest.mark.parametrize("scale", [False, True])
def test_the_normalisation_of_2015_which_tensorflow_no_longer_runs_is_written_out(tmp_path: Path, scale: Any) -> None:
    numbers = {"mean": [0.1, 0.2, 0.3], "variance": [1.0, 2.0, 3.0], "offset": [4.0, 5.0, 6.0], "scale": [0.5, 0.6, 0.7]}

    def build() -> None:
        v1.placeholder(tf.float32, (None, 8, 8, 3), name="input")
        for name, value in numbers.items():
            tf.constant(value, name=name)

    graph = tf.compat.v1.GraphDef.FromString(freeze_v1(tmp_path, build).read_bytes())
    graph.versions.producer, graph.versions.min_consumer = 8, 0
    node = graph.node.add(name="norm", op="BatchNormWithGlobalNormalization", input=["input", *numbers])
    node.attr["T"].type, node.attr["variance_epsilon"].f = tf.float32.as_datatype_enum, 1e-3
    node.attr["scale_after_normalization"].b = scale
    images = random_images(2, 8, 8, 3)
    outputs = opened(write(tmp_path, graph)).trace(images, ["norm"])["norm"]
    mean, variance, offset, gamma = map(np.float32, numbers.values())
    expected = tf.nn.batch_normalization(images, mean, variance, offset, gamma if scale else None, 1e-3)
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-5)


# ---- inputs beside the image


@pytest.mark.parametrize("conditions", ["Switch", "If"])
@pytest.mark.parametrize("training", [False, True])
def test_a_phase_that_the_spec_settles_folds_its_conditions_away(tmp_path: Path, conditions: Any, training: Any) -> None:
    path = frozen_with_phase(tmp_path, conditions)
    network = opened(path, inputs={"phase_train": training, "keep_prob": 0.5})
    images = random_images(3, 8, 8, 3)
    expected = with_phase_by_hand(images, 0.5, training)
    np.testing.assert_allclose(network.trace(images, ["end"])["end"], expected, rtol=1e-4, atol=1e-5)
    kinds = {layer.kind for layer in network.layers()}
    assert not kinds & {"Switch", "Merge", "If", "StatelessIf"} and ("Relu" in kinds) is not training
    x = tf.constant(images)
    with tf.GradientTape() as tape:
        tape.watch(x)
        total = tf.reduce_sum(network.trace(x, ["end"])["end"] ** 2)
    with tf.GradientTape() as by_hand:
        by_hand.watch(x)
        same = tf.reduce_sum(with_phase_by_hand(x, 0.5, training) ** 2)
    np.testing.assert_allclose(tape.gradient(total, x), by_hand.gradient(same, x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        ({"phase_train": False}, r"placeholders without a value: keep_prob \(float32, any shape\).*model.inputs"),
        ({}, r"without a value: .*phase_train \(bool, \(\)\).*phase_train = false"),
        ({"phase_trian": False, "keep_prob": 1.0}, "'phase_trian' is not a placeholder.*nearest: phase_train"),
        ({"phase_train": 3, "keep_prob": 1.0}, "phase_train = 3 does not fit.*takes a bool"),
        ({"phase_train": False, "keep_prob": "much"}, "keep_prob = 'much' does not fit.*float32"),
        ({"phase_train": [False, True], "keep_prob": 1.0}, r"has the shape \(2,\), but"),
        ({"image": 7}, "image = 7 is not the name of a tensor"),
    ],
)
def test_other_inputs_that_are_forgotten_or_wrong_are_named(tmp_path: Path, inputs: Any, words: Any) -> None:
    with pytest.raises(WrongSpec, match=words):
        opened(frozen_with_phase(tmp_path, "Switch"), inputs=inputs)


def test_the_image_may_be_any_tensor_and_what_is_before_it_is_cut_away(tmp_path: Path) -> None:
    """FaceNet's own graph reads its images from a queue, and calls what leaves it `input`."""

    def build() -> None:
        size = v1.placeholder(tf.int32, name="batch_size")
        queue = v1.FIFOQueue(10, [tf.float32], shapes=[(8, 8, 3)])
        image = tf.identity(queue.dequeue_up_to(size), name="input")
        image.set_shape((None, 8, 8, 3))
        convolve(image, weights(3, 3, 3, 4), name="conv")

    path = freeze_v1(tmp_path, build)
    network = opened(path, inputs={"image": "input:0"}, size=8)
    images = random_images(2, 8, 8, 3)
    np.testing.assert_allclose(network.trace(images, ["conv"])["conv"], convolve(images, weights(3, 3, 3, 4)), atol=1e-5)
    with pytest.raises(WrongSpec, match=r"no placeholder for images.*batch_size \(int32"):
        opened(path)


def test_of_two_placeholders_for_images_one_is_to_be_named(tmp_path: Path) -> None:
    def build() -> None:
        left, right = (v1.placeholder(tf.float32, (None, 8, 8, 3), name=name) for name in ("left", "right"))
        tf.add(convolve(left, weights(3, 3, 3, 4)), tf.reduce_mean(right), name="end")

    path = freeze_v1(tmp_path, build)
    with pytest.raises(WrongSpec, match=r"several placeholders.*left \(float32, \(\?, 8, 8, 3\)\), right .*image = \"left:0\""):
        opened(path)
    with pytest.raises(WrongSpec, match="without a value: right"):
        opened(path, inputs={"image": "left"})
    with pytest.raises(WrongSpec, match="nearest: left"):
        opened(path, inputs={"image": "lfet"})
    filled = opened(path, inputs={"image": "left", "right": np.ones((1, 8, 8, 3)).tolist()})
    images = random_images(1, 8, 8, 3)
    np.testing.assert_allclose(filled.trace(images, ["end"])["end"], convolve(images, weights(3, 3, 3, 4)) + 1, atol=1e-5)


def test_a_placeholder_that_nothing_takes_is_no_candidate(tmp_path: Path) -> None:
    def build() -> None:
        v1.placeholder(tf.float32, (None, 4, 4, 3), name="left_over")
        convolve(v1.placeholder(tf.float32, (None, 8, 8, 3), name="input"), weights(3, 3, 3, 4))

    assert opened(freeze_v1(tmp_path, build)).input_shape == (8, 8, 3)


# ---- logits


def two_heads() -> None:
    image = v1.placeholder(tf.float32, (None, 8, 8, 3), name="input")
    pooled = tf.reduce_mean(convolve(image, weights(3, 3, 3, 4)), (1, 2))
    tf.nn.softmax(tf.matmul(pooled, weights(4, 2), name="main"), name="main/prob")
    tf.matmul(pooled, weights(4, 3), name="aux")
    tf.argmax(v1.get_default_graph().get_tensor_by_name("main:0"), 1)


@pytest.mark.parametrize("order", ["NHWC", "NCHW"])
def test_a_one_by_one_map_gives_a_logit_for_each_class_in_either_order_of_axes(tmp_path: Path, order: Any) -> None:
    first = order == "NCHW"

    def build() -> None:
        x = v1.placeholder(tf.float32, (None, 3, 4, 4) if first else (None, 4, 4, 3), name="input")
        x = tf.reduce_mean(x, (2, 3) if first else (1, 2), keepdims=True)
        scores = tf.concat([x, -x], 1 if first else 3, name="scores")
        tf.nn.softmax(tf.transpose(scores, (0, 2, 3, 1)) if first else scores)

    images = random_images(2, 4, 4, 3)
    mean = images.mean((1, 2))
    network = opened(freeze_v1(tmp_path, build), logits="scores")
    np.testing.assert_allclose(network.trace(images, ["logits"])["logits"], np.hstack([mean, -mean]), rtol=1e-4, atol=1e-6)


def test_of_two_ends_the_logits_are_to_be_named(tmp_path: Path) -> None:
    path = freeze_v1(tmp_path, two_heads)
    with pytest.raises(WrongSpec, match=r"several outputs that may be the logits: main/prob, aux. .*model.logits"):
        opened(path).trace(random_images(1, 8, 8, 3), ["logits"])
    for named in ("main", "main:0", "main/prob:0"):  # what is named a softmax gives way to its input too
        outputs = opened(path, logits=named).trace(random_images(1, 8, 8, 3), ["logits", "main"])
        np.testing.assert_array_equal(outputs["logits"], outputs["main"][:, 0, 0])
    with pytest.raises(WrongSpec, match="'mian' is not a layer of .*one number a class.*nearest: main"):
        opened(path, logits="mian")


def test_a_graph_that_ends_in_a_map_has_no_logits(tmp_path: Path) -> None:
    path = freeze_v1(tmp_path, lambda: convolve(v1.placeholder(tf.float32, (None, 8, 8, 3)), weights(3, 3, 3, 4), name="conv"))
    with pytest.raises(UnusableModel, match="has no logits: it ends in conv,"):
        opened(path).trace(random_images(1, 8, 8, 3), ["logits"])


def test_an_operation_called_logits_is_reached_by_its_number(tmp_path: Path) -> None:
    def build() -> None:
        image = v1.placeholder(tf.float32, (None, 8, 8, 3), name="input")
        x = convolve(image, weights(3, 3, 3, 5), name="logits")  # a map, and not what the network ends in
        tf.nn.softmax(tf.reduce_mean(x, (1, 2)))

    network = opened(freeze_v1(tmp_path, build))
    outputs = network.trace(random_images(2, 8, 8, 3), ["logits", "logits:0"])
    assert "logits:0" in [layer.name for layer in network.layers()]
    assert outputs["logits"].shape == (2, 5) and outputs["logits:0"].shape == (2, 8, 8, 5)


# ---- gradients


def test_gradients_reach_the_image_and_follow_the_overrides_of_the_callers_graph(tmp_path: Path) -> None:
    network = opened(freeze_v1(tmp_path, plain, ["end"]))
    images = random_images(2, 8, 8, 3)

    @tf.RegisterGradient("TenfoldForTest")
    def _(operation: Any, gradient: Any) -> Any:
        return 10 * gradient

    def gradient(override: Any) -> Any:
        @tf.function(autograph=False)
        def pass_(x: Any) -> Any:
            with v1.get_default_graph().gradient_override_map(override):
                maps = network.trace(x, ["conv/Relu"])["conv/Relu"]
            return tf.gradients(maps, x)[0]

        return pass_(tf.constant(images)).numpy()

    x = tf.constant(images)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        before = convolve(x, weights(3, 3, 3, 4), 2)
        after = tf.nn.relu(before)
    np.testing.assert_allclose(gradient({}), tape.gradient(after, x), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(gradient({"Relu": "TenfoldForTest"}), 10 * tape.gradient(before, x), rtol=1e-4, atol=1e-4)
