"""The stage `concepts` from a spec to its table: names by labels, and what it refuses."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest

from pipeline import run
from pipeline.concepts.colours import COLOURS
from pipeline.drawing.pixels import decode_png, encode_grey_png, encode_png
from pipeline.errors import UnknownLayer, UnusableData, WrongSpec
from pipeline.load import load_spec
from pipeline.sources.fit import Fit

STAGES = 'stages=["activations", "concepts"]'


@pytest.fixture(scope="module")
def named(write_spec: Any, quiet: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A finished job that lists the responses of every channel to all 20 pictures: its folder."""
    folder = tmp_path_factory.mktemp("concepts")
    spec = load_spec(write_spec(folder / "spec.toml", activations={"top_k": 20}), [STAGES])
    return run(spec, folder, reporter=quiet)


def index(folder: Any, name: str = "concepts") -> Any:
    return pd.read_parquet(folder / "index" / f"{name}.parquet")


def test_the_measures_of_labels_are_those_of_the_responses_in_the_index(named: Any) -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    rows, responses = index(named), index(named, "activations")
    assert set(rows["source"]) == {"labels"}
    measures = {"average_precision": metrics.average_precision_score, "auc": metrics.roc_auc_score}
    for row in rows.itertuples():
        of_channel = responses[(responses["layer"] == row.layer) & (responses["channel"] == row.channel)]
        assert len(of_channel) == 20 or row.layer == "edges"
        if len(of_channel) == 20:
            value = measures[row.measure](of_channel["label"] == row.concept, of_channel["score"])
            assert row.value == pytest.approx(value, abs=1e-9)


def test_every_channel_has_each_label_once_by_each_measure_best_first(named: Any) -> None:
    rows = index(named)
    groups = rows.groupby(["layer", "channel", "measure"], sort=False)
    assert len(groups) == 2 * (4 + 5 + 3)
    for _, group in groups:
        assert sorted(group["concept"]) == ["cat", "dog"] and group["rank"].tolist() == [0, 1]
        assert group["value"].is_monotonic_decreasing and group["chance"].between(0, 1).all()
        assert group["margin"].iloc[0] == pytest.approx(group["value"].iloc[0] - group["value"].iloc[1])


@pytest.fixture(scope="module")
def again(named: Any, quiet: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A function: the table that the stage writes over the same scan for other keys of `[concepts]`."""
    folder = tmp_path_factory.mktemp("again")
    shutil.copytree(named, folder / named.name)

    def start(**concepts: Any) -> Any:
        changes = [f"concepts.{key}={value}" for key, value in concepts.items()]
        spec = load_spec(named.parent / "spec.toml", ['stages=["concepts"]', *changes])
        return index(run(spec, folder, reporter=quiet))

    start.folder = folder  # type: ignore[attr-defined]
    return start


def embedded(**embeddings: Any) -> Any:
    """The keys of a job that compares embeddings alone."""
    return {"labels": "false", **{f"embeddings.{key}": value for key, value in embeddings.items()}}


def test_a_sample_changes_what_chance_gives_and_not_the_measures(named: Any, again: Any) -> None:
    rows, fewer = index(named), again(images=8)
    assert rows[["concept", "value", "margin"]].equals(fewer[["concept", "value", "margin"]])
    assert not np.array_equal(rows["chance"], fewer["chance"])


def test_without_a_scan_there_is_nothing_to_name(write_spec: Any, quiet: Any, tmp_path: Path) -> None:
    spec = load_spec(write_spec(tmp_path / "spec.toml"), ['stages=["concepts"]'])
    with pytest.raises(WrongSpec, match="needs the scan"):
        run(spec, tmp_path, reporter=quiet)


def test_where_labels_are_no_concepts_the_table_is_empty(again: Any) -> None:
    assert again(labels="false").empty


@pytest.fixture(scope="module")
def words(named: Any) -> Any:
    """Two files of embeddings of the job's pictures: images by the response of `classes` 1, and two words for its ends."""
    responses = index(named, "activations")
    of_channel = responses[(responses["layer"] == "classes") & (responses["channel"] == 1)].sample(frac=1, random_state=0)
    angle = of_channel["score"].rank() / 20 * np.pi / 2
    images, texts = named.parent / "images.parquet", named.parent / "texts.parquet"
    vectors = np.stack([np.sin(angle), np.cos(angle)], axis=1)
    pd.DataFrame({"key": of_channel["key"], "embedding": list(vectors)}).to_parquet(images)
    pd.DataFrame({"text": ["much", "little"], "embedding": [[1.0, 0.0], [0.0, 1.0]]}).to_parquet(texts)
    return images, texts


def test_texts_name_the_channels_that_respond_to_the_images_like_them(again: Any, words: Any) -> None:
    images, texts = words
    measures = ["cosine", "rank_reorder", "wpmi", "soft_wpmi"]
    rows = again(**embedded(images=images, texts=texts, measures=measures))
    best = rows[(rows["layer"] == "classes") & (rows["channel"] == 1) & (rows["rank"] == 0)]
    assert best["measure"].tolist() == measures and set(best["source"]) == {"embeddings"}
    assert set(best["concept"][1:]) == {"much"} and best["named"][best["measure"] == "rank_reorder"].all()


def test_a_layer_of_the_network_embeds_the_labels(again: Any) -> None:
    rows = again(**embedded(layer="shapes"))
    assert set(rows["concept"]) == {"cat", "dog"} and set(rows["measure"]) == {"soft_wpmi"}


def test_another_network_embeds_the_images_at_its_own_size(again: Any, tmp_path: Path) -> None:
    import keras

    inputs = keras.Input((8, 8, 3))
    keras.Model(inputs, keras.layers.Conv2D(3, 3, name="eye")(inputs)).save(tmp_path / "other.keras")
    rows = again(**embedded(layer="eye", model=f"file:{tmp_path / 'other.keras'}", preprocess="unit"))
    assert set(rows["concept"]) == {"cat", "dog"}


def test_a_network_that_embeds_crops_for_quality_alone_needs_no_concepts(
    write_spec: Any, pictures: Any, quiet: Any, tmp_path: Path
) -> None:
    (tmp_path / "data").mkdir()
    for path in sorted(pictures.glob("cat/*"))[:4]:  # in no folder of their own: they have no labels
        shutil.copy(path, tmp_path / "data")
    tables = {"data": {"source": f"folder:{tmp_path / 'data'}"}, "model": {"layers": ["edges"]}}
    path, layer = write_spec(tmp_path / "spec.toml", **tables), "concepts.embeddings.layer=shapes"
    with pytest.raises(WrongSpec, match="no labels to be concepts"):
        run(load_spec(path, [STAGES, layer]), tmp_path, reporter=quiet)
    folder = run(load_spec(path, [STAGES, layer, "concepts.quality=true"]), tmp_path, reporter=quiet)
    assert index(folder).empty and index(folder, "quality")["clarity"].notna().sum() >= 3
    assert any("they serve quality alone" in line for line in quiet.lines)


def test_what_does_not_belong_to_the_data_is_refused(again: Any, words: Any) -> None:
    images, texts = words
    with pytest.raises(UnknownLayer, match="'shape' is not in"):
        again(**embedded(layer="shape"))
    with pytest.raises(UnusableData, match="no column text"):
        again(**embedded(images=images, texts=images))
    with pytest.raises(UnusableData, match="no column key"):
        again(**embedded(images=texts, texts=texts))


def test_embeddings_of_one_number_are_refused(write_spec: Any, again: Any, words: Any, quiet: Any, tmp_path: Path) -> None:
    pd.read_parquet(words[0]).assign(embedding=[[1.0]] * 20).to_parquet(tmp_path / "narrow.parquet")
    with pytest.raises(WrongSpec, match=r"narrow.parquet' embeds by a single number"):
        again(**embedded(images=tmp_path / "narrow.parquet", texts=words[1]))
    inputs = keras.Input((16, 16, 3))
    narrow = keras.layers.Conv2D(1, 3, name="narrow")(keras.layers.Conv2D(2, 3, name="wide")(inputs))
    keras.Model(inputs, narrow).save(tmp_path / "narrow.keras")
    with pytest.raises(WrongSpec, match="narrow of narrow embeds by a single number"):
        again(**embedded(layer="narrow", model=f"file:{tmp_path / 'narrow.keras'}", preprocess="unit"))
    model = {"source": f"file:{tmp_path / 'narrow.keras'}", "layers": ["wide", "narrow"]}
    spec = load_spec(write_spec(tmp_path / "spec.toml", model=model, concepts={"quality": True}), [STAGES])
    with pytest.raises(WrongSpec, match="narrow, the job's last layer, embeds by a single number"):
        run(spec, tmp_path, reporter=quiet)


def test_changed_embeddings_are_compared_again(again: Any, words: Any, tmp_path: Path) -> None:
    images, texts = words
    path = tmp_path / "texts.parquet"
    pd.read_parquet(texts).to_parquet(path)
    assert set(again(**embedded(images=images, texts=path))["concept"]) == {"much", "little"}
    pd.read_parquet(texts).assign(text=["up", "down"]).to_parquet(path)
    assert set(again(**embedded(images=images, texts=path))["concept"]) == {"up", "down"}


def test_masks_name_channels_by_what_is_where_they_are_strong(again: Any) -> None:
    rows = again(labels="false", **{"masks.source": "colours", "masks.step": 1})
    assert set(rows["source"]) == {"masks"} and set(rows["measure"]) == {"iou"}
    assert rows["value"].between(0, 1).all() and rows["concept"].isin(COLOURS).all()


def test_masks_alone_need_no_pass_for_responses(again: Any, quiet: Any, monkeypatch: Any) -> None:
    masks = {"masks.source": "colours", "masks.step": 1}
    beside = again(**masks)

    def refuse(*_: Any) -> Any:
        raise AssertionError("the network runs for responses")

    monkeypatch.setattr("pipeline.activations.scan.stream_responses", refuse)
    alone = again(labels="false", **masks)
    pd.testing.assert_frame_equal(
        alone.drop(columns=["false_discovery", "named"]),
        beside[beside["source"] == "masks"].reset_index(drop=True).drop(columns=["false_discovery", "named"]),
    )
    with pytest.raises(AssertionError, match="for responses"):
        again(**masks)


def test_masks_of_other_images_are_refused(again: Any, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(encode_png(np.zeros((4, 4, 3), np.uint8)))
    (tmp_path / "names.txt").write_text("1 cat\n")
    with pytest.raises(WrongSpec, match="0 of 20 images have a mask"):
        again(**{"masks.source": tmp_path, "masks.names": tmp_path / "names.txt"})


def test_concepts_that_no_mask_has_are_named_and_masks_without_any_are_refused(
    again: Any, pictures: Any, quiet: Any, tmp_path: Path
) -> None:
    for path in pictures.glob("*/*.png"):
        mask = np.full(decode_png(path.read_bytes()).shape[:2], 3, np.uint8)
        (tmp_path / path.parent.name).mkdir(exist_ok=True)
        (tmp_path / path.parent.name / path.name).write_bytes(encode_grey_png(mask))
    names = tmp_path / "names.txt"
    masks = {"labels": "false", "masks.source": tmp_path, "masks.names": names}
    names.write_text("1 cat\n2 dog\n")
    with pytest.raises(WrongSpec, match="hold none of the 2 concepts"):
        again(**masks)
    names.write_text("1 cat\n3 wall\n")
    assert set(again(**masks)["concept"]) == {"wall"}
    assert any("no image has cat (1 in all)" in line for line in quiet.lines)


def test_quality_is_measured_for_every_channel_from_its_crops(named: Any, again: Any) -> None:
    again(quality="true", labels="false")
    rows = pd.read_parquet(again.folder / named.name / "index" / "quality.parquet")
    silent = rows["clarity"].isna()
    assert rows[silent][["layer", "channel"]].values.tolist() == [["edges", 1]] and len(rows) == 12  # it never fires
    rows = rows[~silent]
    assert rows["clarity"].between(-1, 1).all() and rows["polysemanticity"].between(0, 2).all()
    assert (rows["alike"] != rows["channel"]).all() and rows["redundancy"].between(-1, 1).all()


def test_clarity_is_how_alike_the_last_layer_finds_a_channels_crops(named: Any, again: Any, tiny_model: Any) -> None:
    again(quality="true", labels="false")
    folder = again.folder / named.name
    quality = pd.read_parquet(folder / "index" / "quality.parquet").set_index(["layer", "channel"]).clarity
    last = keras.Model(tiny_model.input, tiny_model.get_layer("classes").output)
    for layer in ("edges", "shapes"):
        crops = pd.read_parquet(folder / "crops" / f"{layer}.parquet")
        for channel, own in crops.groupby("channel"):
            given = np.stack([Fit(16, 16, "crop").apply(decode_png(image["bytes"])) for image in own.image])
            vectors = last.predict(given.astype(np.float32), verbose=0).astype(np.float64)
            unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
            cosines = (unit @ unit.T)[~np.eye(len(unit), dtype=bool)]
            assert quality[layer, channel] == pytest.approx(cosines.mean(), abs=1e-4)


def test_embeddings_that_are_nan_are_like_no_other_and_the_stage_says_so(
    write_spec: Any, write_pictures: Any, reporter: Any, tmp_path: Path
) -> None:
    """A network that divides by the mean of its image gives NaN for black ones."""
    inputs = keras.Input((16, 16, 3))
    edges = keras.layers.Conv2D(4, 3, activation="relu", bias_initializer="ones", name="edges")(inputs)
    mean = keras.ops.mean(inputs, axis=(1, 2, 3), keepdims=True)
    shares = keras.layers.Conv2D(3, 1, name="shares")(keras.ops.divide(edges, mean))
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(keras.ops.nan_to_num(shares))))
    model.save(tmp_path / "net.keras")
    folder = write_pictures(tmp_path / "data")
    for name in ("000.png", "002.png"):
        (folder / "cat" / name).write_bytes(encode_png(np.zeros((20, 20, 3), np.uint8)))
    tables = {
        "model": {"source": f"file:{tmp_path / 'net.keras'}", "layers": ["edges"]},
        "data": {"source": f"folder:{folder}"},
        "concepts": {"quality": True, "labels": False},
        "concepts.embeddings": {"layer": "shares", "measures": ["cosine", "soft_wpmi"]},
    }
    done = run(load_spec(write_spec(tmp_path / "spec.toml", **tables), [STAGES]), tmp_path, reporter=reporter)
    assert any("concepts: 2 of 20 embeddings hold NaN or infinity" in line for line in reporter.lines)
    rows = index(done)
    assert set(rows["concept"]) == {"cat", "dog"} and np.isfinite(rows["value"]).all()
    assert index(done, "quality")["clarity"].between(-1, 1).all()
