"""Attribution maps as numbers: maps/LAYER-METHOD.parquet, written batch by batch, and read as NumPy."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.attribution.plan import MapKey
from pipeline.errors import MissingInput
from pipeline.store.files import aside, file_name
from pipeline.store.places import Place
from pipeline.store.tables import MAPS, for_arrow

FOLDER = "maps"
_ROWS = 256  # of a row group, so that a reader may take a few maps of many


@dataclass(frozen=True, eq=False)
class StoredMap:
    """One attribution map.

    example: the image's place in the data set; None for a file. key: its name.
    target: what is explained, in words. number: of the class or output.
    logits: the network's output that is explained, where all are in turn; else None.
    values: float32 (h, w), or (h, w, 3) for maps in colours.
    """

    example: int | None
    key: str
    target: str
    number: int
    values: np.ndarray
    logits: str | None = None


class MapFiles:
    """Writes one file a layer and method; none is there under its name before all are whole.

    Used as a context: files that an earlier run left are removed where the block succeeds, and stay where it fails.
    """

    def __init__(self, folder: Place, keys: Sequence[MapKey]) -> None:
        """The files of a job.

        Args:
            folder: the job's.
            keys: the maps that there will be.
        """
        self._folder = folder / FOLDER
        self._paths = {key: self._folder / name_of(*key) for key in dict.fromkeys(keys)}
        self._rows: dict[MapKey, list[dict[str, Any]]] = {key: [] for key in self._paths}
        self._stack = contextlib.ExitStack()
        self._writers: dict[MapKey, pq.ParquetWriter] = {}

    def __enter__(self) -> MapFiles:
        for key, path in self._paths.items():
            temporary = self._stack.enter_context(aside(path))
            self._writers[key] = self._stack.enter_context(pq.ParquetWriter(temporary, MAPS))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            for key in self._rows:
                self._write(key)
        self._stack.__exit__(kind, error, trace)
        if kind is None:
            for path in self._folder.glob("*.parquet"):
                if path.name not in {name_of(*key) for key in self._paths}:
                    path.unlink()

    def add(self, key: MapKey, stored: StoredMap) -> None:
        """Take one map; a row group is written when there are enough."""
        mantissas, scale = in_halves(stored.values)
        self._rows[key].append(
            {
                "example": stored.example,
                "key": stored.key,
                "logits": stored.logits,
                "class": stored.number,
                "target": stored.target,
                "map": mantissas.ravel(),
                "shape": stored.values.shape,
                "scale": scale,
            }
        )
        if len(self._rows[key]) == _ROWS:
            self._write(key)

    def _write(self, key: MapKey) -> None:
        rows, self._rows[key] = self._rows[key], []
        if rows:
            self._writers[key].write_table(pa.Table.from_pylist(rows, MAPS))


def in_halves(values: np.ndarray) -> tuple[np.ndarray, float]:
    """A map as float16 times a power of two: gradients by pixels are too small for float16 as they are.

    Returns: float16 of the same shape, the largest size from 0.5 to 1, and what to multiply by.
    """
    peak = float(np.abs(values).max(initial=0.0))
    scale = float(2.0 ** np.ceil(np.log2(peak))) if 0 < peak < np.inf else 1.0
    return (values / scale).astype(np.float16), scale


def name_of(method: str, layer: str | None) -> str:
    """The file of a method and a layer; the layer is left out for a method that looks at pixels alone."""
    return f"{f'{file_name(layer)}-' if layer is not None else ''}{method}.parquet"


def remove_maps(folder: Place) -> None:
    """Remove what an earlier run of a job stored."""
    for path in (folder / FOLDER).glob("*.parquet"):
        path.unlink()


def read_maps(folder: Place, method: str, layer: str | None = None, key: str | None = None) -> Iterator[StoredMap]:
    """The maps of a job one after another, in the order of its images; a row group is in memory at a time.

    Args:
        key: of the image whose maps alone are read; None for all.

    Raises: MissingInput, for a job that has none of this method and layer.
    """
    path = folder / FOLDER / name_of(method, layer)
    if not path.exists():
        names = sorted(other.name for other in (folder / FOLDER).glob("*.parquet"))
        stored = f"It has {', '.join(names)}." if names else "Set gradcam.arrays = true, and run the stage gradcam again."
        raise MissingInput(f"{folder} stores no maps of {method!r}{f' at {layer!r}' if layer else ''}. {stored}")
    with for_arrow(path) as opened:
        file = pq.ParquetFile(opened, pre_buffer=False)
        for group in range(file.num_row_groups):
            rows = list(range(file.metadata.row_group(group).num_rows))
            if key is not None:
                rows = [
                    number
                    for number, key_of_row in enumerate(file.read_row_group(group, ["key"], use_threads=False)["key"].to_pylist())
                    if key_of_row == key
                ]
            for row in file.read_row_group(group, use_threads=False).take(rows).to_pylist() if rows else ():
                values = np.array(row["map"], np.float32).reshape(row["shape"]) * np.float32(row["scale"])
                yield StoredMap(row["example"], row["key"], row["target"], row["class"], values, row["logits"])
