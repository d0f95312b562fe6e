"""Windows over any source: order, keys, shards, limits, bad images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image as PillowImage

from pipeline.errors import UnusableData
from pipeline.geometry import Box
from pipeline.sources import windows
from pipeline.sources.fit import Fit
from pipeline.sources.source import Shard

FIT = Fit(4, 4)


def by_hand(height: Any, width: Any, size: Any, stride: Any) -> Any:
    """Windows in reading order, written as the loops they are."""
    if height < size or width < size:
        return [Box(0, 0, height, width)]
    return [
        Box(y, x, y + size, x + size) for y in range(0, height - size + 1, stride) for x in range(0, width - size + 1, stride)
    ]


def test_windows_come_row_by_row_image_by_image_and_are_named_by_their_corner(
    write: Any, folder: Any, scene: Any, listed: Any
) -> None:
    write("a/1.png", scene(5, 7, 1))
    write("b/2.png", scene(4, 4, 2))
    source = folder(FIT, window={"size": 4, "stride": 2})
    elements = listed(source)
    assert [e[1] for e in elements] == ["a/1.png@0,0", "a/1.png@0,2", "b/2.png@0,0"]
    assert [e[2] for e in elements] == ["a", "a", "b"] and source.labels == ["a", "b"]
    assert [e[0] for e in elements] == [0, 1, 2] and len(source) == 3
    assert elements[1][3] == scene(5, 7, 1)[0:4, 2:6].tobytes()


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    sizes=st.lists(st.tuples(st.integers(1, 14), st.integers(1, 14)), min_size=1, max_size=4),
    size=st.integers(1, 9),
    stride=st.integers(1, 9),
    limit=st.none() | st.integers(1, 30),
    count=st.integers(1, 4),
    start=st.integers(0, 12),
)
def test_any_windows_any_limit_any_shards_agree_with_the_loops(
    tmp_path_factory: pytest.TempPathFactory,
    scene: Any,
    listed: Any,
    sizes: Any,
    size: Any,
    stride: Any,
    limit: Any,
    count: Any,
    start: Any,
) -> None:
    from pipeline.sources.registry import open_source
    from pipeline.spec.data import DataSpec

    root = tmp_path_factory.mktemp("images")
    expected = []
    for index, (height, width) in enumerate(sizes):
        pixels = scene(height, width, index)
        cv2.imwrite(str(root / f"{index}.png"), pixels[..., ::-1])
        expected += [
            (f"{index}.png@{box.y1},{box.x1}", FIT.apply(pixels[box.y1 : box.y2, box.x1 : box.x2]).tobytes(), index, box)
            for box in by_hand(height, width, size, stride)
        ]
    expected = expected[:limit]
    source = open_source(DataSpec(source=f"folder:{root}", window={"size": size, "stride": stride}, limit=limit), FIT)
    assert len(source) == len(expected)
    shards = [listed(source, Shard(index, count)) for index in range(count)]
    assert [(e[0], e[1], e[3], e[4]) for shard in shards for e in shard] == [
        (n, key, px, "") for n, (key, px, _, _) in enumerate(expected)
    ]
    assert listed(source, Shard(0, count), start) == shards[0][start:]
    for example, image in source.fetch(range(0, len(source), 2)):
        key, _, index, box = expected[example]
        assert image.key == key and image.region == box
        assert np.array_equal(image.pixels, scene(*sizes[index], index))


def test_windows_in_the_middle_share_what_is_left_over(write: Any, folder: Any, scene: Any, listed: Any) -> None:
    write("1.png", scene(11, 7, 1))
    write("2.png", scene(3, 9, 2))
    source = folder(FIT, window={"size": 4, "stride": 5, "align": "middle"})
    # 11 rows hold two squares, five apart, that cover nine: one row is left over on either side.
    assert [(e[1], e[3]) for e in listed(source)] == [
        ("1.png@1,1", FIT.apply(scene(11, 7, 1)[1:5, 1:5]).tobytes()),
        ("1.png@6,1", FIT.apply(scene(11, 7, 1)[6:10, 1:5]).tobytes()),
        ("2.png@0,0", FIT.apply(scene(3, 9, 2)).tobytes()),
    ]
    assert [image.region for _, image in source.fetch([1, 2])] == [Box(6, 1, 10, 5), Box(0, 0, 3, 9)]
    assert source.digest() != folder(FIT, window={"size": 4, "stride": 5}).digest()


def test_long_runs_are_cut_so_that_memory_stays_bounded(
    write: Any, folder: Any, scene: Any, listed: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("1.png", scene(20, 20))
    source = folder(FIT, window={"size": 4, "stride": 1})
    whole = listed(source)
    lengths = []
    fitted = windows.Windows._fitted
    monkeypatch.setattr(windows.Windows, "_fitted", lambda self, *a: lengths.append(int(np.diff(a[-1])[0])) or fitted(self, *a))
    assert listed(source) == whole and lengths == [289]  # the image is decoded once
    lengths.clear()
    monkeypatch.setattr(windows, "_CHUNK_BYTES", 100 * 4 * 4 * 3)
    assert listed(source) == whole and sorted(lengths) == [89, 100, 100]


def test_fetch_decodes_each_image_once(write: Any, folder: Any, scene: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in range(3):
        write(f"{seed}.png", scene(20, 20, seed))
    source = folder(FIT, window={"size": 4, "stride": 4})
    decoded = []
    decode_record = windows.decode_record  # type: ignore[attr-defined]
    monkeypatch.setattr(
        windows, "decode_record", lambda record, *rest: decoded.append(record.key) or decode_record(record, *rest)
    )
    assert [example for example, _ in source.fetch([60, 3, 24, 0, 3])] == [0, 3, 24, 60]
    assert decoded == ["0.png", "2.png"]


def test_an_unreadable_image_is_one_bad_window_and_a_truncated_one_all_of_its_windows(
    write: Any, folder: Any, scene: Any, listed: Any
) -> None:
    write("0.png", scene(8, 8))
    write("1.png", b"text")
    whole = write("2.png", scene(8, 8, 2)).read_bytes()
    write("2.png", whole[:-40])
    write("3.png", scene(8, 8, 3))
    source = folder(FIT, window={"size": 4, "stride": 4})
    elements = listed(source)
    assert [e[1].split("@")[0][0] for e in elements] == list("0000122223333")
    assert [bool(e[4]) for e in elements] == [e[1][0] in "12" for e in elements]
    assert all(e[3] == bytes(4 * 4 * 3) for e in elements if e[4])
    with pytest.raises(UnusableData, match=r"'1.png'"):
        list(source.fetch([4]))


def test_an_image_that_has_changed_since_its_header_was_read_is_bad_not_fatal(
    write: Any, folder: Any, scene: Any, listed: Any
) -> None:
    write("0.png", scene(8, 8))
    write("1.png", scene(8, 8))
    source = folder(FIT, window={"size": 4, "stride": 4})
    write("0.png", scene(3, 3))
    elements = listed(source)
    assert ["size" in e[4] for e in elements] == [True] * 4 + [False] * 4
    with pytest.raises(UnusableData, match="size"):
        list(source.fetch([0]))


def test_windows_are_laid_on_the_upright_image(tmp_path: Path, write: Any, folder: Any, scene: Any, listed: Any) -> None:
    upright = scene(4, 8)
    exif = PillowImage.Exif()
    exif[0x0112] = 6
    (tmp_path / "images").mkdir()
    PillowImage.fromarray(np.ascontiguousarray(np.rot90(upright))).save(tmp_path / "images" / "1.png", exif=exif)
    elements = listed(folder(FIT, window={"size": 4, "stride": 4}))
    assert [(e[1], e[3]) for e in elements] == [("1.png@0,0", upright[:, :4].tobytes()), ("1.png@0,4", upright[:, 4:].tobytes())]


def test_a_limit_spares_the_headers_of_images_beyond_it(
    write: Any, folder: Any, scene: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(windows, "_SIZES_AT_ONCE", 2)
    for seed in range(9):
        write(f"{seed}.png", scene(8, 8))
    source = folder(FIT, window={"size": 4, "stride": 4}, limit=10)
    assert len(source) == 10 and len(source._sizes) == 4
