"""Arrow opens the Parquet files of this machine itself: its threads would let go of Python's while Python ends, and abort."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.attribution.map_files import MapFiles, StoredMap, read_maps
from pipeline.sources.fit import Fit
from pipeline.sources.registry import open_source
from pipeline.sources.source import Shard
from pipeline.spec.data import DataSpec
from pipeline.store.tables import read_table


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The files, not paths, that Arrow's Parquet readers are given."""
    sources: list[Any] = []

    def recorded(reader: Any) -> Any:
        def call(source: Any, *arguments: Any, **named: Any) -> Any:
            if not isinstance(source, str | Path):
                sources.append(source)
            return reader(source, *arguments, **named)

        return call

    for name in ("ParquetFile", "read_table", "read_metadata", "read_schema"):
        monkeypatch.setattr(pq, name, recorded(getattr(pq, name)))
    return sources


def test_stored_maps_are_read_from_files_of_arrow(read: Any, tmp_path: Path) -> None:
    with MapFiles(tmp_path, [("gradient", None)]) as files:
        for example in range(2):
            files.add(("gradient", None), StoredMap(example, f"{example}.png", "dog", 1, np.eye(4, dtype=np.float32)))
    assert next(read_maps(tmp_path, "gradient")).key == "0.png"
    assert [stored.key for stored in read_maps(tmp_path, "gradient", key="1.png")] == ["1.png"]
    assert len(read_table(tmp_path / "maps" / "gradient.parquet")) == 2
    assert read_table(tmp_path / "maps" / "gradient.parquet", ["key"]).column_names == ["key"]
    assert len(read) >= 4 and all(isinstance(source, pa.NativeFile) for source in read)


def test_data_sets_are_read_from_files_of_arrow(read: Any, tmp_path: Path) -> None:
    import cv2

    png = cv2.imencode(".png", np.zeros((12, 16, 3), np.uint8))[1].tobytes()
    pq.write_table(pa.table({"image": [{"bytes": png, "path": None}], "box": [[0.0, 0.0, 0.5, 0.5]]}), tmp_path / "a.parquet")
    source: Any = open_source(DataSpec(source=f"parquet:{tmp_path / 'a.parquet'}"), Fit(8, 8))
    assert len(list(source.stream(Shard()))) == 1
    assert source.column("box").value(0).tolist() == [0, 0, 0.5, 0.5]
    assert len(read) >= 3 and all(isinstance(source, pa.NativeFile) for source in read)
