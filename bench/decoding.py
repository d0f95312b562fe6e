"""Memory that decoding takes: the peak of one image in each format, in bytes a pixel.

    python -m bench.decoding [--side 8000]

Every image is of one colour, so that its file is small: what a stranger would send to fill the memory. Each is decoded in a
process of its own (Linux), whose resident memory before and at its peak is compared.
"""

from __future__ import annotations

import argparse
import io
import os
from pathlib import Path
from typing import Any

import PIL.features
import PIL.Image

from pipeline.sources.decode import Decoder

_COLOURS: dict[str, Any] = {"1": 1, "P": 3, "I;16": 900, "RGB": (10, 200, 30), "RGBA": (10, 200, 30, 90), "CMYK": (1, 2, 3, 4)}
_KINDS: list[tuple[str, str, dict[str, Any]]] = [
    ("PNG", "1", {}),
    ("PNG", "P", {}),
    ("PNG", "RGB", {}),
    ("PNG", "RGBA", {}),
    ("PNG", "I;16", {}),
    ("JPEG", "RGB", {}),
    ("JPEG", "RGB", {"progressive": True, "subsampling": 0}),
    ("JPEG", "CMYK", {"progressive": True}),
    ("BMP", "RGB", {}),
    ("GIF", "P", {}),
    ("TIFF", "1", {"compression": "group4"}),
    ("TIFF", "RGB", {"compression": "tiff_adobe_deflate"}),
    ("TIFF", "RGBA", {"compression": "tiff_lzw"}),
    ("WEBP", "RGB", {}),
    ("WEBP", "RGBA", {"lossless": True}),
    ("AVIF", "RGB", {}),
    ("AVIF", "RGBA", {}),
]


def main() -> None:
    """Print a line for each format."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=8000)
    side = parser.parse_args().side
    for form, mode, options in _KINDS:
        if form == "AVIF" and not PIL.features.check("avif"):
            continue
        data = _in_a_child(lambda f=form, m=mode, o=options: _encoded(side, f, m, o))
        peak = int(_in_a_child(lambda d=data: _peak(d)))
        print(
            f"{form:5} {mode:5} {' '.join(map(str, options)):24} {len(data):12,} bytes  {peak / side**2:5.1f} bytes a pixel",
            flush=True,
        )


def _encoded(side: int, form: str, mode: str, options: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    PIL.Image.new(mode, (side, side), _COLOURS[mode]).save(file, form, **options)
    return file.getvalue()


def _peak(data: bytes) -> bytes:
    """How many bytes the process grew by at most while it decoded."""
    before = _resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    Decoder().decode(data)
    return str(_resident("VmHWM") - before).encode()


def _resident(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def _in_a_child(work: Any) -> bytes:
    read, written = os.pipe()
    if not os.fork():
        with os.fdopen(written, "wb") as file:
            file.write(work())
        os._exit(0)
    os.close(written)
    with os.fdopen(read, "rb") as file:
        data = file.read()
    os.wait()
    return data


if __name__ == "__main__":
    main()
