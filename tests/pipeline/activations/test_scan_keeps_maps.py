"""The maps that a heap keeps of its winners, against NumPy."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from scanned import one_layer

from pipeline.activations.heap_members import Strongest
from pipeline.activations.scan import scan


def test_winners_keep_their_maps_as_shares_of_the_response(in_memory: Any, plan: Any) -> None:
    """Channels above a floor, always negative, and with NaN, against NumPy."""

    def build(x: Any) -> Any:
        clipped = keras.layers.ReLU()(centred := keras.layers.Rescaling(1 / 64, offset=-1.5)(x))
        return keras.layers.Concatenate(name="out")([clipped[..., :1], -1 - clipped[..., 1:2], keras.ops.sqrt(centred[..., 2:])])

    network, images = one_layer(build, size=6), np.random.default_rng(3).integers(0, 256, (23, 6, 6, 3), np.uint8)
    images[4] = 0  # not above the floor, and NaN alone
    heap = scan(network, in_memory(images), plan(network, "out", k=23, batch=7))[0].of(Strongest)["out"].heap
    centred = images.astype(np.float32) / 64 - 1.5
    with np.errstate(invalid="ignore"):
        clipped = np.maximum(centred, 0)
        maps = np.concatenate([clipped[..., :1], -1 - clipped[..., 1:2], np.sqrt(centred[..., 2:])], axis=3).reshape(23, 36, 3)
    for channel, rank in np.argwhere(heap.examples >= 0):
        values = np.nan_to_num(maps[heap.examples[channel, rank], :, channel], nan=-np.inf)
        peak, least = values[heap.rows[channel, rank] * 6 + heap.cols[channel, rank]], values[np.isfinite(values)].min()
        floor = 0 if peak > 0 else least
        expected = np.ones(36) if peak == floor else np.clip((values - floor) / (peak - floor), 0, 1)
        assert np.abs(heap.maps[channel, rank] - 255 * expected).max() <= 0.51, (channel, rank)


def test_maps_behind_an_upper_clamp_are_those_that_the_layer_gives(in_memory: Any, plan: Any) -> None:
    network = one_layer(lambda x: keras.layers.ReLU(max_value=2.0, name="out")(keras.layers.Rescaling(1 / 64)(x)), size=6)
    images = np.random.default_rng(3).integers(0, 256, (9, 6, 6, 3), np.uint8)
    heap = scan(network, in_memory(images), plan(network, "out", k=2, batch=4))[0].of(Strongest)["out"].heap
    assert (heap.unclipped > 2).all()
    for channel, rank in np.argwhere(heap.examples >= 0):
        shares = np.minimum(images[heap.examples[channel, rank], ..., channel] / 128, 1).ravel()
        assert np.abs(heap.maps[channel, rank] - 255 * shares).max() <= 0.51


@pytest.mark.parametrize("channels", [None, (4, 1)])
def test_channels_of_one_layer_rank_through_clamps_of_their_own_or_none(in_memory: Any, plan: Any, channels: Any) -> None:
    def build(x: Any) -> Any:
        x = keras.layers.Rescaling(1 / 64)(x)
        return keras.layers.Concatenate(name="out")(
            [keras.layers.ReLU(max_value=2.0)(x), keras.layers.ReLU(max_value=3.0)(-x + 4), x]
        )

    network = one_layer(build, size=6)
    images = np.random.default_rng(3).integers(0, 256, (9, 6, 6, 3), np.uint8)
    heap = scan(network, in_memory(images), plan(network, "out", channels=channels, k=3, batch=4))[0].of(Strongest)["out"].heap
    numbers = np.arange(9) if channels is None else np.array(channels)
    maps = np.concatenate([images / 64, 4 - images / 64, images / 64], axis=3)[..., numbers]
    ceilings = np.repeat([2, 3, np.inf], 3)[numbers]
    peaks = maps.max(axis=(1, 2))
    np.testing.assert_array_equal(heap.examples, np.argsort(-peaks, axis=0, kind="stable")[:3].T)
    np.testing.assert_array_equal(heap.scores, np.minimum(-np.sort(-peaks, axis=0)[:3], ceilings).T)
    np.testing.assert_array_equal(heap.unclipped, np.where(np.isinf(ceilings), np.nan, -np.sort(-peaks, axis=0)[:3]).T)
    for channel, rank in np.argwhere(heap.examples >= 0):
        values = np.minimum(maps[heap.examples[channel, rank], ..., channel], ceilings[channel]).ravel()
        assert np.abs(heap.maps[channel, rank] - 255 * values / heap.scores[channel, rank]).max() <= 0.51


@pytest.mark.parametrize(("side", "cells"), [(1, 0), (28, 784), (29, 0)])
def test_maps_are_kept_of_coarse_layers_alone(in_memory: Any, plan: Any, side: Any, cells: Any) -> None:
    network = one_layer(keras.layers.Activation("linear", name="out"), size=side)
    part, _ = scan(network, in_memory(np.full((2, side, side, 3), 9, np.uint8)), plan(network, "out", batch=2))
    assert part.of(Strongest)["out"].heap.maps.shape[2] == cells
