"""Explanations of large pictures: memory is that of one decoded image, whatever the batch and the number of maps."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest

_SIDE, _PICTURES = 6000, 4  # 108 MB each, decoded; drawn at their own size, a map takes ten times as much

_JOB = """
import resource, sys
from pathlib import Path
import keras
from pipeline import run
from pipeline.load import parse_spec

work, extra = Path(sys.argv[1]), int(sys.argv[2])
keras.utils.set_random_seed(0)  # by chance, all of a map lies at the left edge
inputs = keras.Input((32, 32, 3))
maps = keras.layers.Conv2D(4, 3, activation="relu", name="conv")(inputs)
keras.Model(inputs, keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(maps))).save(work / "net.keras")

def job(name, folder):
    return parse_spec({
        "name": name, "stages": ["gradcam"],
        "model": {"source": f"file:{work}/net.keras", "layers": "conv", "preprocess": "unit"},
        "data": {"source": f"folder:{work}/{folder}"}, "gradcam": {"first": 4, "batch": 4},
    })

run(job("small", "small"), work / "out")
data = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmData")) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (data + extra,) * 2)
run(job("large", "large"), work / "out")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the data segment, which Linux counts")
def test_a_batch_of_large_pictures_is_explained_within_a_memory_limit(tmp_path: Path, program: Any) -> None:
    large = np.zeros((_SIDE, _SIDE, 3), np.uint8)
    large[1000:3000, 2000:5000] = 200
    for folder, pixels in (("small", large[:64, :64]), ("large", large)):
        (tmp_path / folder).mkdir()
        for number in range(_PICTURES):
            cv2.imwrite(str(tmp_path / folder / f"{number}.png"), pixels, [cv2.IMWRITE_PNG_COMPRESSION, 1])
    limit = 900_000_000  # one image in the scan's form, and the drawing of pictures of 1600 pixels
    done = program(_JOB, tmp_path, limit)
    assert done.status == 0, done.err[-2000:]
    maps = pd.read_parquet(tmp_path / "out" / "large" / "index" / "attributions.parquet")
    assert len(maps) >= _PICTURES
    # Boxes are in pixels of the image itself; pictures are drawn at a bounded size.
    assert maps["src_x2"].max() > 2000
    drawn = list((tmp_path / "out" / "large" / "mosaics" / "gradcam").rglob("*.jpg"))
    assert drawn and max(max(cv2.imread(str(path)).shape[:2]) for path in drawn) < 2500
