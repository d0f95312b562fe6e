"""What the made jobs of these tests consist of."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.mosaic import encode_png, encode_webp
from pipeline.store.tables import INDEX

K = 3
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


def patch(channel: int, rank: int) -> bytes:
    return encode_png(np.full((16, 16, 3), (channel % 256, 100 + rank, 200), np.uint8))


def whole(example: int) -> bytes:
    return encode_webp(np.full((48, 64, 3), (example, 0, 0), np.uint8), 101)


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
