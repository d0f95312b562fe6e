"""What decoding costs: no image takes more memory than its pixels account for, and too many pixels are not decoded."""

from __future__ import annotations

import io
import struct
import sys
import threading
import zlib
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from pipeline.sources import decode
from pipeline.sources.decode import MAX_PIXELS, Decoder, Unreadable
from pipeline.sources.fit import Fit
from pipeline.sources.jpeg import check_scans
from pipeline.sources.pixel_budget import PixelBudget
from pipeline.sources.registry import open_source
from pipeline.spec.data import DataSpec

_MEGABYTES = 2**20
_DECODE = """
import resource, sys
from pipeline.sources.decode import Decoder
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + int(sys.argv[2]),) * 2)
print(Decoder().decode(open(sys.argv[1], "rb").read()).shape)
"""


def bomb(height: int, width: int, kind: int, channels: int, bits: int = 8) -> bytes:
    """A PNG whose pixels are all the same: a few kilobytes, however many they are."""

    def chunk(name: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    packer = zlib.compressobj(1)
    row = b"\0" + b"\x80" * (width * channels * bits // 8)
    pixels = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def header_alone(height: int, width: int) -> bytes:
    """The first bytes of a PNG of that size, which has no pixels."""
    start = bomb(1, 1, 2, 3)
    header = struct.pack(">4sIIBBBBB", b"IHDR", width, height, 8, 2, 0, 0, 0)
    return start[:12] + header + struct.pack(">I", zlib.crc32(header)) + start[33:]


def jpeg(pixels: np.ndarray, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95, **options)
    return file.getvalue()


def gradient(height: int, width: int) -> np.ndarray:
    rows, cols = np.linspace(0, 255, height, dtype=np.uint8), np.linspace(0, 255, width, dtype=np.uint8)
    return np.stack([*np.broadcast_arrays(rows[:, None], cols), np.full((height, width), 90, np.uint8)], axis=2)


@pytest.mark.skipif(sys.platform != "linux", reason="limits the address space, which Linux counts")
@pytest.mark.parametrize(("kind", "channels", "bits"), [(6, 4, 8), (2, 3, 16), (4, 2, 8)])
def test_transparent_and_deep_images_take_a_few_bytes_a_pixel(
    tmp_path: Path, program: Any, kind: int, channels: int, bits: int
) -> None:
    side = 5000  # 25 million pixels; at 44 bytes each, as copies of 32 bits take, 1,100 MB
    file = tmp_path / "bomb.png"
    file.write_bytes(bomb(side, side, kind, channels, bits))
    assert file.stat().st_size < _MEGABYTES
    limit = 15 * side * side + 150 * _MEGABYTES
    done = program(_DECODE, file, limit)
    assert done.out == f"({side}, {side}, 3)\n", done.err


def test_an_image_of_too_many_pixels_is_skipped_with_its_size_and_never_decoded(write: Any, scene: Any, listed: Any) -> None:
    write("a.png", header_alone(40_000, 30_000))
    folder = write("b.png", scene(20, 30)).parent
    reasons = [element[4] for element in listed(open_source(DataSpec(source=f"folder:{folder}"), Fit(8, 8)))]
    assert reasons == ["its 40,000 x 30,000 pixels are more than data.max_pixels, 268,435,456, allows", ""]
    small = open_source(DataSpec(source=f"folder:{folder}", max_pixels=599), Fit(8, 8))
    assert [element[4][:19] for element in listed(small)] == ["its 40,000 x 30,000", "its 20 x 30 pixels "]
    exact = open_source(DataSpec(source=f"folder:{folder}", max_pixels=600), Fit(8, 8))
    assert listed(exact)[1][4] == ""


def test_an_image_of_too_many_pixels_is_one_window_that_is_bad(write: Any, scene: Any, listed: Any) -> None:
    write("a.png", header_alone(40_000, 30_000))
    folder = write("b.png", scene(8, 8)).parent
    source = open_source(DataSpec(source=f"folder:{folder}", window={"size": 4, "stride": 4}), Fit(8, 8))
    assert [bool(element[4]) for element in listed(source)] == [True, False, False, False, False]


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
def test_the_limit_holds_for_every_format(format: str) -> None:
    file = io.BytesIO()
    Image.fromarray(gradient(30, 40)).save(file, format)
    assert Decoder(max_pixels=1200).decode(file.getvalue()).shape == (30, 40, 3)
    with pytest.raises(Unreadable, match="30 x 40 pixels are more than"):
        Decoder(max_pixels=1199).decode(file.getvalue())


@pytest.mark.parametrize(("format", "copies"), [("PNG", 1), ("WEBP", 2), ("AVIF", 4)])
def test_formats_that_take_more_memory_have_a_lower_limit_and_count_for_more(
    format: str, copies: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, held = io.BytesIO(), []
    Image.fromarray(gradient(30, 40)).save(file, format)
    monkeypatch.setattr(decode, "DECODING", SimpleNamespace(hold=lambda pixels: nullcontext(held.append(pixels))))
    monkeypatch.setattr(decode, "MAX_PIXELS", 1200 * copies)
    assert Decoder().decode(file.getvalue()).shape == (30, 40, 3) and held == [1200 * copies]
    monkeypatch.setattr(decode, "MAX_PIXELS", 1200 * copies - 1)
    if copies > 1:
        with pytest.raises(Unreadable, match=f"30 x 40 pixels are more than the 1,199 of a {format}"):
            Decoder(max_pixels=MAX_PIXELS).decode(file.getvalue())


def test_bands_that_a_small_file_only_claims_are_not_decoded(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "bands.tif", np.zeros((8, 8, 4096), np.uint8), planarconfig="contig", photometric="minisblack")
    with tifffile.TiffFile(tmp_path / "bands.tif", mode="r+b") as file:
        for name in ("ImageWidth", "ImageLength"):
            file.pages.first.tags[name].overwrite(10_000)
    with pytest.raises(Unreadable, match="10,000 x 10,000 pixels of 4,096 bands are more than 4 GiB"):
        Decoder(bands=(0, 1, 2)).decode((tmp_path / "bands.tif").read_bytes())


def test_a_jpeg_of_scans_that_only_keep_a_reader_busy_is_not_decoded() -> None:
    data = jpeg(gradient(60, 80), progressive=True)
    last, frame = data.rindex(b"\xff\xda"), data.index(b"\xff\xc2")
    busy = data[:-2] + data[last:-2] * 20 + data[-2:]
    assert Decoder().decode(busy).shape == (60, 80, 3)  # a small image may have any number
    large = busy[: frame + 5] + struct.pack(">HH", 16_000, 16_000) + busy[frame + 9 :]
    with pytest.raises(Unreadable, match=f"its {data.count(bytes([0xFF, 0xDA])) + 20} scans of 256,000,000 pixels"):
        Decoder().decode(large)
    check_scans(MAX_PIXELS, data + b"\xff\xda" * 100)  # what follows the image is no scan of it


def test_ordinary_photographs_are_scanned_at_their_own_size(monkeypatch: pytest.MonkeyPatch) -> None:
    assert decode.REDUCE_ABOVE >= 64_000_000  # above what cameras make
    data = jpeg(gradient(600, 800))
    monkeypatch.setattr(decode, "REDUCE_ABOVE", 600 * 800)
    with Decoder().opened(data, (32, 32)) as pixels:
        assert np.array_equal(pixels, Decoder().decode(data))


@pytest.mark.parametrize(("size", "divisor"), [((18, 18), 8), ((30, 18), 4), ((60, 60), 2), ((80, 80), 1)])
def test_a_huge_jpeg_is_scanned_at_a_part_of_its_size_and_looks_the_same(
    monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], divisor: int
) -> None:
    monkeypatch.setattr(decode, "REDUCE_ABOVE", 600 * 800 - 1)
    data, fit = jpeg(gradient(600, 800)), Fit(*size)
    with Decoder().opened(data, size) as pixels:
        assert pixels.shape[:2] == (600 // divisor, 800 // divisor)
        assert np.abs(fit.apply(pixels).astype(int) - fit.apply(Decoder().decode(data))).max() <= 4
    assert Decoder().decode(data).shape[:2] == (600, 800)  # crops come from the image itself


def test_a_huge_jpeg_on_its_side_is_scanned_upright(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "REDUCE_ABOVE", 1)
    exif = Image.Exif()
    exif[0x0112] = 6
    data = jpeg(gradient(600, 800), exif=exif)
    with Decoder().opened(data, (30, 20)) as pixels:
        assert pixels.shape[:2] == (200, 150)


def test_threads_hold_no_more_pixels_than_the_budget_and_none_waits_for_ever() -> None:
    budget, lock = PixelBudget(10_000_000), threading.Lock()
    held, peak, finished = 0, 0, []

    def work(pixels: int) -> None:
        nonlocal held, peak
        for _ in range(20):
            with budget.hold(pixels):
                with lock:
                    held += min(pixels, 10_000_000)
                    peak = max(peak, held)
                with lock:
                    held -= min(pixels, 10_000_000)
        finished.append(pixels)

    sizes = [2_000_000, 3_000_000, 9_000_000, 50_000_000, 2_000_000, 4_000_000]
    threads = [threading.Thread(target=work, args=(pixels,)) for pixels in sizes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(finished) == sorted(sizes) and peak <= 10_000_000


def test_who_would_hold_more_than_is_free_waits_until_it_is_given_back() -> None:
    budget, entered = PixelBudget(10_000_000), threading.Event()

    def work() -> None:
        with budget.hold(2_000_000):
            entered.set()

    thread = threading.Thread(target=work)
    with budget.hold(9_000_000):
        thread.start()
        assert not entered.wait(0.1)
    assert entered.wait(30)
    thread.join(30)


def test_pixels_are_given_back_when_an_image_turns_out_to_be_broken() -> None:
    data = jpeg(gradient(1100, 1000))[:-20_000]
    for _ in range(MAX_PIXELS // (1100 * 1000) + 10):
        with pytest.raises(Unreadable):
            Decoder().decode(data[:5000])
    with pytest.raises(Unreadable):
        Decoder().decode(data)
