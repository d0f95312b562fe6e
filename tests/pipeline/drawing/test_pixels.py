"""Pixels: what is encoded comes back, and sizes change without surprises."""

from __future__ import annotations

import struct
from typing import Any

import cv2
import numpy as np
import pytest

from pipeline.drawing.pixels import (
    LOSSLESS,
    decode_png,
    encode_flat_png,
    encode_jpeg,
    encode_png,
    encode_webp,
    grey,
    resize,
    shrink,
)

NOISE = np.random.default_rng(3).integers(0, 256, (12, 20, 3), np.uint8)


@pytest.mark.parametrize(
    "encode", [encode_png, encode_flat_png, lambda pixels: encode_webp(pixels, LOSSLESS)], ids=["png", "flat", "webp"]
)
def test_a_lossless_picture_comes_back_pixel_by_pixel_in_its_own_colours(encode: Any) -> None:
    data = encode(NOISE[::-1])  # laid out in memory as OpenCV does not like it
    np.testing.assert_array_equal(decode_png(data), NOISE[::-1])
    np.testing.assert_array_equal(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1], NOISE[::-1])


def test_webp_is_smaller_and_near_at_the_usual_quality() -> None:
    smooth = np.tile(np.arange(256, dtype=np.uint8), (64, 1))[..., np.newaxis].repeat(3, axis=2)
    data = encode_webp(smooth)
    assert len(data) < len(encode_webp(smooth, LOSSLESS)) or len(data) < len(encode_png(smooth))
    assert np.abs(decode_png(data).astype(int) - smooth).mean() < 4


@pytest.mark.parametrize("data", [b"", b"no picture", encode_png(NOISE)[:40]], ids=["empty", "text", "cut off"])
def test_what_is_no_picture_is_an_error_that_says_so(data: Any) -> None:
    with pytest.raises(ValueError, match=f"{len(data)} bytes that are no picture"):
        decode_png(data)


def test_a_picture_that_claims_too_many_pixels_is_not_decoded() -> None:
    png, jpeg = encode_png(NOISE), encode_jpeg(NOISE, 90)
    with pytest.raises(ValueError, match="60,000 x 60,000 pixels, more than 134,217,728"):
        decode_png(png.replace(struct.pack(">II", 20, 12), struct.pack(">II", 60_000, 60_000)))
    with pytest.raises(ValueError, match="pixels, more than|no picture"):  # Pillow has a limit of its own
        decode_png(jpeg.replace(struct.pack(">HH", 12, 20), struct.pack(">HH", 60_000, 60_000)))


@pytest.mark.parametrize("encode", [encode_png, encode_flat_png, encode_webp])
def test_a_picture_without_pixels_cannot_be_encoded(encode: Any) -> None:
    with pytest.raises(ValueError, match="has no pixels"):
        encode(NOISE[:0])


def test_pixels_stay_squares_where_a_picture_grows_by_the_factor_given() -> None:
    squares = NOISE.repeat(2, axis=0).repeat(2, axis=1)
    np.testing.assert_array_equal(resize(NOISE, 24, 40, squares=1.0), squares)
    assert (resize(NOISE, 24, 40) != squares).any()


def test_a_picture_shrinks_to_its_longer_side_and_never_grows() -> None:
    assert shrink(NOISE, 10).shape == (6, 10, 3)
    assert shrink(NOISE[:1], 4).shape == (1, 4, 3)  # no side vanishes
    assert shrink(NOISE, 20) is NOISE


def test_a_picture_shrunk_to_less_than_half_is_made_of_all_its_pixels() -> None:
    striped = np.zeros((64, 60, 3), np.uint8)
    striped[::4] = 200  # one of four lines: every second pixel would miss them or see nothing else
    assert (resize(striped, 16, 15) == 50).all()


def test_a_page_that_is_not_needed_any_more_is_encoded_without_a_copy() -> None:
    page = NOISE.copy()
    assert encode_jpeg(page, 90, spent=True) == encode_jpeg(NOISE, 90)
    assert (page == NOISE[..., ::-1]).all()


def test_grey_has_three_equal_channels_and_weighs_colours_as_eyes_do() -> None:
    pure = np.zeros((1, 3, 3), np.uint8)
    pure[0, [0, 1, 2], [0, 1, 2]] = 255
    assert grey(pure).tolist() == [[[76] * 3, [150] * 3, [29] * 3]]
