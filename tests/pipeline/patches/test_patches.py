"""Patches: cut from the source's own pixels, at its own resolution, listed and laid out."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline.activations.channel_table import top_label
from pipeline.drawing.palettes import EMPTY, GROUND, LETTERS, MARK
from pipeline.drawing.pixels import decode_png, resize
from pipeline.drawing.sheet import MARGIN, SheetLayout, lines_above
from pipeline.drawing.text import strip
from pipeline.errors import StoreFailed, UnusableData
from pipeline.patches import PatchOptions, Winners, write_patches
from pipeline.patches.mosaics import MosaicRows
from pipeline.sources.fit import Fit
from pipeline.sources.registry import open_source
from pipeline.spec.data import DataSpec
from pipeline.store.tables import read_index

FIT = Fit(16, 16, "stretch")


@pytest.fixture
def source(in_memory: Any) -> Any:
    """Five images of 80x64 pixels: five rows and four columns of the source to a pixel of the network's input."""
    noise = np.random.default_rng(2).integers(0, 256, (5, 10, 8, 3), np.uint8)
    images = np.stack([cv2.resize(image, (64, 80), interpolation=cv2.INTER_CUBIC) for image in noise])
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


def place_of(folder: Path, channel: int, layer: str = "conv") -> Any:
    """The row of index/mosaics.parquet of a channel."""
    return next(row for row in read_index(folder, "mosaics").to_pylist() if (row["layer"], row["channel"]) == (layer, channel))


def tile_of(folder: Path, channel: int, rank: int, layer: str = "conv") -> Any:
    """A patch as its layer's mosaic shows it, where the index says that it lies."""
    place = place_of(folder, channel, layer)
    whole = cv2.imread(str(folder / place["picture"]))[..., ::-1]
    assert whole.shape[:2] == (place["height"], place["width"])
    y = place["y"] + rank // place["per_line"] * place["step_y"]
    x = place["x"] + rank % place["per_line"] * place["step_x"]
    return whole[y : y + place["tile_height"], x : x + place["tile_width"]]


def assert_alike(pixels: Any, expected: Any) -> None:
    """The same but for what a JPEG loses."""
    assert pixels.shape == expected.shape
    assert np.abs(pixels.astype(int) - expected).mean() < 6


def test_crops_are_the_source_images_own_pixels_at_the_boxes_of_the_index(source: Any, tmp_path: Path) -> None:
    boxes = [[(4, 4, 12, 12), (0, 0, 5, 6)], [(11, 10, 16, 16), (3, 0, 11, 7)]]
    write_patches([winners([[3, 0], [1, 3]], boxes)], source, tmp_path, PatchOptions(FIT))
    rows = read_index(tmp_path, "activations").to_pylist()
    actual = crops(tmp_path)
    assert [(row["channel"], row["rank"], row["example"]) for row in rows] == [(0, 0, 3), (0, 1, 0), (1, 0, 1), (1, 1, 3)]
    for row, box in zip(rows, [box for of_channel in boxes for box in of_channel], strict=True):
        assert (row["y1"], row["x1"], row["y2"], row["x2"]) == box
        y1, x1, y2, x2 = (row[f"src_{edge}"] for edge in ("y1", "x1", "y2", "x2"))
        assert (y1, x1, y2, x2) == (5 * box[0], 4 * box[1], 5 * box[2], 4 * box[3])
        np.testing.assert_array_equal(actual[row["channel"], row["rank"]], source.images[row["example"]][y1:y2, x1:x2])


def test_the_index_tells_score_place_key_and_label_of_every_winner(source: Any, tmp_path: Path) -> None:
    write_patches([winners([[3, 0]], [(4, 4, 12, 12)] * 2, channels=[17])], source, tmp_path, PatchOptions(FIT))
    first, second = read_index(tmp_path, "activations").to_pylist()
    columns = ("layer", "channel", "rank", "score", "example", "key", "label", "row", "col")
    assert [first[name] for name in columns] == ["conv", 17, 0, 10.0, 3, "image3", "ant", 0, 0]
    assert [second[name] for name in columns] == ["conv", 17, 1, 9.0, 0, "image0", "cat", 1, 0]


def test_every_image_is_opened_once_however_many_patches_it_gives(source: Any, tmp_path: Path) -> None:
    layers = [
        winners([[3, 0, 3], [0, 3, 4]], [(0, 0, 8, 8)] * 6, layer="one"),
        winners([[4, 3]], [(0, 0, 4, 4)] * 2, layer="two"),
    ]
    reports: dict[str, list[tuple[int, int]]] = {}

    def step(title: str, unit: str) -> Any:
        return nullcontext(lambda *news: reports.setdefault(title, []).append(news))

    write_patches(layers, source, tmp_path, PatchOptions(FIT, step=step))
    assert source.fetched == [0, 3, 4]
    assert reports == {"patches": [(number, 3) for number in range(4)], "mosaics": [(number, 6) for number in range(7)]}


def test_fewer_winners_than_places_give_fewer_rows_and_empty_tiles(source: Any, tmp_path: Path) -> None:
    labels = write_patches([winners([[2, -1], [-1, -1]], [(0, 0, 8, 8)] * 4)], source, tmp_path, PatchOptions(FIT))
    assert labels == {"conv": [["cat"], []]}
    assert len(read_index(tmp_path, "activations")) == 1 and list(crops(tmp_path)) == [(0, 0)]
    assert (tile_of(tmp_path, 0, 1) == EMPTY).all() and (tile_of(tmp_path, 0, 0) != EMPTY).any()


def test_a_channel_that_never_fires_says_so_and_shows_no_patches(source: Any, tmp_path: Path) -> None:
    write_patches([winners([[2, 1], [-1, -1]], [(0, 0, 8, 8)] * 4)], source, tmp_path, PatchOptions(FIT, images=5))
    marked = (picture(tmp_path, "conv-crop") == MARK).all(axis=2)
    rows = np.flatnonzero(marked.any(axis=1))
    y = place_of(tmp_path, 1)["y"]
    assert y <= rows.min() and rows.max() < y + 72


def test_what_is_said_of_a_channel_stays_within_its_column(source: Any, tmp_path: Path) -> None:
    """With one winner a channel a column is a tile wide, and the next begins right behind it."""
    silent = np.arange(30) % 3 == 0
    layer = winners([[-1] if is_silent else [2] for is_silent in silent], [(0, 0, 8, 8)] * 30)
    layer = replace(layer, ties=np.where(silent, 0, np.where(np.arange(30) % 3 == 1, 1_281_158, 999_900)))
    write_patches([layer], source, tmp_path, PatchOptions(FIT, images=1_281_167))
    marked = (picture(tmp_path, "conv-crop") == MARK).all(axis=2)
    columns = sorted({place_of(tmp_path, channel)["x"] for channel in range(30)})
    assert len(columns) > 1 and all(marked[:, x : x + 72].any() and marked[:, x - 60 : x].any() for x in columns)
    assert not any(marked[:, x - 70 : x - 60].any() for x in columns)


def test_a_channel_whose_last_winner_ties_with_other_images_says_so(source: Any, tmp_path: Path) -> None:
    tied = replace(winners([[2, 1], [3, 4]], [(0, 0, 8, 8)] * 4), ties=np.array([0, 12]))
    write_patches([tied], source, tmp_path, PatchOptions(FIT, images=5))
    marked = (picture(tmp_path, "conv-crop") == MARK).all(axis=2)
    rows, place = np.flatnonzero(marked.any(axis=1)), place_of(tmp_path, 1)
    assert place["y"] <= rows.min() and rows.max() < place["y"] + 72 and np.flatnonzero(marked.any(axis=0)).max() < place["x"]


def test_a_layer_that_nothing_won_leaves_an_empty_table_and_a_picture(source: Any, tmp_path: Path) -> None:
    write_patches([winners([[-1, -1]], [(0, 0, 8, 8)] * 2)], source, tmp_path, PatchOptions(FIT))
    assert crops(tmp_path) == {} and len(read_index(tmp_path, "activations")) == 0
    assert picture(tmp_path, "conv").shape[0] > 72


def test_units_that_see_nothing_are_cropped_to_the_whole_input(source: Any, tmp_path: Path) -> None:
    boxes = [(0, 0, 0, 0), (4, 4, 12, 12)]
    blind = winners([[3]], boxes[:1], extents=(0, 0), layer="none")
    write_patches([blind, winners([[3, 3]], boxes, layer="some")], source, tmp_path, PatchOptions(FIT))
    for layer in ("none", "some"):
        assert_alike(crops(tmp_path, layer)[0, 0], source.images[3])
        np.testing.assert_array_equal(tile_of(tmp_path, 0, 0, layer)[:, 7:65], resize(source.images[3], 72, 58))


@pytest.mark.parametrize(
    ("box", "shown"),
    [((0, 0, 5, 6), (0, 0, 8, 8)), ((11, 4, 16, 12), (8, 4, 16, 12)), ((4, 10, 12, 16), (4, 8, 12, 16))],
    ids=["upper left", "bottom", "right"],
)
def test_a_patch_that_the_border_clips_fills_its_tile_with_what_lies_beside_it(
    in_memory: Any, tmp_path: Path, box: Any, shown: Any
) -> None:
    source = in_memory(np.random.default_rng(0).integers(100, 256, (1, 16, 16, 3)))
    write_patches([winners([[0]], [box])], source, tmp_path, PatchOptions(Fit(16, 16)))
    y1, x1, y2, x2 = shown
    enlarged = source.images[0][y1:y2, x1:x2].repeat(9, axis=0).repeat(9, axis=1)  # 8 pixels on 72
    np.testing.assert_array_equal(tile_of(tmp_path, 0, 0), enlarged)
    y1, x1, y2, x2 = box
    np.testing.assert_array_equal(crops(tmp_path)[0, 0], source.images[0][y1:y2, x1:x2])


def test_the_full_mosaic_shows_whole_images_with_the_box_drawn_where_it_lies(in_memory: Any, tmp_path: Path) -> None:
    source = in_memory(np.full((1, 96, 96, 3), 90))
    write_patches([winners([[0]], [(4, 6, 12, 10)])], source, tmp_path, PatchOptions(Fit(16, 16)))
    place = place_of(tmp_path, 0)
    tile = picture(tmp_path, "conv-full")[place["y"] : place["y"] + 64, place["x"] : place["x"] + 64]
    rows, cols = np.nonzero((tile == (255, 220, 0)).all(axis=2))
    assert (rows.min(), cols.min(), rows.max() + 1, cols.max() + 1) == (16, 24, 48, 40)
    assert (tile[:14] == 90).all() and (tile[20:40, 28:36] == 90).all()


def test_the_mosaic_of_both_has_crops_on_the_left_and_whole_images_on_the_right(source: Any, tmp_path: Path) -> None:
    write_patches([winners([[0, 1], [2, 3]], [(4, 4, 12, 12)] * 4)], source, tmp_path, PatchOptions(FIT))
    both, crop, full = (picture(tmp_path, f"conv{suffix}") for suffix in ("", "-crop", "-full"))
    lines = lines_above(place_of(tmp_path, 0)["y"])
    layout = SheetLayout.of(2, 2, [(72, 72), (64, 64)], 60, lines)
    alone = SheetLayout.of(2, 2, [(64, 64)], 60, lines)
    for row in (0, 1):
        for rank in (0, 1):
            place = place_of(tmp_path, row)
            x = place["x"] + rank * place["step_x"]
            np.testing.assert_array_equal(cut(both, layout.tile_corner(row, 0, rank), 72), cut(crop, (place["y"], x), 72))
            small = cut(both, layout.tile_corner(row, 1, rank), 64)
            np.testing.assert_array_equal(small, cut(full, alone.tile_corner(row, 0, rank), 64))


def test_a_heading_takes_as_many_lines_as_its_texts_need() -> None:
    heading = ["conv", "of photos", "words that are many " * 20]
    layout = SheetLayout.under(heading, 2, 2, [(72, 72)], 60)
    lines = layout.broken(heading)
    assert " ".join(lines).split() == " ".join(heading).split() and 3 < len(lines) == layout.lines == lines_above(layout.heading)
    assert all(strip(line, 18, LETTERS).shape[1] <= layout.size(0)[1] - 2 * MARGIN for line in lines[1:])


def test_below_a_patch_stands_what_it_is_ranked_by() -> None:
    plain = winners([[0, 1], [2, 3]], [(4, 4, 12, 12)] * 4)
    clamped = replace(plain, unclipped=np.array([[12.5, np.nan], [10.25, 9.0]], np.float32))
    for layer, captions, words in (
        (plain, ["10", "9", "10"], ""),
        (clamped, ["12.5", "9", "10.2"], ", as it is before the upper clamp"),
    ):
        rows = MosaicRows(layer, SimpleNamespace(map_size=None), SimpleNamespace(), PatchOptions(FIT), ("crop",))
        assert [rows.caption(0, 0, 0), rows.caption(0, 0, 1), rows.caption(1, 0, 0)] == captions
        assert f"its strongest response first{words};" in rows.heading()[-1]


def cut(pixels: Any, corner: tuple[int, int], side: int) -> Any:
    return pixels[corner[0] : corner[0] + side, corner[1] : corner[1] + side]


def test_many_channels_take_pages_of_bounded_size_and_every_patch_is_found(in_memory: Any, tmp_path: Path) -> None:
    shades = np.arange(100, dtype=np.uint8)[:, None, None, None] + np.zeros((1, 16, 16, 3), np.uint8)
    source = in_memory(np.ascontiguousarray(2 * shades))
    few = winners(np.arange(40).repeat(2).reshape(40, 2), [(4, 4, 12, 12)] * 80)
    write_patches([few], source, tmp_path, PatchOptions(Fit(16, 16)))
    names = {path.name for path in (tmp_path / "mosaics" / "activations").iterdir()}
    assert names == {"conv-crop.png", "conv-full.png", "conv.png"}
    more = winners(np.arange(100).repeat(9).reshape(100, 9), [(4, 4, 12, 12)] * 900)
    write_patches([more], source, tmp_path, PatchOptions(Fit(16, 16)))
    pages = {place_of(tmp_path, channel)["picture"] for channel in range(100)}
    assert pages == {f"mosaics/activations/conv-crop-{number:03}.png" for number in range(1, len(pages) + 1)} and len(pages) > 1
    for channel in (0, 37, 99):
        assert max(place_of(tmp_path, channel)[side] for side in ("height", "width")) <= 2000
        assert (tile_of(tmp_path, channel, 8) == 2 * channel).all()
    first = decode_png((tmp_path / "mosaics" / "activations" / "conv.jpg").read_bytes())
    assert max(first.shape) <= 2000 and not (tmp_path / "mosaics" / "activations" / "conv.png").exists()
    assert (tmp_path / "mosaics" / "activations" / "conv-full-001.jpg").exists()
    large = winners(np.arange(100).repeat(9).reshape(100, 9), [(0, 0, 16, 16)] * 900, (30, 30))
    write_patches([large], source, tmp_path, PatchOptions(Fit(16, 16)))
    assert place_of(tmp_path, 99)["picture"].endswith(".jpg")
    assert np.abs(tile_of(tmp_path, 99, 8)[8:-8, 8:-8].astype(int) - 198).max() <= 8
    assert not (tmp_path / "mosaics" / "activations" / "conv-crop.png").exists()


def test_the_same_crop_is_stored_once_and_large_ones_are_shrunk(in_memory: Any, tmp_path: Path) -> None:
    source = in_memory(np.random.default_rng(0).integers(0, 256, (1, 300, 200, 3)))
    options = PatchOptions(Fit(16, 16), whole=True, crop_size=150)
    write_patches([winners(np.zeros((200, 9)), [(4, 4, 12, 12)] * 1800)], source, tmp_path, options)
    file = tmp_path / "crops" / "conv.parquet"
    one = pq.read_table(file)["image"][0].as_py()
    assert decode_png(one["bytes"]).shape == (150, 100, 3) and one["path"].endswith(".jpg")
    assert file.stat().st_size < 5 * len(one["bytes"])


class Regions:
    """Finds the same region for every unit of a layer `deep`, and a map whose right half is bright."""

    layers = ("deep",)

    def find(self, images: Any, units: Any) -> Any:
        boxes = {name: np.tile(np.array([4, 8, 12, 16], np.int32), (len(of), 1)) for name, of in units.items()}
        half = np.array([[0, 255]], np.uint8)
        return {name: (boxes[name], np.tile(half, (len(of), 1, 1))) for name, of in units.items()}


def test_layers_with_regions_are_cropped_to_them_and_lit_where_their_maps_are_high(in_memory: Any, tmp_path: Path) -> None:
    source = in_memory(np.random.default_rng(0).integers(100, 200, (2, 32, 32, 3)))
    layers = [winners([[1, 0]], [(0, 0, 16, 16)] * 2, (16, 16), layer=name) for name in ("deep", "other")]
    write_patches(layers, source, tmp_path, PatchOptions(Fit(16, 16), maps=Regions()))
    rows = {(row["layer"], row["rank"]): row for row in read_index(tmp_path, "activations").to_pylist()}
    deep, other = rows["deep", 0], rows["other", 0]
    assert [deep[f"map_{edge}"] for edge in ("y1", "x1", "y2", "x2")] == [4, 8, 12, 16] and other["map_y1"] is None
    np.testing.assert_array_equal(crops(tmp_path, "deep")[0, 0], source.images[1][8:24, 16:32])
    np.testing.assert_array_equal(crops(tmp_path, "other")[0, 0], source.images[1])
    maps = pq.read_table(tmp_path / "crops" / "deep.parquet")["map"].to_pylist()
    assert cv2.imdecode(np.frombuffer(maps[0], np.uint8), cv2.IMREAD_GRAYSCALE).tolist() == [[0, 255]]
    place = place_of(tmp_path, 0, "deep")
    lit, plain = (picture(tmp_path, f"{name}-full")[place["y"] :, place["x"] :][:64, :64] for name in ("deep", "other"))
    assert lit[3:13, :10].mean() < 0.6 * plain[3:13, :10].mean() and lit[53:61, 53:61].mean() > 0.9 * plain[53:61, 53:61].mean()


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
    write_patches([winners(examples, boxes)], windows, tmp_path, PatchOptions(windows.fit))
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


def test_whole_crops_are_the_image_that_the_network_was_shown_and_boxes_stay(windows: Any, source: Any, tmp_path: Path) -> None:
    write_patches([winners([[0, 39]], [(4, 4, 12, 12)] * 2)], windows, tmp_path, PatchOptions(windows.fit, whole=True))
    assert [pixels.shape for pixels in crops(tmp_path).values()] == [(24, 24, 3)] * 2
    row = read_index(tmp_path, "activations").to_pylist()[0]
    assert (row["src_y1"], row["src_x1"], row["src_y2"], row["src_x2"]) == (6, 6, 18, 18)
    write_patches([winners([[2]], [(4, 4, 12, 12)], layer="conv")], source, tmp_path, PatchOptions(FIT, whole=True))
    assert_alike(crops(tmp_path)[0, 0], source.images[2])


def test_a_unit_that_sees_nothing_is_shown_with_the_whole_image(source: Any, tmp_path: Path) -> None:
    write_patches([winners([[1]], [(0, 0, 0, 0)])], source, tmp_path, PatchOptions(FIT))
    assert_alike(crops(tmp_path)[0, 0], source.images[1])


def test_labels_come_by_channel_strongest_first(source: Any, tmp_path: Path) -> None:
    actual = write_patches([winners([[3, 0], [1, 4]], [(0, 0, 8, 8)] * 4)], source, tmp_path, PatchOptions(FIT))
    assert actual == {"conv": [["ant", "cat"], ["dog", "dog"]]}


def test_a_winner_that_can_no_longer_be_read_stops_the_job_and_leaves_the_old_results(
    in_memory: Any, tmp_path: Path, tree_of: Any
) -> None:
    images = np.zeros((2, 16, 16, 3))
    write_patches([winners([[0, 1]], [(0, 0, 8, 8)] * 2)], in_memory(images), tmp_path, PatchOptions(Fit(16, 16)))
    before = tree_of(tmp_path)
    with pytest.raises(UnusableData, match="image 1 cannot be read"):
        write_patches([winners([[1, 0]], [(0, 0, 8, 8)] * 2)], in_memory(images, broken=[1]), tmp_path, PatchOptions(Fit(16, 16)))
    assert tree_of(tmp_path) == before


def test_a_folder_for_scratch_that_cannot_be_made_is_one_line(source: Any, tmp_path: Path) -> None:
    (tmp_path / "parts").write_text("in the way")
    with pytest.raises(StoreFailed, match="parts was not written") as caught:
        write_patches([winners([[0]], [(0, 0, 8, 8)])], source, tmp_path, PatchOptions(FIT))
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


def test_labels_stand_below_whole_images_and_responses_below_patches(source: Any, tmp_path: Path) -> None:
    write_patches([winners([[0, 2, 3], [1, 4, -1]], [(4, 4, 12, 12)] * 6)], source, tmp_path, PatchOptions(FIT))
    layout = SheetLayout.of(2, 3, [(72, 72), (64, 64)], 60, lines_above(place_of(tmp_path, 0)["y"]))

    def below(row: Any, group: Any, rank: Any) -> Any:
        (y, x), (height, width) = layout.tile_corner(row, group, rank), layout.tile[group]
        return picture(tmp_path, "conv")[y + height : y + height + 19, x : x + width]

    cat, ant, dog = below(0, 1, 0), below(0, 1, 2), below(1, 1, 0)
    assert cat.max() > 200 and np.array_equal(cat, below(0, 1, 1)) and np.array_equal(dog, below(1, 1, 1))
    assert not np.array_equal(cat, ant) and not np.array_equal(cat, dog)
    assert np.array_equal(below(0, 0, 0), below(1, 0, 0)) and not np.array_equal(below(0, 0, 0), below(0, 0, 1))
    assert all(below(1, group, 2).max() == max(GROUND) for group in (0, 1))  # of a place that nothing fills
