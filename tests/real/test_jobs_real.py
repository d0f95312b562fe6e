"""Whole jobs on real networks and real images."""

from __future__ import annotations

import os
from importlib import resources
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

from pipeline import load_spec, run
from pipeline.load import parse_spec
from pipeline.models.registry import open_network
from pipeline.sources.fit import Fit
from pipeline.sources.registry import open_source
from pipeline.sources.source import Shard
from pipeline.spec import JobSpec

REAL, SHARED = os.environ.get("CONVSCOPE_REAL"), os.environ.get("CONVSCOPE_SHARED")
needs_real = pytest.mark.skipif(not REAL, reason="CONVSCOPE_REAL names no folder of real inputs")
needs_photos = pytest.mark.skipif(
    not (REAL and SHARED), reason="CONVSCOPE_REAL and CONVSCOPE_SHARED name no folders of real inputs"
)


def cifar10(*overrides: str) -> JobSpec:
    return load_spec(str(resources.files("jobs") / "cifar10.toml"), [f"data.data_dir={REAL}/tfds", *overrides])


def mobilenet(**activations: object) -> JobSpec:
    return parse_spec(
        {
            "name": "photos",
            "model": {
                "source": "keras:MobileNetV2",
                "weights": f"{REAL}/mobilenet_v2.h5",
                "layers": ["block_1_expand_relu", "block_6_expand_relu", "block_13_expand_relu"],
            },
            "data": {"source": f"folder:{SHARED}/photos", "batch": 16, "limit": 96},
            "activations": {"top_k": 3, "channels": [0, 5, 11, 40], **activations},
        }
    )


@needs_real
def test_the_shipped_network_knows_eight_of_ten_test_images() -> None:
    spec = cifar10('data.source="tfds:cifar10/test"')
    network = open_network(spec.model)
    source = open_source(spec.data, Fit(32, 32))
    logits = tf.function(lambda pixels: network.trace(network.preprocess(pixels), ["logits"])["logits"])
    right = 0
    for batch in source.stream(Shard()).batch(500):
        predicted = tf.argmax(logits(batch["image"]), axis=1).numpy()
        right += sum(source.labels[label].encode() == true for label, true in zip(predicted, batch["label"].numpy(), strict=True))
    assert len(source) == 10_000
    assert right / len(source) >= 0.80


@needs_real
def test_the_first_example_keeps_the_strongest_responses_of_the_network(tmp_path: Path) -> None:
    spec = cifar10("data.limit=3000", "activations.channels=[0, 7, 40]")
    folder = run(spec, tmp_path)
    index = pd.read_parquet(folder / "index" / "activations.parquet")
    network = open_network(spec.model)
    source = open_source(spec.data, Fit(32, 32))
    maps = tf.function(lambda pixels: network.trace(network.preprocess(pixels), ["conv1", "conv2"]))
    peaks: dict[str, list[np.ndarray]] = {"conv1": [], "conv2": []}
    for batch in source.stream(Shard()).batch(500):
        for layer, values in maps(batch["image"]).items():
            peaks[layer].append(values.numpy().max(axis=(1, 2)))
    for (layer, channel), actual in index.groupby(["layer", "channel"]):
        best = np.sort(np.concatenate(peaks[layer])[:, channel])[::-1][:5]
        np.testing.assert_allclose(actual.sort_values("rank")["score"], best, rtol=1e-4)


@needs_photos
def test_nothing_outside_a_winners_box_made_it_win(tmp_path: Path) -> None:
    spec = mobilenet()
    folder = run(spec, tmp_path)
    index = pd.read_parquet(folder / "index" / "activations.parquet")
    network = open_network(spec.model)
    fit = Fit(*network.input_shape[:2])
    images = {int(one["example"]): one["image"].numpy() for one in open_source(spec.data, fit).stream(Shard())}
    maps = tf.function(lambda pixels: network.trace(network.preprocess(pixels), spec.model.layers))
    rng = np.random.default_rng(0)
    assert len(index) == 3 * 4 * 3
    for row in index.itertuples():
        noise = rng.integers(0, 256, images[row.example].shape, np.uint8)
        noise[row.y1 : row.y2, row.x1 : row.x2] = images[row.example][row.y1 : row.y2, row.x1 : row.x2]
        unit = maps(noise[None])[row.layer][0, row.row, row.col, row.channel]
        np.testing.assert_allclose(unit, row.score, rtol=1e-3, atol=1e-3)


@needs_photos
def test_crops_are_the_photographs_own_pixels(tmp_path: Path) -> None:
    import cv2

    from pipeline.sources.decode import Decoder

    folder = run(mobilenet(top_k=2), tmp_path)
    index = pd.read_parquet(folder / "index" / "activations.parquet").set_index(["layer", "channel", "rank"])
    crops = pd.read_parquet(folder / "crops" / "block_6_expand_relu.parquet")
    assert len(crops) == 8
    for crop in crops.itertuples():
        row = index.loc[crop.layer, crop.channel, crop.rank]
        photo = Decoder().decode((Path(str(SHARED)) / "photos" / row["key"]).read_bytes())
        pixels = cv2.imdecode(np.frombuffer(crop.image["bytes"], np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
        expected = photo[row["src_y1"] : row["src_y2"], row["src_x1"] : row["src_x2"]]
        assert pixels.shape == expected.shape and np.abs(pixels.astype(int) - expected).mean() < 8  # what a JPEG loses
