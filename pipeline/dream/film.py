"""Films: frames as one video file, in the first format that this machine's OpenCV can write."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from itertools import chain
from pathlib import Path

import cv2
import numpy as np

from pipeline.drawing.pixels import decode_png
from pipeline.store.files import aside
from pipeline.store.places import Place

# Suffix and codec; those that browsers play come first.
FORMATS = (("mp4", "vp09"), ("mp4", "mp4v"), ("avi", "MJPG"))


def write_film(folder: Place, name: str, frames: Sequence[Place], fps: float) -> str | None:
    """Write NAME.mp4, or NAME.avi, from PNG files of one size.

    Returns: the file's name; None where OpenCV can write none of the formats.
    Raises: StoreFailed.
    """
    usable = next((suffix_and_codec for suffix_and_codec in FORMATS if _can_write(*suffix_and_codec)), None)
    if usable is None:
        return None
    suffix, codec = usable
    with aside(folder / f"{name}.{suffix}") as temporary:
        _encode(temporary, codec, (_read(frame) for frame in frames), fps)
    return f"{name}.{suffix}"


def _can_write(suffix: str, codec: str) -> bool:
    with tempfile.TemporaryDirectory(prefix="convscope-") as folder:
        path = Path(folder) / f"try.{suffix}"
        _encode(path, codec, [np.zeros((64, 64, 3), np.uint8)] * 2, 15)
        return path.exists() and path.stat().st_size > 0


def _encode(path: Path, codec: str, frames: Iterable[np.ndarray], fps: float) -> None:
    """Frames are uint8 BGR. These codecs halve the resolution of colours, so they only take even sizes."""
    frames = iter(frames)
    first = next(frames)
    height, width = (max(2, side // 2 * 2) for side in first.shape[:2])
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*codec), fps, (width, height))
    try:
        for frame in chain([first], frames) if writer.isOpened() else ():
            writer.write(np.ascontiguousarray(frame[:height, :width]))
    finally:
        writer.release()


def _read(frame: Place) -> np.ndarray:
    return decode_png(frame.read_bytes())[..., ::-1]
