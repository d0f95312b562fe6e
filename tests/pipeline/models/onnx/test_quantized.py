"""Quantised ONNX networks as a scan reads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import tensorflow as tf
from onnx import helper
from onnx_models import model, saved

from pipeline.models.onnx.onnx_network import open_onnx
from pipeline.spec.model import ModelSpec

PIXELS = np.random.default_rng(0).uniform(-1, 1, (3, 16, 16, 3)).astype(np.float32)


@pytest.mark.parametrize(("zero", "top"), [(np.uint8(7), 248), (np.int8(-128), 255)])
def test_quantised_responses_end_at_one_number_and_rank_by_what_they_were_before(zero: Any, top: int, tmp_path: Path) -> None:
    """Quantised networks hold no ReLU6: the largest whole number is its ceiling."""
    values = {"scale": np.float32(0.02), "zero": zero, "low": np.float32(0), "steep": np.float32(30)}
    nodes = [
        helper.make_node("Mul", ["x", "steep"], ["m"], name="m"),
        helper.make_node("Clip", ["m", "low", ""], ["r"], name="r"),
        helper.make_node("QuantizeLinear", ["r", "scale", "zero"], ["q"], name="q"),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"], name="y"),
    ]
    file = saved(model(nodes, values), tmp_path)
    network = open_onnx(file, ModelSpec(source=f"onnx:{file}", layers=["*"], preprocess="none"))
    read = tf.function(lambda images: {"given": network.trace(images, ["y"])["y"], **vars(network.unclipped(images, ["y"])["y"])})
    outputs = read(tf.constant(PIXELS))
    (given,) = onnxruntime.InferenceSession(file).run(["y"], {"x": PIXELS.transpose(0, 3, 1, 2)})
    np.testing.assert_array_equal(outputs["given"], given.transpose(0, 2, 3, 1))
    assert given.max() == outputs["ceiling"] == np.float32(top) * np.float32(0.02) and (given == given.max()).sum() > 100
    value = np.maximum(outputs["raw"], 0)
    np.testing.assert_array_equal(np.minimum(value, outputs["ceiling"]), outputs["given"])
    np.testing.assert_allclose(value, np.maximum(30 * PIXELS, 0), atol=0.0101)
