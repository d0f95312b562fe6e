"""Parquet files: which column is the image, whose names the labels bear, order, bad rows, damaged files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import MissingInput, UnknownName, UnusableData
from pipeline.sources.fit import Fit
from pipeline.sources.registry import open_source
from pipeline.sources.source import Shard
from pipeline.spec.data import DataSpec

FIT = Fit(8, 8)


@pytest.fixture
def png(scene: Any) -> Any:
    """A function: a picture as PNG bytes."""
    import cv2

    return lambda seed=0, height=12, width=16: cv2.imencode(".png", scene(height, width, seed)[..., ::-1])[1].tobytes()


@pytest.fixture
def table(tmp_path: Path) -> Any:
    """A function: write columns to tmp_path / NAME, with the features that `datasets` would note."""

    def write(name: Any, columns: Any, features: Any = None, rows: Any = 3, **settings: Any) -> None:
        actual = pa.table(columns)
        if features is not None:
            actual = actual.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(actual, tmp_path / name, row_group_size=rows, **settings)

    return write


@pytest.fixture
def tables(tmp_path: Path) -> Any:
    """A function: the source of all files that match."""
    return lambda pattern="*.parquet", **spec: open_source(DataSpec(source=f"parquet:{tmp_path / pattern}", **spec), FIT)


def structs(images: Any, paths: Any = None) -> Any:
    return [{"bytes": image, "path": path} for image, path in zip(images, paths or [None] * len(images), strict=True)]


def test_rows_come_file_by_file_with_the_names_that_their_class_has(
    table: Any, tables: Any, png: Any, listed: Any, scene: Any
) -> None:
    features = {"picture": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["cat", "dog"]}}
    table("b.parquet", {"picture": structs([png(7)]), "label": [0]}, features)
    table("a.parquet", {"picture": structs([png(i) for i in range(7)]), "label": [0, 1, -1, None, 1, 0, 5]}, features, rows=2)
    source = tables()
    elements = listed(source)
    assert [e[0] for e in elements] == list(range(8)) and source.labels == ["cat", "dog"]
    assert [e[1] for e in elements] == [*(f"a.parquet__{row}" for row in range(7)), "b.parquet__0"]
    assert [e[2] for e in elements] == ["cat", "dog", "", "", "dog", "cat", "", "cat"]
    assert [e[3] for e in elements] == [FIT.apply(scene(seed=seed)).tobytes() for seed in range(8)]


def test_files_come_bytewise_by_path_whatever_their_sizes(table: Any, tables: Any, png: Any, listed: Any) -> None:
    for rows, name in enumerate(["b/2", "b/10", "B/1", "a", "é"], start=1):
        table(f"{name}.parquet", {"image": [png(rows)] * rows})
    keys = dict.fromkeys(e[1].rpartition(".parquet__")[0] for e in listed(tables("**/*.parquet")))
    assert list(keys) == ["B/1", "a", "b/10", "b/2", "é"]


@pytest.mark.parametrize(("rows", "batch"), [(1, 3), (4, 1), (100, 3)])
def test_ids_do_not_depend_on_shards_starts_or_batches(
    table: Any, tables: Any, png: Any, listed: Any, rows: Any, batch: Any
) -> None:
    for name in ("x/1.parquet", "x/2.parquet", "y.parquet"):
        table(name, {"image": [png(seed) for seed in range(5)], "label": ["a", "b", "c", "d", "e"]}, rows=rows)
    source = tables("**/*.parquet", batch=batch, limit=14)
    whole = listed(source)
    assert len(whole) == len(source) == 14 and whole[5][1] == "x/2.parquet__0"
    for count in (1, 3, 9):
        shards = [listed(source, Shard(index, count)) for index in range(count)]
        assert [e for shard in shards for e in shard] == whole
        for index in {0, count // 2, count - 1}:
            elements = shards[index]
            for start in (1, len(elements), len(elements) + 2):
                assert listed(source, Shard(index, count), start) == elements[start:]
    fetched = list(source.fetch([13, 4, 5, 5, 0]))
    assert [(example, image.key, image.label) for example, image in fetched] == [
        (example, whole[example][1], whole[example][2]) for example in (0, 4, 5, 13)
    ]
    assert all(FIT.apply(image.pixels).tobytes() == whole[example][3] for example, image in fetched)


def test_the_size_of_row_groups_changes_no_example(table: Any, tables: Any, png: Any, listed: Any) -> None:
    seen = []
    for rows in (1, 3, 7):
        table("a.parquet", {"image": [png(seed) for seed in range(7)]}, rows=rows)
        seen.append(listed(tables()))
    assert seen[0] == seen[1] == seen[2] and len(seen[0]) == 7


def test_a_copy_elsewhere_has_the_same_ids_keys_and_digest(
    tmp_path: Path, table: Any, tables: Any, png: Any, listed: Any
) -> None:
    for folder in ("one", "two"):
        for name in ("a", "b"):
            table(f"{folder}/{name}.parquet", {"image": [png(1), png(2)]})
    one, two = tables("one/*.parquet"), tables("two/?.parquet")
    assert listed(one) == listed(two) and one.digest() == two.digest()
    table("two/b.parquet", {"image": [png(1)]})
    assert tables("two/*.parquet").digest() != one.digest()


def test_the_image_column_is_recognised_by_its_bytes_if_the_schema_does_not_name_it(
    table: Any, tables: Any, png: Any, listed: Any
) -> None:
    table("a.parquet", {"other": [b"no picture", b"x"], "raw": [png(1), None], "label": [3, 4]})
    elements = listed(tables())
    assert [e[2] for e in elements] == ["3", "4"] and [bool(e[4]) for e in elements] == [False, True]


def test_two_columns_of_images_are_asked_for_by_name(table: Any, tables: Any, png: Any, listed: Any, scene: Any) -> None:
    table("a.parquet", {"left": structs([png(1)]), "right": [png(2)], "kind": ["x"]})
    with pytest.raises(UnusableData, match=r"several columns of images: left, right. Set data.image"):
        tables()
    assert listed(tables(image="right", label="kind"))[0][2:4] == ("x", FIT.apply(scene(seed=2)).tobytes())


def test_a_path_without_bytes_is_a_file_beside_the_table(table: Any, tables: Any, png: Any, listed: Any, tmp_path: Path) -> None:
    (tmp_path / "data" / "pictures").mkdir(parents=True)
    (tmp_path / "data" / "pictures" / "1.png").write_bytes(png(1))
    paths = ["pictures/1.png", "pictures/gone.png", None]
    table("data/a.parquet", {"image": structs([None] * 3, paths)}, {"image": {"_type": "Image"}})
    table("data/b.parquet", {"image": structs([png(1)], ["pictures/gone.png"])}, {"image": {"_type": "Image"}})
    elements = listed(tables("data/*.parquet"))
    assert [bool(e[4]) for e in elements] == [False, True, True, False] and elements[0][3] == elements[3][3]
    assert "'pictures/gone.png' beside the table cannot be read" in elements[1][4] and "no image in this row" in elements[2][4]


def test_bad_images_keep_their_example_number_and_reason(table: Any, tables: Any, png: Any, listed: Any) -> None:
    table("a.parquet", {"image": structs([png(0), b"text", b"", png(3)[:90], png(4)])})
    reasons = [e[4] for e in listed(tables())]
    assert reasons[0] == reasons[4] == "" and "not a whole image" in reasons[1]
    assert "empty" in reasons[2] and "truncated" in reasons[3]
    with pytest.raises(UnusableData, match=r"'a.parquet__1' of parquet:.*not a whole image"):
        list(tables().fetch([0, 1]))


def test_a_table_without_images_is_refused_with_its_columns(table: Any, tables: Any) -> None:
    table("a.parquet", {"text": ["a"], "blob": [b"1234"], "n": [1]})
    with pytest.raises(
        UnusableData, match=r"has no column of images; its columns: text \(string\), blob \(binary\), n"
    ) as caught:
        tables()
    assert "\n" not in str(caught.value) and caught.value.exit_code == 2
    with pytest.raises(UnknownName, match=r"'blop' is not a column .*nearest: blob"):
        tables(image="blop")
    with pytest.raises(UnusableData, match="'n' of parquet:.*holds no encoded images"):
        tables(image="n")


@pytest.mark.parametrize("keep", [0, 3, 200, -5])
def test_a_table_cut_short_stops_before_work_starts(table: Any, tables: Any, png: Any, tmp_path: Path, keep: Any) -> None:
    table("a.parquet", {"image": [png(0)]})
    table("b.parquet", {"image": [png(1), png(2)]})
    file = tmp_path / "b.parquet"
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(UnusableData, match=rf"{file} is cut short, or no Parquet") as caught:
        tables()
    assert "\n" not in str(caught.value)


def test_a_table_damaged_inside_is_named_when_it_is_read(table: Any, tables: Any, png: Any, tmp_path: Path) -> None:
    import tensorflow as tf

    from pipeline.errors import carried

    table("a.parquet", {"image": structs([png(seed, 60, 60) for seed in range(40)])}, {"image": {"_type": "Image"}}, rows=20)
    file = tmp_path / "a.parquet"
    data = bytearray(file.read_bytes())
    place = pq.read_metadata(file).row_group(1).column(0)
    start = place.dictionary_page_offset or place.data_page_offset
    data[start : start + 200] = bytes(200)
    file.write_bytes(data)
    source = tables()
    with pytest.raises(tf.errors.OpError) as caught:
        list(source.stream(Shard()))
    ours = carried(caught.value.message)
    assert isinstance(ours, UnusableData) and f"{file} is damaged" in str(ours) and "\n" not in str(ours)
    with pytest.raises(UnusableData, match="is damaged"):
        list(source.fetch([30]))


def test_files_that_do_not_belong_together_are_refused(table: Any, tables: Any, png: Any) -> None:
    table("a.parquet", {"image": [png(0)], "label": [1]})
    table("b.parquet", {"image": [png(0)], "label": ["one"]})
    with pytest.raises(UnusableData, match=r"b.parquet has no column 'label' of the kind that .*a.parquet has"):
        tables()


def test_a_pattern_that_matches_nothing_is_named(tables: Any, tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match=r"no file matches data.source 'parquet:.*/\*.parquet'"):
        tables()
    with pytest.raises(MissingInput, match=r"such as parquet:.*/\*.parquet"):
        tables(".")


def test_tables_without_rows_are_refused(table: Any, tables: Any) -> None:
    table("a.parquet", {"image": pa.array([], pa.binary())})
    with pytest.raises(UnusableData, match="holds no rows"):
        tables()


def test_numbered_labels_take_their_names_from_a_file_and_one_too_short_is_refused(
    table: Any, tables: Any, png: Any, listed: Any, tmp_path: Path
) -> None:
    table("a.parquet", {"image": [png(0), png(1), png(2)], "label": [2, 0, 1]}, rows=1)
    names = tmp_path / "names.txt"
    names.write_text("ape\nbee\ncow\n\n")
    source = tables(labels=str(names))
    assert [e[2] for e in listed(source)] == ["cow", "ape", "bee"] and source.labels == ["ape", "bee", "cow"]
    names.write_text("ape\nbee\n")
    with pytest.raises(UnusableData, match=r"names 2 classes, 0 to 1, but parquet:.* has label 2"):
        tables(labels=str(names))
    with pytest.raises(MissingInput, match=r"data.labels '.*gone.txt' cannot be read"):
        tables(labels=str(tmp_path / "gone.txt"))


def test_memory_holds_a_few_pictures_however_long_the_row_group(table: Any, tables: Any, tmp_path: Path) -> None:
    import pyarrow as pa

    noise = np.random.default_rng(0).bytes
    # A page is the least that a reader can take: a dictionary of pictures would be one, and so would one large batch.
    column = [noise(2**20) for _ in range(150)]
    table("a.parquet", {"image": column}, {"image": {"_type": "Image"}}, rows=1000, use_dictionary=False, write_batch_size=4)
    del column
    source = tables()
    peak, before = 0, pa.total_allocated_bytes()
    for _ in source.records.pick(range(0, 150, 3)):
        peak = max(peak, pa.total_allocated_bytes() - before)
    assert peak < 80 * 2**20, f"{peak / 2**20:.0f} MiB for a row group of 150"
