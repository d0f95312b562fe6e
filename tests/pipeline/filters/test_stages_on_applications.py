"""Both stages on all builders of keras.applications, random weights: every convolution found, drawn and indexed right."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest

from pipeline.filters.colours import colour_inputs
from pipeline.job import Job
from pipeline.load import parse_spec
from pipeline.models.keras.applications import builders, open_application
from pipeline.sources.fit import Fit
from pipeline.stages.featuremaps import check_featuremaps, featuremaps
from pipeline.stages.filters import check_filters, filters

CONVOLUTIONS = ("Conv2D", "DepthwiseConv2D", "SeparableConv2D", "Conv2DTranspose")
BGR = ("ResNet50", "ResNet101", "ResNet152", "VGG16", "VGG19")
LEAST_SIDE = {"InceptionV3": 75, "InceptionResNetV2": 75, "Xception": 71}


def layers_of(model: Any, prefix: Any = "") -> Any:
    """Every layer by name, those of models inside as `outer/inner`."""
    actual = {}
    for layer in model.layers:
        actual[f"{prefix}{layer.name}"] = layer
        actual |= layers_of(layer, f"{prefix}{layer.name}/") if isinstance(layer, keras.Model) else {}
    return actual


@pytest.fixture(autouse=True)
def one_network_at_a_time() -> Iterator[Any]:
    """Keras keeps what it has built; forty networks are more than memory holds."""
    yield
    keras.utils.clear_session()
    gc.collect()


@pytest.mark.slow
@pytest.mark.parametrize("name", builders())
def test_every_application_passes_both_stages(name: Any, in_memory: Any, quiet: Any, tmp_path: Path) -> None:
    side = LEAST_SIDE.get(name, 64)
    model = {"source": f"keras:{name}", "weights": "none", "top": False, "size": side, "layers": "*"}
    spec = parse_spec({"name": "a", "model": model, "data": {"source": "folder:."}, "featuremaps": {"first": 1}})
    network = open_application(name, spec.model)
    by_name = layers_of(network.reader.model)  # type: ignore[attr-defined]
    layers = [layer for layer in network.layers() if layer.name in by_name and "/" not in layer.name]
    chosen = tuple(layers[place] for place in (len(layers) // 20 + 1, len(layers) // 2, len(layers) - 1))
    images = in_memory(np.random.default_rng(0).integers(0, 256, (1, side, side, 3)))
    job = Job(spec, network, chosen, images, Fit(side, side), tmp_path, quiet)
    started = time.perf_counter()
    check_filters(job)
    check_featuremaps(job)
    summaries = [filters(job)["summary"], featuremaps(job)["summary"]]
    seconds = time.perf_counter() - started
    print(f"\n{name}: {len(network.convolutions())} convolutions; {'; '.join(summaries)}; {seconds:.1f} s")

    expected = {actual for actual, layer in by_name.items() if type(layer).__name__ in CONVOLUTIONS}
    # ConvNeXt's 1 x 1 convolutions are Dense layers over maps.
    dense = {actual for actual, layer in by_name.items() if type(layer).__name__ == "Dense" and layer.output.ndim == 4}
    assert set(network.convolutions()) == expected | dense and len(expected) >= 10
    first = network.convolutions()[0]
    colours = (2, 1, 0) if name in BGR else (0, 1, 2)
    assert colour_inputs(network, first, network.kernels([first])[first][0]) == colours

    actual = pd.read_parquet(tmp_path / "index/filters.parquet")
    for layer, rows in actual[actual.part == "kernel"].groupby("layer"):
        weights = np.asarray(by_name[layer].kernel, np.float64)
        if rows.kind.iloc[0] == "depthwise":
            weights = weights.reshape(*weights.shape[:2], 1, -1)
        norms = np.sqrt(np.square(weights.reshape(-1, weights.shape[-1])).sum(axis=0))
        np.testing.assert_allclose(rows.norm, norms, rtol=1e-5)
    assert all((tmp_path / picture).is_file() for picture in actual.picture.unique())

    maps = pd.read_parquet(tmp_path / "index/featuremaps.parquet")
    reader = keras.Model(network.reader.model.inputs, [by_name[layer.name].output for layer in chosen])  # type: ignore[attr-defined]
    pixels = network.preprocess(images.images[0][np.newaxis])
    # Untrained, the deepest networks make much of nothing: where a millionth of the pixels changes a map, so does rounding.
    answers, swings = (reader(given, training=False) for given in (pixels, pixels * (1 + 1e-6)))
    for layer, values, others in zip(chosen, answers, swings, strict=True):  # type: ignore[assignment]
        peaks, swing = np.asarray(values).reshape(-1, layer.channels).max(axis=0), float(np.abs(others - values).max())
        rows = maps[maps.layer == layer.name]
        np.testing.assert_allclose(rows["max"], peaks, rtol=1e-3, atol=1e-4 * np.abs(peaks).max() + 10 * swing)
        assert (tmp_path / rows.picture.iloc[0]).is_file()


@pytest.mark.slow
def test_there_are_forty_of_them() -> None:
    assert len(builders()) == 40
