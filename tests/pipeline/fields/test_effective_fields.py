"""Effective fields: the gradients of winners by an independent slow way, the boxes by trying all, and the crops of a job."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

sys.path.insert(0, str(Path(__file__).parents[1] / "models" / "graphs"))

from frozen_graphs import convolve, freeze_v1, opened, v1, weights

from pipeline import run
from pipeline.compiled import energy
from pipeline.drawing.pixels import decode_png
from pipeline.errors import WrongSpec
from pipeline.fields import solve_fields
from pipeline.fields.effective import EffectiveFields, UnitCentres, covers_most
from pipeline.geometry import EDGES
from pipeline.load import parse_spec
from pipeline.models.keras.model import keras_network
from pipeline.store.tables import read_index

SIDE = 20


@pytest.fixture(scope="module")
def model() -> Any:
    """Squeeze and excitation, by which every unit sees the whole image; a ceiling; an inactive ReLU; a vector."""
    L = keras.layers
    x = inputs = keras.Input((SIDE, SIDE, 3))
    x = first = L.Conv2D(6, 3, strides=2, padding="same", activation="relu", name="first")(x)
    weight = L.Dense(6, activation="sigmoid", name="excite")(L.GlobalAveragePooling2D(name="squeeze")(x))
    x = L.Multiply(name="scaled")([first, L.Reshape((1, 1, 6))(weight)])
    x = L.Conv2D(5, 3, name="deep")(x)
    capped = L.ReLU(6.0, name="capped")(L.Rescaling(1000.0, offset=1000.0)(x))
    closed = L.ReLU(name="closed")(L.Rescaling(1.0, offset=-1e6)(x))
    pooled = [L.GlobalAveragePooling2D()(value) for value in (x, capped, closed)]
    pooled[0] = L.Dense(4, name="vector")(pooled[0])
    model = keras.Model(inputs, L.Concatenate(name="end")(pooled), name="small")
    random = np.random.default_rng(3)
    for variable in model.weights:
        variable.assign(random.normal(0, 0.3, variable.shape))
    return model


@pytest.fixture(scope="module")
def network(model: Any) -> Any:
    return keras_network(model, "small", None, "unit")


@pytest.fixture(scope="module")
def fields(network: Any) -> Any:
    return solve_fields(network, network.layers())


@pytest.fixture(scope="module")
def images() -> Any:
    """Smooth random pictures, in which some places matter more than others."""
    noise = np.random.default_rng(5).random((7, 5, 5, 3))
    return tf.image.resize(noise * 255, (SIDE, SIDE), "bicubic").numpy().clip(0, 255).astype(np.uint8)


def finder(network: Any, fields: Any, name: Any) -> Any:
    (layer,) = (layer for layer in network.layers() if layer.name == name)
    return EffectiveFields(network, layer, fields[name])


def units(fields: Any, name: Any, channels: Any, count: Any, seed: Any = 0) -> Any:
    random = np.random.default_rng(seed)
    height, width = fields[name].boxes.shape[:2]
    return np.stack([random.integers(size, size=count) for size in (height, width, channels)], axis=1)


def slow_energy(function: Any, pixels: Any, unit: Any) -> Any:
    """One unit's squared gradient, by a tape and without batches, float64 (h, w)."""
    pixels = tf.constant(pixels[None], tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(pixels)
        maps = function(pixels)
        maps = maps if maps.shape.rank == 4 else maps[:, None, None]
        value = maps[0, unit[0], unit[1], unit[2]]
    return (tape.gradient(value, pixels).numpy()[0].astype(np.float64) ** 2).sum(axis=-1)


def slow_box(energy: Any, within: Any, around: Any) -> Any:
    """The smallest box by trying all inside another."""
    sums = np.pad(energy.cumsum(0).cumsum(1), ((1, 0), (1, 0)))
    best = None
    y1, x1, y2, x2 = (int(edge) for edge in within)
    for top in range(y1, y2):
        for bottom in range(top + 1, y2 + 1):
            for left in range(x1, x2):
                held = sums[bottom, left + 1 : x2 + 1] - sums[top, left + 1 : x2 + 1] - (sums[bottom, left] - sums[top, left])
                enough = np.flatnonzero(held >= 0.95 * energy.sum())
                enough = enough if around[1] is None else enough[left + 1 + enough > around[1]]
                inside = around[0] is None or top <= around[0] < bottom
                if inside and len(enough) and (around[1] is None or left <= around[1]):
                    right = left + 1 + int(enough[0])
                    area = (bottom - top) * (right - left)
                    if best is None or area < best[0]:
                        best = area, (top, left, bottom, right)
    return best


@pytest.mark.parametrize("name", ["scaled", "deep", "vector"])
def test_boxes_are_those_of_a_slow_independent_search(model: Any, network: Any, fields: Any, images: Any, name: Any) -> None:
    part = keras.Model(model.input, model.get_layer(name).output)
    images = np.tile(images, (2, 1, 1, 1))
    asked = units(fields, name, part.output.shape[-1], len(images))
    actual = finder(network, fields, name).boxes(images, asked)
    for image, unit, box in zip(images, asked, actual, strict=True):
        expected = slow_energy(part, image / np.float32(255), unit)
        if not expected.any():
            assert not box.any()
            continue
        y1, x1, y2, x2 = box
        assert expected[y1:y2, x1:x2].sum() >= 0.95 * expected.sum() * (1 - 1e-5)
        around = (None, None) if name == "vector" else [int((at + 0.5) * SIDE / len(fields[name].boxes)) for at in unit[:2]]
        area, _ = slow_box(expected, fields[name].boxes[unit[0], unit[1]], around)
        assert (y2 - y1) * (x2 - x1) == area
        assert around[0] is None or (y1 <= around[0] < y2 and x1 <= around[1] < x2)
    assert actual.any(axis=1).sum() >= 5 and len(np.unique(actual, axis=0)) >= 5
    assert fields[name].is_global and ((actual[:, 2:] - actual[:, :2]).prod(axis=1) < 0.9 * SIDE**2).any()


def test_a_box_contains_both_the_energy_and_the_position_of_the_unit(
    network: Any, fields: Any, images: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    spot = np.zeros((1, SIDE, SIDE), np.float32)
    spot[0, 18, 17] = 1
    for name, unit, expected in (
        ("scaled", (2, 7, 0), (5, 15, 19, 18)),
        ("deep", (2, 7, 0), (6, 17, 19, 19)),
        ("vector", (0, 0, 0), (18, 17, 19, 18)),
    ):
        actual = finder(network, fields, name)
        monkeypatch.setattr(actual, "_energy", lambda images, units: spot)
        assert actual.boxes(images[:1], np.array([unit])).tolist() == [list(expected)]


@pytest.mark.parametrize(("size", "stride", "padding"), [(5, 1, "valid"), (4, 2, "valid"), (5, 2, "same"), (3, 4, "valid")])
def test_a_unit_stands_in_the_middle_of_its_field(size: Any, stride: Any, padding: Any) -> None:
    inputs = keras.Input((21, 22, 3))
    outputs = keras.layers.Conv2D(2, size, stride, padding, name="conv")(inputs)
    network = keras_network(keras.Model(inputs, outputs), "one", None, "unit")
    fields = solve_fields(network, network.layers())
    places = UnitCentres.of(fields["conv"], 21, 22)
    for row, col in np.ndindex(fields["conv"].boxes.shape[:2]):
        y1, x1, y2, x2 = fields["conv"].boxes[row, col]
        for centre, first, last in ((places.rows[row], y1, y2), (places.cols[col], x1, x2)):
            assert last - first < size or centre == (first + last) // 2


def test_a_box_lies_inside_the_units_own_field(network: Any, fields: Any, images: Any) -> None:
    asked = units(fields, "first", 6, len(images))
    actual = finder(network, fields, "first").boxes(images, asked)
    limits = fields["first"].boxes[asked[:, 0], asked[:, 1]]
    some = actual.any(axis=1)
    assert some.sum() >= 4
    assert (actual[some, :2] >= limits[some, :2]).all() and (actual[some, 2:] <= limits[some, 2:]).all()


def test_the_size_of_the_batches_makes_no_difference(
    network: Any, fields: Any, images: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = units(fields, "deep", 5, len(images))
    boxes = []
    for most in (1, 3, 32):
        monkeypatch.setattr(energy, "_MOST_BATCH", most)
        boxes.append(finder(network, fields, "deep").boxes(images, asked))
    np.testing.assert_array_equal(boxes[0], boxes[1])
    np.testing.assert_array_equal(boxes[0], boxes[2])


def test_units_at_a_ceiling_get_the_field_that_they_would_have_below_it(
    model: Any, network: Any, fields: Any, images: Any
) -> None:
    maps = keras.Model(model.input, [model.get_layer(name).output for name in ("deep", "capped")])(images / np.float32(255))
    deep, capped = (value.numpy() for value in maps)
    image, row, col, channel = np.argwhere((capped == 6).sum(axis=(1, 2), keepdims=True) * (capped == 6) > 0)[0]
    unit = np.array([[row, col, channel]])
    assert deep[image, row, col, channel] != 0
    at_ceiling, below = (finder(network, fields, name).boxes(images[image][None], unit) for name in ("capped", "deep"))
    assert below.any()
    np.testing.assert_array_equal(at_ceiling, below)


@pytest.mark.parametrize(
    "clamp",
    [
        keras.layers.ReLU(3),
        keras.layers.Activation("hard_sigmoid"),
        lambda x: keras.ops.clip(x, -1.0, 1.0),
        lambda x: keras.ops.minimum(x, np.array([1, 2, 3, 4, 5], np.float32)),
        lambda x: keras.layers.MaxPooling2D(1)(keras.ops.where(x > 2.0, 2.0, x)),
    ],
    ids=["ReLU of a maximum", "hard sigmoid", "clip", "minimum", "written out, then pooled"],
)
def test_units_at_any_other_ceiling_get_it_too(clamp: Any, model: Any, network: Any, fields: Any, images: Any) -> None:
    high = keras.layers.Rescaling(1.0, offset=1000.0)(model.get_layer("deep").output)
    clamped = keras_network(keras.Model(model.input, clamp(high)), "clamped", None, "unit")
    name = clamped.layers()[-1].name
    unit = np.array([[2, 3, 1]])
    at_ceiling = finder(clamped, solve_fields(clamped, clamped.layers()[-1:]), name).boxes(images[:1], unit)
    below = finder(network, fields, "deep").boxes(images[:1], unit)
    assert below.any()
    np.testing.assert_array_equal(at_ceiling, below)


def test_units_that_nothing_wakes_have_none_and_are_counted(network: Any, fields: Any, images: Any) -> None:
    closed = finder(network, fields, "closed")
    assert not closed.boxes(images, units(fields, "closed", 5, len(images))).any()
    assert (closed.solved, closed.without) == (0, len(images))


def test_a_frozen_graph_gives_them_too(tmp_path: Path, images: Any) -> None:
    kernel, deeper = weights(3, 3, 3, 4), weights(3, 3, 4, 2, seed=1)

    def build() -> None:
        x = convolve(v1.placeholder(tf.float32, (None, SIDE, SIDE, 3), name="input"), kernel, 2)
        x = tf.multiply(x, tf.sigmoid(tf.reduce_mean(x, (1, 2), keepdims=True)))
        convolve(tf.nn.relu(x), deeper, name="end")

    def by_hand(pixels: Any) -> Any:
        x = convolve(pixels, kernel, 2)
        return convolve(tf.nn.relu(x * tf.sigmoid(tf.reduce_mean(x, (1, 2), keepdims=True))), deeper)

    network = opened(freeze_v1(tmp_path, build, ["end"]))
    fields = solve_fields(network, network.layers())
    asked = units(fields, "end", 2, len(images))
    actual = finder(network, fields, "end").boxes(images, asked)
    for image, unit, (y1, x1, y2, x2) in zip(images, asked, actual, strict=True):
        expected = slow_energy(by_hand, image, unit)
        around = [int(at * 2 + 1) for at in unit[:2]]
        assert (y2 - y1) * (x2 - x1) == slow_box(expected, (0, 0, SIDE, SIDE), around)[0]


def test_most_of_the_image_is_more_than_half_of_its_area(fields: Any) -> None:
    assert not covers_most(fields["first"], SIDE, SIDE) and covers_most(fields["scaled"], SIDE, SIDE)
    assert not covers_most(fields["first"], 3, 6) and covers_most(fields["first"], 3, 5)


# ---- a job


def effective_job(tmp_path: Any, model: Any, pictures: Any, **data: Any) -> Any:
    path = tmp_path / "small.keras"
    model.save(path)
    return parse_spec(
        {
            "name": "small",
            "model": {"source": f"file:{path}", "layers": ["first", "scaled", "deep", "capped", "closed"], "preprocess": "unit"},
            "data": {"source": f"folder:{pictures}", **data},
            "activations": {"top_k": 3, "crop": "effective"},
        }
    )


def test_a_job_crops_large_fields_to_the_effective_ones_and_keeps_both_boxes(
    model: Any, fields: Any, pictures: Any, quiet: Any, tmp_path: Path
) -> None:
    import pyarrow.parquet as pq

    tables = []
    for batch in (4, 16):
        folder = run(effective_job(tmp_path, model, pictures, batch=batch), tmp_path / str(batch), reporter=quiet)
        tables.append(read_index(folder, "activations"))
    assert tables[0] == tables[1]
    layers = {name: [] for name in ("first", "scaled", "deep", "capped", "closed")}
    for row in tables[0].to_pylist():
        layers[row["layer"]].append(row)
        assert [row[edge] for edge in EDGES] == fields[row["layer"]].boxes[row["row"], row["col"]].tolist()
    for row in layers["first"] + layers["closed"]:
        assert all(row[f"{prefix}{edge}"] is None for prefix in ("eff_", "eff_src_") for edge in EDGES)
    for name, rows in layers.items():
        crops = pq.read_table(folder / "crops" / f"{name}.parquet").to_pylist()
        for row, crop in zip(rows, crops, strict=True):
            cut = "src_" if name in ("first", "closed") else "eff_src_"
            y1, x1, y2, x2 = (row[f"{cut}{edge}"] for edge in EDGES)
            pixels = decode_png((pictures / row["key"]).read_bytes())[y1:y2, x1:x2]
            np.testing.assert_array_equal(decode_png(crop["image"]["bytes"]), pixels)
    assert any((row["eff_y2"] - row["eff_y1"]) * (row["eff_x2"] - row["eff_x1"]) < SIDE**2 / 2 for row in layers["deep"])


def test_the_receipt_says_what_was_cropped_so_and_what_could_not_be(
    model: Any, pictures: Any, quiet: Any, tmp_path: Path
) -> None:
    import json

    folder = run(effective_job(tmp_path, model, pictures), tmp_path / "out", reporter=quiet)
    receipt = json.loads((folder / "run.json").read_text())
    assert receipt["stages"]["activations"]["effective"] == {
        "scaled": {"found": 18, "without": 0},
        "deep": {"found": 15, "without": 0},
        "capped": {"found": 15, "without": 0},
    }


def test_a_network_with_an_operation_without_gradient_is_refused_before_work_starts(
    pictures: Any, quiet: Any, tmp_path: Path
) -> None:
    def build() -> None:
        image = v1.placeholder(tf.float32, (None, SIDE, SIDE, 3), name="input")
        v1.image.resize_area(image, (5, 5), name="end")

    spec = parse_spec(
        {
            "name": "none",
            "model": {"source": f"frozen:{freeze_v1(tmp_path, build)}", "layers": "*", "preprocess": "unit"},
            "data": {"source": f"folder:{pictures}"},
            "activations": {"crop": "effective"},
        }
    )
    with pytest.raises(WrongSpec, match="effective fields need gradients.*ResizeArea.*Set activations.crop"):
        run(spec, tmp_path / "out", reporter=quiet)
    assert not (tmp_path / "out" / "none" / "run.json").exists()


def test_gradients_too_small_for_half_precision_are_energy_all_the_same() -> None:
    def build(policy: str) -> Any:
        x = inputs = keras.Input((32, 32, 3))
        x = keras.layers.AveragePooling2D(16, dtype=policy)(keras.layers.Conv2D(2, 3, padding="same", dtype=policy)(x))
        return keras.Model(inputs, keras.layers.Conv2D(1, 1, name="faint", dtype=policy)(x))

    half, whole = build("mixed_float16"), build("float32")
    random = np.random.default_rng(0)
    half.set_weights([random.normal(0, 0.3, weight.shape) * (1e-4 if weight.shape[0] == 1 else 1) for weight in half.weights])
    whole.set_weights(half.get_weights())
    images, units = random.integers(0, 256, (2, 32, 32, 3), np.uint8), np.array([[0, 1, 0], [1, 1, 0]])
    energies = []
    for model in (half, whole):
        network = keras_network(model, "net", None, "unit")
        (layer,) = [layer for layer in network.layers() if layer.name == "faint"]
        energies.append(energy.energy_of(network, layer)(images, units))
    assert (energies[1] > 0).sum() > 400
    np.testing.assert_allclose(energies[0], energies[1], atol=0.02)
