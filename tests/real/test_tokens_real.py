"""A vision transformer that PyTorch exported: tokens and heads as ONNX's own runtime gives them, winners by brute force."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tensorflow as tf

from pipeline.activations.heap import Activations
from pipeline.models.registry import open_network
from pipeline.spec.model import ModelSpec

REAL = os.environ.get("CONVSCOPE_REAL", "")
FILE = Path(REAL) / "vit_s.onnx"
pytestmark = pytest.mark.skipif(not REAL or not FILE.is_file(), reason="CONVSCOPE_REAL has no vit_s.onnx")

BLOCK = "/backbone/encoder/layer.{}"
ATTENTION = [BLOCK.format(number) + "/attention/attention/Softmax" for number in (0, 5, 11)]
TOKENS = [
    "/backbone/embeddings/Add",
    *(BLOCK.format(number) + end for number in (0, 11) for end in ("/norm1/Add_1", "/mlp/fc1/Add", "/Add_1")),
    BLOCK.format(3) + "/attention/attention/query/Add",
]


@pytest.fixture(scope="module")
def answers() -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], Any]:
    """What convscope gives and what the runtime gives for two images, and the network."""
    runtime = pytest.importorskip("onnxruntime")
    model = onnx.load(FILE)
    outputs = {node.name: node.output[0] for node in model.graph.node}
    names = [*TOKENS, *ATTENTION]
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(outputs[name]) for name in names)
    images = np.random.default_rng(0).normal(size=(2, 224, 224, 3)).astype(np.float32)
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    given = {session.get_inputs()[0].name: images.transpose(0, 3, 1, 2)}
    theirs = dict(zip(names, session.run([outputs[name] for name in names], given), strict=True))
    network = open_network(ModelSpec(source=f"onnx:{FILE}", layers=["*"], preprocess="torch"))
    layers = [*TOKENS, *(f"{name}#tokens" for name in TOKENS), *(f"{name}#heads" for name in ATTENTION)]
    traced = tf.function(lambda images: network.trace(images, layers), autograph=False)(tf.constant(images))
    return {name: value.numpy() for name, value in traced.items()}, theirs, network


def close(own: np.ndarray, other: np.ndarray) -> None:
    np.testing.assert_allclose(own, other, atol=1e-4 * np.abs(other).max())


def test_tokens_lie_row_by_row_and_equal_those_of_onnx_s_own_runtime(answers: Any) -> None:
    ours, theirs, network = answers
    for name in TOKENS:
        other = theirs[name]
        close(ours[name], other[:, 1:].reshape(2, 16, 16, -1))
        close(ours[f"{name}#tokens"], other[:, np.newaxis, :1])
    assert network.settings["tokens"].value == "16 x 16 + 1"


def test_each_head_shows_what_the_class_token_looks_at(answers: Any) -> None:
    ours, theirs, _ = answers
    for name in ATTENTION:
        other = theirs[name]  # (batch, heads, those that look, those looked at)
        close(ours[f"{name}#heads"], other[:, :, 0, 1:].transpose(0, 2, 1).reshape(2, 16, 16, 6))


def test_winners_of_tokens_are_those_of_brute_force(answers: Any) -> None:
    maps = answers[0]["/backbone/encoder/layer.11/norm1/Add_1"]
    heap = Activations.empty(384, 2).update(maps, np.arange(2))
    flat = maps.reshape(2, 256, 384)
    best = flat.max(axis=1).argmax(axis=0)
    np.testing.assert_array_equal(heap.examples[:, 0], best)
    at = flat.argmax(axis=1)[best, np.arange(384)]
    np.testing.assert_array_equal(heap.rows[:, 0] * 16 + heap.cols[:, 0], at)
