"""Every format and every oddity, as people expect to see it."""

from __future__ import annotations

import contextlib
import io
import random
import struct
import zlib
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from pipeline.sources.decode import Decoder, Unreadable, size

decode = Decoder().decode
ORIENTATION = 0x0112
SCENE = cv2.GaussianBlur(np.random.default_rng(7).integers(0, 256, (48, 64, 3), np.uint8), (9, 9), 4)


def encoded(image: Any, format: Any, **options: Any) -> Any:
    file = io.BytesIO()
    if not isinstance(image, Image.Image):
        image = Image.fromarray(image)
    image.save(file, format, **options)
    return file.getvalue()


def sized(data: Any) -> Any:
    return size(io.BytesIO(data))


def turned(orientation: Any) -> Any:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return exif


def as_stored(upright: Any, orientation: Any) -> Any:
    """The pixels that a camera held that way would store, written out case by case from the EXIF standard."""
    return {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),  # shown turned 90 degrees clockwise
        7: lambda a: a.transpose(1, 0, 2)[::-1, ::-1],
        8: lambda a: np.rot90(a, -1),
    }[orientation](upright)


@pytest.mark.parametrize(
    ("format", "options"),
    [
        ("PNG", {}),
        ("BMP", {}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
        ("TIFF", {"compression": "tiff_deflate"}),
    ],
)
def test_lossless_formats_come_back_exactly(format: Any, options: Any) -> None:
    data = encoded(SCENE, format, **options)
    assert np.array_equal(decode(data), SCENE)
    assert sized(data) == SCENE.shape[:2]


@pytest.mark.parametrize(
    ("format", "options"),
    [("JPEG", {"quality": 95}), ("JPEG", {"progressive": True, "quality": 95}), ("WEBP", {"quality": 95}), ("GIF", {})],
)
def test_lossy_formats_come_back_nearly(format: Any, options: Any) -> None:
    data = encoded(SCENE, format, **options)
    pixels = decode(data)
    assert pixels.shape == SCENE.shape and pixels.dtype == np.uint8 and pixels.flags.c_contiguous
    assert np.abs(pixels.astype(int) - SCENE).mean() < 5
    assert sized(data) == SCENE.shape[:2]


@pytest.mark.parametrize("format", ["PNG", "JPEG", "BMP", "TIFF", "GIF"])
def test_grey_becomes_rgb(format: Any) -> None:
    grey = SCENE[..., 0]
    pixels = decode(encoded(grey, format))
    assert np.abs(pixels.astype(int) - grey[..., None]).max() <= (6 if format == "JPEG" else 0)


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_black_and_white_becomes_rgb(format: Any) -> None:
    bits = SCENE[..., 0] > 128
    assert np.array_equal(decode(encoded(Image.fromarray(bits), format)), np.repeat(bits[..., None], 3, 2) * np.uint8(255))


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("channels", [1, 3])
def test_16_bits_are_scaled_not_clipped(suffix: Any, channels: Any) -> None:
    deep = np.random.default_rng(1).integers(0, 2**16, (9, 11, channels)).astype(np.uint16)
    deep[0, 0], deep[0, 1], deep[0, 2], deep[0, 3] = 0, 65535, 256, 200  # 200 is 0.78 of a step: 1
    data = cv2.imencode(suffix, deep[..., ::-1])[1].tobytes()
    expected = np.broadcast_to(np.round(deep / 257).astype(np.uint8), (9, 11, 3))
    assert np.array_equal(decode(data), expected)
    assert sized(data) == (9, 11)


def png(depth: Any, colour: Any, rows: Any, *chunks: Any) -> Any:
    """A PNG written by hand, for what no writer here makes."""
    height, width = len(rows), len(rows[0]) * 8 // (depth * {0: 1, 2: 3, 4: 2, 6: 4}[colour])

    def chunk(kind: Any, body: Any) -> Any:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunk(*c) for c in chunks) + pixels + chunk(b"IEND", b"")


def test_16_bit_grey_with_alpha_lies_on_white() -> None:
    data = png(16, 4, [struct.pack(">6H", 0, 65535, 0, 0, 25700, 65535)])
    assert np.array_equal(decode(data)[0, :, 0], [0, 255, 100])


def test_16_bit_rgb_with_alpha_lies_on_white() -> None:
    data = png(16, 6, [struct.pack(">8H", 65535, 25700, 0, 65535, 65535, 25700, 0, 0)])
    assert np.array_equal(decode(data)[0], [[255, 100, 0], [255, 255, 255]])


@pytest.mark.parametrize("format", ["PNG", "WEBP", "TIFF"])
def test_transparency_lies_on_white(format: Any) -> None:
    rgba = np.dstack([SCENE, np.full(SCENE.shape[:2], 255, np.uint8)])
    rgba[:10, :, 3] = 0
    rgba[10:20, :, 3] = 51  # a fifth
    pixels = decode(encoded(rgba, format, **({"lossless": True, "exact": True} if format == "WEBP" else {})))
    assert (pixels[:10] == 255).all()
    assert np.abs(pixels[10:20] - (255 - 0.2 * (255 - SCENE[10:20].astype(float)))).max() <= 1
    assert np.array_equal(pixels[20:], SCENE[20:])


def test_grey_with_alpha_lies_on_white() -> None:
    image = Image.merge("LA", (Image.new("L", (3, 2), 10), Image.new("L", (3, 2), 0)))
    image.putpixel((1, 0), (10, 255))
    assert np.array_equal(decode(encoded(image, "PNG"))[0, :, 1], [255, 10, 255])


@pytest.mark.parametrize("format", ["PNG", "GIF"])
def test_a_transparent_palette_entry_shows_white(format: Any) -> None:
    image = Image.new("P", (3, 1))
    image.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255] + [0] * (256 * 3 - 9))
    for index in range(3):
        image.putpixel((index, 0), index)
    pixels = decode(encoded(image, format, transparency=1))
    assert np.array_equal(pixels[0], [[255, 0, 0], [255, 255, 255], [0, 0, 255]])


def test_a_transparent_colour_of_an_rgb_png_shows_white() -> None:
    data = png(8, 2, [bytes([10, 20, 30, 40, 50, 60])], (b"tRNS", struct.pack(">3H", 10, 20, 30)))
    assert np.array_equal(decode(data)[0], [[255, 255, 255], [40, 50, 60]])


def test_a_cmyk_jpeg_shows_its_colours() -> None:
    data = encoded(Image.new("RGB", (16, 16), (200, 40, 40)).convert("CMYK"), "JPEG", quality=95)
    assert np.abs(decode(data).astype(int) - [200, 40, 40]).max() <= 4


@pytest.mark.parametrize("format", ["GIF", "PNG", "WEBP"])
def test_an_animation_is_its_first_frame(format: Any) -> None:
    frames = [Image.new("RGB", (20, 10), colour) for colour in ("red", "lime", "blue")]
    data = encoded(frames[0], format, save_all=True, append_images=frames[1:], duration=40)
    assert np.abs(decode(data).astype(int) - [255, 0, 0]).max() <= 4
    assert sized(data) == (10, 20)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied(format: Any, orientation: Any) -> None:
    stored = np.ascontiguousarray(as_stored(SCENE, orientation))
    options = {"quality": 95} if format == "JPEG" else {"lossless": True} if format == "WEBP" else {}
    data = encoded(stored, format, exif=turned(orientation), **options)
    pixels = decode(data)
    assert pixels.shape == SCENE.shape
    assert np.abs(pixels.astype(int) - SCENE).mean() <= (4 if format == "JPEG" else 0)
    assert sized(data) == SCENE.shape[:2]


@pytest.mark.parametrize("orientation", [3, 6])
def test_orientation_of_a_16_bit_png_is_applied(orientation: Any) -> None:
    deep = (SCENE[..., 0].astype(np.uint16) * 257)[..., None]
    stored = np.ascontiguousarray(as_stored(deep, orientation))[..., 0]
    data = encoded(Image.fromarray(stored), "PNG", exif=turned(orientation))
    assert np.array_equal(decode(data)[..., 0], SCENE[..., 0])


def test_an_orientation_that_follows_the_pixels_of_a_png_counts() -> None:
    data = encoded(np.ascontiguousarray(as_stored(SCENE, 6)), "PNG", exif=turned(6))
    begin = data.index(b"eXIf") - 4
    end = begin + 12 + struct.unpack(">I", data[begin : begin + 4])[0]
    moved = data[:begin] + data[end:-12] + data[begin:end] + data[-12:]
    assert np.array_equal(decode(moved), SCENE)
    assert sized(moved) == SCENE.shape[:2]


def test_an_orientation_written_as_text_in_a_png_as_older_programs_do_counts() -> None:
    exif = turned(6).tobytes()
    text = PngInfo()
    text.add_text("Raw profile type exif", f"\nexif\n{len(exif):8}\n{exif.hex()}\n", zip=True)
    data = encoded(np.ascontiguousarray(as_stored(SCENE, 6)), "PNG", pnginfo=text)
    assert np.array_equal(decode(data), SCENE)
    assert sized(data) == SCENE.shape[:2]


def test_of_an_animated_png_the_still_picture_counts_not_the_first_of_the_animation() -> None:
    still, *moving = (Image.new("RGB", (7, 5), (grey,) * 3) for grey in (10, 200, 90))
    assert (decode(encoded(still, "PNG", save_all=True, append_images=moving, default_image=True)) == 10).all()


@pytest.mark.parametrize("value", [0, 9, 4242])
def test_an_orientation_that_means_nothing_is_ignored(value: Any) -> None:
    assert decode(encoded(SCENE, "PNG", exif=turned(value))).shape == SCENE.shape


def test_a_broken_exif_block_does_not_cost_the_image() -> None:
    data = encoded(SCENE, "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert decode(data).shape == SCENE.shape
    assert sized(data) == SCENE.shape[:2]


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"])
@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (301, 1), (3, 5)])
def test_tiny_and_odd_sizes_decode(format: Any, shape: Any) -> None:
    data = encoded(np.full((*shape, 3), 90, np.uint8), format)
    assert decode(data).shape == (*shape, 3)
    assert sized(data) == shape


def test_an_image_that_pillow_would_call_a_bomb_decodes() -> None:
    image = Image.new("1", (20000, 9500), 1)  # 190 million pixels, in a few kilobytes
    data = encoded(image, "PNG")
    assert sized(data) == (9500, 20000)


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.95])
@pytest.mark.parametrize(
    ("format", "options"),
    [
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("PNG", {}),
        ("WEBP", {}),
        ("BMP", {}),
        ("GIF", {}),
        ("TIFF", {}),
        ("TIFF", {"compression": "tiff_lzw"}),
    ],
)
def test_a_truncated_file_is_unreadable_and_says_why(format: Any, options: Any, share: Any) -> None:
    data = encoded(SCENE, format, **options)
    with pytest.raises(Unreadable, match=r"\w+ \w+") as caught:
        decode(data[: int(len(data) * share)])
    assert "\n" not in str(caught.value)


def test_a_truncated_png_leaves_no_complaint_of_opencv_on_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Unreadable):
        decode(encoded(SCENE, "PNG")[:-500])
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("channels", [1, 3])
def test_a_truncated_16_bit_png_is_unreadable(channels: Any) -> None:
    deep = np.random.default_rng(1).integers(0, 2**16, (40, 40, channels)).astype(np.uint16)
    data = cv2.imencode(".png", deep)[1].tobytes()
    with pytest.raises(Unreadable):
        decode(data[: len(data) // 2])


def test_a_png_with_a_flipped_bit_is_unreadable() -> None:
    data = bytearray(encoded(SCENE, "PNG"))
    data[len(data) // 2] ^= 0x10
    with pytest.raises(Unreadable):
        decode(bytes(data))


def test_an_empty_file_is_unreadable_as_such() -> None:
    with pytest.raises(Unreadable, match="the file is empty"):
        decode(b"")


@pytest.mark.parametrize(
    "data", [b"just some text\n" * 20, b"\xff\xd8\xff", b"GIF89a", b"\x89PNG\r\n\x1a\n", b"%PDF-1.4", bytes(4096)]
)
def test_what_is_no_image_is_unreadable(data: Any) -> None:
    with pytest.raises(Unreadable, match="not a whole image in any of JPEG"):
        decode(data)
    with pytest.raises(Unreadable):
        sized(data)


def test_numbers_of_unknown_range_are_refused_rather_than_guessed() -> None:
    data = encoded(Image.fromarray(np.linspace(0, 1, 12, dtype=np.float32).reshape(3, 4)), "TIFF")
    with pytest.raises(Unreadable, match="unknown range"):
        decode(data)


def test_junk_never_raises_anything_but_unreadable() -> None:
    rng = random.Random(3)
    for format in ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"):
        whole = encoded(SCENE, format)
        for _ in range(60):
            data = bytearray(whole)
            for _ in range(rng.randint(1, 30)):
                data[rng.randrange(min(len(data), 400))] = rng.randrange(256)
            for read in (decode, sized):
                try:
                    read(bytes(data))
                except Unreadable as error:
                    assert str(error) and "\n" not in str(error)


def test_codecs_write_nothing_on_the_terminal_of_images_that_are_damaged(capfd: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(0)
    tiff16 = cv2.imencode(".tif", rng.integers(0, 2**16, (40, 40, 3)).astype(np.uint16))[1].tobytes()
    lzw = encoded(SCENE, "TIFF", compression="tiff_lzw")
    for data in (encoded(SCENE, "PNG"), encoded(SCENE, "JPEG"), encoded(SCENE, "WEBP"), tiff16, lzw):
        for _ in range(40):
            broken = bytearray(data)
            for at in rng.integers(0, len(data), 5):
                broken[at] = rng.integers(256)
            with contextlib.suppress(Unreadable):
                decode(bytes(broken))
    assert capfd.readouterr() == ("", "")
