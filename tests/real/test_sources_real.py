"""Sources on real data: CIFAR-10, Labeled Faces in the Wild, photographs."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from pipeline.sources.fit import Fit
from pipeline.sources.registry import open_source
from pipeline.sources.source import Shard
from pipeline.spec.data import DataSpec

REAL, SHARED = os.environ.get("CONVSCOPE_REAL"), os.environ.get("CONVSCOPE_SHARED")
needs_real = pytest.mark.skipif(not REAL, reason="CONVSCOPE_REAL names no folder of real inputs")
needs_shared = pytest.mark.skipif(not SHARED, reason="CONVSCOPE_SHARED names no folder of shared inputs")


def prepared(source: Any, fit: Any, **spec: Any) -> Any:
    return open_source(DataSpec(source=f"tfds:{source}", data_dir=f"{REAL}/tfds", **spec), fit)


@needs_real
def test_cifar10_streams_whole_in_the_order_of_tfds_faster_than_any_network_eats() -> None:
    import tensorflow_datasets as tfds

    source = prepared("cifar10/train", Fit(32, 32))
    begin = time.monotonic()
    batches = list(source.stream(Shard()).batch(1000).prefetch(2).as_numpy_iterator())
    seconds = time.monotonic() - begin
    images, labels = (np.concatenate([batch[key] for batch in batches]) for key in ("image", "label"))
    assert len(source) == len(images) == 50000 and images.shape == (50000, 32, 32, 3)
    assert not any(error for batch in batches for error in batch["error"])
    assert len({key for batch in batches for key in batch["key"]}) == 50000
    assert source.labels == ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
    assert np.unique(labels, return_counts=True)[1].tolist() == [5000] * 10
    config = tfds.ReadConfig(interleave_cycle_length=1)
    reference = tfds.builder("cifar10", data_dir=f"{REAL}/tfds").as_dataset(split="train[40000:40300]", read_config=config)
    for example, expected in enumerate(reference.as_numpy_iterator(), start=40000):
        assert np.array_equal(images[example], expected["image"])
        assert labels[example].decode() == source.labels[expected["label"]]
    assert 50000 / seconds > 3000, f"{50000 / seconds:.0f} images/s"  # some twenty thousand on two free cores


@needs_real
def test_two_thousand_scattered_winners_of_cifar10_are_fetched_in_seconds() -> None:
    source = prepared("cifar10/train", Fit(32, 32))
    wanted = np.random.default_rng(0).choice(50000, 2000, replace=False)
    begin = time.monotonic()
    fetched = dict(source.fetch(wanted))
    assert time.monotonic() - begin < 20
    assert sorted(fetched) == sorted(wanted.tolist())
    some = next(source.stream(Shard(), start=int(wanted[0])).as_numpy_iterator())
    image = fetched[int(wanted[0])]
    assert np.array_equal(some["image"], image.pixels) and some["key"].decode() == image.key


@needs_real
def test_a_late_shard_of_cifar10_begins_without_delay() -> None:
    source = prepared("cifar10/train", Fit(32, 32))
    begin = time.monotonic()
    first = next(source.stream(Shard(9, 10), start=4000).as_numpy_iterator())
    assert first["example"] == 49000 and time.monotonic() - begin < 5


@needs_real
def test_lfw_gives_names_for_labels_and_fits_its_faces() -> None:
    source = prepared("lfw/train", Fit(160, 160), limit=100)
    batch = next(source.stream(Shard()).batch(100).as_numpy_iterator())
    assert batch["image"].shape == (100, 160, 160, 3) and set(batch["error"]) == {b""}
    assert all(b"_" in label for label in batch["label"]) and source.labels is None
    for example, image in source.fetch([3, 97]):
        assert image.pixels.shape == (250, 250, 3) and image.label == batch["label"][example].decode()
        assert np.array_equal(batch["image"][example], Fit(160, 160).apply(image.pixels))


@needs_shared
def test_photographs_are_read_in_order_and_look_as_opencv_sees_them() -> None:
    folder = Path(f"{SHARED}/photos")
    source = open_source(DataSpec(source=f"folder:{folder}"), Fit(64, 64))
    elements = list(source.stream(Shard()).as_numpy_iterator())
    assert [e["key"].decode() for e in elements] == sorted(file.name for file in folder.iterdir())
    assert not any(e["error"] for e in elements) and len({e["image"].tobytes() for e in elements}) == len(elements)
    for _, image in source.fetch(range(0, len(source), 40)):
        expected = cv2.imread(str(folder / image.key))[..., ::-1]
        assert image.pixels.shape == expected.shape and np.abs(image.pixels.astype(int) - expected).mean() < 1
