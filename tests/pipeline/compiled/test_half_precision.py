"""float16 without a GPU: TensorFlow's optimizer rewrites the graph as for one, and the CPU computes it."""

from __future__ import annotations

import json
from typing import Any

_CHILD = """
import json
import keras, numpy as np, tensorflow as tf
from pipeline.compiled.freezing import FrozenGraph, freeze
from pipeline.compiled.precision import reduced

layers = keras.layers
x = image = keras.Input((16, 16, 3))
x = layers.BatchNormalization()(layers.Conv2D(16, 3, activation="relu", name="first")(x))
x = layers.ReLU(6.0)(layers.DepthwiseConv2D(3)(x))
x = layers.Conv2D(16, 1, name="second")(x)
classes = layers.Dense(4, activation="softmax")(layers.GlobalAveragePooling2D()(x))
model = keras.Model(image, [x, classes])
random = np.random.default_rng(0)
for variable in model.weights:
    drawn = random.normal(0, 0.3, variable.shape)
    variable.assign(1 + np.abs(drawn) if "variance" in variable.path else drawn)
spec = tf.TensorSpec((4, 16, 16, 3))
read = lambda images: model(images, training=False)
half = reduced(read, spec, "float16", "the network")
types = {}
for node in half.graph.node:
    if node.op in ("Conv2D", "DepthwiseConv2dNative", "MatMul", "Mean", "Softmax"):
        types.setdefault(node.op, set()).add(tf.as_dtype(node.attr["T"].type).name)
images = random.uniform(0, 1, spec.shape).astype(np.float32)
exact, other = (freeze(function, spec)(images) for function in (read, half))
moved = [float(np.abs(a - b).max() / np.abs(a).max()) for a, b in zip(exact, other)]
print(json.dumps({"types": {kind: sorted(names) for kind, names in types.items()}, "moved": moved,
                  "maps": sorted({value.dtype.name for value in other})}))
"""


def test_in_float16_the_heavy_operations_are_halves_and_maps_are_float32_again(program: Any) -> None:
    setting = {"TF_AUTO_MIXED_PRECISION_GRAPH_REWRITE_SIMULATE_GPU": "1"}  # read once in a process
    child = program(_CHILD, environment=setting)
    assert child.status == 0, child.err[-2000:]
    report = json.loads(child.out.splitlines()[-1])
    heavy = {kind: report["types"][kind] for kind in ("Conv2D", "DepthwiseConv2dNative", "MatMul")}
    assert heavy == {kind: ["float16"] for kind in heavy}
    assert report["types"]["Mean"] == ["float32"], "a sum of many halves would lose digits"
    assert report["maps"] == ["float32"]
    assert all(1e-6 < moved < 3e-3 for moved in report["moved"]), report["moved"]
