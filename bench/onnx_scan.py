"""The scan of a network in ONNX against the bare network and against onnxruntime: images/s, interleaved, in one process.

    python -m bench.onnx_scan [--rounds N] [--cpu] [MODEL.onnx [LAYER...]]

"scan" is the scan of the main job over images in memory: it reads the layers (names or globs; without any, LAYERS of them,
spread over the network's depth), puts tokens back to their patches, takes every channel's maximum, and updates heaps and
statistics. "bare" is the same translated network without that: the deepest of these layers as it comes. "onnxruntime" runs the
whole file. Without a file, the network is a ResNet-18 with random weights. Figures are medians; --cpu: see bench.scan.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import tensorflow as tf
from onnx import TensorProto, helper, numpy_helper

from bench.scan import TOP_K, WARM_UP, InMemory, Scanning, ratio
from pipeline.activations.plan import ScanPlan
from pipeline.models.image_network import ImageNetwork
from pipeline.models.network import LayerInfo
from pipeline.models.onnx.onnx_network import open_onnx
from pipeline.models.registry import select_layers
from pipeline.spec.model import ModelSpec

BATCH, BATCHES, LAYERS = 16, 4, 4  # BATCHES: in a round


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


def spread_layers(network: ImageNetwork) -> tuple[LayerInfo, ...]:
    """Layers with maps, spread over the network's depth, the deepest last."""
    maps = [layer for layer in network.layers() if layer.shape[0] > 1 and "#" not in layer.name]
    return tuple(maps[round(depth)] for depth in np.linspace(0, len(maps) - 1, LAYERS + 1)[1:])


def measure(path: Path, names: list[str], rounds: int, clock: Callable[[], float]) -> dict[str, list[float]]:
    """Images/s of each program, round by round."""
    network = open_onnx(str(path), ModelSpec(source=f"onnx:{path}", layers=["*"], preprocess="torch"))
    layers = tuple(select_layers(network, names)) if names else spread_layers(network)
    session = onnxruntime.InferenceSession(str(path))
    print(f"{path.stem}, layers {', '.join(layer.name for layer in layers)}")
    shape = (rounds + WARM_UP, BATCHES * BATCH, *network.input_shape)
    source = InMemory(np.random.default_rng(1).integers(0, 256, shape, np.uint8))
    scanning = Scanning(network, ScanPlan(layers, None, TOP_K, BATCH), source)
    reader, deepest, name = network.reader, layers[-1].name, session.get_inputs()[0].name

    @tf.function(autograph=False)
    def bare(images: tf.Tensor) -> tf.Tensor:
        return reader.read(reader.layout.feed(network.preprocess(images)), [deepest])[deepest]

    floats = np.ascontiguousarray(network.preprocess(tf.constant(source.rounds[0][:BATCH])).numpy().transpose(0, 3, 1, 2))
    others: dict[str, Callable[[np.ndarray], object]] = {
        "bare": lambda images: bare(tf.constant(images)).numpy(),
        "onnxruntime": lambda images: session.run(None, {name: floats}),
    }
    rates: dict[str, list[float]] = {program: [] for program in ("scan", *others)}
    for images in source.rounds:
        rates["scan"].append(scanning.rate(clock))
        for program, run in others.items():
            started = clock()
            for batch in images.reshape(BATCHES, BATCH, *network.input_shape):
                run(batch)
            rates[program].append(len(images) / (clock() - started))
    return {program: speeds[WARM_UP:] for program, speeds in rates.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("layers", nargs="*", metavar="LAYER")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--cpu", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = options.file or Path(folder) / "resnet18.onnx"
        if options.file is None:
            path.write_bytes(resnet().SerializeToString())
        rates = measure(path, options.layers, options.rounds, time.process_time if options.cpu else time.perf_counter)
    for program, speeds in rates.items():
        print(f"{program:12}{statistics.median(speeds):8.1f} images/s")
    for other in ("bare", "onnxruntime"):
        print(f"scan/{other:12}{ratio(rates, 'scan', other):8.2f}")


if __name__ == "__main__":
    main()
