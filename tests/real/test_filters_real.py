"""Filters and feature maps of trained networks: the same kernels in a graph and its twin, and colours that mean colours."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline import run
from pipeline.filters.colours import colour_inputs
from pipeline.load import parse_spec
from pipeline.models.registry import open_network
from pipeline.spec.model import ModelSpec

REAL, SHARED = os.environ.get("CONVSCOPE_REAL"), os.environ.get("CONVSCOPE_SHARED")
needs_real = pytest.mark.skipif(not REAL, reason="CONVSCOPE_REAL names no folder of real inputs")
needs_both = pytest.mark.skipif(
    not (REAL and SHARED), reason="CONVSCOPE_REAL and CONVSCOPE_SHARED name no folders of real inputs"
)

VGG16 = {"source": "keras:VGG16", "top": False, "weights": f"{REAL}/vgg16_notop.weights.h5", "layers": ["block1_conv1"]}


@needs_real
def test_facenets_graph_and_its_keras_twin_have_the_same_kernels() -> None:
    graph, twin = (
        open_network(ModelSpec(source=source, layers=["*"], preprocess="standardize"))
        for source in (f"frozen:{REAL}/facenet.pb", f"file:{REAL}/facenet.keras")
    )
    ours, theirs = graph.kernels(graph.convolutions()), twin.kernels(twin.convolutions())
    assert len(ours) == len(theirs) == 132

    def in_order(kernels: Any) -> Any:
        return sorted(
            (kernel for (kernel,) in kernels.values()), key=lambda kernel: float(np.abs(kernel.weights).sum(dtype=float))
        )

    for one, other in zip(in_order(ours), in_order(theirs), strict=True):
        assert np.array_equal(one.weights, other.weights) and one.groups == other.groups


@needs_both
def test_the_tf1_mobilenet_has_its_27_convolutions_and_takes_rgb() -> None:
    path = f"{SHARED}/models/mobilenet_v1_0.25_224.frozen.pb"
    network = open_network(ModelSpec(source=f"frozen:{path}", layers=["*"], preprocess="symmetric"))
    kernels = network.kernels(network.convolutions())
    assert len(kernels) == 28  # the classifier is one of 1 x 1
    assert [kernel.groups for (kernel,) in kernels.values()].count(1) == 15
    first = network.convolutions()[0]
    assert colour_inputs(network, first, *kernels[first]) == (0, 1, 2)


@needs_both
def test_the_greenest_filter_of_vgg16_fires_on_grass_and_its_bluest_on_the_sea(quiet: Any, tmp_path: Path) -> None:
    network = open_network(ModelSpec(**VGG16))
    (kernel,) = network.kernels(["block1_conv1"])["block1_conv1"]
    colours = colour_inputs(network, "block1_conv1", kernel)
    assert colours == (2, 1, 0)
    red, green, blue = kernel.weights.sum(axis=(0, 1))[list(colours)]
    greenest, bluest = int(np.argmax(green - (red + blue) / 2)), int(np.argmax(blue - (red + green) / 2))
    keys = ["207_n02099601_golden_retriever.jpg", "002_n01484850_great_white_shark.jpg"]
    spec = {"name": "a", "stages": ["filters", "featuremaps"], "model": VGG16, "data": {"source": f"folder:{SHARED}/photos"}}
    folder = run(parse_spec({**spec, "featuremaps": {"keys": keys}}), tmp_path, reporter=quiet)
    maps = pd.read_parquet(folder / "index/featuremaps.parquet").set_index(["key", "channel"])["mean"]
    grass, sea = keys
    assert maps[grass, greenest] > 1.5 * maps[sea, greenest], (maps[grass, greenest], maps[sea, greenest])
    assert maps[sea, bluest] > 1.5 * maps[grass, bluest], (maps[sea, bluest], maps[grass, bluest])
    filters = pd.read_parquet(folder / "index/filters.parquet")
    assert filters.twin_cosine.max() > 0.99 and filters.drawn.all()
