"""Encoded bytes to upright 8-bit RGB in sRGB, or to bands as they are, at a bounded cost: the only module that decodes images."""

from __future__ import annotations

import ctypes
import importlib.util
import io
import logging
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import BinaryIO

import cv2
import numpy as np
import PIL.features
import PIL.Image
import PIL.ImageFile

from pipeline.sources import bands
from pipeline.sources.bands import SampleForm, WrongBands, unknown_range
from pipeline.sources.colour import to_srgb
from pipeline.sources.jpeg import JPEGS, check_scans, reduced
from pipeline.sources.pixel_budget import DECODING

MAX_PIXELS = 2**28  # of an image, by default
MOST_PIXELS = 2**30  # that any setting allows: OpenCV decodes no more
REDUCE_ABOVE = 2**26  # pixels of a JPEG, above which a scan decodes it at a part of its size
_USUAL = 8  # bytes that a pixel takes while it is decoded
_BYTES = {"AVIF": 32, "HEIF": 32, "WEBP": 16}  # in formats whose codecs hold several copies (bench.decoding)

PIL.Image.MAX_IMAGE_PIXELS = MOST_PIXELS  # Pillow refuses twice as many; `Decoder` refuses earlier

_ORIENTATION = 0x0112  # the EXIF tag: 1 upright, 2 to 8 mirrored or turned
_FLOAT_MODES = ("F", "I")
_PNG = b"\x89PNG\r\n\x1a\n"
_STRIP = 2**22  # pixels converted at a time


class Unreadable(Exception):
    """Bytes that are not an image, or not a whole one, or too large; the message is the reason, on one line."""


@dataclass(frozen=True)
class Decoder:
    """Decodes JPEG, PNG, WebP, BMP, GIF (first frame), TIFF (first page), `.npy` and, where Pillow can, AVIF and HEIC.

    16-bit samples are scaled by 255/65535, grey becomes RGB, transparency lies on white, colours with an ICC profile become
    sRGB, EXIF orientation is applied.

    max_pixels: larger images are unreadable; their headers alone are read.
    bands: the bands of a TIFF or `.npy` to show as RGB, counted from 0: three, or one as grey; None where there are one or three.
    form: how samples become what a network is given that takes other than 8-bit RGB; None for one that takes RGB.
    """

    max_pixels: int = MAX_PIXELS
    bands: tuple[int, ...] | None = None
    form: SampleForm | None = None

    @property
    def depth(self) -> int:
        """The number of bands that a network takes."""
        return 3 if self.form is None else self.form.count

    @property
    def dtype(self) -> type[np.generic]:
        """The type of the arrays that a network is given."""
        return np.uint8 if self.form is None else np.float32

    def decode(self, data: bytes) -> np.ndarray:
        """An image at its own size, as it is shown: uint8 (height, width, 3), RGB, upright.

        Raises: Unreadable, also for a file that breaks off before its last pixel.
        """
        return self.read(data)[0]

    def read(self, data: bytes) -> tuple[np.ndarray, np.ndarray | None]:
        """An image as it is shown, and as a network is given it, None where that is the same. Raises: Unreadable."""
        with self.opened(data) as pixels:
            return (pixels, None) if self.form is None else (self.form.as_rgb(pixels), pixels)

    @contextmanager
    def opened(self, data: bytes, network_size: tuple[int, int] | None = None) -> Iterator[np.ndarray]:
        """An image as a network is given it, whose pixels count as being at work until the block ends.

        It is upright: uint8 (height, width, 3), RGB, or float32 (height, width, bands), as `form` says.

        Args:
            network_size: (height, width) of the input that the image is for. A JPEG of more than REDUCE_ABOVE pixels is decoded
                at a half, a quarter or an eighth of its size, still four times as large as that. None: at its own size.

        Raises: Unreadable.
        """
        try:
            image, height, width, taken = _header(io.BytesIO(data), self.bands is not None or self.form is not None)
            if image is not None and image.format in JPEGS:
                check_scans(image.width * image.height, data)
        except Unreadable:
            raise
        except Exception as error:
            raise Unreadable(_reason(error, data)) from None
        if height * width > self.max_pixels:
            raise Unreadable(f"its {height:,} x {width:,} pixels are more than data.max_pixels, {self.max_pixels:,}, allows")
        held = height * width * taken // _USUAL
        held *= 1 if self.form is None else 1 + self.form.count
        if image is not None and image.format in JPEGS and network_size is not None and height * width > REDUCE_ABOVE:
            least = reduced(image, network_size)
            held //= 1 if image.info.get("progressive") else least**2
        with DECODING.hold(held):
            try:
                pixels = self._pixels(data, image)
            except Unreadable:
                raise
            except Exception as error:
                raise Unreadable(_reason(error, data)) from None
            del image  # Pillow's own copy of the pixels
            yield pixels

    def _pixels(self, data: bytes, image: PIL.ImageFile.ImageFile | None) -> np.ndarray:
        if image is None:
            samples, orientation = (bands.read_array(data), 1) if bands.is_array(data) else bands.read_tiff(data)
            return _upright(self._chosen(samples), orientation)
        if _is_plain_png(data):
            # For data sets of thumbnails, several times as fast as the general path. If it fails, Pillow says why.
            pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)
            if pixels is not None:
                return self._chosen(pixels)
        depth16 = _has_16_bits(image)  # Pillow keeps the high byte only, or clips
        image.load()
        orientation, profile = _orientation(image), image.info.get("icc_profile")
        if depth16:
            image.im = None  # type: ignore[assignment]  # it was loaded to see that it is whole
            if self.form is not None and self.form.ranges is not None:
                return _upright(self._chosen(_samples_of_16_bits(data)), orientation)
            pixels = _from_16_bits(data, profile)
        else:
            pixels = _from_8_bits(image, profile)
        return self._chosen(_upright(pixels, orientation))

    def _chosen(self, samples: np.ndarray) -> np.ndarray:
        if self.form is not None:
            return self.form.fed(samples)
        plain = self.bands is None and samples.shape[2] == 3 and samples.dtype == np.uint8
        return samples if plain else bands.as_rgb(samples, self.bands)


DEFAULT_DECODER = Decoder()


def size(file: BinaryIO) -> tuple[int, int]:
    """(height, width) as `Decoder.decode` gives it, of whatever bands, from the header alone wherever the format allows.

    Raises: Unreadable.
    """
    try:
        image, height, width, _ = _header(file, None)
        if image is None:
            return height, width
        with image:
            # Pillow already turns the size of a TIFF. In a PNG the orientation may follow the pixels, and asking
            # Pillow for it decodes them all: ask only if it is there.
            if image.format == "TIFF" or (image.format == "PNG" and not _png_may_be_turned(image, file)):
                return height, width
            return (width, height) if _orientation(image) >= 5 else (height, width)
    except Unreadable:
        raise
    except Exception as error:
        raise Unreadable(_reason(error)) from None


def _header(file: BinaryIO, banded: bool | None) -> tuple[PIL.ImageFile.ImageFile | None, int, int, int]:
    """The opened image, its height and width before it is turned, and the bytes that a pixel takes while it is decoded; no image
    for what Pillow does not read or need not.

    Args:
        banded: whether the bands of a TIFF are chosen from; None: where Pillow does not know them.
    """
    head = file.read(32)
    file.seek(0)
    if bands.is_array(head):
        (height, width, count), dtype, _ = bands.array_shape(file)
        return None, height, width, max(_USUAL, count * dtype.itemsize)
    if bands.is_tiff(head) and banded:
        (height, width, count), dtype = bands.tiff_shape(file)
        return None, height, width, max(_USUAL, count * dtype.itemsize)
    try:
        image = _open(file)
    except PIL.UnidentifiedImageError:
        if not bands.is_tiff(head):
            raise
        file.seek(0)
        (height, width, count), dtype = bands.tiff_shape(file)
        if banded is None:
            return None, height, width, max(_USUAL, count * dtype.itemsize)
        raise WrongBands(f"it has {count} bands; set data.bands to the three to show, such as [0, 1, 2]") from None
    return image, image.height, image.width, _BYTES.get(image.format or "", _USUAL)


@cache
def _formats() -> tuple[str, ...]:
    """What Pillow is asked to read: the formats that always come with it, and those that this one has."""
    formats = ["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"]
    if PIL.features.check("avif"):
        formats.append("AVIF")
    try:
        import pillow_heif  # type: ignore[import-not-found,unused-ignore]

        pillow_heif.register_heif_opener()
        formats.append("HEIF")
    except ImportError:
        pass
    return tuple(formats)


def _open(file: BinaryIO) -> PIL.ImageFile.ImageFile:
    image = PIL.Image.open(file, formats=_formats())
    most = MAX_PIXELS * _USUAL // _BYTES.get(image.format or "", _USUAL)
    if image.format in _BYTES and image.width * image.height > most:
        image.close()
        raise Unreadable(
            f"its {image.height:,} x {image.width:,} pixels are more than the {most:,} of a {image.format} that are read"
        )
    if image.mode in _FLOAT_MODES and not _has_16_bits(image):
        image.close()
        raise Unreadable(unknown_range(np.dtype(np.float32 if image.mode == "F" else np.int32)))
    return image


def _is_plain_png(data: bytes) -> bool:
    """A whole PNG of 8-bit RGB or grey, with neither transparency nor orientation nor a colour profile."""
    if data[:8] != _PNG or data[24:26] not in (b"\x08\x00", b"\x08\x02") or data[-8:-4] != b"IEND":
        return False
    special = (b"tRNS", b"eXIf", b"acTL", b"iCCP")
    view = memoryview(data)
    offset = 8  # of a chunk: 4 bytes of length, 4 of type, the content, 4 of check sum
    while offset < len(data):
        end = offset + 8 + int.from_bytes(view[offset : offset + 4], "big")
        if data[offset + 4 : offset + 8] in special or data[offset + 8 : offset + 19] == b"Raw profile":
            return False
        # Where a chunk is damaged, OpenCV's libpng would write on the terminal.
        if zlib.crc32(view[offset + 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
            return False
        offset = end + 4
    return True


def _silence() -> None:
    """Keep what codecs write on the terminal themselves off it: the reason of each image that cannot be read is in the index."""
    warnings.filterwarnings("ignore", module=r"PIL\.")
    for library in ("PIL", "tifffile"):
        logging.getLogger(library).addHandler(logging.NullHandler())
    getattr(cv2, "setLogLevel", lambda level: None)(0)  # OpenCV 4; OpenCV 5 writes nothing on what decoding meets
    extension = importlib.util.find_spec("PIL._imaging")
    try:  # the libtiff that Pillow is linked to
        libtiff = ctypes.CDLL(extension.origin if extension else None)
        libtiff.TIFFSetErrorHandler(None)
        libtiff.TIFFSetWarningHandler(None)
    except (OSError, AttributeError):  # another build: its lines appear, and that is all
        pass


_silence()


def _has_16_bits(image: PIL.ImageFile.ImageFile) -> bool:
    if image.format == "PNG":
        return any("16" in str(tile[3]) for tile in image.tile)  # the mode of an RGB image does not say
    if image.format == "TIFF":
        bits, sample_format = (image.tag_v2.get(tag, (1,)) for tag in (258, 339))  # type: ignore[attr-defined,unused-ignore]
        return max(bits) == 16 and sample_format[0] == 1
    return False


def _from_8_bits(image: PIL.Image.Image, profile: bytes | None) -> np.ndarray:
    transparent = image.has_transparency_data

    def rgb(top: int, bottom: int) -> np.ndarray:
        strip = image.crop((0, top, image.width, bottom)) if bottom - top < image.height else image
        if not transparent:
            return np.asarray(to_srgb(strip, profile).convert("RGB"))
        rgba = strip.convert("RGBA")
        opaque = to_srgb(rgba.convert("RGB"), profile)
        return _on_white(np.asarray(opaque), np.asarray(rgba.getchannel("A")))

    return _in_strips(image.height, image.width, rgb)


def _from_16_bits(data: bytes, profile: bytes | None) -> np.ndarray:
    pixels = _decoded_16_bits(data)

    def rgb(top: int, bottom: int) -> np.ndarray:
        strip = ((pixels[top:bottom].astype(np.uint32) + 128) // 257).astype(np.uint8)
        if strip.ndim == 2:
            return np.asarray(to_srgb(PIL.Image.fromarray(strip), profile).convert("RGB"))
        opaque = to_srgb(PIL.Image.fromarray(np.ascontiguousarray(strip[..., 2::-1])), profile)
        return _on_white(np.asarray(opaque), strip[..., 3]) if strip.shape[2] == 4 else np.asarray(opaque)

    return _in_strips(pixels.shape[0], pixels.shape[1], rgb)


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The kind and the bytes of the signature and of every chunk. Of a damaged profile, libpng would write on the terminal."""
    yield b"", _PNG
    offset = len(_PNG)
    while offset < len(data):
        end = offset + 12 + int.from_bytes(data[offset : offset + 4], "big")
        yield data[offset + 4 : offset + 8], data[offset:end]
        offset = end


def _decoded_16_bits(data: bytes) -> np.ndarray:
    """uint16 (height, width), or (height, width, 3 or 4) with blue first."""
    data = b"".join(part for kind, part in _png_chunks(data) if kind != b"iCCP") if data[:8] == _PNG else data
    samples = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if samples is None or samples.dtype != np.uint16:
        raise Unreadable("its 16-bit samples cannot be decoded")
    return samples


def _samples_of_16_bits(data: bytes) -> np.ndarray:
    """uint16 (height, width, 1 or 3), without transparency."""
    samples = _decoded_16_bits(data)
    return samples[..., np.newaxis] if samples.ndim == 2 else np.ascontiguousarray(samples[..., 2::-1])


def _in_strips(height: int, width: int, rgb: Callable[[int, int], np.ndarray]) -> np.ndarray:
    """uint8 (height, width, 3) of `rgb(top, bottom)`, which makes a few rows: copies of the whole would take more memory."""
    rows = max(1, _STRIP // width)
    if rows >= height:
        return np.array(rgb(0, height))
    pixels = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, rows):
        pixels[top : top + rows] = rgb(top, min(height, top + rows))
    return pixels


def _on_white(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    opacity = alpha[..., np.newaxis].astype(np.uint32)
    return ((rgb * opacity + 255 * (255 - opacity) + 127) // 255).astype(np.uint8)


def _png_may_be_turned(image: PIL.ImageFile.ImageFile, file: BinaryIO) -> bool:
    if "Raw profile type exif" in image.info or "exif" in image.info:
        return True
    position = file.tell()
    file.seek(0)
    has_exif = b"eXIf" in file.read()
    file.seek(position)
    return has_exif


def _orientation(image: PIL.ImageFile.ImageFile) -> int:
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:
        return 1
    return value if value in range(1, 9) else 1


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    if orientation >= 5:
        pixels = pixels.transpose(1, 0, 2)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)


def _reason(error: Exception, data: bytes | None = None) -> str:
    if data is not None and not data:
        return "the file is empty"
    if isinstance(error, PIL.UnidentifiedImageError):
        if data is not None and data[4:8] == b"ftyp":
            kind, package = ("an AVIF", "Pillow 11.3 or later") if b"avi" in data[8:32] else ("a HEIC", "the package pillow-heif")
            return f"{kind} image, which takes {package} to read"
        return f"not a whole image in any of {', '.join(_formats())}"
    text = " ".join(str(error).split())
    return text[:200] or type(error).__name__
