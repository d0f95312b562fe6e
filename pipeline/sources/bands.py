"""Bands: images of any number of channels, from TIFF and NumPy files, which of them a network is given, and which are shown."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

_NUMPY = b"\x93NUMPY"
_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_MOST = 4096  # bands; more is an image with its channels first
_MOST_BYTES = 2**32  # of a TIFF's samples
_MOST_HEADER = 10_000  # bytes of a .npy file's header
_FIELD = re.compile(  # of that header, which Python can read, in any order
    r"""['"](descr|fortran_order|shape)['"]\s*:\s*(?:['"]([^'"]*)['"]|(True|False)|\(([\dL\s,]*)\))"""
)
_GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601


class WrongBands(Exception):
    """An image whose bands cannot be shown; the message is the reason, on one line."""


@dataclass(frozen=True)
class SampleForm:
    """How samples of any type and number of bands become what a network is given and what people are shown.

    count: the bands that the network takes.
    bands: which bands of an image they are, in order; None: all of them, of which there must be so many.
    rgb: three of the network's bands, by their position among them: red, green and blue.
    ranges: (low, high) of all bands, or of each: the values that become 0 and 255; None: samples are uint8, as they are.
    """

    count: int
    bands: tuple[int, ...] | None = None
    rgb: tuple[int, int, int] = (0, 1, 2)
    ranges: tuple[tuple[float, float], ...] | None = None

    def fed(self, samples: np.ndarray) -> np.ndarray:
        """Samples (h, w, bands) -> float32 (h, w, count); those outside of the range lie below 0 or above 255.

        Raises: WrongBands, for another number of bands, samples of unknown range, and samples that are no numbers.
        """
        count = samples.shape[2]
        if self.ranges is None and samples.dtype != np.uint8:
            raise WrongBands(unknown_range(samples.dtype))
        if self.bands is not None:
            _check_bands(self.bands, count)
            samples = samples[..., list(self.bands)]
        elif count == 3 and self.count == 1:
            samples = (samples.astype(np.float32) @ np.array(_GREY, np.float32))[..., np.newaxis]
        elif count != self.count:
            names = list(range(self.count))
            raise WrongBands(f"it has {count} bands, and the network takes {self.count}; name them: data.bands, such as {names}")
        values = samples.astype(np.float32)
        if not np.isfinite(values).all():
            band = int(np.flatnonzero(~np.isfinite(values).all(axis=(0, 1)))[0])
            raise WrongBands(f"its band {self.bands[band] if self.bands else band} holds NaN or infinity; fill such pixels in")
        if self.ranges is None:
            return values
        low, high = np.array(self.ranges, np.float64).T
        return ((values - low) * (255 / (high - low))).astype(np.float32)

    def as_rgb(self, fed: np.ndarray) -> np.ndarray:
        """What the network is given, float32 (h, w, count), as it is shown: uint8 RGB (h, w, 3)."""
        return np.clip(np.rint(fed[..., list(self.rgb)]), 0, 255).astype(np.uint8)


def unknown_range(dtype: np.dtype) -> str:
    """Why samples of a type are not read, and what to do."""
    return f"its samples are {dtype}, of unknown range; set data.range to the values that are black and white, such as [0, 1]"


def is_array(head: bytes) -> bool:
    """Whether a file that begins so is a `.npy` file."""
    return head.startswith(_NUMPY)


def is_tiff(head: bytes) -> bool:
    """Whether a file that begins so is a TIFF."""
    return head.startswith(_TIFF)


def array_shape(file: BinaryIO) -> tuple[tuple[int, int, int], np.dtype, bool]:
    """The header of a `.npy` file: ((height, width, bands), dtype, whether it is stored column by column).

    The file is left at its first sample. Raises: WrongBands, for what is no image.
    """
    try:
        version = np.lib.format.read_magic(file)
        length = int.from_bytes(file.read(2 if version == (1, 0) else 4), "little")
        text = file.read(min(length, _MOST_HEADER)).decode("utf-8" if version == (3, 0) else "latin1")
        # Not by NumPy's `read_array_header_1_0`: images are read in threads, and CPython's parser, which that asks, fails
        # now and then where two threads parse at once ("AST constructor recursion depth mismatch", in 3.11).
        header = {name: "".join(values) for name, *values in _FIELD.findall(text)}
        if len(header) < 3:
            raise ValueError(f"its header is not that of one array of numbers: {text}")
        shape = tuple(int(size.strip(" L")) for size in header["shape"].split(",") if size.strip())  # Python 2 wrote 20L
        dtype = np.dtype(header["descr"])
    except Exception as error:
        raise WrongBands(f"no whole .npy file ({' '.join(str(error).split())[:100]})") from None
    return image_shape(shape), _numbers(dtype), header["fortran_order"] == "True"


def read_array(data: bytes) -> np.ndarray:
    """A `.npy` file -> numbers (height, width, bands). Raises: WrongBands."""
    file = io.BytesIO(data)
    shape, dtype, by_columns = array_shape(file)
    count = shape[0] * shape[1] * shape[2]
    if len(data) - file.tell() < count * dtype.itemsize:
        raise WrongBands("the file breaks off")
    samples = np.frombuffer(data, dtype, count, file.tell())
    if not by_columns:
        return samples.reshape(shape)
    ordered = samples.reshape(shape[1::-1] if shape[2] == 1 else shape[::-1])
    return ordered.T.reshape(shape)


def write_array(samples: np.ndarray) -> bytes:
    """An array as a `.npy` file."""
    file = io.BytesIO()
    np.save(file, samples, allow_pickle=False)
    return file.getvalue()


def tiff_shape(file: BinaryIO) -> tuple[tuple[int, int, int], np.dtype]:
    """(height, width, bands) of a TIFF's first page, upright, and the type of its samples.

    Raises: WrongBands, also for a page of more than 4 GiB of samples: a small file may unpack to any number.
    """
    import tifffile

    try:
        with tifffile.TiffFile(file) as opened:
            page = opened.pages.first
            height, width, count = image_shape(_bands_last(page))
            dtype = _numbers(np.dtype(page.dtype))
            if height * width * count * dtype.itemsize > _MOST_BYTES:
                raise WrongBands(
                    f"its {height:,} x {width:,} pixels of {count:,} bands are more than {_MOST_BYTES / 2**30:.0f} GiB"
                )
            return (width, height, count) if _orientation(page) >= 5 else (height, width, count), dtype
    except WrongBands:
        raise
    except Exception as error:
        raise WrongBands(f"no whole TIFF ({' '.join(str(error).split())[:100]})") from None


def read_tiff(data: bytes) -> tuple[np.ndarray, int]:
    """A TIFF's first page: numbers (height, width, bands) as stored, and its EXIF orientation. Raises: WrongBands."""
    import tifffile

    try:
        with tifffile.TiffFile(io.BytesIO(data)) as opened:
            page = opened.pages.first
            shape = image_shape(_bands_last(page))
            samples = page.asarray(maxworkers=1)
    except WrongBands:
        raise
    except Exception as error:
        raise WrongBands(f"its bands cannot be decoded ({' '.join(str(error).split())[:100]})") from None
    if _is_planar(page):
        samples = np.moveaxis(samples, 0, -1)
    return samples.reshape(shape), _orientation(page)


def image_shape(shape: tuple[int, ...]) -> tuple[int, int, int]:
    """(height, width, bands) of an image, bands last. Raises: WrongBands, for volumes and other arrays."""
    if len(shape) == 2:
        shape = (*shape, 1)
    if len(shape) != 3:
        raise WrongBands(f"an array of {len(shape)} axes; images have two or three, and volumes (3D) are not read")
    if not all(shape):
        raise WrongBands("an array without pixels")
    if shape[2] > _MOST or (shape[0] < shape[1] and shape[0] < shape[2] and shape[0] <= 16):
        raise WrongBands(f"an array of shape {shape} has its bands first, or is no image; write (height, width, bands)")
    return int(shape[0]), int(shape[1]), int(shape[2])


def as_rgb(samples: np.ndarray, rgb: tuple[int, ...] | None) -> np.ndarray:
    """uint8 or uint16 (h, w, bands) -> uint8 RGB (h, w, 3), in one new array; 16 bits are scaled by 255/65535.

    Args:
        rgb: the bands to show, counted from 0: three, or one as grey. None: those of an image of one, three or four.

    Raises: WrongBands, where an image has other bands, or samples of unknown range.
    """
    bands = samples.shape[2]
    if samples.dtype.kind != "u" or samples.dtype.itemsize > 2:
        raise WrongBands(unknown_range(samples.dtype))
    if rgb is None:
        if bands not in (1, 3):
            raise WrongBands(f"it has {bands} bands; set data.bands to the three to show, such as [0, 1, 2]")
        rgb = tuple(range(bands))
    _check_bands(rgb, bands)
    pixels = np.empty((*samples.shape[:2], 3), np.uint8)
    for colour, band in enumerate(rgb if len(rgb) == 3 else rgb * 3):
        values = samples[..., band]
        # In rows, since 32-bit copies of a whole band would take four times the memory.
        for row in range(len(values)):
            pixels[row, :, colour] = values[row] if values.dtype == np.uint8 else (values[row].astype(np.uint32) + 128) // 257
    return pixels


def _check_bands(named: tuple[int, ...], count: int) -> None:
    if max(named) >= count:
        raise WrongBands(f"it has {count} bands, 0 to {count - 1}, and data.bands names {max(named)}")


def _numbers(dtype: np.dtype) -> np.dtype:
    if dtype.kind not in "uif":
        raise WrongBands(f"its samples are {dtype}, no numbers")
    return dtype


def _is_planar(page: Any) -> bool:
    """Whether a TIFF's page stores its bands one after the other."""
    return page.axes[:1] == "S"


def _orientation(page: Any) -> int:
    tag = page.tags.get(274)
    return tag.value if tag is not None and tag.value in range(1, 9) else 1


def _bands_last(page: Any) -> tuple[int, ...]:
    shape = tuple(page.shape)
    return (*shape[1:], shape[0]) if _is_planar(page) else shape
