"""Jobs whose network takes more than an image, or an image of other bands than RGB: from the spec to the index."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import UnknownName, UnusableData, WrongSpec
from pipeline.inputs import open_inputs
from pipeline.load import load_spec, parse_spec
from pipeline.progress import Reporter
from pipeline.run import run
from pipeline.sources.fit import Fit

L = keras.layers
COUNT, SIDE = 6, 12
RANDOM = np.random.default_rng(0)
PHOTOS = RANDOM.integers(0, 256, (COUNT, SIDE + 4, SIDE, 3), np.uint8)
META = RANDOM.normal(size=(COUNT, 4)).astype(np.float32)
SCENES = RANDOM.uniform(0, 3000, (COUNT, SIDE, SIDE, 6)).astype(np.float32)
EVERYTHING = ["activations", "filters", "featuremaps", "gradcam", "patterns", "report"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photographs, tables of them with a value for each, scenes of six bands, and the networks for them."""
    folder = tmp_path_factory.mktemp("inputs")
    (folder / "photos").mkdir()
    (folder / "scenes").mkdir()
    rows = []
    for number in range(COUNT):
        PIL.Image.fromarray(PHOTOS[number]).save(folder / "photos" / f"{number}.png")
        np.save(folder / "scenes" / f"{number}.npy", SCENES[number])
        data = (folder / "photos" / f"{number}.png").read_bytes()
        rows.append({"image": data, "meta": None if number == 2 else META[number].tolist(), "word": "a", "short": [1.0]})
    pq.write_table(pa.Table.from_pylist(rows), folder / "photos.parquet", row_group_size=4)
    lines = [f"photos/{number}.png,{' '.join(map(str, META[number]))}" for number in range(COUNT)]
    (folder / "photos.csv").write_text("path,meta\n" + "\n".join(lines))
    image, meta = L.Input((SIDE, SIDE, 3), name="photo"), L.Input((4,), name="meta")
    maps = L.Conv2D(5, 3, activation="relu", name="conv")(L.Rescaling(1 / 255)(image))
    gate = L.Reshape((1, 1, 5))(L.Dense(5, activation="sigmoid")(meta))
    pooled = L.GlobalAveragePooling2D()(L.Multiply(name="gated")([maps, gate]))
    keras.Model([image, meta], L.Dense(3, activation="softmax")(pooled)).save(folder / "gated.keras")
    other = L.Input((SIDE, SIDE, 3), name="other")
    both = L.Concatenate()([L.Conv2D(3, 3, name="conv")(image), L.Conv2D(2, 3)(other)])
    keras.Model([image, other], L.Dense(3, activation="softmax")(L.GlobalAveragePooling2D()(both))).save(folder / "pair.keras")
    scene = L.Input((SIDE, SIDE, 6))
    maps = L.Conv2D(5, 3, activation="relu", name="conv")(scene)
    keras.Model(scene, L.Dense(3, activation="softmax")(L.GlobalAveragePooling2D()(maps))).save(folder / "six.keras")
    return folder


def spec_of(folder: Path, model: str, inputs: Any, data: Any, **tables: Any) -> Any:
    return parse_spec(
        {
            "name": "job",
            "model": {"source": f"file:{folder}/{model}.keras", "layers": ["conv"], "inputs": inputs, "preprocess": "none"},
            "data": {"batch": 4, "max_bad": 0.5, **data},
            **tables,
        }
    )


def probabilities(folder: Path, out: Path, model: str, inputs: Any, data: Any) -> dict[int, np.ndarray]:
    """By example, what a job says of each class."""
    tables = {"stages": ["gradcam"], "gradcam": {"examples": [0, 1, 3, 4, 5], "methods": ["gradcam"]}}
    job = run(spec_of(folder, model, inputs, data, **tables), out, reporter=Reporter("job"))
    actual: dict[int, np.ndarray] = {}
    for row in pq.read_table(job / "index" / "classification.parquet").to_pylist():
        actual.setdefault(row["example"], np.zeros(3))[row["class"]] = row["probability"]
    return actual


def fitted(images: np.ndarray) -> np.ndarray:
    return np.stack([Fit(SIDE, SIDE).apply(image).astype(np.float32) for image in images])


OTHERS: dict[str, tuple[str, Any, str, Any]] = {
    "a column of Parquet": ("gated", {"meta": {"column": "meta"}}, "parquet:{0}/photos.parquet", lambda: META),
    "a column of a CSV": ("gated", {"meta": {"column": "meta"}}, "list:{0}/photos.csv", lambda: META),
    "a file": (
        "pair",
        {"image": "photo", "other": {"file": "{0}/photos/1.png"}},
        "folder:{0}/photos",
        lambda: fitted(PHOTOS[[1] * 6]),
    ),
    "a source": (
        "pair",
        {"image": "photo", "other": {"source": "list:{0}/photos.csv"}},
        "folder:{0}/photos",
        lambda: fitted(PHOTOS),
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_another_input_is_given_gives_what_plain_keras_gives(folder: Path, tmp_path: Path, name: str) -> None:
    model, inputs, source, others = OTHERS[name]
    inputs = {
        key: {kind: text.format(folder) for kind, text in value.items()} if isinstance(value, dict) else value
        for key, value in inputs.items()
    }
    actual = probabilities(folder, tmp_path, model, inputs, {"source": source.format(folder)})
    right = keras.saving.load_model(folder / f"{model}.keras")([fitted(PHOTOS), others()])
    assert sorted(actual) == [0, 1, 3, 4, 5]
    for example, values in actual.items():
        np.testing.assert_allclose(values, right[example], atol=1e-5)


def test_scenes_of_six_bands_give_what_plain_keras_gives(folder: Path, tmp_path: Path) -> None:
    data = {"source": f"folder:{folder}/scenes", "range": [0, 3000], "rgb": [3, 2, 1]}
    actual = probabilities(folder, tmp_path, "six", {}, data)
    right = keras.saving.load_model(folder / "six.keras")(SCENES)  # preprocess "none": samples as they are
    for example, values in actual.items():
        np.testing.assert_allclose(values, right[example], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("model", ["gated", "six"])
def test_every_stage_runs(folder: Path, tmp_path: Path, model: str) -> None:
    inputs: Any = {"meta": {"column": "meta"}} if model == "gated" else {}
    data: Any = {"source": f"parquet:{folder}/photos.parquet"}
    if model == "six":
        data = {"source": f"folder:{folder}/scenes", "range": [0, 3000], "rgb": [3, 2, 1]}
    methods = ["gradcam", "guided_backprop", "integrated_gradients"]
    explained = {"methods": methods, "steps": 20, "sanity": ["curves"], "examples": [0, 1]}
    tables = {
        "stages": EVERYTHING,
        "gradcam": explained,
        "patterns": {"steps": 2, "channels": [0]},
        "activations": {"crop": "map"},
    }
    job = run(spec_of(folder, model, inputs, data, **tables), tmp_path, reporter=Reporter("job"))
    rows = pq.read_table(job / "index" / "curves.parquet").to_pylist()
    ends = [row["probability"] for row in rows if row["share"] == 0 and row["kind"] == "deletion" and row["example"] == 0]
    said = pq.read_table(job / "index" / "classification.parquet").to_pylist()[0]["probability"]
    np.testing.assert_allclose(ends, said, atol=1e-6)  # nothing deleted: the other input must still be there
    if model == "gated":
        skipped = pq.read_table(job / "index" / "skipped.parquet").to_pylist()
        assert [(row["example"], row["reason"]) for row in skipped] == [(2, "its column 'meta' is null")]


@pytest.mark.parametrize(
    ("model", "inputs", "source", "error", "words"),
    [
        (
            "gated",
            {"meta": {"column": "mata"}},
            "parquet:{0}/photos.parquet",
            UnknownName,
            "'mata' is not a column.*nearest: meta",
        ),
        ("gated", {"meta": {"column": "word"}}, "parquet:{0}/photos.parquet", WrongSpec, "holds string, no numbers"),
        (
            "gated",
            {"meta": {"column": "short"}},
            "parquet:{0}/photos.parquet",
            UnusableData,
            r"has the shape \(1,\), and the network takes \(4,\)",
        ),
        ("gated", {"meta": {"column": "meta"}}, "folder:{0}/photos", WrongSpec, "has no columns"),
        (
            "pair",
            {"image": "photo", "other": {"source": "folder:{0}/scenes"}},
            "parquet:{0}/photos.parquet",
            UnusableData,
            "cannot be read",
        ),
    ],
)
def test_what_the_data_do_not_have_is_refused_before_any_work(
    folder: Path, model: str, inputs: Any, source: str, error: Any, words: str
) -> None:
    inputs = {
        key: {kind: text.format(folder) for kind, text in value.items()} if isinstance(value, dict) else value
        for key, value in inputs.items()
    }
    with pytest.raises(error, match=words):
        open_inputs(spec_of(folder, model, inputs, {"source": source.format(folder)}))


def test_a_second_source_of_another_length_is_refused(folder: Path) -> None:
    spec = spec_of(
        folder, "pair", {"image": "photo", "other": {"source": f"folder:{folder}/photos"}}, {"source": "sample:photos"}
    )
    with pytest.raises(WrongSpec, match=r"of 6 examples, but data\.source has \d+"):
        open_inputs(spec)


def test_paths_of_inputs_are_relative_to_the_spec(tmp_path: Path) -> None:
    (tmp_path / "job.toml").write_text(
        'name = "a"\n[model]\nsource = "file:net.keras"\nlayers = "*"\n'
        'inputs = { file = { file = "x.png" }, b = { source = "folder:y" }, c = { column = "z" } }\n[data]\nsource = "folder:."\n'
    )
    inputs: Any = load_spec(tmp_path / "job.toml").model.inputs
    assert inputs["file"].file == str(tmp_path / "x.png")
    assert inputs["b"].source == f"folder:{tmp_path / 'y'}"
    assert inputs["c"].column == "z"
