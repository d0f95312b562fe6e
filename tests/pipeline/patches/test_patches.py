"""Patches: cut from the source's own pixels, at its own resolution, listed and laid out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.activations.channel_table import top_label
from pipeline.drawing.mosaic import MosaicLayout
from pipeline.drawing.palettes import GROUND
from pipeline.drawing.pixels import decode_png, resize
from pipeline.errors import StoreFailed, UnusableData
from pipeline.patches import Winners, write_patches
from pipeline.sources.fit import Fit
from pipeline.sources.registry import open_source
from pipeline.spec.data import DataSpec
from pipeline.store.tables import read_index

FIT = Fit(16, 16, "stretch")


@pytest.fixture
def source(in_memory: Any) -> Any:
    """Five images of 80x64 pixels: five rows and four columns of the source to a pixel of the network's input."""
    images = np.random.default_rng(2).integers(0, 256, (5, 80, 64, 3), np.uint8)
    return in_memory(images, labels=["cat", "dog", "cat", "ant", "dog"], fit=FIT)


def winners(examples: Any, boxes: Any, extents: Any = (8, 8), channels: Any = None, layer: Any = "conv") -> Any:
    """Winners of a layer: examples and boxes by channel and rank; scores fall from 10, rows are ranks, cols channels."""
    examples = np.array(examples, np.int64)
    count, k = examples.shape
    scores = np.where(examples >= 0, 10 - np.arange(k, dtype=np.float32), -np.inf).astype(np.float32)
    rows, cols = np.broadcast_to(np.arange(k), (count, k)), np.broadcast_to(np.arange(count)[:, None], (count, k))
    return Winners(
        layer,
        np.arange(count) if channels is None else np.array(channels),
        scores,
        examples,
        np.where(examples >= 0, rows, -1).astype(np.int32),
        np.where(examples >= 0, cols, -1).astype(np.int32),
        np.array(boxes, np.int32).reshape(count, k, 4),
        np.tile(np.array(extents, np.int32), (count, 1)),
    )


def crops(folder: Any, layer: Any = "conv") -> Any:
    """The crops of a layer as (channel, rank) -> RGB pixels."""
    rows = pq.read_table(folder / "crops" / f"{layer}.parquet").to_pylist()
    return {(row["channel"], row["rank"]): decode_png(row["image"]["bytes"]) for row in rows}


def picture(folder: Any, name: Any) -> Any:
    return cv2.imread(str(folder / "mosaics" / "activations" / f"{name}.png"))[..., ::-1]


def tile_at(whole: Any, layout: Any, row: Any, group: Any, place: Any) -> Any:
    """A tile of a mosaic, by the layout's own account of where it lies."""
    y, x = layout.corner(row)
    x += layout.label + sum(
        count * (width + 2) + 8 for count, (_, width) in zip(layout.groups[:group], layout.tile[:group], strict=True)
    )
    height, width = layout.tile[group]
    x += place * (width + 2)
    return whole[y : y + height, x : x + width]


def test_crops_are_the_source_images_own_pixels_at_the_boxes_of_the_index(source: Any, tmp_path: Path) -> None:
    boxes = [[(4, 4, 12, 12), (0, 0, 5, 6)], [(11, 10, 16, 16), (3, 0, 11, 7)]]
    write_patches([winners([[3, 0], [1, 3]], boxes)], source, FIT, tmp_path)
    rows = read_index(tmp_path, "activations").to_pylist()
    found = crops(tmp_path)
    assert [(row["channel"], row["rank"], row["example"]) for row in rows] == [(0, 0, 3), (0, 1, 0), (1, 0, 1), (1, 1, 3)]
    for row, box in zip(rows, [box for of_channel in boxes for box in of_channel], strict=True):
        assert (row["y1"], row["x1"], row["y2"], row["x2"]) == box
        y1, x1, y2, x2 = (row[f"src_{edge}"] for edge in ("y1", "x1", "y2", "x2"))
        assert (y1, x1, y2, x2) == (5 * box[0], 4 * box[1], 5 * box[2], 4 * box[3])
        np.testing.assert_array_equal(found[row["channel"], row["rank"]], source.images[row["example"]][y1:y2, x1:x2])


def test_the_index_has_score_position_key_and_label_of_every_winner(source: Any, tmp_path: Path) -> None:
    write_patches([winners([[3, 0]], [(4, 4, 12, 12)] * 2, channels=[17])], source, FIT, tmp_path)
    first, second = read_index(tmp_path, "activations").to_pylist()
    told = ("layer", "channel", "rank", "score", "example", "key", "label", "row", "col")
    assert [first[name] for name in told] == ["conv", 17, 0, 10.0, 3, "image3", "ant", 0, 0]
    assert [second[name] for name in told] == ["conv", 17, 1, 9.0, 0, "image0", "cat", 1, 0]


def test_every_image_is_opened_once_however_many_patches_it_gives(source: Any, tmp_path: Path) -> None:
    layers = [
        winners([[3, 0, 3], [0, 3, 4]], [(0, 0, 8, 8)] * 6, layer="one"),
        winners([[4, 3]], [(0, 0, 4, 4)] * 2, layer="two"),
    ]
    told = []
    write_patches(layers, source, FIT, tmp_path, progress=lambda *news: told.append(news))
    assert source.fetched == [0, 3, 4]
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_fewer_winners_than_places_give_fewer_rows_and_empty_tiles(source: Any, tmp_path: Path) -> None:
    labels = write_patches([winners([[2, -1], [-1, -1]], [(0, 0, 8, 8)] * 4)], source, FIT, tmp_path)
    assert labels == {"conv": [["cat"], []]}
    assert len(read_index(tmp_path, "activations")) == 1 and list(crops(tmp_path)) == [(0, 0)]
    layout = MosaicLayout.of(2, [2], [(96, 96)], 1)
    whole = picture(tmp_path, "conv-crop")
    empty = tile_at(whole, layout, 0, 0, 1)
    assert (empty == empty[0, 0]).all()
    np.testing.assert_array_equal(tile_at(whole, layout, 1, 0, 0), empty)
    assert (tile_at(whole, layout, 0, 0, 0) != empty).any()


def test_a_layer_that_nothing_won_leaves_an_empty_table_and_a_picture(source: Any, tmp_path: Path) -> None:
    write_patches([winners([[-1, -1]], [(0, 0, 8, 8)] * 2)], source, FIT, tmp_path)
    assert crops(tmp_path) == {} and len(read_index(tmp_path, "activations")) == 0
    assert picture(tmp_path, "conv").shape[0] > 96


def test_units_that_see_nothing_are_cropped_to_the_whole_input(source: Any, tmp_path: Path) -> None:
    boxes = [(0, 0, 0, 0), (4, 4, 12, 12)]
    write_patches(
        [winners([[3]], boxes[:1], extents=(0, 0), layer="none"), winners([[3, 3]], boxes, layer="some")], source, FIT, tmp_path
    )
    for layer in ("none", "some"):
        np.testing.assert_array_equal(crops(tmp_path, layer)[0, 0], source.images[3])
        tile = tile_at(picture(tmp_path, f"{layer}-crop"), MosaicLayout.of(1, [2], [(96, 96)], 0), 0, 0, 0)
        np.testing.assert_array_equal(tile[:, 10:86], resize(source.images[3], 96, 76))


@pytest.mark.parametrize(
    ("box", "empty_rows", "empty_cols"),
    [((0, 0, 5, 6), 3, 2), ((11, 4, 16, 12), -3, 0), ((4, 10, 12, 16), 0, -2)],
    ids=["upper left", "bottom", "right"],
)
def test_a_patch_that_the_border_clips_is_padded_on_that_side_and_not_stretched(
    in_memory: Any, tmp_path: Path, box: Any, empty_rows: Any, empty_cols: Any
) -> None:
    source = in_memory(np.random.default_rng(0).integers(100, 256, (1, 16, 16, 3)))
    write_patches([winners([[0]], [box])], source, Fit(16, 16), tmp_path)
    tile = tile_at(picture(tmp_path, "conv-crop"), MosaicLayout.of(1, [1], [(96, 96)], 0), 0, 0, 0)
    y1, x1, y2, x2 = box
    grown = source.images[0][y1:y2, x1:x2].repeat(12, axis=0).repeat(12, axis=1)  # 8 pixels on 96
    padded = np.pad(grown, [_both(12 * empty_rows), _both(12 * empty_cols), (0, 0)])
    shown = np.pad(np.ones(grown.shape, bool), [_both(12 * empty_rows), _both(12 * empty_cols), (0, 0)])
    assert tile.shape == padded.shape
    np.testing.assert_array_equal(tile[shown], padded[shown])
    assert (tile[~shown].reshape(-1, 3) < 100).all()


def _both(length: Any) -> Any:
    return (length, 0) if length > 0 else (0, -length)


def test_the_full_mosaic_shows_whole_images_with_the_box_drawn_where_it_lies(in_memory: Any, tmp_path: Path) -> None:
    source = in_memory(np.full((1, 96, 96, 3), 90))
    write_patches([winners([[0]], [(4, 6, 12, 10)])], source, Fit(16, 16), tmp_path)
    tile = tile_at(picture(tmp_path, "conv-full"), MosaicLayout.of(1, [1], [(96, 96)], 0), 0, 0, 0)
    rows, cols = np.nonzero((tile == (255, 220, 0)).all(axis=2))
    assert (rows.min(), cols.min(), rows.max() + 1, cols.max() + 1) == (24, 36, 72, 60)
    assert (tile[:20] == 90).all() and (tile[30:60, 42:54] == 90).all()


def test_the_mosaic_of_both_has_crops_on_the_left_and_whole_images_on_the_right(source: Any, tmp_path: Path) -> None:
    write_patches([winners([[0, 1], [2, 3]], [(4, 4, 12, 12)] * 4)], source, FIT, tmp_path)
    both, crop, full = (picture(tmp_path, f"conv{suffix}") for suffix in ("", "-crop", "-full"))
    tiles = [(96, 96), (96, 96)]
    one, two = MosaicLayout.of(2, [2], tiles[:1], 1), MosaicLayout.of(2, [2, 2], tiles, 1, captioned=True)
    alone = MosaicLayout.of(2, [2], tiles[:1], 1, captioned=True)
    for row in (0, 1):
        for place in (0, 1):
            np.testing.assert_array_equal(tile_at(both, two, row, 0, place), tile_at(crop, one, row, 0, place))
            np.testing.assert_array_equal(tile_at(both, two, row, 1, place), tile_at(full, alone, row, 0, place))


@pytest.fixture
def windows(tmp_path: Path) -> Any:
    """24-pixel windows, 12 apart, over two pictures of 60x72 pixels."""
    folder = tmp_path / "images"
    folder.mkdir()
    random = np.random.default_rng(4)
    for name in ("a.png", "b.png"):
        cv2.imwrite(str(folder / name), random.integers(0, 256, (60, 72, 3), np.uint8))
    return open_source(DataSpec(source=f"folder:{folder}", window={"size": 24, "stride": 12}), Fit(16, 16))


def test_boxes_of_windows_lie_inside_their_windows(windows: Any, tmp_path: Path) -> None:
    examples = np.arange(len(windows))[None]
    boxes = [(0, 0, 16, 16) if example % 2 else (5, 6, 16, 9) for example in examples[0]]
    write_patches([winners(examples, boxes)], windows, windows.fit, tmp_path)
    rows = read_index(tmp_path, "activations").to_pylist()
    assert len(rows) == 2 * 4 * 5
    for row in rows:
        y, x = map(int, row["key"].split("@")[1].split(","))
        box = [row[f"src_{edge}"] for edge in ("y1", "x1", "y2", "x2")]
        if row["example"] % 2:
            assert box == [y, x, y + 24, x + 24]
        else:
            # 24 pixels of the picture on 16 of the input: 5 is 7.5, rounded outwards; 6 is 9; 9 is 13.5.
            assert box == [y + 7, x + 9, y + 24, x + 14]
    image = dict(windows.fetch([rows[7]["example"]]))[rows[7]["example"]]
    y1, x1, y2, x2 = (rows[7][f"src_{edge}"] for edge in ("y1", "x1", "y2", "x2"))
    np.testing.assert_array_equal(crops(tmp_path)[0, 7], image.pixels[y1:y2, x1:x2])


def test_whole_crops_are_the_image_that_the_network_saw_and_keep_their_boxes(windows: Any, source: Any, tmp_path: Path) -> None:
    write_patches([winners([[0, 39]], [(4, 4, 12, 12)] * 2)], windows, windows.fit, tmp_path, whole=True)
    assert [pixels.shape for pixels in crops(tmp_path).values()] == [(24, 24, 3)] * 2
    row = read_index(tmp_path, "activations").to_pylist()[0]
    assert (row["src_y1"], row["src_x1"], row["src_y2"], row["src_x2"]) == (6, 6, 18, 18)
    write_patches([winners([[2]], [(4, 4, 12, 12)], layer="conv")], source, FIT, tmp_path, whole=True)
    np.testing.assert_array_equal(crops(tmp_path)[0, 0], source.images[2])


def test_a_unit_that_sees_nothing_is_cropped_to_the_whole_image(source: Any, tmp_path: Path) -> None:
    write_patches([winners([[1]], [(0, 0, 0, 0)])], source, FIT, tmp_path)
    np.testing.assert_array_equal(crops(tmp_path)[0, 0], source.images[1])


def test_labels_come_by_channel_strongest_first(source: Any, tmp_path: Path) -> None:
    found = write_patches([winners([[3, 0], [1, 4]], [(0, 0, 8, 8)] * 4)], source, FIT, tmp_path)
    assert found == {"conv": [["ant", "cat"], ["dog", "dog"]]}


def test_a_winner_that_can_no_longer_be_read_stops_the_job_and_leaves_the_old_results(
    in_memory: Any, tmp_path: Path, tree_of: Any
) -> None:
    images = np.zeros((2, 16, 16, 3))
    write_patches([winners([[0, 1]], [(0, 0, 8, 8)] * 2)], in_memory(images), Fit(16, 16), tmp_path)
    before = tree_of(tmp_path)
    with pytest.raises(UnusableData, match="image 1 cannot be read"):
        write_patches([winners([[1, 0]], [(0, 0, 8, 8)] * 2)], in_memory(images, broken=[1]), Fit(16, 16), tmp_path)
    assert tree_of(tmp_path) == before


def test_a_folder_for_scratch_that_cannot_be_made_is_one_line(source: Any, tmp_path: Path) -> None:
    (tmp_path / "parts").write_text("in the way")
    with pytest.raises(StoreFailed, match="parts was not written") as caught:
        write_patches([winners([[0]], [(0, 0, 8, 8)])], source, FIT, tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["dog", "cat", "dog"], ("dog", 2 / 3)),
        (["dog", "cat", "cat", "dog"], ("cat", 0.5)),
        (["cat"], ("cat", 1.0)),
        (["cat", None, None, None], ("cat", 0.25)),
        ([None, None], (None, None)),
        ([], (None, None)),
    ],
)
def test_the_top_label_is_the_most_frequent_and_among_equals_the_first_of_the_alphabet(labels: Any, expected: Any) -> None:
    assert top_label(labels) == expected


def test_labels_stand_below_whole_images_and_nowhere_else(source: Any, tmp_path: Path) -> None:
    write_patches([winners([[0, 2, 3], [1, 4, -1]], [(4, 4, 12, 12)] * 6)], source, FIT, tmp_path)
    layout = MosaicLayout.of(2, [3, 3], [(96, 96)] * 2, 1, captioned=True)

    def below(row: Any, group: Any, place: Any) -> Any:
        y, x = layout.corner(row)
        x += layout.label + group * (3 * 98 + 8) + place * 98
        return picture(tmp_path, "conv")[y + 96 : y + 96 + layout.caption, x : x + 96]

    cat, ant, dog = below(0, 1, 0), below(0, 1, 2), below(1, 1, 0)
    assert cat.max() > 200 and np.array_equal(cat, below(0, 1, 1)) and np.array_equal(dog, below(1, 1, 1))
    assert not np.array_equal(cat, ant) and not np.array_equal(cat, dog)
    assert all(below(row, 0, place).max() == max(GROUND) for row in (0, 1) for place in range(3))
    assert below(1, 1, 2).max() == max(GROUND)  # of a place that nothing fills


def test_without_labels_no_room_is_kept_for_them(in_memory: Any, tmp_path: Path) -> None:
    unnamed = in_memory(np.zeros((2, 80, 64, 3), np.uint8), fit=FIT)
    write_patches([winners([[0, 1]], [(4, 4, 12, 12)] * 2)], unnamed, FIT, tmp_path)
    assert picture(tmp_path, "conv-full").shape[:2] == MosaicLayout.of(1, [2], [(96, 96)], 0).size
