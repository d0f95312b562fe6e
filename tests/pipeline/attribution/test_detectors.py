"""Detectors, several outputs and stored maps, from the command's spec to the index, against plain Keras."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from explaining import stored

import convscope
from pipeline import load_spec, run
from pipeline.compiled.default_layer import default_layer
from pipeline.compiled.graph_walk import last_convolution
from pipeline.errors import MissingInput, WrongSpec
from pipeline.models.registry import open_network
from pipeline.spec.model import ModelSpec
from pipeline.store.tables import read_index

layers, ops = keras.layers, keras.ops
SIDE = 16
CENTRES = np.stack(np.meshgrid(np.arange(1, SIDE, 2.0), np.arange(1, SIDE, 2.0)), -1).reshape(-1, 2).astype(np.float32)
PLACE = (0.25, 0.25, 0.6, 0.75)


def backbone() -> tuple[Any, Any]:
    keras.utils.set_random_seed(7)
    inputs = keras.Input((SIDE, SIDE, 3))
    return inputs, layers.Conv2D(6, 3, strides=2, padding="same", activation="relu", name="conv")(inputs)


def heads_of(maps: Any) -> tuple[Any, Any, Any]:
    """Boxes as centre and size in pixels, the evidence for an object, that for three classes: (batch, 64, 4), 1 and 3."""
    raw = layers.Reshape((64, 8))(layers.Conv2D(8, 1, kernel_initializer=keras.initializers.RandomNormal(stddev=4, seed=1))(maps))
    centres = layers.Rescaling(1.0, 0.0)(raw[..., :2]) + ops.convert_to_tensor(CENTRES)
    return layers.Concatenate()([centres, 3 * ops.exp(0.1 * ops.tanh(raw[..., 2:4]))]), raw[..., 4:5], raw[..., 5:]


def detector(kind: str) -> tuple[Any, Any]:
    """A detector, and its boxes, evidence for an object and evidence for classes as a model."""
    inputs, maps = backbone()
    boxes, thing, z = heads_of(maps)
    plain = keras.Model(inputs, [boxes, thing, z])
    if kind == "yolo":
        outputs = layers.Concatenate(name="all")([boxes, layers.Activation("sigmoid")(layers.Concatenate()([thing, z]))])
    elif kind == "columns":  # as newer YOLO exports: (batch, 4 + classes, boxes)
        outputs = layers.Concatenate(axis=1)([layers.Permute((2, 1))(boxes), ops.sigmoid(layers.Permute((2, 1))(z))])
    elif kind == "levels":  # each with its own sigmoid, one behind the other
        halves = [layers.Concatenate()([boxes[:, a:b], ops.sigmoid(z[:, a:b])]) for a, b in ((0, 40), (40, 64))]
        outputs = layers.Concatenate(axis=1, name="all")(halves)
    else:
        outputs = [layers.Identity(name="boxes")(boxes), layers.Softmax(name="scores")(z)]
    return keras.Model(inputs, outputs, name="detector"), plain


BOXES: dict[str, dict[str, Any]] = {
    "yolo": {"format": "cxcywh", "unit": "pixels", "objectness": True},
    "levels": {"format": "cxcywh", "unit": "pixels", "objectness": False},
    "columns": {"format": "cxcywh", "unit": "pixels", "objectness": False, "transposed": True},
    "pair": {"format": "cxcywh", "unit": "pixels"},
}


@pytest.mark.parametrize(
    ("kind", "file"),
    [
        ("yolo", "file"),
        ("yolo", "frozen"),
        ("yolo", "savedmodel"),
        ("levels", "frozen"),
        ("columns", "file"),
        ("columns", "frozen"),
        ("pair", "file"),
        ("pair", "savedmodel"),
    ],
)
def test_a_detection_is_found_by_class_and_place_and_explained_before_the_nonlinearity(
    kind: str, file: str, tmp_path: Path
) -> None:
    from pipeline.attribution.detections import DetectionTarget
    from pipeline.attribution.targets import Classes, ClassTarget

    model, plain = detector(kind)
    spec = ModelSpec(source=stored(model, file, tmp_path), layers=["*"], preprocess="none", boxes=BOXES[kind])
    network = open_network(spec)
    head = network.head()
    pixels = np.random.default_rng(0).uniform(-1, 1, (2, SIDE, SIDE, 3)).astype(np.float32)
    target = DetectionTarget(ClassTarget(Classes(3, None, head), 1), PLACE)

    @tf.function(autograph=False)
    def explain(images: Any) -> Any:
        logits = network.trace(images, ["logits"])["logits"]
        score = target.score(logits, tf.constant([1, 1]))
        return logits, score, tf.gradients(tf.reduce_sum(score), images)[0]

    logits, score, slopes = explain(tf.constant(pixels))
    given = tf.Variable(pixels)
    with tf.GradientTape() as tape:
        boxes, thing, z = plain(given)
        corners = tf.concat([boxes[..., 1::-1] - boxes[..., 3:1:-1] / 2, boxes[..., 1::-1] + boxes[..., 3:1:-1] / 2], -1) / SIDE
        sides = tf.nn.relu(tf.minimum(corners[..., 2:], PLACE[2:]) - tf.maximum(corners[..., :2], PLACE[:2]))
        shared = tf.reduce_prod(sides, -1)
        whole = tf.reduce_prod(corners[..., 2:] - corners[..., :2], -1) + (PLACE[2] - PLACE[0]) * (PLACE[3] - PLACE[1])
        overlap = shared / (whole - shared)
        certain = tf.nn.softmax(z)[..., 1] if kind == "pair" else tf.sigmoid(z)[..., 1]
        certain = certain * tf.sigmoid(thing)[..., 0] if kind == "yolo" else certain
        evidence = z[..., 1] + (thing[..., 0] if kind == "yolo" else 0)
        best = tf.argmax(certain * overlap, axis=1)
        expected = tf.gather(evidence * overlap, best, batch_dims=1)
        total = tf.reduce_sum(expected)
    assert head.kind == "boxes" and head.outputs == 3 and not head.assumed
    np.testing.assert_allclose(logits[..., :4], corners, atol=1e-5)
    np.testing.assert_allclose(logits[..., 5:], z, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(score, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(slopes, tape.gradient(total, given), rtol=1e-3, atol=1e-5)
    read = target.reading(np.asarray(logits), 1).probability
    np.testing.assert_allclose(read, tf.reduce_max(certain * overlap, axis=1), rtol=1e-4)


@pytest.mark.parametrize("kind", ["yolo", "pair"])
def test_the_relevance_of_a_detection_adds_up_to_its_evidence_times_the_overlap(
    kind: str, write_spec: Any, tmp_path: Path
) -> None:
    model = {"source": stored(detector(kind)[0], "file", tmp_path), "layers": ["*"], "preprocess": "unit"}
    path = write_spec(tmp_path / "job.toml", model=model)
    boxes = ", ".join(f"{key} = {json.dumps(value)}" for key, value in BOXES[kind].items())
    table = f'methods = ["lrp_zplus", "lrp_epsilon_gamma_box"]\ntargets = [{{ class = 1, box = {list(PLACE)} }}]\narrays = true'
    path.write_text(f"{path.read_text()}[gradcam]\nfirst = 2\n{table}\n")
    folder = run(load_spec(path, ['stages=["gradcam"]', f"model.boxes={{ {boxes} }}"]), tmp_path / "out")
    rows = read_index(folder, "attributions").to_pylist()
    assert len(rows) == 4 and all(row["gap"] < 1e-3 for row in rows)
    assert any(row["positive"] - row["negative"] > 1e-3 for row in rows)


@pytest.mark.parametrize("file", ["file", "frozen"])
def test_rows_of_boxes_are_no_tokens_that_a_detector_is_explained_by(file: str, tmp_path: Path) -> None:
    source = stored(detector("yolo")[0], file, tmp_path)
    network = open_network(ModelSpec(source=source, layers=["*"], preprocess="none", boxes=BOXES["yolo"]))
    assert any(layer.of_tokens for layer in network.layers()), "64 boxes may lie on a grid of 8 x 8"
    assert default_layer(network) == last_convolution(network)


def test_a_detector_is_asked_what_its_numbers_are(tmp_path: Path) -> None:
    source = stored(detector("yolo")[0], "file", tmp_path)
    spec: dict[str, Any] = {"source": source, "layers": ["*"], "preprocess": "none"}
    with pytest.raises(Exception, match="model.boxes"):
        open_network(ModelSpec(**spec)).head()
    with pytest.raises(WrongSpec, match="objectness = true or false"):
        open_network(ModelSpec(**spec, boxes={"format": "cxcywh", "unit": "pixels"}))
    with pytest.raises(ValueError, match="unit"):
        ModelSpec(**spec, boxes={"format": "cxcywh"})


@pytest.mark.parametrize("boxes", [{}, {"transposed": False}])
def test_boxes_in_columns_are_asked_about_and_never_read_as_rows(boxes: dict[str, Any], tmp_path: Path) -> None:
    spec: dict[str, Any] = {"source": stored(detector("columns")[0], "file", tmp_path), "layers": ["*"], "preprocess": "none"}
    table = {"format": "cxcywh", "unit": "pixels", "objectness": False, **boxes}
    if not boxes:
        with pytest.raises(WrongSpec, match=r"7 x 64 .* 64 boxes of 7.*model.boxes.transposed = true or false"):
            open_network(ModelSpec(**spec, boxes=table))
    else:  # a job that says so is taken at its word, and is shown what it said
        assert "7 boxes of 60 classes" in open_network(ModelSpec(**spec, boxes=table)).head().reason


def test_offsets_have_no_place_and_the_strongest_box_of_a_class_is_explained_all_the_same(tmp_path: Path) -> None:
    from pipeline.attribution.asked_targets import check_targets
    from pipeline.attribution.detections import DetectionTarget, detected
    from pipeline.attribution.targets import Classes, ClassTarget
    from pipeline.spec.gradcam import TargetSpec

    model, plain = detector("pair")
    spec = ModelSpec(source=stored(model, "file", tmp_path), layers=["*"], preprocess="none", boxes={"format": "offsets"})
    network = open_network(spec)
    classes = Classes(3, None, network.head())
    pixels = np.random.default_rng(0).uniform(-1, 1, (2, SIDE, SIDE, 3)).astype(np.float32)
    target = DetectionTarget(ClassTarget(classes, 2))

    @tf.function(autograph=False)
    def explain(images: Any) -> Any:
        logits = network.trace(images, ["logits"])["logits"]
        score = target.score(logits, tf.constant([2, 2]))
        return logits, score, tf.gradients(tf.reduce_sum(score), images)[0]

    logits, score, slopes = explain(tf.constant(pixels))
    given = tf.Variable(pixels)
    with tf.GradientTape() as tape:
        _, _, z = plain(given)
        best = tf.argmax(tf.nn.softmax(z)[..., 2], axis=1)
        expected = tf.gather(z[..., 2], best, batch_dims=1)
        total = tf.reduce_sum(expected)
    assert not np.asarray(logits)[..., :4].any()
    np.testing.assert_allclose(score, expected, rtol=1e-4)
    np.testing.assert_allclose(slopes, tape.gradient(total, given), rtol=1e-3, atol=1e-5)
    strongest = list(detected(np.asarray(logits)[0], network.head(), 5))
    assert all(detection.box is None for detection in strongest)
    by_hand = sorted(tf.reduce_max(tf.nn.softmax(z)[0], -1).numpy(), reverse=True)[:5]
    np.testing.assert_allclose([detection.probability for detection in strongest], by_hand, rtol=1e-5)
    with pytest.raises(WrongSpec, match="offsets"):
        check_targets(classes, [TargetSpec(output=1, box=(0.0, 0.0, 1.0, 1.0))], None)


@pytest.mark.parametrize(
    "table",
    [
        '[patterns]\nlayers = []\nobjectives = [{ name = "first", terms = [{ kind = "logit", number = 0 }] }]',
        "[dream.visualization]\nclasses = [0]",
    ],
)
def test_patterns_and_dreams_of_a_detectors_classes_are_refused(table: str, write_spec: Any, tmp_path: Path) -> None:
    model = {
        "source": stored(detector("yolo")[0], "file", tmp_path),
        "layers": ["*"],
        "preprocess": "unit",
    }
    path = write_spec(tmp_path / "job.toml", model=model)
    path.write_text(f"{path.read_text()}\n{table}\n")
    stage = "patterns" if table.startswith("[patterns") else "dream"
    boxes = 'model.boxes={ format = "cxcywh", unit = "pixels", objectness = true }'
    with pytest.raises(WrongSpec, match=r"is a detector \(model.boxes\)"):
        run(load_spec(path, [f'stages=["{stage}"]', boxes]), tmp_path / "out")


@pytest.fixture(scope="module")
def several(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network of a softmax, a regression and two labels, stored."""
    inputs, maps = backbone()
    pooled = layers.GlobalAveragePooling2D()(maps)
    kinds = [
        layers.Dense(3, "softmax", name="kind"),
        layers.Dense(1, "softplus", name="age"),
        layers.Dense(2, "sigmoid", name="tags"),
    ]
    path = tmp_path_factory.mktemp("several") / "several.keras"
    keras.Model(inputs, [layer(pooled) for layer in kinds], name="several").save(path)
    return path


def test_all_outputs_are_explained_in_turn_each_by_its_own_head_and_their_maps_are_stored(
    several: Path, write_spec: Any, tmp_path: Path
) -> None:
    path = write_spec(
        tmp_path / "job.toml", model={"source": f"file:{several}", "layers": ["*"], "preprocess": "unit", "logits": "all"}
    )
    path.write_text(path.read_text() + '\n[gradcam]\nfirst = 2\nmethods = ["gradcam", "gradient"]\narrays = true\n')
    folder = run(load_spec(path, ['stages=["gradcam"]']), tmp_path / "out")
    rows = read_index(folder, "classification").to_pylist()
    heads = {(row["logits"], row["head"]) for row in rows}
    assert heads == {("kind", "softmax"), ("age", "linear"), ("tags", "sigmoid")}
    assert all((row["probability"] is None) == (row["logits"] == "age") for row in rows)
    results = convscope.open(folder)
    assert list(results.receipt.stages["gradcam"].model_extra["outputs"]) == ["kind", "age", "tags"]
    assert results.receipt.settings["head"]["value"] == "softmax, linear, sigmoid"
    attributions = read_index(folder, "attributions").to_pylist()
    assert all((folder / row["picture"]).exists() for row in attributions)
    assert len({row["picture"] for row in attributions}) == len(attributions)
    for method in ("gradcam", "gradient"):
        indexed = [row for row in attributions if row["method"] == method]
        maps = list(results.maps(method))
        assert [(kept.example, kept.logits, kept.target) for kept in maps] == [
            (row["example"], row["logits"], row["target"]) for row in indexed
        ]
        for kept, row in zip(maps, indexed, strict=True):
            assert kept.values.shape[:2] == (row["map_height"], row["map_width"])
            largest = np.abs(kept.values).sum(-1).max() if kept.values.ndim == 3 else kept.values.max()
            assert largest == pytest.approx(row["peak"], rel=2e-3)
    nulls = results.attributions.query("method == 'gradient'")["layer"]
    assert [len(list(results.maps("gradient", null))) for null in nulls.unique()] == [len(list(results.maps("gradient")))]
    with pytest.raises(MissingInput, match="gradcam"):
        list(results.maps("hirescam", "conv"))


@pytest.mark.parametrize("peak", [3e-9, 1.0, 7e8, 0.0])
def test_maps_in_halves_keep_three_digits_whatever_their_size(peak: float) -> None:
    from pipeline.attribution.map_files import in_halves

    values = (peak * np.random.default_rng(1).uniform(-1, 1, (5, 4))).astype(np.float32)
    halves, scale = in_halves(values)
    np.testing.assert_allclose(halves.astype(np.float64) * scale, values, rtol=1e-3, atol=peak * 1e-6)
