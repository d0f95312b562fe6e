"""The stage: what a job with `gradcam` leaves, and what is wrong before it starts."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import cv2
import keras
import numpy as np
import pytest
from explaining import compile_explanations
from stopping import Stopping

from pipeline import load_spec, run
from pipeline.attribution import heat
from pipeline.attribution.explainer import Explainer
from pipeline.errors import MissingInput, UnknownLayer, UnknownName, UnusableModel, WrongSpec
from pipeline.models.registry import open_network
from pipeline.sources.fit import Fit
from pipeline.store.tables import read_index

METHODS = ["gradcam", "hirescam", "gradcam++", "gradient", "guided_backprop", "guided_gradcam", "integrated_gradients"]


def add_gradcam(path: Any, keys: Any) -> Any:
    lines = [f"{key} = {json.dumps(value)}" for key, value in keys.items()]
    path.write_text("\n".join([path.read_text(), "[gradcam]", *lines, ""]))
    return load_spec(path, ['stages=["gradcam"]'])


@pytest.fixture
def write(write_spec: Any, tmp_path: Path) -> Any:
    """A function: a spec of the stage alone, with some keys of [gradcam] and [model]."""

    def write(model: Any = None, **keys: Any) -> Any:
        labels = tmp_path / "labels.txt"
        labels.write_text("dog\nhouse\ncat\n")
        return add_gradcam(write_spec(tmp_path / "cam.toml", model={"labels": str(labels), **(model or {})}), keys)

    return write


@pytest.fixture(scope="module")
def explained(write_spec: Any, quiet: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A finished job: three images in batches of two, all methods, three classes, all checks."""
    folder = tmp_path_factory.mktemp("explained")
    (folder / "labels.txt").write_text("dog\nhouse\ncat\n")
    keys = {
        "first": 3,
        "methods": METHODS,
        "classes": ["predicted", "label", 1],
        "sanity": ["randomisation", "curves"],
        "batch": 2,
        "steps": 40,
    }
    spec = add_gradcam(write_spec(folder / "cam.toml", model={"labels": str(folder / "labels.txt")}), keys)
    return spec, run(spec, folder, reporter=quiet)


def rows(folder: Any, name: Any) -> Any:
    return read_index(folder, name).to_pylist()


def test_the_likeliest_classes_of_every_image_are_in_the_index(explained: Any, tiny_model: Any) -> None:
    _spec, folder = explained
    table = rows(folder, "classification")
    assert len(table) == 3 * 3  # a network of three classes has no five
    for example in range(3):
        own = [row for row in table if row["example"] == example]
        assert [row["rank"] for row in own] == [0, 1, 2] and sum(row["probability"] for row in own) == pytest.approx(1)
        logits = np.array([row["logit"] for row in own])
        assert (np.diff(logits) <= 0).all()
        np.testing.assert_allclose(
            [row["probability"] for row in own], np.exp(logits - logits[0]) / np.exp(logits - logits[0]).sum()
        )
        assert all(row["name"] == ("dog", "house", "cat")[row["class"]] for row in own)
        assert own[0]["label"] == ("cat", "dog")[0] and own[0]["key"].startswith("cat/")


def test_the_index_has_one_row_for_each_image_method_layer_and_class(explained: Any) -> None:
    _spec, folder = explained
    table = rows(folder, "attributions")
    names = [(row["example"], row["method"], row["layer"], row["class"]) for row in table]
    assert len(set(names)) == len(names)
    first = {row["example"]: row["class"] for row in rows(folder, "classification") if row["rank"] == 0}
    for example in range(3):
        classes = {first[example], 2, 1}  # the predicted one, the label's, the one asked for
        layers = {"gradient": None, "guided_backprop": None, "integrated_gradients": None}
        expected = {(example, method, layers.get(method, "shapes"), number) for method in METHODS for number in classes}
        assert expected == {name for name in names if name[0] == example}
    chances = {(row["example"], row["class"]): row["probability"] for row in rows(folder, "classification")}
    for row in table:
        assert row["probability"] == pytest.approx(chances[row["example"], row["class"]])
        assert (row["map_height"], row["map_width"]) == ((6, 6) if row["method"] in METHODS[:3] else (16, 16))
        assert 0 <= row["row"] < row["map_height"] and 0 <= row["col"] < row["map_width"]
        assert 0 <= row["y1"] < row["y2"] <= 16 and 0 <= row["x1"] < row["x2"] <= 16
        assert 0 <= row["src_y1"] < row["src_y2"] <= 24 and 0 <= row["src_x1"] < row["src_x2"] <= 26
        guided = row["method"].startswith("guided")
        assert (row["rule"], row["replaced"]) == (("relu", 1) if guided else (None, None))


def test_digests_peaks_and_boxes_are_those_of_the_maps(explained: Any, pictures: Any) -> None:
    spec, folder = explained
    table = {(row["example"], row["method"], row["class"]): row for row in rows(folder, "attributions")}
    network = open_network(spec.model)
    keys = [("gradcam", "shapes"), ("guided_backprop", None)]
    fit, source = Fit(16, 16), cv2.imread(str(sorted(pictures.rglob("*.png"))[0]))[..., ::-1]
    image, (scales, offsets) = fit.apply(source), fit.scale_and_offset(*source.shape[:2])
    own = compile_explanations(network, keys, 2, 3)(np.stack([image, image]), np.array([[1, 2, 0]] * 2, np.int32))
    for method, layer in keys:
        values = own.maps[method, layer][0, 0]
        row = table[0, method, 1]
        assert row["peak"] == pytest.approx(np.abs(values).sum(axis=-1).max() if layer is None else values.max(), rel=1e-4)
        focus = heat.focus(values, 16, 16)
        assert (row["row"], row["col"]) == (focus.row, focus.col) and focus.row != focus.col
        edges = (focus.box.y1, focus.box.x1, focus.box.y2, focus.box.x2)
        assert tuple(row[edge] for edge in ("y1", "x1", "y2", "x2")) == edges and focus.box.height * focus.box.width < 16 * 16
        there = np.array(edges) * [*scales, *scales] + [*offsets, *offsets]  # in the pixels of the source
        assert np.abs(np.array([row[f"src_{edge}"] for edge in ("y1", "x1", "y2", "x2")]) - there).max() <= 1
        assert np.abs(there - edges).max() > 2
        if np.array_equal(values, own.maps[method, layer][1, 0]):
            assert row["digest"] == hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()[:16]


def test_every_picture_is_where_the_index_says_and_shows_the_source(explained: Any, pictures: Any) -> None:
    _, folder = explained
    table = rows(folder, "attributions")
    for row in table:
        drawn = cv2.imread(str(folder / row["picture"]))
        assert drawn is not None and drawn.shape[0] > 190  # tiny images are enlarged
    singles = {row["picture"] for row in table}
    assert len(singles) == len(table)
    pairs = {(row["example"], row["class"]) for row in table}
    written = {str(path.relative_to(folder)) for path in (folder / "mosaics").rglob("*.png")}
    sides = {f"mosaics/gradcam/{example}/{number}-shapes.png" for example, number in pairs}
    trust = {f"mosaics/gradcam/trust/{name}.png" for name in ("randomisation", "curves")}
    assert written == singles | sides | trust | {"mosaics/gradcam/shapes.png"}


def test_the_checks_are_a_table_and_a_plot(explained: Any) -> None:
    _, folder = explained
    maps = len(rows(folder, "attributions"))
    curves = rows(folder, "curves")
    assert len(curves) == maps * 2 * 21
    whole = {(row["example"], row["class"]): row["probability"] for row in rows(folder, "attributions")}
    for row in curves:
        if (row["kind"], row["share"]) in (("deletion", 0.0), ("insertion", 1.0)):
            assert row["probability"] == pytest.approx(whole[row["example"], row["class"]], rel=1e-3)
    random = rows(folder, "randomisation")
    assert len(random) == maps * 4 and {row["step"] for row in random} == {0, 1, 2, 3}
    assert next(row["down_to"] for row in random if row["step"] == 3) == "edges"
    for row in random:
        assert -1 <= row["rank_correlation"] <= 1.0001 and (row["step"] or row["ssim"] > 0.999)


def test_the_receipt_and_show_tell_where_and_what(explained: Any, command: Any) -> None:
    _, folder = explained
    done = json.loads((folder / "run.json").read_text())["stages"]["gradcam"]
    assert done["layers"] == ["shapes"] and done["images"] == 3 and (done["rule"], done["replaced"]) == ("relu", 1)
    assert done["maps"] == len(rows(folder, "attributions"))
    status, out, _ = command("show", folder)
    assert status == 0 and "3 images explained at shapes" in out


def test_single_pictures_are_explained_beside_the_data(write: Any, quiet: Any, tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (300, 200, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "one.png"), pixels)
    spec = write(files=[str(tmp_path / "one.png")], keys=["dog/001.png"], layers=["edges", "shapes"], methods="gradcam")
    folder = run(spec, tmp_path / "out", reporter=quiet)
    table = rows(folder, "attributions")
    assert [(row["example"] is None, row["layer"]) for row in table] == [
        (False, "edges"),
        (False, "shapes"),
        (True, "edges"),
        (True, "shapes"),
    ]
    drawn = cv2.imread(str(folder / table[2]["picture"]))
    assert drawn.shape[0] > 300 and drawn.shape[1] > 200  # the source's own resolution, with words and a scale
    assert {path.name for path in (folder / "mosaics/gradcam").iterdir() if path.is_file()} == {"edges.jpg", "shapes.jpg"}
    assert [row["picture"][-4:] for row in table] == [".png", ".png", ".jpg", ".jpg"]  # squares stay sharp


def test_a_second_run_leaves_no_pictures_of_the_first(write: Any, quiet: Any, tmp_path: Path) -> None:
    for first in (3, 1):
        folder = run(write(first=first, methods="gradcam"), tmp_path / "out", reporter=quiet)
    assert {path.name for path in (folder / "mosaics/gradcam").iterdir() if any(path.glob("*")) or path.is_file()} == {
        "0",
        "shapes.png",
    }


def test_an_interrupted_stage_that_stores_its_maps_goes_on_after_the_last_batch_to_the_same_bytes(
    write: Any, quiet: Any, tmp_path: Path, tree_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = write(first=3, batch=1, arrays=True, methods=["gradcam", "gradient"], aggregate=["channels"], sanity=["curves"])
    whole = run(spec, tmp_path / "whole", reporter=quiet)
    with pytest.raises(KeyboardInterrupt):
        run(spec, tmp_path / "cut", reporter=Stopping("gradcam", 2))
    made, explain = [], Explainer.explain
    monkeypatch.setattr(Explainer, "explain", lambda *arguments: made.append(1) or explain(*arguments))
    again = run(spec, tmp_path / "cut", reporter=quiet)
    assert len(made) == 1  # of three batches
    parts = ("index", "maps", "mosaics")
    assert tree_of(again, *parts) == tree_of(whole, *parts) and list(again.glob("maps/*.parquet"))
    assert not list(again.glob("parts/gradcam/*"))


@pytest.mark.parametrize(
    ("keys", "kind", "words"),
    [
        ({"classes": [3]}, WrongSpec, "there is no class 3; they run from 0 to 2"),
        ({"classes": ["hose"]}, UnknownName, "nearest: house"),
        ({"layers": ["classes"]}, WrongSpec, "'classes' has no map.*such as 'shapes'"),
        ({"layers": ["edge"]}, UnknownLayer, "nearest: edges"),
        ({"examples": [20]}, WrongSpec, "example 20 is not there"),
        ({"files": ["nowhere.png"]}, MissingInput, "nowhere.png"),
    ],
)
def test_missing_inputs_are_reported_before_any_work(
    write: Any, quiet: Any, tmp_path: Path, keys: Any, kind: Any, words: Any
) -> None:
    with pytest.raises(kind, match=words):
        run(write(**keys), tmp_path / "out", reporter=quiet)
    assert not (tmp_path / "out" / "tiny" / "index").exists()


def test_a_file_of_class_names_that_does_not_fit_is_refused(write: Any, quiet: Any, tmp_path: Path) -> None:
    (tmp_path / "two.txt").write_text("one\ntwo\n")
    with pytest.raises(WrongSpec, match="has 2 names, but tiny has 3 classes"):
        run(write(model={"labels": str(tmp_path / "two.txt")}), tmp_path / "out", reporter=quiet)
    (tmp_path / "other.txt").write_text("one\ntwo\nthree\n")
    with pytest.raises(WrongSpec, match="no label of the data"):
        run(write(model={"labels": str(tmp_path / "other.txt")}, classes="label"), tmp_path / "out", reporter=quiet)


def test_when_the_file_of_class_names_holds_other_names_the_stage_runs_again_and_when_it_does_not_it_does_not(
    write: Any, quiet: Any, tmp_path: Path
) -> None:
    spec = write(first=2)
    named, anew = tmp_path / "labels.txt", []
    for text in ("dog\nhouse\ncat\n", "dog\nhouse\ncat\n", "Dog\nHouse\nCat\n"):
        named.write_text(text)
        folder = run(spec, tmp_path / "out", reporter=quiet)
        receipt = json.loads((folder / "run.json").read_text())["stages"]["gradcam"]
        anew.append(receipt["started"] + str((folder / "index" / "classification.parquet").stat().st_mtime_ns))
    assert list(receipt["file_digests"]) == [str(named)]
    assert anew[0] == anew[1] != anew[2]
    assert {row["name"] for row in rows(folder, "classification")} == {"Dog", "House", "Cat"}


def test_a_network_without_a_classifier_can_do_everything_else(write_spec: Any, quiet: Any, tmp_path: Path) -> None:
    import keras

    inputs = keras.Input((16, 16, 3))
    keras.Model(inputs, keras.layers.Conv2D(4, 3, name="edges")(inputs)).save(tmp_path / "headless.keras")
    model = {"source": f"file:{tmp_path / 'headless.keras'}", "layers": ["edges"]}
    path = write_spec(tmp_path / "cam.toml", model=model, data={"limit": 4})
    with pytest.raises(UnusableModel, match="has no logits.*leave gradcam out of stages"):
        run(load_spec(path, ['stages=["activations", "gradcam"]']), tmp_path / "out", reporter=quiet)
    assert (run(load_spec(path), tmp_path / "out", reporter=quiet) / "index/activations.parquet").exists()


def test_one_best_class_for_all_images_of_the_first_batch_is_a_warning_that_names_the_preprocessing(
    tiny_model: Any, write: Any, reporter: Any, tmp_path: Path
) -> None:
    model = keras.models.clone_model(tiny_model)
    model.set_weights(tiny_model.get_weights())
    model.get_layer("classes").bias.assign([0, 0, 1e6])
    model.save(tmp_path / "right.keras")
    spec = write(model={"source": f"file:{tmp_path / 'right.keras'}"}, first=6, batch=6, methods=["gradcam"])
    folder = run(spec, tmp_path / "cats", reporter=reporter)
    assert json.loads((folder / "run.json").read_text())["stages"]["gradcam"]["warnings"] == []  # the first six are cats
    model.get_layer("classes").bias.assign([0, 1e6, 0])
    model.save(tmp_path / "stuck.keras")
    spec = write(model={"source": f"file:{tmp_path / 'stuck.keras'}"}, first=6, batch=6, methods=["gradcam"])
    folder = run(spec, tmp_path / "out", reporter=reporter)
    (warning,) = json.loads((folder / "run.json").read_text())["stages"]["gradcam"]["warnings"]
    assert "the best class of all 6 images of the first batch is 'house'" in warning
    assert "model.preprocess is none (as asked)" in warning and f"warning: {warning}" in reporter.lines
    assert "preprocess: none (as asked)" in reporter.lines


def test_a_network_whose_classes_vary_and_that_has_no_tokens_is_explained_without_a_warning(explained: Any) -> None:
    assert json.loads((explained[1] / "run.json").read_text())["stages"]["gradcam"]["warnings"] == []


def test_blank_maps_do_not_go_without_a_reason(tiny_model: Any, write: Any, reporter: Any, tmp_path: Path) -> None:
    model = keras.models.clone_model(tiny_model)
    model.set_weights([weights * (1e-26 if weights.ndim == 2 else weights.ndim > 2) for weights in tiny_model.get_weights()])
    model.save(tmp_path / "faint.keras")
    methods = ["gradient", "squaregrad"]
    spec = write(model={"source": f"file:{tmp_path / 'faint.keras'}"}, first=2, batch=2, methods=methods, samples=2)
    folder = run(spec, tmp_path / "out", reporter=reporter)
    (line,) = json.loads((folder / "run.json").read_text())["stages"]["gradcam"]["blanks"]
    assert line.startswith("SquareGrad: 2 of 2 maps, such as that of 'cat/") and "zero in float32" in line
    assert "No logit is larger than " in line and line in reporter.lines


def test_explaining_the_stem_of_a_network_of_tokens_is_a_warning_that_says_what_to_choose(
    write: Any, reporter: Any, tmp_path: Path
) -> None:
    x = inputs = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(8, 4, strides=4, name="patches")(x)
    x = keras.layers.Reshape((16, 8), name="tokens")(x)
    for number in range(4):  # mixed with each other, tokens lie nowhere
        x = keras.layers.Dense(8, activation="gelu", name=f"mix{number}")(x if number else keras.layers.Permute((2, 1))(x))
    x = keras.layers.Dense(3, name="classes")(keras.layers.GlobalAveragePooling1D(name="pool")(x))
    keras.Model(inputs, x, name="vit").save(tmp_path / "vit.keras")
    spec = write(model={"source": f"file:{tmp_path / 'vit.keras'}", "layers": "pool"}, first=1, methods=["gradcam"])
    folder = run(spec, tmp_path / "out", reporter=reporter)
    (warning,) = json.loads((folder / "run.json").read_text())["stages"]["gradcam"]["warnings"]
    assert "GradCAM explains 'permute" in warning and "the last layer with a map, before 4 layers of tokens, 'mix0' to" in warning
    assert 'gradcam.methods = "integrated_gradients"' in warning
