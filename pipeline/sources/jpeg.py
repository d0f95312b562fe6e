"""JPEG: decoding at a part of the size, and scans that only keep a reader busy."""

from __future__ import annotations

import re

import PIL.ImageFile

JPEGS = ("JPEG", "MPO")  # as Pillow names them; MPO holds several
_SPARE = 4  # a reduced image is still so many times as high and wide as the network's input
_MOST_SCANNED = 2**32  # pixels of all scans together: a scan of a few bytes takes as long as one that is whole
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # begins a segment; others stand within a scan
_BARE, _END, _SCAN = 0x01, 0xD9, 0xDA


def reduced(image: PIL.ImageFile.ImageFile, network_size: tuple[int, int]) -> int:
    """Have an image decoded at a fraction of its size. Returns: by what each side is divided: 1, 2, 4 or 8."""
    width = image.width
    side = _SPARE * max(network_size)  # the image may lie on its side
    image.draft(None, (side, side))
    return round(width / image.width)


def check_scans(pixels: int, data: bytes) -> None:
    """Count the scans of an image of so many pixels. Raises: ValueError, for one made to keep its reader busy."""
    most = _MOST_SCANNED // pixels
    if data.count(bytes([0xFF, _SCAN])) <= most:
        return  # there are no more; a preview, and what follows the image, may have markers too
    scans, at = 0, 2
    while match := _MARKER.search(data, at):
        marker, at = match[0][1], match.end()
        if marker == _END:
            break
        scans += marker == _SCAN
        at += int.from_bytes(data[at : at + 2], "big") if marker != _BARE else 0
    if scans > most:
        raise ValueError(f"its {scans:,} scans of {pixels:,} pixels each would keep a reader busy for minutes")
