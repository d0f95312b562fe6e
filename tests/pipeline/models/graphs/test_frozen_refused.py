"""Graphs that are broken, dangerous, or no networks of images: each is refused in one line that says what to do."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

sys.path.insert(0, str(Path(__file__).parent))

from frozen_graphs import convolve, freeze_v1, opened, plain, v1, weights, write
from tensorflow.core.framework import graph_pb2

from pipeline.errors import MissingInput, UnusableModel, WrongSpec


def refused(path: Any, error: Any, words: Any, **keys: Any) -> None:
    with pytest.raises(error, match=words) as raised:
        opened(path, **keys)
    assert "\n" not in str(raised.value)


def test_a_file_that_is_not_there_or_is_a_folder_is_named(tmp_path: Path) -> None:
    refused(tmp_path / "no.pb", MissingInput, "no.pb' is missing")
    refused(tmp_path, MissingInput, "is a folder. For a SavedModel, write savedmodel:")


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_truncated_graph_is_cut_short(tmp_path: Path, share: Any) -> None:
    path = freeze_v1(tmp_path, plain, ["end"])
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    refused(path, UnusableModel, "cut short")


def test_a_graph_cut_between_two_operations_is_cut_short_too(tmp_path: Path) -> None:
    path = freeze_v1(tmp_path, plain, ["end"])
    graph = graph_pb2.GraphDef.FromString(path.read_bytes())
    del graph.node[1]
    refused(write(tmp_path, graph), UnusableModel, "takes .* which is not there: the file is cut short")


@pytest.mark.parametrize(
    "data", [b"", b"node { name: 'x' op: 'Const' }\n" * 9, b"\x89PNG\r\n\x1a\n" + bytes(range(256)), b"\x00" * 64]
)
def test_a_file_that_is_no_graph_is_refused(tmp_path: Path, data: Any) -> None:
    path = tmp_path / "net.pb"
    path.write_bytes(data)
    refused(path, UnusableModel, "cannot be read as a GraphDef in binary form")


def test_the_graph_of_a_savedmodel_is_sent_to_its_own_kind(tmp_path: Path) -> None:
    module = tf.Module()
    module.kernel = tf.Variable(weights(3, 3, 3, 4))
    module.run = tf.function(lambda x: convolve(x, module.kernel), input_signature=[tf.TensorSpec((None, 8, 8, 3))])
    tf.saved_model.save(module, tmp_path, signatures=module.run)
    refused(tmp_path / "saved_model.pb", UnusableModel, f"graph of a SavedModel.*savedmodel:{tmp_path}")


def test_variables_without_values_are_to_be_frozen_first(tmp_path: Path) -> None:
    for resource in (False, True):

        def build(resource: Any = resource) -> None:
            kernel = v1.get_variable("kernel", initializer=weights(3, 3, 3, 4), use_resource=resource)
            convolve(v1.placeholder(tf.float32, (None, 8, 8, 3), name="input"), kernel, name="conv")

        refused(freeze_v1(tmp_path, build), UnusableModel, "is not frozen: 'kernel' .*Freeze the graph")


def test_a_custom_operation_is_named(tmp_path: Path) -> None:
    graph = graph_pb2.GraphDef.FromString(freeze_v1(tmp_path, plain, ["end"]).read_bytes())
    next(node for node in graph.node if node.name == "conv/Relu").op = "MyFastRelu"
    refused(write(tmp_path, graph), UnusableModel, "'conv/Relu' of type 'MyFastRelu', which this TensorFlow does not have")


@pytest.mark.parametrize("key", [{"weights": "none"}, {"top": True}, {"custom": "net.py"}])
def test_keys_for_other_kinds_are_refused(tmp_path: Path, key: Any) -> None:
    refused(
        freeze_v1(tmp_path, plain, ["end"]),
        WrongSpec,
        f"model.{next(iter(key))} is for (keras|file): (and hub: )?networks",
        **key,
    )


# ---- the input


def test_a_network_whose_input_is_no_image_says_what_it_takes(tmp_path: Path) -> None:
    path = freeze_v1(tmp_path, lambda: tf.matmul(v1.placeholder(tf.float32, (None, 784), name="x"), weights(784, 3)))
    refused(path, WrongSpec, r"no placeholder for images.* but: x \(float32, \(\?, 784\)\)")
    refused(path, UnusableModel, r"at 'x' takes inputs of shape \(None, 784\), not images", inputs={"image": "x"})


def test_a_size_that_contradicts_the_graph_is_refused(tmp_path: Path) -> None:
    refused(freeze_v1(tmp_path, plain, ["end"]), WrongSpec, "takes 8 x 8 pixels. Leave model.size out", size=16)


def test_a_size_that_the_graph_cannot_take_is_refused(tmp_path: Path) -> None:
    def build() -> None:
        x = v1.placeholder(tf.float32, (None, None, None, 3), name="input")
        tf.matmul(tf.reshape(x, (-1, 192)), weights(192, 5), name="end")
        tf.nn.conv2d(x, weights(7, 7, 3, 2), 1, "VALID")

    refused(freeze_v1(tmp_path, build), UnusableModel, r"does not accept images of shape \(5, 4, 4, 3\) at 'input'", size=4)


def test_what_images_do_not_change_is_no_image(tmp_path: Path) -> None:
    path = freeze_v1(tmp_path, lambda: v1.placeholder(tf.float32, (None, 8, 8, 3), name="input"))
    refused(path, UnusableModel, "nothing depends on 'input'")


def test_whole_numbers_that_nothing_casts_are_refused(tmp_path: Path) -> None:
    path = freeze_v1(tmp_path, lambda: v1.placeholder(tf.int32, (None, 8, 8, 3), name="input") + 1)
    refused(path, UnusableModel, "takes its images as int32 at 'input', which no gradient can pass")


@pytest.mark.parametrize(
    ("scope", "step", "words"),
    [
        (
            "net",
            lambda x: x,
            "pixels reach Conv2D .* as they are, and no graph records .* before. Name it.*none, unit, symmetric",
        ),
        ("InceptionV1", lambda x: x, "by the name 'InceptionV1', \"symmetric\" is likely"),
        ("net", lambda x: tf.nn.relu(x, name="odd"), "after the image comes Relu 'net/odd', which convscope does not know"),
        (
            "net",
            lambda x: tf.multiply(x - 0.5, 2.0, name="scale"),
            'Mul .net/scale. would give .*With "unit" it would be -1 to 1',
        ),
    ],
)
def test_preprocessing_is_never_guessed(tmp_path: Path, scope: str, step: Any, words: str) -> None:
    def build() -> None:
        x = v1.placeholder(tf.float32, (None, 8, 8, 3), name="input")
        with v1.name_scope(scope):
            convolve(step(x), weights(3, 3, 3, 4))

    refused(freeze_v1(tmp_path, build), WrongSpec, words, preprocess="auto")


def test_steps_inside_a_graph_are_measured(tmp_path: Path) -> None:
    def build() -> None:
        x = v1.placeholder(tf.float32, (None, 8, 8, 3), name="input")
        convolve(tf.image.resize(tf.subtract(x / 127.5, 1.0, name="centre"), (6, 6)), weights(3, 3, 3, 4))

    chosen = opened(freeze_v1(tmp_path, build), preprocess="auto").settings["preprocess"]
    assert chosen.value == "none" and "'centre' gives -1 to 1" in chosen.reason


# ---- safety


def beside(operation: Any) -> Any:
    """The plain network, and an operation that nobody needs."""

    def build() -> None:
        plain()
        operation()

    return build


DEEDS = [
    (lambda proof: tf.io.write_file(proof, "x"), "WriteFile, which writes files"),
    (lambda proof: tf.io.read_file("/etc/hostname"), "ReadFile, which reads files"),
    (lambda proof: tf.io.matching_files("/*"), "MatchingFiles, which reads files"),
    (lambda proof: v1.py_func(lambda: Path(proof).touch(), [], []), "PyFunc, which runs Python"),
    (lambda proof: tf.py_function(lambda: Path(proof).touch(), [], []), "EagerPyFunc, which runs Python"),
    (lambda proof: v1.py_func(lambda: np.float32(1), [], tf.float32, stateful=False), "PyFuncStateless, which runs Python"),
    (
        lambda proof: tf.raw_ops.SaveV2(prefix=proof, tensor_names=["a"], shape_and_slices=[""], tensors=[1.0]),
        "SaveV2, which writes",
    ),
    (
        lambda proof: tf.raw_ops.RestoreV2(prefix=proof, tensor_names=["a"], shape_and_slices=[""], dtypes=[tf.float32]),
        "RestoreV2",
    ),
    (lambda proof: v1.TFRecordReader(), "TFRecordReaderV2, which reads files"),
    (
        lambda proof: tf.raw_ops.TextLineDataset(filenames="x", compression_type="", buffer_size=1),
        "TextLineDataset, which reads data",
    ),
    (
        lambda proof: tf.raw_ops.IteratorFromStringHandle(string_handle="x"),
        "IteratorFromStringHandle, which reads data of its own",
    ),
    (lambda proof: tf.print("x", output_stream=f"file://{proof}"), "PrintV2, whose attribute 'output_stream' names a file"),
    (lambda proof: tf.raw_ops.DebugIdentityV2(input=1.0, debug_urls=[f"file://{proof}"]), "DebugIdentityV2, which writes files"),
    (
        lambda proof: tf.lookup.StaticHashTable(tf.lookup.TextFileInitializer("/etc/hostname", tf.string, 0, tf.int64, 1), -1),
        "InitializeTableFromTextFileV2, which reads files",
    ),
    (
        lambda proof: tf.raw_ops.RemoteCall(target="/cpu:0", args=[1.0], Tout=[tf.float32], f=identity_function()),
        "RemoteCall, which reaches other machines",
    ),
]


def identity_function() -> Any:
    return tf.function(lambda x: x).get_concrete_function(tf.TensorSpec(()))


@pytest.mark.parametrize(("operation", "words"), DEEDS, ids=[words.split(",")[0] for _, words in DEEDS])
def test_what_reads_or_writes_files_or_runs_python_is_refused_by_name_and_never_run(
    tmp_path: Path, operation: Any, words: Any
) -> None:
    proof = tmp_path / "ran"
    refused(freeze_v1(tmp_path, beside(lambda: operation(str(proof)))), UnusableModel, words)
    assert not proof.exists()


def test_operations_inside_functions_are_checked_too(tmp_path: Path) -> None:
    proof = tmp_path / "ran"

    @tf.function(autograph=False)
    def innocent(x: Any) -> Any:
        tf.io.write_file(str(proof), "x")
        return x * 2

    def build() -> None:
        x = v1.placeholder(tf.float32, (None, 8, 8, 3), name="input")
        convolve(innocent(x), weights(3, 3, 3, 4))

    refused(freeze_v1(tmp_path, build), UnusableModel, "'WriteFile' of type WriteFile, which writes files")
    assert not proof.exists()


def test_an_assert_and_a_print_are_harmless(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def build() -> None:
        x = v1.placeholder(tf.float32, (None, 8, 8, 3), name="input")
        with tf.control_dependencies([v1.Assert(tf.reduce_all(x < 1e9), ["too large"]), tf.print("seen")]):
            convolve(v1.Print(x, ["loud"]), weights(3, 3, 3, 4), name="conv")

    network = opened(freeze_v1(tmp_path, build))
    images = np.ones((2, 8, 8, 3), np.float32)
    assert not {layer.kind for layer in network.layers()} & {"Print", "Assert"}
    np.testing.assert_allclose(network.trace(images, ["conv"])["conv"], convolve(images, weights(3, 3, 3, 4)), atol=1e-5)
    assert not {"seen", "loud"} & set(capfd.readouterr().err.replace("[", " ").split())


def test_a_function_that_calls_itself_is_refused(tmp_path: Path) -> None:
    graph = graph_pb2.GraphDef()

    @tf.function(autograph=False)
    def twice(x: Any) -> Any:
        return tf.function(lambda x: x * 2)(x)

    def build() -> None:
        twice(v1.placeholder(tf.float32, (None, 8, 8, 3), name="input"))

    graph.ParseFromString(freeze_v1(tmp_path, build).read_bytes())
    for function in graph.library.function:
        for node in function.node_def:
            if node.op in ("PartitionedCall", "StatefulPartitionedCall"):
                node.attr["f"].func.name = function.signature.name
    refused(write(tmp_path, graph), UnusableModel, "a function that calls itself")


# ---- channels first


def first(folder: Any, last: Any) -> Any:
    def build() -> None:
        image = v1.placeholder(tf.float32, (None, 3, 8, 10), name="input")
        x = tf.nn.conv2d(image, weights(3, 3, 3, 4), 1, "SAME", data_format="NCHW", name="conv")
        tf.reduce_mean(last(x), (2, 3), name="end")

    return freeze_v1(folder, build)


def test_a_network_with_channels_first_is_read_like_any_other_where_the_device_can_run_it(tmp_path: Path) -> None:
    network = opened(first(tmp_path, tf.nn.relu))
    images = np.random.default_rng(0).normal(0, 1, (2, 8, 10, 3)).astype(np.float32)
    assert network.input_shape == (8, 10, 3) and network.layers()[0].shape == (8, 10, 4)
    outputs = network.trace(images, ["conv", "end"])
    np.testing.assert_allclose(outputs["conv"], convolve(images, weights(3, 3, 3, 4)), rtol=1e-4, atol=1e-5)
    assert outputs["end"].shape == (2, 1, 1, 4)


@pytest.mark.skipif(bool(tf.config.list_physical_devices("GPU")), reason="a GPU runs it")
def test_a_network_with_channels_first_that_the_device_cannot_run_is_refused(tmp_path: Path) -> None:
    path = first(tmp_path, lambda x: tf.nn.space_to_depth(x, 2, data_format="NCHW", name="fold"))
    refused(path, UnusableModel, "channels first, which this device cannot run .*GPU, or save the network with channels last")


def test_a_graph_whose_dropout_was_left_on_is_refused_and_one_whose_random_numbers_are_fixed_is_not(tmp_path: Path) -> None:
    def net(rate: Any) -> Any:
        def build() -> None:
            x = convolve(v1.placeholder(tf.float32, (None, 8, 8, 3), name="image"), weights(3, 3, 3, 4))
            noise = v1.random_uniform(tf.shape(x), seed=1)
            tf.reduce_mean(x * tf.cast(noise >= rate, tf.float32), (1, 2), name="end")

        return build

    refused(freeze_v1(tmp_path, net(0.5), ["end"]), UnusableModel, r"draws random numbers .*random_uniform.*training=False")
    assert opened(freeze_v1(tmp_path, net(-1.0), ["end"], name="still")).layers()
