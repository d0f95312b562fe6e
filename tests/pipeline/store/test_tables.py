"""The index and the crops as others read them: pandas, pyarrow and Hugging Face `datasets`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.drawing.pixels import decode_png, encode_png
from pipeline.errors import StoreFailed
from pipeline.store.tables import CROPS, INDEX, read_index, read_table, write_crops, write_index

PREFIXES = ("", "src_", "eff_", "eff_src_", "map_", "map_src_")

# What other programs rely on: the names, their order and their types.
COLUMNS = {
    "activations": {
        "layer": "string",
        "channel": "int32",
        "rank": "int32",
        "score": "float",
        "example": "int64",
        "key": "string",
        "label": "string",
        "row": "int32",
        "col": "int32",
        **{f"{prefix}{edge}": "int32" for prefix in PREFIXES for edge in ("y1", "x1", "y2", "x2")},
        "unclipped": "float",
    },
    "fields": {
        "layer": "string",
        "height": "int32",
        "width": "int32",
        "stride_y": "double",
        "stride_x": "double",
        "map_height": "int32",
        "map_width": "int32",
        "global": "bool",
    },
    "channels": {
        "layer": "string",
        "channel": "int32",
        "seen": "int64",
        "mean": "double",
        "std": "double",
        "max": "float",
        "share_positive": "double",
        "dead": "bool",
        "top_label": "string",
        "label_purity": "double",
        "saturated": "bool",
        "always_negative": "bool",
        **dict.fromkeys(("share_at_max", "q05", "q25", "q50", "q75", "q95"), "double"),
        "selective_label": "string",
        "selectivity": "double",
        "twin": "int32",
        "twin_correlation": "double",
        "histogram": "list<element: int64>",
        "histogram_edges": "list<element: double>",
        "ties": "int64",
    },
    "skipped": {"example": "int64", "key": "string", "reason": "string"},
}

SAMPLES = {
    "string": ["conv/1", "größe", None],
    "int32": [0, 1, 2**31 - 1],
    "int64": [0, 1, 2**62],
    "float": [1.5, -np.inf, 0.0],
    "double": [1.5, np.nan, None],
    "bool": [True, False, True],
    "list<element: int64>": [[1, 2], [], None],
    "list<element: double>": [[1.5], [], None],
}


@pytest.mark.parametrize("name", COLUMNS)
def test_an_index_table_opens_in_pyarrow_and_pandas_with_the_documented_columns(tmp_path: Path, name: Any) -> None:
    write_index(tmp_path, name, {column: SAMPLES[kind] for column, kind in COLUMNS[name].items()})
    path = tmp_path / "index" / f"{name}.parquet"
    table = pq.read_table(path)
    assert {field.name: str(field.type) for field in table.schema} == COLUMNS[name]
    assert table.column_names == list(COLUMNS[name])
    frame = pd.read_parquet(path)
    assert list(frame.columns) == list(COLUMNS[name]) and len(frame) == 3
    for column, kind in COLUMNS[name].items():
        expected = [None if value is None or value != value else value for value in SAMPLES[kind]]  # type: ignore[attr-defined]
        actual = [list(value) if isinstance(value, np.ndarray) else value for value in frame[column]]
        assert [None if value is None or value != value else value for value in actual] == expected
    assert str(read_index(tmp_path, name)) == str(table)  # as text, where NaN is NaN


def test_no_table_that_other_programs_rely_on_has_gone() -> None:
    assert set(COLUMNS) < set(INDEX)


@pytest.mark.parametrize("name", COLUMNS)
def test_a_table_without_rows_keeps_its_columns(tmp_path: Path, name: Any) -> None:
    write_index(tmp_path, name, {column: [] for column in COLUMNS[name]})
    table = read_index(tmp_path, name)
    assert len(table) == 0 and {field.name: str(field.type) for field in table.schema} == COLUMNS[name]


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    rows = {column: SAMPLES[kind] for column, kind in COLUMNS["activations"].items()}
    for folder in ("one", "two"):
        write_index(tmp_path / folder, "activations", rows)
    one, two = (tmp_path / folder / "index" / "activations.parquet" for folder in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()


def pictures(count: Any) -> Any:
    return [np.random.default_rng(index).integers(0, 256, (4 + index, 6, 3), np.uint8) for index in range(count)]


def chunk_of(images: Any, first: Any = 0) -> Any:
    count = len(images)
    return {
        "image": [{"bytes": encode_png(image), "path": f"0-{first + i}.png"} for i, image in enumerate(images)],
        "layer": ["conv/1"] * count,
        "channel": [0] * count,
        "rank": list(range(first, first + count)),
        "score": [1.5] * count,
        "example": list(range(count)),
        "key": ["größe.png"] * count,
        "label": [None, *["cat"] * (count - 1)],
        "map": [None, *[b"png"] * (count - 1)],
    }


@pytest.fixture
def datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Hugging Face `datasets`, offline, with its cache in a folder of the test."""
    for name, value in (("HF_HUB_OFFLINE", "1"), ("HF_HOME", str(tmp_path / "hf")), ("HF_DATASETS_OFFLINE", "1")):
        monkeypatch.setenv(name, value)
    return pytest.importorskip("datasets")


def test_crops_open_in_hugging_face_datasets_as_images(tmp_path: Path, datasets: Any) -> None:
    images = pictures(5)
    write_crops(tmp_path / "conv.parquet", [chunk_of(images[:3]), chunk_of(images[3:], first=3)])
    actual = datasets.Dataset.from_parquet(str(tmp_path / "conv.parquet"), cache_dir=str(tmp_path / "cache"))
    assert actual.column_names == ["image", "layer", "channel", "rank", "score", "example", "key", "label", "map"]
    assert isinstance(actual.features["image"], datasets.Image)
    assert {name: feature.dtype for name, feature in actual.features.items() if name != "image"} == {
        "layer": "string",
        "channel": "int32",
        "rank": "int32",
        "score": "float32",
        "example": "int64",
        "key": "string",
        "label": "string",
        "map": "binary",
    }
    for row, image in zip(actual, images, strict=True):
        np.testing.assert_array_equal(np.asarray(row["image"]), image)
    assert actual[0]["label"] is None and actual[4]["rank"] == 4


@pytest.mark.parametrize("name", COLUMNS)
def test_index_tables_open_in_hugging_face_datasets(tmp_path: Path, datasets: Any, name: Any) -> None:
    write_index(tmp_path, name, {column: SAMPLES[kind] for column, kind in COLUMNS[name].items()})
    path = str(tmp_path / "index" / f"{name}.parquet")
    actual = datasets.Dataset.from_parquet(path, cache_dir=str(tmp_path / "cache"))
    assert actual.column_names == list(COLUMNS[name]) and len(actual) == 3


def test_crops_open_in_pandas_and_pyarrow(tmp_path: Path) -> None:
    images = pictures(2)
    write_crops(tmp_path / "conv.parquet", [chunk_of(images)])
    table = pq.read_table(tmp_path / "conv.parquet")
    assert table.schema.field("image").type == pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    frame = pd.read_parquet(tmp_path / "conv.parquet")
    np.testing.assert_array_equal(decode_png(frame["image"][1]["bytes"]), images[1])
    assert frame["image"][1]["path"] == "0-1.png"


def test_rows_with_the_same_picture_share_its_bytes_and_readers_see_plain_columns(tmp_path: Path) -> None:
    data = [np.random.default_rng(number).bytes(400_000) for number in range(5)]
    which = np.random.default_rng(0).integers(0, 5, 300)
    shared = pa.DictionaryArray.from_arrays(pa.array(which, pa.int32()), pa.array(data, pa.binary()))
    image = pa.StructArray.from_arrays([shared, pa.array([f"{number}.jpg" for number in which])], ["bytes", "path"])
    rows = chunk_of([np.zeros((4, 4, 3), np.uint8)] * 300) | {"image": image}
    path = tmp_path / "conv.parquet"
    write_crops(path, [rows])
    assert path.stat().st_size < 6 * 400_000
    table = pq.read_table(path, columns=["image", "rank"])
    assert table.schema.field("image").type == pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    assert all(table["image"][at].as_py() == {"bytes": data[which[at]], "path": f"{which[at]}.jpg"} for at in (0, 150, 299))
    duckdb = pytest.importorskip("duckdb")
    query = f"SELECT count(*), count(DISTINCT image.bytes) FROM '{path}'"
    assert duckdb.sql(query).fetchall() == [(300, 5)]


def test_each_chunk_of_crops_is_a_row_group_so_that_readers_need_not_hold_them_all(tmp_path: Path) -> None:
    images = pictures(5)
    write_crops(tmp_path / "conv.parquet", iter([chunk_of(images[:3]), chunk_of(images[3:], first=3)]))
    file = pq.ParquetFile(tmp_path / "conv.parquet")
    assert [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)] == [3, 2]


def test_crops_of_nothing_are_an_empty_table_with_all_columns(tmp_path: Path) -> None:
    write_crops(tmp_path / "conv.parquet", [{field.name: [] for field in CROPS}])
    assert pq.read_table(tmp_path / "conv.parquet").schema.names == CROPS.names


def test_crops_that_break_off_leave_the_old_file_and_no_debris(tmp_path: Path) -> None:
    path = tmp_path / "conv.parquet"
    write_crops(path, [chunk_of(pictures(2))])
    before = path.read_bytes()

    def broken() -> Iterator[Any]:
        yield chunk_of(pictures(2))
        raise OSError(28, "No space left on device")

    with pytest.raises(StoreFailed, match="the disk is full"):
        write_crops(path, broken())
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def test_a_table_that_claims_far_more_values_than_its_file_tells_apart_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.parquet"
    pq.write_table(pa.table({"x": np.zeros(2**26 + 1, np.int8)}), path)
    assert path.stat().st_size < 2**20
    with pytest.raises(pa.ArrowInvalid, match="it claims 67,108,865 values"):
        read_table(path)
    pq.write_table(pa.table({"x": np.arange(2**16)}), path)
    assert len(read_table(path)) == 2**16
