"""What the tests of the scan share: a small network, images for it, and plans."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from pipeline.activations.plan import ScanPlan
from pipeline.activations.scan_pass import ScanPass
from pipeline.models.keras.model import keras_network


@pytest.fixture(scope="module")
def network(tiny_model: Any) -> Any:
    return keras_network(tiny_model, "tiny", None, "none")


@pytest.fixture(scope="module")
def source(in_memory: Any) -> Any:
    """23 images of pixels from 0 to 3: many responses tie."""
    return in_memory(np.random.default_rng(3).integers(0, 4, (23, 16, 16, 3)))


@pytest.fixture(scope="session")
def plan() -> Any:
    """A function: a plan for layers of a network, by name."""

    def of(network: Any, *names: Any, channels: Any = None, k: Any = 4, batch: Any = 5, **options: Any) -> Any:
        return ScanPlan(tuple(layer for layer in network.layers() if layer.name in names), channels, k, batch, **options)

    return of


@pytest.fixture(scope="module")
def compiled() -> Any:
    """A function: the pass of a network and a plan, compiled once for all plans that differ in what is kept alone."""
    passes = {}

    def of(network: Any, plan: Any) -> Any:
        key = network, replace(plan, top_k=1, bottom_k=0, label_k=0, labels=())
        return passes.setdefault(key, ScanPass(network, plan))

    return of
