"""The pass over a network in ONNX against onnxruntime's: a ResNet of random weights, images a second of both, and the ratio.

python -m bench.onnx_scan [MODEL.onnx]
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import tensorflow as tf
from onnx import TensorProto, helper, numpy_helper

from pipeline.models.onnx.onnx_network import open_onnx
from pipeline.spec.model import ModelSpec

BATCH, ROUNDS = 16, 5


def resnet(blocks: tuple[int, ...] = (2, 2, 2, 2)) -> onnx.ModelProto:
    """ResNet-18 (He et al. 2015) of random weights, batch normalisation folded, as PyTorch exports it."""
    rng = np.random.default_rng(0)
    nodes, arrays = [], []

    def conv(source: str, name: str, inputs: int, filters: int, size: int, stride: int) -> str:
        weights = rng.normal(0, (2 / (inputs * size**2)) ** 0.5, (filters, inputs, size, size)).astype(np.float32)
        arrays.append(numpy_helper.from_array(weights, f"{name}.w"))
        arrays.append(numpy_helper.from_array(np.zeros(filters, np.float32), f"{name}.b"))
        pads, given = [size // 2] * 4, [source, f"{name}.w", f"{name}.b"]
        nodes.append(helper.make_node("Conv", given, [name], name=f"/{name}", pads=pads, strides=[stride, stride]))
        return name

    def simple(kind: str, sources: list[str], name: str, **attributes: object) -> str:
        nodes.append(helper.make_node(kind, sources, [name], name=f"/{name}", **attributes))
        return name

    value = simple("Relu", [conv("x", "stem", 3, 64, 7, 2)], "stem.relu")
    value = simple("MaxPool", [value], "pool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    width = 64
    for stage, count in enumerate(blocks):
        filters = 64 * 2**stage
        for block in range(count):
            name, stride = f"layer{stage + 1}.{block}", 2 if stage and not block else 1
            first = simple("Relu", [conv(value, f"{name}.conv1", width, filters, 3, stride)], f"{name}.relu1")
            second = conv(first, f"{name}.conv2", filters, filters, 3, 1)
            short = value if width == filters else conv(value, f"{name}.down", width, filters, 1, stride)
            value, width = simple("Relu", [simple("Add", [second, short], f"{name}.add")], f"{name}.relu2"), filters
    simple("GlobalAveragePool", [value], "y")
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in (value, "y")]
    images = helper.make_tensor_value_info("x", TensorProto.FLOAT, ("batch", 3, 224, 224))
    graph = helper.make_graph(nodes, "resnet", [images], ends[:1], arrays)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(folder) / "resnet18.onnx"
        if len(sys.argv) == 1:
            path.write_bytes(resnet().SerializeToString())
        network = open_onnx(str(path), ModelSpec(source=f"onnx:{path}", layers=["*"], preprocess="none"))
        session = onnxruntime.InferenceSession(str(path))
    last = [layer.name for layer in network.layers() if layer.shape[0] > 1][-1]
    images = np.random.default_rng(1).normal(size=(BATCH, *network.input_shape)).astype(np.float32)
    first, feed = np.ascontiguousarray(images.transpose(0, 3, 1, 2)), session.get_inputs()[0].name
    fed = tf.constant(images)

    @tf.function(autograph=False)
    def peaks(given: tf.Tensor) -> tf.Tensor:
        return tf.reduce_max(network.trace(given, [last])[last], [1, 2])

    passes = {"convscope": lambda: peaks(fed).numpy(), "onnxruntime": lambda: session.run(None, {feed: first})}
    times: dict[str, list[float]] = {name: [] for name in passes}
    for number in range(ROUNDS + 1):  # taking turns, so that both meet the same load; the first round warms up
        for name, run in passes.items():
            taken = seconds(run)
            times[name] += [taken] if number else []
    rates = {name: BATCH / min(taken) for name, taken in times.items()}
    for name, rate in rates.items():
        print(f"{name:12} {rate:7.1f} images/s")
    print(f"ratio        {rates['convscope'] / rates['onnxruntime']:7.2f}")


if __name__ == "__main__":
    main()
