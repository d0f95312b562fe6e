"""What a crop costs in each format that could hold it: bytes, milliseconds on one core, and what is lost.

    python -m bench.crops FOLDER [--count N]

Crops are squares of photographs, from a fifth of the shorter side to all of it, at most 128 pixels after shrinking, as the
stage `activations` makes them in deep layers. PSNR and SSIM compare them with the pixels before encoding: means over all crops.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from pipeline.drawing.pixels import decode_png, encode_png, encode_webp, resize, shrink

SIDE = 128
_QUALITY, _FITTED = cv2.IMWRITE_JPEG_QUALITY, cv2.IMWRITE_JPEG_OPTIMIZE


def jpeg(quality: int, fitted: bool = True) -> Callable[[np.ndarray], bytes]:
    """JPEG with Huffman tables fitted to the picture, or with the standard's."""
    return lambda pixels: cv2.imencode(".jpg", pixels[..., ::-1], (_QUALITY, quality, _FITTED, int(fitted)))[1].tobytes()


FORMATS: dict[str, tuple[int, Callable[[np.ndarray], bytes]]] = {  # longer side, encoder
    "PNG": (SIDE, encode_png),
    "JPEG 80, standard tables": (SIDE, jpeg(80, fitted=False)),
    **{f"JPEG {quality}, fitted tables": (SIDE, jpeg(quality)) for quality in (80, 75, 70, 65, 60)},
    "JPEG 70, 96 pixels": (96, jpeg(70)),
    "WebP 75": (SIDE, lambda pixels: encode_webp(pixels, 75)),
}


def crops_of(folder: Path, count: int) -> list[np.ndarray]:
    """So many crops, uint8 (h, w, 3), of a folder's photographs, the same ones every time. Raises: SystemExit."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if not paths:
        raise SystemExit(f"{folder} has no photographs.")
    random, crops = np.random.default_rng(0), []
    for number in range(count):
        pixels = decode_png(paths[number % len(paths)].read_bytes())
        side = round(min(pixels.shape[:2]) * random.uniform(0.2, 1))
        y, x = (int(random.integers(0, length - side + 1)) for length in pixels.shape[:2])
        crops.append(np.ascontiguousarray(shrink(pixels[y : y + side, x : x + side], SIDE)))
    return crops


def measure(crops: list[np.ndarray], side: int, encode: Callable[[np.ndarray], bytes]) -> tuple[float, float, float, float]:
    """Means over crops: bytes, milliseconds of the processor, PSNR in decibels (of those that lose anything), SSIM."""
    began = time.process_time()
    encoded = [encode(shrink(crop, side)) for crop in crops]
    seconds = time.process_time() - began
    decoded = [resize(decode_png(data), *crop.shape[:2]) for data, crop in zip(encoded, crops, strict=True)]
    pairs = list(zip(crops, decoded, strict=True))
    lossy = [pair for pair in pairs if (pair[0] != pair[1]).any()]
    noise = float(np.mean([peak_signal_noise_ratio(*pair) for pair in lossy])) if lossy else np.inf
    likeness = float(np.mean([structural_similarity(*pair, channel_axis=2) for pair in pairs]))
    return sum(map(len, encoded)) / len(crops), 1000 * seconds / len(crops), noise, likeness


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=400)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    crops = crops_of(options.folder, options.count)
    print(f"{'format':<28}{'bytes':>8}{'ms':>8}{'PSNR':>8}{'SSIM':>8}")
    for name, (side, encode) in FORMATS.items():
        size, milliseconds, noise, likeness = measure(crops, side, encode)
        print(f"{name:<28}{size:>8,.0f}{milliseconds:>8.2f}{noise:>8.1f}{likeness:>8.3f}", flush=True)


if __name__ == "__main__":
    main()
