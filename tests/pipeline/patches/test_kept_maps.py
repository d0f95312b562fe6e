"""Crops from maps that the scan has kept, and what crop files share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq

from pipeline.patches import PatchOptions, Winners, write_patches
from pipeline.sources.fit import Fit
from pipeline.store.tables import read_index


def winners(examples: Any, maps: Any = None) -> Any:
    """Winners of a layer `deep` whose units see everything."""
    examples = np.array(examples, np.int64)
    count, k = examples.shape
    scores = np.where(examples >= 0, 1, -np.inf).astype(np.float32)
    at = np.where(examples >= 0, 0, -1).astype(np.int32)
    boxes, extents = np.tile(np.array([0, 0, 16, 16], np.int32), (count, k, 1)), np.full((count, 2), 16, np.int32)
    return Winners("deep", np.arange(count), scores, examples, at, at, boxes, extents, maps=maps)


class OfKeptMaps:
    """Regions that begin where the map says; never asked for a pass of the network."""

    layers = ("deep",)

    def find(self, images: Any, units: Any) -> Any:
        raise AssertionError("the scan has these maps")

    def of_shares(self, layer: Any, shares: Any, row: Any, col: Any) -> Any:
        first = np.column_stack([shares, shares]).astype(np.int32)
        return np.concatenate([first, first + 4], axis=1), shares.reshape(-1, 1, 1)


def test_winners_whose_maps_the_scan_kept_need_no_pass_of_the_network(in_memory: Any, tmp_path: Path) -> None:
    source = in_memory(np.random.default_rng(0).integers(100, 200, (3, 32, 32, 3)))
    deep = winners([[1, 0], [2, -1]], np.array([[[3], [5]], [[7], [0]]], np.uint8))
    write_patches([deep], source, tmp_path, PatchOptions(Fit(16, 16), maps=OfKeptMaps()))
    rows = read_index(tmp_path, "activations").to_pylist()
    boxes = [[row[f"map_{edge}"] for edge in ("y1", "x1", "y2", "x2")] for row in rows]
    assert boxes == [[n, n, n + 4, n + 4] for n in (3, 5, 7)]
    maps = pq.read_table(tmp_path / "crops" / "deep.parquet")["map"].to_pylist()
    assert [int(cv2.imdecode(np.frombuffer(data, np.uint8), 0)[0, 0]) for data in maps] == [3, 5, 7]


def test_equal_crops_of_different_images_are_stored_once(in_memory: Any, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 48, 48, 3))
    sizes = []
    for folder, pair in {"same": images[[0, 0]], "different": images}.items():
        write_patches([winners([[0, 1]])], in_memory(pair), tmp_path / folder, PatchOptions(Fit(16, 16)))
        columns = pq.ParquetFile(tmp_path / folder / "crops" / "deep.parquet").metadata.row_group(0)
        assert columns.column(0).path_in_schema == "image.bytes"
        sizes.append(columns.column(0).total_uncompressed_size)
    assert sizes[0] < 0.6 * sizes[1]


def test_a_layer_whose_channels_never_fire_has_maps_of_nothing(in_memory: Any, tmp_path: Path) -> None:
    source = in_memory(np.zeros((3, 32, 32, 3)))
    dead = winners([[-1, -1], [-1, -1]], np.zeros((2, 2, 1), np.uint8))
    write_patches([dead], source, tmp_path, PatchOptions(Fit(16, 16), maps=OfKeptMaps()))
    assert not len(read_index(tmp_path, "activations"))
