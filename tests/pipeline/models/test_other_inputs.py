"""Networks with inputs beside the image: constants, the same image, and what is wrong with what they are given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from pipeline.errors import UnknownName, UnusableModel, WrongSpec
from pipeline.models.network import alone, feed_of
from pipeline.models.registry import open_network
from pipeline.spec.model import ModelSpec

L = keras.layers
IMAGES = np.random.default_rng(0).random((3, 8, 8, 3), np.float32)
META = np.random.default_rng(1).normal(size=4).astype(np.float32)


def gated() -> keras.Model:
    image, meta = L.Input((8, 8, 3), name="photo"), L.Input((4,), name="meta")
    maps = L.Conv2D(5, 3, activation="relu", name="conv")(image)
    gated = L.Multiply(name="gated")([maps, L.Reshape((1, 1, 5))(L.Dense(5, activation="sigmoid")(meta))])
    return keras.Model([image, meta], L.Dense(2, name="out")(L.GlobalAveragePooling2D()(gated)))


def siamese() -> keras.Model:
    left, right = L.Input((8, 8, 3), name="left"), L.Input((8, 8, 3), name="right")
    shared = L.Conv2D(3, 3, name="conv")
    both = L.Concatenate(name="both")([shared(left), L.Activation("relu")(shared(right))])
    return keras.Model([left, right], L.Dense(2, name="out")(L.GlobalAveragePooling2D()(both)))


@keras.saving.register_keras_serializable("other_inputs")
class Subclassed(keras.Model):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.conv, self.dense = L.Conv2D(4, 3), L.Dense(2)

    def call(self, inputs: Any) -> Any:
        image, meta = inputs if isinstance(inputs, (list, tuple)) else (inputs["photo"], inputs["meta"])
        return self.dense(keras.ops.concatenate([keras.ops.mean(self.conv(image), [1, 2]), meta], -1))


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, Any]]:
    """Each model's `source` by its kind and name, and the model itself, which takes an image and the other input."""
    folder = tmp_path_factory.mktemp("models")
    models: dict[str, tuple[str, Any]] = {}
    for name, model in (("gated", gated()), ("siamese", siamese())):
        model.save(folder / f"{name}.keras")
        models[f"file {name}"] = f"file:{folder / f'{name}.keras'}", lambda *given, model=model: model(list(given))
        if name == "gated":
            model.export(folder / name, verbose=False)
            models["savedmodel gated"] = f"savedmodel:{folder / name}", models["file gated"][1]
    named, listed = Subclassed(), Subclassed()
    named({"photo": IMAGES, "meta": np.zeros((3, 4), np.float32)})
    listed([IMAGES, np.zeros((3, 4), np.float32)])
    for name, model, as_given in (
        ("named", named, lambda image, meta: {"photo": image, "meta": meta}),
        ("listed", listed, lambda image, meta: [image, meta]),
    ):
        model.save(folder / f"{name}.keras")
        call = lambda image, meta, model=model, as_given=as_given: model(as_given(image, meta))  # noqa: E731
        models[f"file {name}"] = f"file:{folder / f'{name}.keras'}", call
    return models


def opened(source: str, inputs: Any, **keys: Any) -> Any:
    table = {"source": source, "layers": ["*"], "preprocess": "none", "inputs": inputs}
    return open_network(ModelSpec.model_validate({**table, **keys}))


@pytest.mark.parametrize(
    ("name", "key"),
    [("file gated", "meta"), ("savedmodel gated", "meta"), ("file named", "meta"), ("file listed", "1")],
)
@pytest.mark.parametrize("value", [0.5, META.tolist(), [META.tolist()]])
def test_a_constant_is_given_to_every_example(saved: Any, name: str, key: str, value: Any) -> None:
    source, model = saved[name]
    network = opened(source, {key: value})
    given = np.broadcast_to(np.float32(value), (3, 4))
    np.testing.assert_allclose(network.trace(IMAGES, ["logits"])["logits"], model(IMAGES, given), atol=1e-5)
    assert network.digest() != opened(source, {key: 0.25}).digest()
    assert feed_of(network).depth == 3 and feed_of(network).dtype == "uint8"


def test_the_same_image_is_given_to_both_and_gradients_pass_both_branches(saved: Any) -> None:
    source, model = saved["file siamese"]
    network = opened(source, {"image": "left", "right": {"image": "same"}})
    x = tf.constant(IMAGES)
    with tf.GradientTape() as tape, tf.GradientTape() as plain:
        tape.watch(x)
        plain.watch(x)
        ours, theirs = network.trace(x, ["logits"])["logits"][:, 0], model(x, x)[:, 0]
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    np.testing.assert_allclose(tape.gradient(ours, x), plain.gradient(theirs, x), atol=1e-5)


def test_values_of_an_example_travel_behind_its_image_and_are_held_without(saved: Any) -> None:
    source, model = saved["file gated"]
    network = opened(source, {"meta": {"column": "meta"}}).holding({"meta": META})
    feed = feed_of(network)
    assert (feed.bands, feed.packed, feed.dtype) == (3, 1, "float32")
    rows = np.stack([META * factor for factor in (1, -2, 3)])
    packed = np.stack([network.packing.pack({"meta": row}) for row in rows])
    given = network.preprocess(tf.concat([IMAGES, packed], axis=3))
    np.testing.assert_allclose(network.trace(given, ["logits"])["logits"], model(IMAGES, rows), atol=1e-5)
    held = alone(network)
    assert feed_of(held).depth == 3
    for reader in (network, held):
        outputs = reader.trace(reader.preprocess(tf.constant(IMAGES)), ["logits"])["logits"]
        np.testing.assert_allclose(outputs, model(IMAGES, np.tile(META, (3, 1))), atol=1e-5)
    assert network.digest() != network.holding({"meta": META * 2}).digest()


@pytest.mark.parametrize(
    ("name", "inputs", "error", "words"),
    [
        ("file gated", {}, WrongSpec, r"given nothing: meta \(float32, \(batch, 4\)\)\..*model.inputs = \{ meta = 0.0 \}"),
        ("file gated", {"mata": 1.0}, UnknownName, "'mata' is not an input of .*nearest: meta"),
        ("file gated", {"meta": [1.0, 2.0]}, WrongSpec, r"has the shape \(2,\), but .* takes meta \(float32, \(batch, 4\)\)"),
        ("file gated", {"meta": "old"}, WrongSpec, "does not fit .* takes a float32"),
        ("file gated", {"meta": {"image": "same"}}, WrongSpec, "takes no image there"),
        ("file gated", {"image": "phto", "meta": 0.0}, UnknownName, "nearest: photo"),
        ("file siamese", {}, WrongSpec, r'several inputs that may take the images: left .*right = \{ image = "same" \}'),
        ("file siamese", {"image": "left"}, WrongSpec, "given nothing: right"),
        ("file listed", {}, WrongSpec, r"given nothing: 1 \(float32"),
        ("savedmodel gated", {}, WrongSpec, r"placeholders without a value: meta \(float32, \(\?, 4\)\)"),
        ("savedmodel gated", {"meta": [1.0, 2.0]}, WrongSpec, r"has the shape \(2,\), but .* takes meta"),
        ("savedmodel gated", {"meta": {"file": "x.png"}}, WrongSpec, "takes no image there"),
    ],
)
def test_what_does_not_fit_an_input_is_refused_by_name(saved: Any, name: str, inputs: Any, error: Any, words: str) -> None:
    with pytest.raises(error, match=words):
        opened(saved[name][0], inputs)


def test_a_subclassed_model_of_several_arguments_is_told_a_remedy_that_works(tmp_path: Path) -> None:
    @keras.saving.register_keras_serializable("other_inputs")
    class Arguments(Subclassed):
        def call(self, image: Any, meta: Any) -> Any:  # type: ignore[override]
            return super().call([image, meta])

    model = Arguments()
    model(IMAGES, np.zeros((3, 4), np.float32))
    model.save(tmp_path / "net.keras")
    with pytest.raises(UnusableModel, match="model.export"):
        opened(f"file:{tmp_path / 'net.keras'}", {})
    signature = [
        keras.InputSpec(shape=(None, 8, 8, 3), dtype="float32", name="photo"),
        keras.InputSpec(shape=(None, 4), dtype="float32", name="meta"),
    ]
    model.export(tmp_path / "exported", verbose=False, input_signature=signature)
    network = opened(f"savedmodel:{tmp_path / 'exported'}", {"meta": META.tolist()})
    np.testing.assert_allclose(network.trace(IMAGES, ["logits"])["logits"], model(IMAGES, np.tile(META, (3, 1))), atol=1e-5)
