"""Whole jobs on the tiny network: what they leave, and what they notice when they run again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import keras
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from jobs.summary import summary
from pipeline import load_spec, run
from pipeline.drawing.pixels import decode_png
from pipeline.errors import TooManyBad, UnknownLayer, UnknownName, WrongSpec
from pipeline.geometry import Box
from pipeline.receipt import read_receipt
from pipeline.sources.fit import Fit
from pipeline.sources.registry import open_source
from pipeline.sources.source import Shard
from pipeline.store.tables import read_index

LAYERS = {"edges": (14, 14, 4), "shapes": (6, 6, 5), "classes": (1, 1, 3)}
RESULTS = ("index", "crops", "mosaics")


@pytest.fixture(scope="module")
def shown(spec: Any) -> Any:
    """The 20 images as the network was shown them: float32 (20, 16, 16, 3)."""
    source = open_source(spec.data, Fit(16, 16))
    return np.float32([element["image"] for element in source.stream(Shard()).as_numpy_iterator()])


@pytest.fixture(scope="module")
def maps_of(tiny_model: Any) -> Any:
    """A function: a layer's maps of some images, float32 (n, h, w, channels)."""
    import keras

    readers = {layer: keras.Model(tiny_model.inputs, tiny_model.get_layer(layer).output) for layer in LAYERS}
    return lambda layer, images: readers[layer].predict(images, verbose=0).reshape(-1, *LAYERS[layer])


def index(folder: Any, name: Any) -> Any:
    return pd.read_parquet(folder / "index" / f"{name}.parquet")


def one_line(caught: Any, status: Any) -> Any:
    assert "\n" not in str(caught.value) and caught.value.exit_code == status
    return str(caught.value)


# What a job leaves.


def test_a_job_leaves_its_receipt_tables_crops_and_mosaics_and_nothing_else(finished: Any, tree_of: Any) -> None:
    names = sorted(name for name in tree_of(finished) if name != ".lock")
    assert names == sorted(
        [
            "run.json",
            "scan.part",
            "spec.toml",
            *(
                f"index/{name}.parquet"
                for name in ("activations", "channels", "fields", "images", "layers", "mosaics", "neighbours", "skipped")
            ),
            *(f"crops/{layer}.parquet" for layer in LAYERS),
            "crops/README.md",
            *(f"mosaics/activations/{layer}{kind}.png" for layer in LAYERS for kind in ("", "-crop", "-full")),
        ]
    )


def test_the_winners_of_a_job_are_those_of_brute_force(finished: Any, shown: Any, maps_of: Any) -> None:
    winners = index(finished, "activations")
    for layer, (_, _, channels) in LAYERS.items():
        maxima = maps_of(layer, shown).max(axis=(1, 2))
        for channel in range(channels):
            rows = winners[(winners.layer == layer) & (winners.channel == channel)]
            first = np.argsort(-maxima[:, channel], kind="stable")[:3]
            order = [example for example in first if maxima[example, channel] > 0 or layer != "edges"]  # which is rectified
            assert rows["rank"].tolist() == list(range(len(order))) and rows.example.tolist() == order
            np.testing.assert_array_equal(rows.score, maxima[order, channel])
    assert winners.unclipped.isna().all()


def test_a_channel_that_never_fires_has_no_winners_and_is_said_to_be_dead(finished: Any) -> None:
    channels, winners = index(finished, "channels"), index(finished, "activations")
    dead = channels[channels.dead]
    assert len(dead) and set(dead.layer) == {"edges"}
    for row in dead.itertuples():
        assert winners[(winners.layer == row.layer) & (winners.channel == row.channel)].empty
        assert row.ties == 0 and pd.isna(row.top_label)
    names = ", ".join(map(str, dead.channel))
    (row,) = (line.split(maxsplit=4) for line in summary(finished) if line.startswith("    edges "))
    assert row == ["edges", "4", str(len(dead)), "0", f"never: {names}"]


def test_each_box_holds_all_that_the_score_depends_on_and_no_edge_of_it_is_idle(finished: Any, shown: Any, maps_of: Any) -> None:
    """Whatever lies outside the box, the unit answers the same; without the strip along any edge it does not."""
    winners = index(finished, "activations")
    random = np.random.default_rng(9)
    for layer in LAYERS:
        rows = winners[winners.layer == layer]
        units = (np.arange(len(rows)), rows.row, rows.col, rows.channel)
        inside, frames = np.zeros((len(rows), 16, 16, 1), bool), np.zeros((4, len(rows), 16, 16, 1), bool)
        for place, (y1, x1, y2, x2) in enumerate(rows[["y1", "x1", "y2", "x2"]].itertuples(index=False)):
            inside[place, y1:y2, x1:x2] = True
            frames[0, place, y1, x1:x2] = frames[1, place, y2 - 1, x1:x2] = True
            frames[2, place, y1:y2, x1] = frames[3, place, y1:y2, x2 - 1] = True
        noise = np.float32(random.integers(0, 256, (len(rows), 16, 16, 3)))
        images = shown[rows.example]
        np.testing.assert_array_equal(maps_of(layer, np.where(inside, images, noise))[units], rows.score)
        for frame in frames:
            assert (maps_of(layer, np.where(frame, images + 1000 * noise, images))[units] != rows.score).all()


def test_crops_are_the_pixels_of_the_source_files_at_the_boxes_of_the_index(finished: Any, pictures: Any) -> None:
    winners = index(finished, "activations")
    for layer in LAYERS:
        crops = pq.read_table(finished / "crops" / f"{layer}.parquet").to_pylist()
        rows = winners[winners.layer == layer].to_dict("records")
        assert len(crops) == len(rows)
        for crop, row in zip(crops, rows, strict=True):
            assert all(crop[name] == row[name] for name in ("layer", "channel", "rank", "score", "example", "key", "label"))
            pixels = cv2.imread(str(pictures / row["key"]))[..., ::-1]
            at = pixels[row["src_y1"] : row["src_y2"], row["src_x1"] : row["src_x2"]]
            np.testing.assert_array_equal(decode_png(crop["image"]["bytes"]), at)
            box, region = Box(row["y1"], row["x1"], row["y2"], row["x2"]), Box.whole(*pixels.shape[:2])
            source_box = Fit(16, 16).to_source(box, region)
            assert source_box == Box(row["src_y1"], row["src_x1"], row["src_y2"], row["src_x2"])
            assert row["label"] == row["key"].split("/")[0]


def test_the_fields_of_the_index_are_those_of_the_architecture(finished: Any) -> None:
    fields = index(finished, "fields").set_index("layer")
    assert fields.loc["edges"].to_list() == [3, 3, 1.0, 1.0, 14, 14, False]
    assert fields.loc["shapes"].to_list() == [5, 5, 2.0, 2.0, 6, 6, False]
    # Strides of two leave out the last row and column of the image.
    assert fields.loc["classes", ["height", "width", "map_height", "map_width"]].to_list() == [15, 15, 1, 1]


def test_the_channels_of_the_index_tell_of_all_images(finished: Any, shown: Any, maps_of: Any) -> None:
    channels = index(finished, "channels")
    winners = index(finished, "activations")
    for layer, (_, _, count) in LAYERS.items():
        rows = channels[channels.layer == layer]
        maxima = np.float64(maps_of(layer, shown).max(axis=(1, 2)))
        assert rows.channel.tolist() == list(range(count)) and rows.seen.tolist() == [20] * count
        np.testing.assert_allclose(rows["mean"], maxima.mean(axis=0))
        np.testing.assert_allclose(rows["std"], maxima.std(axis=0))
        np.testing.assert_array_equal(rows["max"], maxima.max(axis=0))
        np.testing.assert_array_equal(rows.share_positive, (maxima > 0).mean(axis=0))
        np.testing.assert_array_equal(rows.dead, (maxima == 0).all(axis=0))
        for row in rows.itertuples():
            labels = winners[(winners.layer == layer) & (winners.channel == row.channel)].label.tolist()
            if not labels:
                assert pd.isna(row.top_label) and np.isnan(row.label_purity) and row.dead
                continue
            assert row.top_label == min(set(labels), key=lambda label: (-labels.count(label), label))
            assert row.label_purity == labels.count(row.top_label) / len(labels)


def test_the_receipt_tells_what_was_run_on_what_and_how_fast(finished: Any, spec: Any) -> None:
    receipt = read_receipt(finished)
    assert receipt.state == "finished" and receipt.name == "tiny" and receipt.examples == 20
    expected = spec.model_dump(mode="json")
    assert expected["model"]["head"] == "auto"
    expected["model"]["head"] = "softmax"  # the spec as it was in force: what "auto" chose
    assert receipt.spec == expected and receipt.layers == list(LAYERS)
    assert set(receipt.digests) == {"model", "data"} and receipt.versions["tensorflow"]
    stage = receipt.stages["activations"]
    assert stage.images == 20 and stage.skipped == 0 and stage.nans == {} and stage.images_per_second > 0
    assert stage.probes > 0 and set(stage.scan_seconds) == {"data", "network", "heaps", "writing"}  # type: ignore[attr-defined]


def test_the_same_spec_in_two_folders_gives_byte_identical_results(
    finished: Any, spec: Any, tmp_path: Path, tree_of: Any, quiet: Any
) -> None:
    again = run(spec, tmp_path, reporter=quiet)
    assert tree_of(again, *RESULTS) == tree_of(finished, *RESULTS)


# What a job notices.


def test_a_second_run_does_nothing_and_says_so(copied: Any, spec: Any, reporter: Any, tree_of: Any) -> None:
    times = {path: path.stat().st_mtime_ns for path in copied.rglob("*.p*")}
    before = tree_of(copied)
    assert run(spec, copied.parent, reporter=reporter) == copied
    assert reporter.lines == [f"{copied} is finished: nothing to do. For other settings, choose another --out or name."]
    assert tree_of(copied) == before and {path: path.stat().st_mtime_ns for path in copied.rglob("*.p*")} == times


def test_a_stage_that_is_named_runs_again(copied: Any, spec: Any, reporter: Any, tree_of: Any) -> None:
    before = tree_of(copied, *RESULTS)
    (copied / "mosaics" / "activations" / "edges.png").unlink()
    (copied / "index" / "fields.parquet").write_bytes(b"damaged")
    run(spec, copied.parent, stages=["activations"], reporter=reporter)
    assert "scan" in reporter.lines and tree_of(copied, *RESULTS) == before
    assert read_receipt(copied).state == "finished"


def test_a_job_is_not_finished_before_all_its_stages_are(spec: Any, tmp_path: Path, quiet: Any) -> None:
    both = spec.model_copy(update={"stages": ["activations", "filters"]})
    receipt = read_receipt(run(both, tmp_path, stages=["filters"], reporter=quiet))
    assert receipt.state == "running" and list(receipt.stages) == ["filters"]


def test_a_stage_that_is_not_in_the_spec_is_refused_before_the_folder_is_made(spec: Any, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match=r"'activation' is not a stage of this spec; nearest: activations") as caught:
        run(spec, tmp_path / "out", stages=["activation"])
    one_line(caught, 2)
    assert not (tmp_path / "out").exists()


def changed(spec: Any, **tables: Any) -> Any:
    return spec.model_copy(update={table: getattr(spec, table).model_copy(update=values) for table, values in tables.items()})


def test_a_changed_set_of_images_is_noticed_and_run(
    spec: Any, write_pictures: Any, tmp_path: Path, reporter: Any, quiet: Any
) -> None:
    images = write_pictures(tmp_path / "images", count=6)
    spec = changed(spec, data={"source": f"folder:{images}"})
    folder = run(spec, tmp_path / "out", reporter=quiet)
    old = read_receipt(folder)
    (images / "cat" / "000.png").rename(images / "dog" / "000.png")
    run(spec, tmp_path / "out", reporter=reporter)
    new = read_receipt(folder)
    assert "scan" in reporter.lines and old.digests["data"] != new.digests["data"]
    assert old.digests["model"] == new.digests["model"]
    assert "cat/000.png" not in index(folder, "activations").key.tolist()


def test_another_network_behind_the_same_name_is_noticed_and_run(
    spec: Any, tiny_model: Any, tmp_path: Path, reporter: Any, write_pictures: Any, quiet: Any
) -> None:
    images = write_pictures(tmp_path / "images", count=4)
    file = tmp_path / "model.keras"
    tiny_model.save(file)
    spec = changed(spec, model={"source": f"file:{file}"}, data={"source": f"folder:{images}"})
    folder = run(spec, tmp_path / "out", reporter=quiet)
    old = index(folder, "activations").score
    import keras

    other = keras.models.clone_model(tiny_model)
    other.set_weights([2 * weights for weights in tiny_model.get_weights()])
    other.save(file)
    run(spec, tmp_path / "out", reporter=reporter)
    assert "scan" in reporter.lines and (index(folder, "activations").score != old).any()


def test_changed_settings_run_the_job_again(copied: Any, spec: Any, reporter: Any) -> None:
    run(changed(spec, activations={"top_k": 1}), copied.parent, reporter=reporter)
    assert "scan" in reporter.lines and set(index(copied, "activations")["rank"]) == {0}


def test_chosen_channels_and_layers_alone_are_in_the_results(spec: Any, tmp_path: Path, quiet: Any) -> None:
    spec = changed(spec, activations={"channels": [3, 0]}, model={"layers": ["s*", "edges"]})
    folder = run(spec, tmp_path, reporter=quiet)
    for name in ("activations", "channels"):
        table = index(folder, name)
        assert table.layer.unique().tolist() == ["edges", "shapes"] and table.channel.unique().tolist() == [3, 0]
    crops = pq.read_table(folder / "crops" / "edges.parquet").to_pandas()
    assert sorted(set(crops.channel)) == [0, 3]


def test_nothing_is_left_of_layers_that_the_job_no_longer_has(copied: Any, spec: Any, quiet: Any, tree_of: Any) -> None:
    run(changed(spec, model={"layers": ["shapes"]}), copied.parent, reporter=quiet)
    names = [name for name in tree_of(copied, "crops", "mosaics") if "shapes" not in name]
    assert names == ["crops/README.md"] and (copied / "crops" / "shapes.parquet").exists()
    for name in ("activations", "channels", "fields"):
        assert set(index(copied, name).layer) == {"shapes"}


def test_crops_are_sorted_by_channel_and_rank(spec: Any, finished: Any, tmp_path: Path, quiet: Any) -> None:
    folders = [
        finished,
        run(changed(spec, activations={"channels": [2, 0]}, model={"layers": ["edges"]}), tmp_path, reporter=quiet),
    ]
    for folder in folders:
        crops = pq.read_table(folder / "crops" / "edges.parquet").to_pandas()
        assert crops[["channel", "rank"]].equals(crops[["channel", "rank"]].sort_values(["channel", "rank"], ignore_index=True))


def test_a_channel_that_a_layer_does_not_have_is_named_before_any_work(spec: Any, tmp_path: Path, quiet: Any) -> None:
    with pytest.raises(WrongSpec, match=r"channel 4, but edges has 4 \(0 to 3\)") as caught:
        run(changed(spec, activations={"channels": [4]}), tmp_path, reporter=quiet)
    one_line(caught, 2)
    assert not list(tmp_path.rglob("*.p*"))


def test_an_unknown_layer_is_named_before_any_work(spec: Any, tmp_path: Path, quiet: Any) -> None:
    with pytest.raises(UnknownLayer, match=r"'edge' is not in tiny; nearest: edges.*convscope layers SPEC") as caught:
        run(changed(spec, model={"layers": ["edge"]}), tmp_path, reporter=quiet)
    one_line(caught, 2)
    assert not (tmp_path / "tiny" / "run.json").exists()


def test_images_that_cannot_be_read_are_listed_in_the_index(spec: Any, write_pictures: Any, tmp_path: Path, quiet: Any) -> None:
    images = write_pictures(tmp_path / "images", count=5)
    (images / "dog" / "torn.png").write_bytes((images / "cat" / "000.png").read_bytes()[:200])
    (images / "cat" / "none.jpg").write_bytes(b"")
    spec = changed(spec, data={"source": f"folder:{images}", "max_bad": 0.5})
    folder = run(spec, tmp_path, reporter=quiet)
    skipped = index(folder, "skipped")
    assert skipped.key.tolist() == ["cat/none.jpg", "dog/torn.png"] and skipped.example.tolist() == [3, 6]
    assert all(skipped.reason) and read_receipt(folder).stages["activations"].skipped == 2
    assert not set(index(folder, "activations").key) & set(skipped.key)
    assert set(index(folder, "channels").seen) == {5}


def test_too_many_bad_images_end_the_job_and_leave_no_results(spec: Any, write_pictures: Any, tmp_path: Path, quiet: Any) -> None:
    images = write_pictures(tmp_path / "images", count=5)
    (images / "cat" / "none.jpg").write_bytes(b"")
    with pytest.raises(TooManyBad, match="cat/none.jpg") as caught:
        run(changed(spec, data={"source": f"folder:{images}"}), tmp_path, reporter=quiet)
    one_line(caught, 3)
    assert not list((tmp_path / "tiny").rglob("*.parquet")) and read_receipt(tmp_path / "tiny").state == "running"


def test_a_receipt_that_is_damaged_or_of_another_format_is_refused_by_name(copied: Any, spec: Any, quiet: Any) -> None:
    (copied / "run.json").write_text("{")
    with pytest.raises(WrongSpec, match=r"run.json cannot be read") as caught:
        run(spec, copied.parent, reporter=quiet)
    one_line(caught, 2)
    for number in (99, 0):
        (copied / "run.json").write_text(json.dumps({"format": number}))
        with pytest.raises(WrongSpec, match=f"format {number}"):
            run(spec, copied.parent, reporter=quiet)


def test_what_auto_became_is_said_and_stored_and_an_older_receipt_that_says_auto_is_not_run_again(
    write_spec: Any, reporter: Any, tmp_path: Path
) -> None:
    x = keras.layers.Rescaling(1 / 255, name="scale")(inputs := keras.Input((16, 16, 3)))
    keras.Model(inputs, keras.layers.Conv2D(2, 3, name="conv")(x)).save(tmp_path / "net.keras")
    model = {"source": f"file:{tmp_path / 'net.keras'}", "layers": ["conv"], "preprocess": "auto"}
    spec = load_spec(write_spec(tmp_path / "job.toml", model=model))
    folder = run(spec, tmp_path / "out", reporter=reporter)
    path = folder / "run.json"
    receipt = json.loads(path.read_text())
    reason = "its own Rescaling 'scale' gives 0 to 1"
    assert receipt["settings"]["preprocess"] == {"value": "none", "reason": reason}
    assert receipt["spec"]["model"]["preprocess"] == "none" and f"preprocess: none ({reason})" in reporter.lines
    receipt["spec"]["model"]["preprocess"] = "auto"
    path.write_text(json.dumps(receipt))
    run(spec, tmp_path / "out", reporter=reporter)
    assert "is finished: nothing to do" in reporter.lines[-1]
    assert run(load_spec(tmp_path / "job.toml", ["model.preprocess=unit"]), tmp_path / "out", reporter=reporter) == folder
    assert json.loads(path.read_text())["spec"]["model"]["preprocess"] == "unit"


def test_the_index_names_every_layer_whether_it_was_chosen_and_why_it_cannot_be_looked_at(finished: Any) -> None:
    rows = {row["layer"]: row for row in read_index(finished, "layers").to_pylist()}
    assert [name for name, row in rows.items() if row["chosen"]] == ["edges", "shapes", "classes"]
    first, *others = rows.values()
    assert (first["kind"], first["reason"], first["channels"]) == ("InputLayer", "the input", None)
    assert [(row["layer"], row["map_height"], row["channels"], row["reason"]) for row in others] == [
        ("edges", 14, 4, None),
        ("shapes", 6, 5, None),
        ("flat", 1, 180, None),
        ("classes", 1, 3, None),
    ]
