"""Subclassed Keras models: named by their attributes, traced without a graph of Keras's, loaded with their user's code."""

from __future__ import annotations

import textwrap
import threading
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from pipeline.compiled.compile import compile_tap
from pipeline.errors import MissingInput, UnknownLayer, UnknownName, UnusableModel, WrongSpec
from pipeline.fields import solve_fields
from pipeline.models.keras.model import keras_network
from pipeline.models.keras.subclassed import SubclassedReader
from pipeline.models.registry import open_network, select_layers
from pipeline.spec.model import ModelSpec

L = keras.layers

CODE = """
import keras
from keras import layers as L

class Block(L.Layer):  # not registered with Keras
    def __init__(self, channels, **keys):
        super().__init__(**keys)
        self.channels = channels
        self.conv = L.Conv2D(channels, 3, padding="same")
        self.norm = L.BatchNormalization()

    def call(self, x, training=False):
        return keras.ops.relu(self.norm(self.conv(x), training=training)) + x

    def get_config(self):
        return {**super().get_config(), "channels": self.channels}

@keras.saving.register_keras_serializable("mine")
class Net(keras.Model):
    def __init__(self, classes=5, **keys):
        super().__init__(**keys)
        self.classes = classes
        self.stem = L.Conv2D(6, 3, strides=2)
        self.blocks = [Block(6), Block(6)]
        self.tail = keras.Sequential([L.Conv2D(4, 1, name="mix"), L.ReLU(name="rectify")])
        self.drop = L.Dropout(0.5)
        self._pool = L.GlobalAveragePooling2D()
        self.head = L.Dense(classes, activation="softmax")

    def call(self, x, training=False):
        x = self.stem(x)
        for block in self.blocks:
            x = block(x, training=training)
        x = self.tail(x)
        return self.head(self.drop(self._pool(x), training=training))

    def get_config(self):
        return {**super().get_config(), "classes": self.classes}
"""

NAMES = [
    *("stem", "blocks/0/conv", "blocks/0/norm", "blocks/0", "blocks/1/conv", "blocks/1/norm", "blocks/1"),
    *("tail/mix", "tail/rectify", "tail", "_pool", "drop", "head"),
]


@pytest.fixture(scope="module")
def code(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("code") / "their_net.py"
    path.write_text(CODE)
    return path


@pytest.fixture(scope="module")
def model(code: Any) -> Any:
    scope = {"__name__": "their_net"}
    exec(CODE, scope)
    model = scope["Net"]()
    model(np.zeros((1, 17, 19, 3), np.float32))
    random = np.random.default_rng(0)
    for variable in model.weights:
        variable.assign(random.uniform(0.2, 0.8, variable.shape) - (0.5 if "kernel" in variable.path else 0.0))
    return model


@pytest.fixture(scope="module")
def saved(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("saved") / "net.keras"
    model.save(path)
    return path


def opened(path: Any, **keys: Any) -> Any:
    return open_network(ModelSpec(**{"source": f"file:{path}", "layers": ["*"], "preprocess": "unit", **keys}))


@pytest.fixture(scope="module")
def network(saved: Any, code: Any) -> Any:
    return opened(saved, custom=str(code))


def test_layers_are_called_by_the_attributes_that_hold_them_in_the_order_of_the_forward_pass(network: Any) -> None:
    assert isinstance(network.reader, SubclassedReader)
    assert [layer.name for layer in network.layers()] == NAMES
    shapes = {layer.name: (layer.kind, layer.shape) for layer in network.layers()}
    assert shapes["stem"] == ("Conv2D", (8, 9, 6)) and shapes["blocks/1"] == ("Block", (8, 9, 6))
    assert shapes["head"] == ("Dense", (1, 1, 5)) and network.input_shape == (17, 19, 3)


def test_the_maps_are_those_of_the_model_and_the_logits_come_before_the_softmax(network: Any, model: Any, pixels: Any) -> None:
    images = pixels(4, 17, 19)
    outputs = compile_tap(network, ["stem", "blocks/0", "tail/rectify", "logits"], 4)(images)
    x = model.stem(images / np.float32(255))
    np.testing.assert_allclose(outputs["stem"], x, rtol=1e-4, atol=1e-5)
    x = model.blocks[0](x, training=False)
    np.testing.assert_allclose(outputs["blocks/0"], x, rtol=1e-4, atol=1e-5)
    x = model.tail(model.blocks[1](x, training=False))
    np.testing.assert_allclose(outputs["tail/rectify"], x, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(keras.ops.softmax(outputs["logits"]), model(images / np.float32(255)), rtol=1e-4, atol=1e-6)
    assert np.abs(np.asarray(outputs["logits"]).sum(axis=1) - 1).min() > 1e-3  # logits, not shares


def test_gradients_flow_and_follow_the_overrides_of_the_caller(network: Any, pixels: Any) -> None:
    @tf.RegisterGradient("TestZero")
    def zero(operation: Any, gradient: Any) -> Any:
        return tf.zeros_like(gradient)

    def gradient(images: Any, overrides: Any) -> Any:
        with tf.compat.v1.get_default_graph().gradient_override_map(overrides):
            return tf.gradients(tf.reduce_sum(network.trace(images, ["tail"])["tail"]), images)[0]

    images = network.preprocess(pixels(2, 17, 19))
    plain, blocked = (
        tf.function(lambda x, overrides=overrides: gradient(x, overrides), autograph=False)(images).numpy()
        for overrides in ({}, {"Relu": "TestZero"})
    )
    assert np.abs(plain).max() > 0 and np.abs(blocked).max() == 0


def test_fields_are_solved_as_of_any_network(network: Any) -> None:
    fields = solve_fields(network, select_layers(network, ["stem", "blocks/0/conv", "blocks/1/*"]))
    assert {name: field.size for name, field in fields.items()} == {
        "stem": (3, 3),
        "blocks/0/conv": (7, 7),
        "blocks/1/conv": (11, 11),
        "blocks/1/norm": (11, 11),
    }


def test_layers_tell_what_they_are_made_from_and_convolutions_give_their_kernels(network: Any, model: Any) -> None:
    feeds = {name: network.feeds(name) for name in [*NAMES, "logits"]}
    assert feeds["stem"] == () and feeds["blocks/0/conv"] == ("stem",) and feeds["blocks/0/norm"] == ("blocks/0/conv",)
    assert set(feeds["blocks/0"]) == {"blocks/0/norm", "stem"} and feeds["blocks/1/conv"] == ("blocks/0",)
    assert feeds["tail"] == ("tail/rectify",) and feeds["_pool"] == ("tail",) and feeds["head"] == ("drop",)
    assert feeds["logits"] == ("head",)
    assert network.convolutions() == ["stem", "blocks/0/conv", "blocks/1/conv", "tail/mix"]
    kernels = network.kernels(["stem", "tail", "tail/mix"])
    assert kernels.keys() == {"stem", "tail/mix"}
    np.testing.assert_array_equal(kernels["stem"][0].weights, model.stem.kernel)
    with pytest.raises(UnknownLayer):
        network.feeds("steam")


def test_another_size_than_that_of_the_first_call(saved: Any, code: Any) -> None:
    network = opened(saved, custom=str(code), size=[33, 21])
    assert network.input_shape == (33, 21, 3) and network.layers()[0].shape == (16, 10, 6)


def test_names_and_digest_do_not_depend_on_models_loaded_before(saved: Any, code: Any, network: Any, model: Any) -> None:
    again = opened(saved, custom=str(code))
    assert again.layers() == network.layers() and again.digest() == network.digest()
    bias = model.stem.bias.numpy()
    model.stem.bias.assign(bias + 1)
    try:
        assert keras_network(model, "net", None, "unit").digest() != network.digest()
    finally:
        model.stem.bias.assign(bias)
    assert keras_network(model, "net", None, "unit").digest() == network.digest()
    assert keras_network(model, "net", None, "symmetric").digest() != network.digest()


def test_keras_calls_layers_as_it_did_before_and_other_threads_are_not_heard(network: Any, model: Any) -> None:
    plain = keras.Operation.__call__
    images = np.zeros((1, 17, 19, 3), np.float32)
    heard: list[BaseException] = []

    def elsewhere() -> None:
        try:
            for _ in range(5):
                model(images)
        except BaseException as error:
            heard.append(error)

    thread = threading.Thread(target=elsewhere)
    thread.start()
    assert list(network.trace(tf.constant(images), ["stem"])) == ["stem"]
    thread.join()
    assert keras.Operation.__call__ is plain and not heard
    with pytest.raises(UnknownLayer, match="'steam' is not in net; nearest: stem"):
        network.trace(tf.constant(images), ["steam"])


def test_a_named_layer_gives_the_logits(saved: Any, code: Any, pixels: Any) -> None:
    network = opened(saved, custom=str(code), logits="_pool")
    assert compile_tap(network, ["logits"], 1)(pixels(1, 17, 19))["logits"].shape == (1, 4)
    with pytest.raises(UnknownName, match=r"'stem' is not a layer of net with one number a class .*known: _pool, drop, head"):
        opened(saved, custom=str(code), logits="stem")


def test_a_model_that_returns_several_things_has_its_only_vector_for_logits(pixels: Any) -> None:
    class Two(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.pool = L.Conv2D(4, 3), L.GlobalAveragePooling2D()

        def call(self, x: Any) -> Any:
            return {"maps": (maps := self.conv(x)), "vector": self.pool(maps)}

    model = Two()
    model(np.zeros((1, 8, 8, 1), np.float32))
    network = keras_network(model, "two", None, "none")
    assert network.input_shape == (8, 8, 1) and [layer.name for layer in network.layers()] == ["conv", "pool"]
    images = pixels(1, 8, 8)
    taken = compile_tap(network, ["logits", "pool"], 1)(images)
    np.testing.assert_allclose(np.ravel(taken["logits"]), np.ravel(taken["pool"]), rtol=1e-6)
    assert "assumed" in str(network.settings["head"])


def test_layers_in_a_function_of_their_own_are_left_out_and_the_rest_is_read(pixels: Any) -> None:
    class Compiled(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.inside, self.outside = L.Conv2D(4, 3), L.Conv2D(2, 3)
            self._run = tf.function(lambda x: self.inside(x))

        def call(self, x: Any) -> Any:
            return self.outside(self._run(x))

    model = Compiled()
    model(np.zeros((1, 8, 8, 3), np.float32))
    network = keras_network(model, "compiled", None, "none")
    assert [layer.name for layer in network.layers()] == ["outside"]
    assert compile_tap(network, ["outside"], 1)(pixels(1, 8, 8))["outside"].shape == (1, 4, 4, 2)


@pytest.mark.parametrize("policy", ["mixed_float16", "bfloat16"])
def test_half_precision_comes_out_as_float32(policy: Any, pixels: Any) -> None:
    class Half(keras.Model):
        def __init__(self) -> None:
            super().__init__(dtype=policy)
            self.conv = L.Conv2D(4, 3, dtype=policy)

        def call(self, x: Any) -> Any:
            return self.conv(x)

    model = Half()
    model(np.zeros((1, 8, 8, 3), np.float32))
    outputs = compile_tap(keras_network(model, "half", None, "unit"), ["conv"], 2)(pixels(2, 8, 8))["conv"]
    assert outputs.dtype == tf.float32 and np.abs(outputs).max() > 0


def test_a_functional_model_with_layers_of_its_users_own_is_read_as_any_other(tmp_path: Path, code: Any, pixels: Any) -> None:
    scope = {"__name__": "their_net"}
    exec(CODE, scope)
    inputs = keras.Input((8, 8, 3))
    model = keras.Model(inputs, L.Conv2D(2, 1, name="last")(scope["Block"](3, name="block")(inputs)))
    model.save(tmp_path / "functional.keras")
    network = opened(tmp_path / "functional.keras", custom=str(code))
    names = [layer.name for layer in network.layers()]
    assert "block/conv" in names[:2] and names[-2:] == ["block", "last"]
    outputs = compile_tap(network, ["last"], 2)(pixels(2, 8, 8))["last"]
    np.testing.assert_allclose(outputs, model(pixels(2, 8, 8) / np.float32(255)), rtol=1e-4, atol=1e-5)
    with pytest.raises(UnusableModel, match="uses 'Block'.*model.custom"):
        opened(tmp_path / "functional.keras")


def test_a_whole_job_runs_on_a_subclassed_model(saved: Any, code: Any, pictures: Any, tmp_path: Path, quiet: Any) -> None:
    from pipeline import run
    from pipeline.load import parse_spec
    from pipeline.store.tables import read_index

    tree = {
        "name": "own",
        "model": {"source": f"file:{saved}", "custom": str(code), "layers": ["blocks/?", "head"], "preprocess": "unit"},
        "data": {"source": f"folder:{pictures}", "batch": 8},
        "activations": {"top_k": 2, "channels": [0, 3], "crop": "effective"},
    }
    index = read_index(run(parse_spec(tree), tmp_path, reporter=quiet), "activations").to_pandas()
    assert sorted(set(index["layer"])) == ["blocks/0", "blocks/1", "head"] and len(index) == 3 * 2 * 2
    assert index["score"].max() > 0


# ---- what cannot be read


def test_a_class_that_keras_does_not_know_is_named_with_what_to_do(saved: Any, code: Any) -> None:
    forgotten = [name for name in list(keras.saving.get_custom_objects()) if name.startswith("mine>")]
    for name in forgotten:
        keras.saving.get_custom_objects().pop(name)
    with pytest.raises(UnusableModel, match=r"uses 'Net', which is not part of Keras.*model.custom = \"FILE.py\"") as caught:
        opened(saved)
    assert "\n" not in str(caught.value)
    assert len(opened(saved, custom=str(code)).layers()) == len(NAMES)


def test_code_that_is_missing_or_fails_or_is_of_no_use_here_is_one_line(saved: Any, tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match=r"model.custom = .*nowhere.py' is missing"):
        opened(saved, custom=str(tmp_path / "nowhere.py"))
    (tmp_path / "broken.py").write_text("import keras\nraise RuntimeError('not\\ntoday')\n")
    with pytest.raises(UnusableModel, match=r"broken.py' cannot be run \(RuntimeError: not today\)"):
        opened(saved, custom=str(tmp_path / "broken.py"))
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(UnusableModel, match=r"notes.txt' is no Python file"):
        opened(saved, custom=str(tmp_path / "notes.txt"))
    with pytest.raises(WrongSpec, match="model.custom is for file: networks"):
        open_network(ModelSpec(source="keras:VGG16", weights="none", layers=["*"], custom=str(tmp_path / "a.py")))


def test_what_lies_beside_the_code_can_be_imported(saved: Any, tmp_path: Path, code: Any) -> None:
    (tmp_path / "their_blocks.py").write_text(CODE.partition("@keras")[0])
    rest = CODE.partition("@keras")[2]
    (tmp_path / "whole.py").write_text(
        f"import keras\nfrom keras import layers as L\nfrom their_blocks import Block\n@keras{rest}"
    )
    assert len(opened(saved, custom=str(tmp_path / "whole.py")).layers()) == len(NAMES)


def test_preprocessing_is_asked_for_and_a_size_that_does_not_fit_is_told(saved: Any, code: Any) -> None:
    with pytest.raises(WrongSpec, match="Name it in model.preprocess"):
        opened(saved, custom=str(code), preprocess="auto")
    with pytest.raises(
        UnusableModel, match=r"cannot be run on images of 2 x 2 x 3 \(.*\)\. If it takes another size, set model.size"
    ):
        opened(saved, custom=str(code), size=[2, 2])


def test_models_without_one_image_input_are_refused() -> None:
    class Sum(keras.Model):
        def call(self, x: Any) -> Any:
            return x

    unbuilt, vector = Sum(), Sum()
    vector(np.zeros((1, 8)))
    for model, message in (
        (unbuilt, "is not built"),
        (vector, r"shape \(None, 8\)"),
    ):
        with pytest.raises(UnusableModel, match=message):
            keras_network(model, "sum", None, "none")


def test_the_code_is_named_relative_to_the_spec(tmp_path: Path, saved: Any, code: Any) -> None:
    from pipeline import load_spec

    (tmp_path / "job.toml").write_text(
        textwrap.dedent("""
        name = "a"
        [model]
        source = "file:net.keras"
        custom = "code/net.py"
        layers = "*"
        [data]
        source = "folder:."
        """)
    )
    assert load_spec(tmp_path / "job.toml").model.custom == str(tmp_path / "code" / "net.py")
