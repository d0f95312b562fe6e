"""Explanations by head, against the same calculation in plain Keras: the probabilities, the maps and the curves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import keras
import numpy as np
import pytest
import tensorflow as tf
from explaining import stored

from pipeline import load_spec, run
from pipeline.attribution.map_files import read_maps
from pipeline.errors import WrongSpec
from pipeline.report.job_reader import JobReader
from pipeline.report.pictures import explanations
from pipeline.run import open_job
from pipeline.store.tables import read_index

layers, ops = keras.layers, keras.ops

HEADS: dict[str, Callable[[Any], Any]] = {
    "one sigmoid": lambda x: layers.Dense(1, activation="sigmoid")(x),
    "sigmoid layer": lambda x: layers.Activation("sigmoid")(layers.Dense(1)(x)),
    "sigmoids": lambda x: layers.Dense(14, activation="sigmoid")(x),
    "log_softmax": lambda x: layers.Dense(5, activation="log_softmax")(x),
    "tanh": lambda x: layers.Dense(1, activation="tanh")(x),
    "one number": lambda x: layers.Dense(1)(x),
    "regression": lambda x: layers.Dense(3)(x),
    "conv, softmax, Reshape": lambda x: layers.Reshape((4,))(layers.Softmax()(layers.Conv2D(4, 1)(x[:, None, None]))),
}


def model_of(head: Callable[[Any], Any]) -> Any:
    """A small network whose last weights are so large that a sigmoid is saturated."""
    keras.utils.set_random_seed(5)
    inputs = keras.Input((16, 16, 3))
    features = layers.GlobalAveragePooling2D()(layers.Conv2D(6, 3, activation="relu", name="conv")(inputs))
    model = keras.Model(inputs, head(features), name="net")
    kernel = next(layer for layer in reversed(model.layers) if layer.weights)
    kernel.kernel.assign(40 * kernel.kernel)
    return model


@pytest.fixture
def job(write_spec: Any, tmp_path: Path) -> Any:
    """A function: the spec of a job that explains two images of a model."""

    def job(source: str, model: Any = None, **keys: Any) -> Any:
        gradcam = {"first": 2, "methods": ["gradcam"], "batch": 2, **keys}
        given = {"source": source, "layers": ["*"], "preprocess": "unit", **(model or {})}
        path = write_spec(tmp_path / "job.toml", model=given)
        lines = [f"{key} = {toml(value)}" for key, value in gradcam.items()]
        path.write_text("\n".join([path.read_text(), "[gradcam]", *lines, ""]))
        return load_spec(path, ['stages=["gradcam"]'])

    return job


def toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml(part)}" for key, part in value.items()) + " }"
    return f"[{', '.join(map(toml, value))}]" if isinstance(value, list) else json.dumps(value)


def rows(folder: Any, name: str) -> Any:
    return read_index(folder, name).to_pylist()


def shown(job: Any) -> Any:
    """The first two images as the network is given them."""
    return np.stack([job.fit.apply(image.seen) for _, image in job.source.fetch([0, 1])]) / np.float32(255)


def plain_gradcam(model: Any, images: Any, z_of: Callable[[Any, Any], Any]) -> Any:
    """GradCAM of z, by Keras's own layers and a gradient tape: (images, h, w)."""
    conv = model.get_layer("conv")
    weighted = [layer for layer in model.layers if layer.weights][-1]
    with tf.GradientTape() as tape:
        maps = conv(images)
        tape.watch(maps)
        features = tf.reduce_mean(maps, axis=(1, 2))
        z = features @ tf.reshape(weighted.kernel, (6, -1)) + weighted.bias
        total = tf.reduce_sum(z_of(z, features))
    weights = tf.reduce_mean(tape.gradient(total, maps), axis=(1, 2), keepdims=True)
    return tf.nn.relu(tf.reduce_sum(maps * weights, axis=-1)).numpy(), z.numpy()


@pytest.mark.parametrize("kind", ["file", "frozen", "savedmodel"])
@pytest.mark.parametrize("head", HEADS)
def test_every_head_is_explained_as_in_plain_keras(head: str, kind: str, job: Any, quiet: Any, tmp_path: Path) -> None:
    model = model_of(HEADS[head])
    kept = {"head": "linear"} if head == "regression" else {}
    spec = job(stored(model, kind, tmp_path), kept)
    folder = run(spec, tmp_path / "out", reporter=quiet)
    images = shown(open_job(spec, folder, quiet))
    outputs = model(images).numpy().reshape(2, -1)
    classified, table = rows(folder, "classification"), rows(folder, "attributions")
    named = {"tanh": "linear", "one number": "linear", "regression": "linear"}
    expected_head = named.get(head, "sigmoid" if "sigmoid" in head else "softmax")
    assert {row["head"] for row in classified + table} == {expected_head}
    # What the network says, from its own output.
    for row in classified:
        output = outputs[row["example"]]
        if expected_head == "linear":
            assert row["probability"] is None and row["output"] == pytest.approx(output[row["class"]], rel=1e-4, abs=1e-5)
        elif len(output) == 1:
            assert row["probability"] == pytest.approx([1 - output[0], output[0]][row["class"]], abs=1e-5)
        else:
            output = np.exp(output) if head == "log_softmax" else output
            assert row["probability"] == pytest.approx(output[row["class"]], abs=1e-5)
    # The evidence, and the maps, from z.
    for row in table:
        number = row["class"]
        binary = expected_head == "sigmoid" and outputs.shape[1] == 1
        maps, z = plain_gradcam(
            model,
            images,
            lambda z, _, n=number, b=binary: (2 * n - 1) * z[:, 0] if b else z[:, n],  # type: ignore[misc]
        )
        assert row["peak"] == pytest.approx(maps[row["example"]].max(), rel=1e-4, abs=1e-6)
        logit = next(said["logit"] for said in classified if (said["example"], said["class"]) == (row["example"], number))
        assert logit == pytest.approx((2 * number - 1) * z[row["example"], 0] if binary else z[row["example"], number], rel=1e-4)
    assert len(table) == 2 * (3 if head == "regression" else 1)


def test_both_classes_of_one_sigmoid_are_there_and_their_curves_move(job: Any, quiet: Any, tmp_path: Path) -> None:
    model = model_of(HEADS["one sigmoid"])
    spec = job(stored(model, "file", tmp_path), targets=[0, 1], sanity=["curves"], methods=["gradient"])
    folder = run(spec, tmp_path / "out", reporter=quiet)
    table = rows(folder, "attributions")
    assert [row["class"] for row in table] == [0, 1, 0, 1]
    for first, second in zip(table[::2], table[1::2], strict=True):
        assert first["probability"] + second["probability"] == pytest.approx(1)
        assert first["peak"] == pytest.approx(second["peak"]) and first["peak"] > 1e-6  # of -z and of z
    curves = rows(folder, "curves")
    by_class = [[row["value"] for row in curves if row["class"] == number] for number in (0, 1)]
    np.testing.assert_allclose(np.add(*by_class), 1, atol=1e-6)
    groups = explanations(JobReader(folder))[0]["groups"]
    assert len(groups) == 2 and all("(sigmoid)" in group["says"] for group in groups)


def test_the_sign_of_an_output_turns_its_evidence(job: Any, quiet: Any, tmp_path: Path) -> None:
    targets = [{"output": 1}, {"output": 1, "sign": -1}]
    spec = job(stored(model_of(HEADS["regression"]), "file", tmp_path), {"head": "linear"}, targets=targets, methods=["gradient"])
    table = rows(run(spec, tmp_path / "out", reporter=quiet), "attributions")
    assert [row["target"] for row in table[:2]] == ["1", "1, lowered"] and table[0]["output"] == table[1]["output"]
    assert table[0]["peak"] == pytest.approx(table[1]["peak"]) and table[0]["digest"] != table[1]["digest"]


def test_an_embedding_is_explained_by_what_it_is_like(job: Any, quiet: Any, tmp_path: Path) -> None:
    model = model_of(lambda x: layers.UnitNormalization()(layers.Dense(8)(x)))
    direction = [1.0] + 7 * [0.0]
    spec = job(stored(model, "file", tmp_path), targets=[{"example": 1}, {"direction": direction}], layers=["conv"])
    folder = run(spec, tmp_path / "out", reporter=quiet)
    images = shown(open_job(spec, folder, quiet))
    vectors = model(images).numpy()
    likeness = {(row["example"], row["rank"]): row["logit"] for row in rows(folder, "classification")}
    for example in range(2):
        assert likeness[example, 0] == pytest.approx(vectors[example] @ vectors[1], abs=1e-5)
        assert likeness[example, 1] == pytest.approx(vectors[example][0], abs=1e-5)
    maps, _ = plain_gradcam(model, images, lambda z, _: tf.linalg.matvec(tf.math.l2_normalize(z, axis=-1), vectors[1]))
    table = [row for row in rows(folder, "attributions") if row["target"] == "like example 1"]
    assert [row["peak"] for row in table] == pytest.approx(maps.max(axis=(1, 2)), rel=1e-3, abs=1e-6)
    assert all(row["head"] == "embedding" and row["probability"] is None for row in table)
    with pytest.raises(WrongSpec, match="embedding of 8 numbers, which predicts no class"):
        open_job(job(stored(model, "file", tmp_path)), folder, quiet)


@pytest.mark.parametrize("classes", [1, 3])
def test_a_class_of_a_map_is_explained_within_a_region(classes: int, job: Any, quiet: Any, tmp_path: Path) -> None:
    keras.utils.set_random_seed(2)
    inputs = keras.Input((16, 16, 3))
    conv = layers.Conv2D(6, 3, activation="relu", padding="same", name="conv")
    last = layers.Conv2D(classes, 1, activation="sigmoid" if classes == 1 else "softmax", name="masks")
    model = keras.Model(inputs, last(conv(inputs)), name="net")
    mask = np.zeros((32, 32, 3), np.uint8)
    mask[16:] = 255
    cv2.imwrite(str(tmp_path / "mask.png"), mask)
    regions = ["image", "predicted", [0.0, 0.0, 0.5, 1.0], str(tmp_path / "mask.png")]
    targets = ["predicted", *({"output": 0, "region": region} for region in regions)]
    spec = job(stored(model, "file", tmp_path), targets=targets, layers=["conv"])
    folder = run(spec, tmp_path / "out", reporter=quiet)
    images = shown(open_job(spec, folder, quiet))
    with tf.GradientTape(persistent=True) as tape:
        maps = conv(images)
        tape.watch(maps)
        z = maps @ tf.reshape(last.kernel, (6, classes)) + last.bias
        z = tf.concat([-z, z], axis=-1) if classes == 1 else z
        z = z[..., 0]
        everywhere, upper, lower = tf.reduce_mean(z), tf.reduce_mean(z[:, :8]), tf.reduce_mean(z[:, 8:])
    table = rows(folder, "attributions")
    outputs = model(images).numpy()
    probabilities = np.concatenate([1 - outputs, outputs], axis=-1) if classes == 1 else outputs
    named = {"0": (everywhere, slice(None)), "0 in 0 0 0.5 1": (upper, slice(0, 8)), "0 in mask.png": (lower, slice(8, 16))}
    for words, (total, part) in named.items():
        weights = tf.reduce_mean(tape.gradient(total, maps), axis=(1, 2), keepdims=True) * 2  # the mean was over two images
        cams = tf.nn.relu(tf.reduce_sum(maps * weights, axis=-1)).numpy()
        for row in (row for row in table if row["target"] == words):
            assert row["peak"] == pytest.approx(cams[row["example"]].max(), rel=1e-3, abs=1e-7)
            assert row["probability"] == pytest.approx(probabilities[row["example"], part, :, 0].mean(), abs=1e-5)
    most = [np.bincount(shares.argmax(axis=-1).ravel(), minlength=2).argmax() for shares in probabilities]
    for example in range(2):
        own = [row["class"] for row in table if row["example"] == example]
        assert own[0] == most[example]
    assert {row["head"] for row in rows(folder, "classification")} == {"map"}


def test_an_image_with_a_logit_that_is_nan_is_counted_and_not_ranked(job: Any, reporter: Any, tmp_path: Path) -> None:
    model = model_of(lambda x: layers.Dense(3, activation="softmax")(ops.log(ops.mean(x, axis=1, keepdims=True) - 1e9)))
    spec = job(stored(model, "file", tmp_path), methods=["gradient"])
    folder = run(spec, tmp_path / "out", reporter=reporter)
    assert rows(folder, "classification") == [] and rows(folder, "attributions") == []
    receipt = json.loads((folder / "run.json").read_text())
    assert receipt["stages"]["gradcam"]["nans"] == {"logits": 6}
    assert any("NaN or infinity: 6 logits." in line for line in reporter.lines)


def test_an_infinite_logit_is_counted_as_one_that_is_no_number(job: Any, reporter: Any, tmp_path: Path) -> None:
    model = model_of(lambda x: layers.Dense(3, activation="softmax")(ops.mean(x, axis=1, keepdims=True) + 2.0))
    model.layers[-1].kernel.assign(np.full((1, 3), 3e38, np.float32))
    folder = run(job(stored(model, "file", tmp_path), methods=["gradient"]), tmp_path / "out", reporter=reporter)
    assert rows(folder, "classification") == [] and rows(folder, "attributions") == []
    assert any("NaN or infinity: 6 logits." in line for line in reporter.lines)


def test_maps_that_are_no_numbers_are_left_out_everywhere_and_the_stage_says_so(
    job: Any, reporter: Any, command: Any, tmp_path: Path
) -> None:
    """The square root of a ReLU has no gradient where the ReLU gives zero."""
    keras.utils.set_random_seed(3)
    inputs = keras.Input((16, 16, 3))
    roots = ops.sqrt(layers.Conv2D(6, 3, activation="relu", name="conv")(inputs))
    outputs = layers.Dense(3, activation="softmax")(layers.GlobalAveragePooling2D()(roots))
    checks = {"sanity": ["metrics", "curves", "randomisation"], "arrays": True}
    methods = ["gradient", "integrated_gradients", "occlusion", "smoothgrad"]
    spec = job(stored(keras.Model(inputs, outputs, name="net"), "file", tmp_path), methods=methods, samples=2, **checks)
    folder = run(spec, tmp_path / "out", reporter=reporter)
    for table in ("attributions", "metrics", "curves", "randomisation"):
        assert {row["method"] for row in rows(folder, table)} == {"occlusion"}, table
    assert len(rows(folder, "classification")) == 6
    blanks = json.loads((folder / "run.json").read_text())["stages"]["gradcam"]["blanks"]
    assert len(blanks) == 3 and all("2 of 2 maps" in line and "left out: they are NaN or infinite" in line for line in blanks)
    assert not list(read_maps(folder, "gradient")) and len(list(read_maps(folder, "occlusion"))) == 2
    status, _, error = command("picture", folder, "--image", 0, "--method", "gradient")
    assert status == 2 and "'0': no map can be drawn. gradient: 1 of 1 map, such as" in error and "NaN or infinite" in error


def test_a_path_of_too_few_steps_says_what_its_map_misses(job: Any, reporter: Any, tmp_path: Path) -> None:
    model = model_of(lambda x: layers.Dense(3, activation="softmax")(ops.tanh(layers.Dense(9)(30 * x))))
    spec = job(stored(model, "file", tmp_path), methods=["integrated_gradients"], steps=3)
    folder = run(spec, tmp_path / "out", reporter=reporter)
    gaps = [row["gap"] for row in rows(folder, "attributions")]
    assert max(gaps) > 0.01
    assert json.loads((folder / "run.json").read_text())["stages"]["gradcam"]["gaps"] == {"integrated_gradients": max(gaps)}
    assert any("do not add up to their scores" in line for line in reporter.lines)


def test_what_was_inferred_is_said_and_kept(job: Any, reporter: Any, tmp_path: Path) -> None:
    spec = job(stored(model_of(HEADS["one sigmoid"]), "file", tmp_path))
    folder = run(spec, tmp_path / "out", reporter=reporter)
    assert any(line.startswith("head: sigmoid (the network ends in a sigmoid") for line in reporter.lines)
    receipt = json.loads((folder / "run.json").read_text())
    assert receipt["spec"]["model"]["head"] == "sigmoid" and "classes 0 and 1" in receipt["settings"]["head"]["reason"]
