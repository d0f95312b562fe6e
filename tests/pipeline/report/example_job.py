"""What the example jobs of these tests consist of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pipeline.drawing.pixels import encode_png, encode_webp
from pipeline.store.files import file_name, write_bytes
from pipeline.store.tables import INDEX, PATTERNS, write_crops, write_index

K = 3
MAP = encode_png(np.zeros((2, 2, 3), np.uint8))  # dark everywhere
HOSTILE_LAYER = "block/a'b\"<img src=x onerror=alert(1)>"
HOSTILE_LABEL = '"><script>alert(2)</script>'
HOSTILE_KEY = "a/b & </script><b>c.png"


def columns(name: str, rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {field.name: [row.get(field.name) for row in rows] for field in INDEX[name]}


def winner(layer: str, channel: int, rank: int, example: int, key: str, label: str | None) -> dict[str, Any]:
    box = {"y1": 2, "x1": 4, "y2": 10, "x2": 12}
    return {
        "layer": layer,
        "channel": channel,
        "rank": rank,
        "score": 10.0 * (channel + 1) - rank,
        "example": example,
        "key": key,
        "label": label,
        "row": rank,
        "col": channel,
        **box,
        **{f"src_{edge}": 2 * place for edge, place in box.items()},
    }


def patch(channel: int, rank: int) -> np.ndarray:
    """A tile of one colour, which says whose it is."""
    return np.full((16, 16, 3), (channel % 256, 100 + rank, 200), np.uint8)


def draw_mosaics(folder: Path, layer: str, count: int) -> list[dict[str, Any]]:
    """Two pages of patches, two a line, every row 40 pixels high. Returns: the rows of index/mosaics.parquet."""
    places = []
    half = max(1, count // 2)
    for page, channels in enumerate((range(half), range(half, count))):
        if channels:
            pixels = np.full((30 + 40 * len(channels), 90, 3), 24, np.uint8)
            name = f"mosaics/activations/{file_name(layer)}-crop-{page + 1:03}.png"
            for row, channel in enumerate(channels):
                for rank in range(K):
                    y, x = 30 + 40 * row + rank // 2 * 20, 50 + rank % 2 * 20
                    pixels[y : y + 16, x : x + 16] = patch(channel, rank)
                place = {"layer": layer, "channel": channel, "picture": name, "y": 30 + 40 * row, "x": 50, "tile_height": 16}
                place |= {"tile_width": 16, "per_line": 2, "step_y": 20, "step_x": 20}
                places.append(place | dict(zip(("height", "width"), pixels.shape[:2], strict=True)))
            write_bytes(folder / name, encode_png(pixels))
    return places


def whole(example: int) -> bytes:
    return encode_webp(np.full((48, 64, 3), (example % 256, 0, 0), np.uint8), 101)


def receipt(name: str, layers: list[str]) -> dict[str, Any]:
    spec = {"name": name, "stages": ["activations", "report"], "model": {"source": "keras:Any"}, "data": {"source": "folder:x"}}
    done = {"started": "2026-01-01T00:00:00Z", "seconds": 2.0, "images": 50, "images_per_second": 25.0, "skipped": 0}
    return {
        "format": 1,
        "name": name,
        "state": "finished",
        "spec": spec,
        "digests": {"model": "m", "data": "d"},
        "versions": {"python": "3.11"},
        "input": [32, 32, 3],
        "layers": layers,
        "examples": 50,
        "stages": {"activations": done},
    }


def add_explanations(folder: Path) -> None:
    """An image with a classification and two maps, as the stage gradcam leaves them."""
    about = {"example": 3, "key": HOSTILE_KEY, "label": HOSTILE_LABEL}
    tops = [
        about | {"rank": rank, "class": 5 + rank, "name": name, "probability": 0.7 - 0.3 * rank}
        for rank, name in enumerate(("ant", None))
    ]
    write_index(folder, "classification", columns("classification", tops))
    rows = []
    for method in ("gradcam", "guided_backprop"):
        name = f"mosaics/gradcam/3/5-{method}.png"
        write_bytes(folder / name, encode_png(np.full((40, 60, 3), (10, 200, 10), np.uint8)))
        rows.append(about | {"method": method, "layer": "conv", "class": 5, "name": "ant", "probability": 0.7, "picture": name})
    write_index(folder, "attributions", columns("attributions", rows))


def add_kernels(folder: Path, layer: str) -> None:
    """A picture of two kernels, the first red and the second blue, and a third that is not drawn."""
    picture = np.zeros((30, 40, 3), np.uint8)
    picture[5:15, 2:12], picture[5:15, 20:30] = (250, 0, 0), (0, 0, 250)
    write_bytes(folder / "mosaics/filters/conv.png", encode_png(picture))
    rows = [
        {
            "layer": layer,
            "part": "kernel",
            "channel": channel,
            "norm": 1.5,
            "twin": 1 - channel,
            "twin_cosine": 0.5,
            "drawn": True,
            "inputs_of": HOSTILE_LAYER,
            "strongest_inputs": [2, 7],
            "input_weights": [0.5, -0.25],
        }
        | {"picture": "mosaics/filters/conv.png", "y1": 5, "x1": 2 + 18 * channel, "y2": 15, "x2": 12 + 18 * channel}
        for channel in (0, 1)
    ]
    rows.append(
        {
            "layer": layer,
            "part": "kernel",
            "channel": 2,
            "norm": 0.1,
            "drawn": False,
            "gives": ["block", layer],
            "picture": "mosaics/filters/conv.png",
        }
    )
    write_index(folder, "filters", columns("filters", rows))


def add_patterns(folder: Path, layer: str) -> None:
    """A pattern for channel 1, with its losses."""
    row = {
        "layer": layer,
        "channel": 1,
        "sign": "positive",
        "variant": 0,
        "losses": [0.0, 1.0, 4.0],
        "reached": 4.5,
        "strongest": 3.0,
    }
    write_index(folder, "patterns", columns("patterns", [row]))
    image = {"bytes": encode_png(np.full((20, 20, 3), (9, 120, 33), np.uint8)), "path": "x.png"}
    rows = {field.name: [(row | {"image": image}).get(field.name)] for field in PATTERNS}
    write_crops(folder / "patterns" / f"{layer}.parquet", [rows], PATTERNS)


def add_others(folder: Path, layer: str) -> None:
    """The weakest response of channel 0, and the strongest of channel 0 for two labels."""
    weakest = winner(layer, 0, 0, 7, "weak.png", "ant") | {"score": -3.25}
    write_index(folder, "weakest", columns("weakest", [weakest]))
    of_labels = [winner(layer, 0, 0, 9 + place, f"{label}.png", label) for place, label in enumerate(("cat", "dog"))]
    write_index(folder, "by_label", columns("by_label", of_labels))


def add_maps(folder: Path, *layers: str) -> None:
    """The feature maps of an image, three channels a layer, the last of them dead."""
    rows = []
    for number, layer in enumerate(layers):
        picture = f"mosaics/featuremaps/{number} #/a.png"
        write_bytes(folder / picture, encode_png(np.full((40, 80, 3), (10, 90, 60), np.uint8)))
        shared = {"layer": layer, "key": HOSTILE_KEY, "example": 4, "picture": picture}
        rows += [shared | {"channel": channel, "dead": channel == 2} for channel in range(3)]
    write_index(folder, "featuremaps", columns("featuremaps", rows))


def add_dreams(folder: Path) -> None:
    """Two frames of a dream."""
    rows = []
    for frame in (0, 1):
        path = f"mosaics/dream/a b#{frame}.png"
        write_bytes(folder / path, encode_png(np.full((30, 50, 3), (90, 10, 60), np.uint8)))
        rows.append(
            {"key": "a b.jpg", "kind": "picture", "frame": frame, "objective": 'layer("conv")', "losses": [1.0, 2.0, 8.0]}
        )
        rows[-1] |= {"reached": 8.5, "path": path}
    write_index(folder, "dreams", columns("dreams", rows))


def add_neighbours(folder: Path, layer: str, other: str) -> None:
    """The nearest channels of channel 1: two of its own layer, one of another."""
    near = [(layer, 5, 0.9), (layer, 9, 0.8), (other, 2, 0.7)]
    rows = [
        {"layer": layer, "channel": 1, "rank": rank, "other_layer": name, "other_channel": channel, "correlation": value}
        for rank, (name, channel, value) in enumerate(near)
    ]
    write_index(folder, "neighbours", columns("neighbours", rows))


def add_network(folder: Path, *layers: str) -> None:
    """A network of four layers with a branch: the image feeds two, an addition joins them."""
    feeds: dict[str, list[str]] = {layers[0]: [], "branch": [], "add": [layers[0], "branch"], layers[1]: ["add", layers[0]]}
    rows = [{"layer": name, "kind": "Conv2D", "chosen": name in layers, "feeds": of} for name, of in feeds.items()]
    write_index(folder, "layers", columns("layers", rows))


def add_checks(folder: Path) -> None:
    """Both checks of two methods."""
    both = ("gradcam", "gradient")
    steps = [{"method": name, "step": step, "rank_correlation": 1.0 - step / 4} for name in both for step in range(4)]
    write_index(folder, "randomisation", columns("randomisation", steps))
    kinds = ("deletion", "insertion")
    rows = [{"method": name, "kind": kind, "share": x / 4, "value": x / 4} for name in both for kind in kinds for x in range(5)]
    write_index(folder, "curves", columns("curves", rows))
