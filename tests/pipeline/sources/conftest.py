"""What the tests of sources share: a scene, a folder to fill, and a stream as plain Python."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pipeline.sources.registry import open_source
from pipeline.sources.source import Shard
from pipeline.spec.data import DataSpec


@pytest.fixture
def scene() -> Any:
    """A smooth random picture of some size, always the same for the same seed."""

    def draw(height: Any = 12, width: Any = 16, seed: Any = 0) -> Any:
        noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
        return cv2.GaussianBlur(noise, (5, 5), 2)

    return draw


@pytest.fixture
def write(tmp_path: Path) -> Any:
    """Write RGB pixels (or bytes as they are) to a file below tmp_path / "images"."""

    def write_file(path: Any, pixels: Any) -> Any:
        file = tmp_path / "images" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(pixels, bytes):
            file.write_bytes(pixels)
        else:
            file.write_bytes(cv2.imencode(".png", pixels[..., ::-1])[1].tobytes())
        return file

    return write_file


@pytest.fixture
def folder(tmp_path: Path) -> Any:
    """Open tmp_path / "images" as a source."""

    def open_folder(fit: Any, **spec: Any) -> Any:
        return open_source(DataSpec(source=f"folder:{tmp_path / 'images'}", **spec), fit)

    return open_folder


@pytest.fixture
def listed() -> Any:
    """The elements of a stream as tuples (example, key, label, pixels as bytes, error)."""

    def as_tuples(source: Any, shard: Any = None, start: Any = 0) -> Any:
        elements = source.stream(shard or Shard(), start).as_numpy_iterator()
        return [
            (int(e["example"]), e["key"].decode(), e["label"].decode(), e["image"].tobytes(), e["error"].decode())
            for e in elements
        ]

    return as_tuples
