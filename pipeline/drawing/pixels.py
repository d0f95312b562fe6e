"""Encoding, decoding and resizing of pictures."""

from __future__ import annotations

import io
import struct

import cv2
import numpy as np
import PIL.Image

_PAGE = 1_000_000  # values of a picture that is large
LOSSLESS = 101  # as a quality of WebP
FORMATS = ("PNG", "JPEG", "WEBP")  # that convscope writes; Pillow hands others to programs, such as Ghostscript
_PNG = b"\x89PNG\r\n\x1a\n"
_MOST_PIXELS = 2**27  # of a picture that a job left; a few kilobytes may claim far more
_SHRINK = cv2.INTER_LINEAR  # to no less than half, where it skips no pixel


def encode_png(pixels: np.ndarray) -> bytes:
    """uint8 RGB (h, w, 3) -> PNG. Raises: ValueError, for a picture without pixels."""
    return _encode(".png", pixels)


def encode_flat_png(pixels: np.ndarray) -> bytes:
    """As `encode_png`, for pictures of even squares: in half the time, and a third of the size, without PNG's row filters."""
    settings = cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE, cv2.IMWRITE_PNG_COMPRESSION, 1
    return _encode(".png", pixels, *settings)


def encode_webp(pixels: np.ndarray, quality: int = 88) -> bytes:
    """uint8 RGB (h, w, 3) -> WebP, from 1 to 100, or LOSSLESS. Raises: ValueError, for a picture without pixels."""
    return _encode(".webp", pixels, cv2.IMWRITE_WEBP_QUALITY, quality)


def encode_grey_png(values: np.ndarray) -> bytes:
    """uint8 (h, w) -> a grey PNG."""
    return cv2.imencode(".png", values)[1].tobytes()


def encode_jpeg(pixels: np.ndarray, quality: int, spent: bool = False, fine: bool = False) -> bytes:
    """uint8 RGB (h, w, 3) -> JPEG, from 1 to 100. Raises: ValueError, for a picture without pixels.

    Huffman tables are fitted to small pictures, which makes them a tenth smaller; a page would take twice as long for a
    fiftieth.

    Args:
        spent: the pixels are not needed any more and may be overwritten: a large picture needs no second array.
        fine: colours differ from pixel to pixel, and are kept for each, not for two by two; Huffman tables stay as they are.
    """
    optimise = int(pixels.size < _PAGE and not fine)
    settings: tuple[int, ...] = cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_OPTIMIZE, optimise
    if fine:
        settings += cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444
    if spent and pixels.size:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR, dst=pixels)
        return cv2.imencode(".jpg", pixels, settings)[1].tobytes()
    return _encode(".jpg", pixels, *settings)


def decode_png(data: bytes) -> np.ndarray:
    """A PNG, or any other format that convscope writes, -> uint8 RGB (h, w, 3).

    Images of a data set are another matter: `pipeline.sources.decode` reads those.

    Raises: ValueError, where it is damaged, or of more than 2**27 pixels, which are not decoded.
    """
    check_size(data)
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
    if pixels is None:
        raise ValueError(f"{len(data)} bytes that are no picture.")
    return np.asarray(pixels)[..., ::-1]


def check_size(data: bytes) -> None:
    """Look at the header of a picture that a job left. Raises: ValueError, where it claims more than 2**27 pixels, or is none."""
    if data[:8] == _PNG and len(data) >= 24:  # most are, and Pillow takes ten times as long
        width, height = struct.unpack(">II", data[16:24])
    else:
        try:
            with PIL.Image.open(io.BytesIO(data), formats=FORMATS) as image:
                width, height = image.size
        except Exception:  # Pillow raises many types over what is damaged
            raise ValueError(f"{len(data)} bytes that are no picture.") from None
    if width * height > _MOST_PIXELS:
        raise ValueError(f"a picture of {height:,} x {width:,} pixels, more than {_MOST_PIXELS:,}.")


def resize(pixels: np.ndarray, height: int, width: int, squares: float = 3.0) -> np.ndarray:
    """uint8 (h, w, c) -> (height, width, c): by halves where it shrinks, smoothed where it grows a little.

    Args:
        squares: pixels stay squares where a picture grows by this factor or more.
    """
    pixels = np.ascontiguousarray(pixels)
    growth = max(height / pixels.shape[0], width / pixels.shape[1])
    method = _SHRINK if growth <= 1 else cv2.INTER_NEAREST if growth >= squares else cv2.INTER_CUBIC
    if growth <= 0.5:
        # Means of whole pixels, which OpenCV takes five times as fast as means of fractions, after the rest of the way.
        whole = 2 ** int(-np.log2(growth))
        pixels = cv2.resize(pixels, (width * whole, height * whole), interpolation=_SHRINK)
        method = cv2.INTER_AREA
    return cv2.resize(pixels, (width, height), interpolation=method).reshape(height, width, -1)


def shrink(pixels: np.ndarray, side: int) -> np.ndarray:
    """uint8 (h, w, 3) with its longer side at most `side` pixels; a smaller picture stays as it is."""
    scale = side / max(pixels.shape[:2])
    if scale >= 1:
        return pixels
    return resize(pixels, max(1, round(pixels.shape[0] * scale)), max(1, round(pixels.shape[1] * scale)))


def grey(pixels: np.ndarray) -> np.ndarray:
    """uint8 RGB (h, w, 3) -> uint8 (h, w, 3), without its colours."""
    return np.repeat(cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2GRAY)[..., np.newaxis], 3, axis=2)


def _encode(suffix: str, pixels: np.ndarray, *settings: int) -> bytes:
    if not pixels.size:
        raise ValueError(f"a picture of shape {pixels.shape} has no pixels.")
    encoded, data = cv2.imencode(suffix, cv2.cvtColor(np.ascontiguousarray(pixels), cv2.COLOR_RGB2BGR), settings)
    if not encoded:
        raise ValueError(f"a picture of shape {pixels.shape} cannot be a {suffix[1:].upper()} file.")
    return data.tobytes()
