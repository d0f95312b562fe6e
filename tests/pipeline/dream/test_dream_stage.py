"""The stage `dream`: what it leaves, that it can be interrupted, and what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from pipeline import run
from pipeline.drawing.pixels import decode_png, encode_png
from pipeline.dream import film
from pipeline.errors import MissingInput, UnknownLayer, UnusableData, WrongSpec
from pipeline.load import parse_spec
from pipeline.progress import Reporter
from pipeline.run import open_job

DRAWN = {"classes": [2, 0], "octaves": [{"scale": 1.4, "iter_n": 6}, {"scale": 1.5, "iter_n": 4}]}
TABLE = {"layers": {"edges": 1.0, "shapes": 0.5}, "iterations": 4, "num_octave": 2, "snapshot": 1e-9, "batch": 2}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Two pictures of one name in two folders, one of them with a grey side."""
    folder = tmp_path_factory.mktemp("photos")
    random = np.random.default_rng(0)
    for name, shape in (("a", (30, 41, 3)), ("b", (25, 22, 3))):
        (folder / name).mkdir()
        (folder / name / "one.png").write_bytes(encode_png(random.integers(0, 256, shape, np.uint8)))
    return folder


@pytest.fixture(scope="module")
def dream_spec(spec: Any, photos: Any) -> Any:
    """A function: keys of [dream] -> the spec of the tiny job with that one stage."""
    tree = spec.model_dump(exclude_unset=True)

    def make(model: Any = None, **keys: Any) -> Any:
        given = {"files": [f"{photos}/a/one.png", f"{photos}/b/one.png"], **TABLE, **keys}
        return parse_spec(tree | {"stages": ["dream"], "dream": given} | ({"model": model} if model else {}))

    return make


@pytest.fixture(scope="module")
def done(dream_spec: Any, quiet: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The folder of the job with two pictures, one example and two classes, finished."""
    return run(dream_spec(examples=[3], visualization=DRAWN), tmp_path_factory.mktemp("dreams"), reporter=quiet)


def rows_of(folder: Any) -> Any:
    return pd.read_parquet(folder / "index/dreams.parquet")


def test_every_picture_is_in_the_index_with_what_made_it(done: Any, photos: Any) -> None:
    rows = rows_of(done)
    assert rows.kind.to_list() == ["picture"] * 3 + ["class"] * 2
    assert rows.key[1:3].to_list() == [str(photos / "a/one.png"), str(photos / "b/one.png")]
    assert rows.key[0].endswith("006.png") and rows.key[3] == "2"
    assert rows.name.to_list() == ["example-3", "file-0-one", "file-1-one", "class-0002", "class-0000"]
    assert rows.objective[1] == 'layer("edges") + 0.5 * layer("shapes")' and rows.objective[3] == "logit(2)"
    assert rows.number.to_list()[3:] == [2, 0] and rows.number[:3].isna().all()
    assert rows.steps.to_list() == [8] * 3 + [10] * 2 and rows.losses.map(len).to_list() == rows.steps.to_list()
    assert [losses[-1] for losses in rows.losses] == rows.loss.to_list()
    assert (rows.state == "done").all() and (rows.octaves == 2).all()
    assert json.loads(rows.parameters[0])["iterations"] == 4
    assert json.loads(rows.parameters[3])["octaves"][1]["scale"] == 1.5
    for row in rows.itertuples():
        picture = decode_png((done / row.path).read_bytes())
        assert picture.shape == (row.height, row.width, 3)
    assert list(rows[["height", "width"]].itertuples(index=False, name=None))[3] == (33, 33)
    assert not list((done / "parts").glob("dream/*"))
    for name in ("+pictures", "+classes"):
        assert (done / f"mosaics/dream/{name}.png").exists() and (done / f"mosaics/dream/{name}-loss.png").exists()


def test_what_a_class_reached_is_what_the_network_says_of_the_saved_picture(done: Any, tiny_model: Any) -> None:
    for row in rows_of(done)[3:].itertuples():
        picture = cv2.resize(decode_png((done / row.path).read_bytes()), (16, 16), interpolation=cv2.INTER_AREA)
        logits = tiny_model(np.float32(picture)[np.newaxis]).numpy()[0]
        number = int(row.number)
        assert row.reached == pytest.approx(logits[number], rel=1e-4) and row.reached > row.before
        assert row.probability == pytest.approx(tf.nn.softmax(logits)[number].numpy(), abs=1e-5)


def test_pictures_are_changed_and_fire_their_layers_more(done: Any, photos: Any) -> None:
    rows = rows_of(done)[1:3]
    assert (rows.reached > rows.before).all()
    for row, name in zip(rows.itertuples(), "ab", strict=True):
        before = decode_png((photos / name / "one.png").read_bytes()).astype(int)
        change = np.abs(decode_png((done / row.path).read_bytes()).astype(int) - before).mean()
        assert 1 < change < 40


def test_the_same_spec_gives_the_same_bytes(done: Any, dream_spec: Any, quiet: Any, tree_of: Any, tmp_path: Path) -> None:
    again = run(dream_spec(examples=[3], visualization=DRAWN), tmp_path / "again", reporter=quiet)
    assert tree_of(again, "index", "mosaics") == tree_of(done, "index", "mosaics")


class Stopping(Reporter):
    """Stops the run at a call to tell how far it is."""

    def __init__(self, at: Any) -> None:
        super().__init__("test")
        self.at, self.calls = at, []

    def say(self, text: Any, **facts: Any) -> None:
        pass

    def step(self, title: Any, unit: Any) -> Any:
        reporter = self

        class Step:
            def __enter__(self) -> Any:
                def advance(done: Any, total: Any, note: Any = "") -> None:
                    reporter.calls.append((done, total, note))
                    if len(reporter.calls) == reporter.at:
                        raise KeyboardInterrupt

                return advance

            def __exit__(self, *error: Any) -> None:
                pass

        return Step()


def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(done: Any, dream_spec: Any, tree_of: Any, tmp_path: Path) -> None:
    spec = dream_spec(examples=[3], visualization=DRAWN)
    whole, stopped = Stopping(0), Stopping(9)
    with pytest.raises(KeyboardInterrupt):
        run(spec, tmp_path, reporter=stopped)
    assert list((tmp_path / spec.name / "parts/dream").glob("*.npz"))
    folder = run(spec, tmp_path, reporter=whole)
    assert whole.calls[0][0] >= stopped.calls[-2][0] > 8  # the first picture is not made again, nor the second's first steps
    assert "loss" in whole.calls[0][2] and whole.calls[-1][:2] == (44, 44)
    assert tree_of(folder, "index", "mosaics") == tree_of(done, "index", "mosaics")
    assert not list((folder / "parts/dream").glob("*"))


def test_a_zoom_is_frames_and_a_film(dream_spec: Any, photos: Any, quiet: Any, tmp_path: Path) -> None:
    spec = dream_spec(files=[f"{photos}/a/one.png"], zoom={"frames": 4, "scale": 1.2, "fps": 8.0})
    folder = run(spec, tmp_path, reporter=quiet)
    rows = rows_of(folder)
    assert rows.frame.to_list() == [0, 1, 2, 3] and rows.path[3] == "mosaics/dream/file-0-one/00003.png"
    frames = [decode_png((folder / path).read_bytes()) for path in rows.path]
    # Each starts from the centre of the one before, enlarged.
    matrix = cv2.getRotationMatrix2D((20, 14.5), 0, 1.2)
    nearer = cv2.warpAffine(frames[0], matrix, (41, 30), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
    assert np.abs(frames[1].astype(int) - nearer).mean() < 0.7 * np.abs(frames[1].astype(int) - frames[0]).mean()
    (name,) = json.loads((folder / "run.json").read_text())["stages"]["dream"]["films"]
    video = cv2.VideoCapture(str(folder / "mosaics/dream" / name))
    assert int(video.get(cv2.CAP_PROP_FRAME_COUNT)) == 4 and video.get(cv2.CAP_PROP_FPS) == 8
    first = video.read()[1]
    assert first.shape == (30, 40, 3) and np.corrcoef(first[..., ::-1].ravel(), frames[0][:, :40].ravel())[0, 1] > 0.5


def test_where_no_video_can_be_written_the_user_hears_so_and_the_frames_stay(
    dream_spec: Any, photos: Any, reporter: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(film, "FORMATS", (("none", "NONE"),))
    folder = run(dream_spec(files=[f"{photos}/a/one.png"], zoom={"frames": 2}), tmp_path, reporter=reporter)
    assert any("can write no video" in line and "mosaics/dream/file-0-one" in line for line in reporter.lines)
    assert len(list((folder / "mosaics/dream/file-0-one").glob("*.png"))) == 2


def test_what_an_earlier_run_left_is_removed(done: Any, dream_spec: Any, photos: Any, quiet: Any, tmp_path: Path) -> None:
    shutil.copytree(done, tmp_path / "out" / done.name)
    folder = run(dream_spec(files=[f"{photos}/b/one.png"]), tmp_path / "out", reporter=quiet)
    names = {path.name for path in (folder / "mosaics/dream").rglob("*.png")}
    assert names == {"+pictures-loss.png", "+pictures.png", "file-0-one.png"}


def test_a_frozen_graph_dreams_as_its_keras_model_does(
    done: Any, dream_spec: Any, tiny_model: Any, quiet: Any, tmp_path: Path
) -> None:
    function = tf.function(lambda image: {"classes": tiny_model(image)}, autograph=False)
    frozen = convert_variables_to_constants_v2(
        function.get_concrete_function(tf.TensorSpec((None, 16, 16, 3), tf.float32, name="image"))
    )
    (tmp_path / "tiny.pb").write_bytes(frozen.graph.as_graph_def().SerializeToString())
    model = {"source": f"frozen:{tmp_path}/tiny.pb", "layers": ["*"], "preprocess": "none"}
    folder = run(dream_spec(model, files=[], layers=None, visualization=DRAWN), tmp_path, reporter=quiet)
    kept = rows_of(done)[3:].reset_index()
    for column in ("loss", "reached"):
        np.testing.assert_allclose(rows_of(folder)[column], kept[column], rtol=1e-3)


@pytest.mark.parametrize(
    ("keys", "error", "match"),
    [
        ({"visualization": {"classes": [1, 3]}}, WrongSpec, "there is no class 3: it has 3"),
        ({"visualization": {"layer": "shapes", "classes": [5]}}, WrongSpec, "there is no channel 5: shapes has 5"),
        ({"visualization": {"layer": "shpes", "classes": [1]}}, UnknownLayer, "nearest: shapes"),
        ({"layers": {"edgs": 1.0}}, UnknownLayer, "nearest: edges"),
        ({"examples": [20]}, WrongSpec, r"\[dream\]: example 20 is not there"),
        ({"keys": ["none"]}, WrongSpec, r"\[dream\]: no example has the key 'none'"),
        ({"files": ["/nowhere/a.png"]}, MissingInput, r"\[dream\]: the image file '/nowhere/a.png' is missing"),
        (
            {"visualization": {"classes": [0], "octaves": [{"scale": 0.5, "iter_n": 1}, {"scale": 0.5, "iter_n": 1}]}},
            WrongSpec,
            "octave 1 of dream.visualization is 4 x 4 pixels, too small for .*, which takes 16 x 16",
        ),
        ({"longest": 6}, WrongSpec, "a/one.png is 4 x 6 pixels, too small"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_work(
    dream_spec: Any, quiet: Any, tmp_path: Path, keys: Any, error: Any, match: Any
) -> None:
    with pytest.raises(error, match=match) as caught:
        open_job(dream_spec(**keys), tmp_path / "out", quiet)
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def test_a_file_that_is_not_a_picture_is_refused_before_any_work(dream_spec: Any, quiet: Any, tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(b"no picture")
    with pytest.raises(UnusableData, match=r"the image file '.*a.jpg' cannot be read: .* Replace it"):
        open_job(dream_spec(files=[str(tmp_path / "a.jpg")]), tmp_path / "out", quiet)


def test_octaves_that_are_too_small_are_left_out_and_counted(dream_spec: Any, photos: Any, reporter: Any, tmp_path: Path) -> None:
    folder = run(dream_spec(files=[f"{photos}/b/one.png"], num_octave=9), tmp_path, reporter=reporter)
    assert rows_of(folder).octaves.to_list() == [4]  # 22, 15, 11, 8; the next, 5, is under a third of 16
    assert any("1 of 1 picture had fewer octaves than dream.num_octave = 9" in line for line in reporter.lines)


def test_where_nothing_is_named_the_first_few_examples_are_dreamed_on(dream_spec: Any, quiet: Any, tmp_path: Path) -> None:
    folder = run(dream_spec(files=[], first=2, iterations=1), tmp_path, reporter=quiet)
    assert rows_of(folder).name.to_list() == ["example-0", "example-1"]
