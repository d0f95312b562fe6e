"""What opening a graph in a child process adds: seconds beside `trusted = true`, which opens it without.

    python -m bench.opening [SOURCE ...] [--rounds N]

A SOURCE is as in `model.source`: frozen:X.pb, savedmodel:DIR, onnx:X.onnx. Without any: a small graph and EfficientNetB0 as a
SavedModel and as a frozen graph, all of random weights; and FaceNet, the TF1 MobileNet and a ViT in ONNX where CONVSCOPE_REAL
and CONVSCOPE_SHARED have them.

Each opening is a process of its own; the two kinds take turns. Counted is what `open_network` takes in processor seconds, the
child's among them, and in seconds of the clock, after TensorFlow is imported. The table has the medians.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median

_OPEN = """
import json, resource, sys, time
from pipeline.run import start_tensorflow
start_tensorflow()
from pipeline.models.registry import open_network
from pipeline.spec.model import ModelSpec

def used():
    every = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in every)

source, trusted = sys.argv[1], sys.argv[2] == "trusted"
spec = ModelSpec(source=source, preprocess="none", trusted=trusted)
cpu, clock = used(), time.perf_counter()
network = open_network(spec)
cpu, clock = used() - cpu, time.perf_counter() - clock
print(json.dumps([cpu, clock, len(network.layers()), network.digest()]))
"""
_MAKE = """
import sys
import keras, tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2
model = keras.applications.EfficientNetB0(weights=None)
model.export(sys.argv[1] + "/EfficientNetB0", verbose=False)
small = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Conv2D(8, 3), keras.layers.Flatten(), keras.layers.Dense(10)])
for name, made, size in (("EfficientNetB0", model, 224), ("small", small, 32)):
    call = tf.function(lambda images: made(images, training=False), autograph=False)
    concrete = call.get_concrete_function(tf.TensorSpec((None, size, size, 3), tf.float32, "image"))
    graph = convert_variables_to_constants_v2(concrete).graph.as_graph_def()
    open(sys.argv[1] + "/" + name + ".pb", "wb").write(graph.SerializeToString())
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="*")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for source in options.sources or _usual(Path(folder)):
            _compare(source, options.rounds)


def _usual(folder: Path) -> Iterator[str]:
    subprocess.run([sys.executable, "-c", _MAKE, str(folder)], check=True, capture_output=True)
    yield from (f"frozen:{folder}/small.pb", f"frozen:{folder}/EfficientNetB0.pb", f"savedmodel:{folder}/EfficientNetB0")
    for kind, variable, name in (
        ("frozen", "CONVSCOPE_SHARED", "models/mobilenet_v1_0.25_224.frozen.pb"),
        ("frozen", "CONVSCOPE_REAL", "facenet.pb"),
        ("onnx", "CONVSCOPE_REAL", "vit_s.onnx"),
    ):
        path = Path(os.environ.get(variable, "")) / name
        if variable in os.environ and path.exists():
            yield f"{kind}:{path}"


def _compare(source: str, rounds: int) -> None:
    taken: dict[str, list[list[float]]] = {"trusted": [], "tried": []}
    digests = set()
    for _ in range(rounds):
        for kind, measured in taken.items():
            ended = subprocess.run(
                [sys.executable, "-c", _OPEN, source, kind], capture_output=True, text=True, check=True, env=dict(os.environ)
            )
            *numbers, digest = json.loads(ended.stdout.splitlines()[-1])
            measured.append(numbers)
            digests.add(digest)
    cpu, clock, layers = ({kind: median(row[column] for row in rows) for kind, rows in taken.items()} for column in range(3))
    kind, _, path = source.partition(":")
    print(
        f"{kind + ':' + Path(path).name:42} {layers['tried']:5.0f} layers  "
        f"processor {cpu['trusted']:5.2f} -> {cpu['tried']:5.2f} s ({cpu['tried'] - cpu['trusted']:+.2f})  "
        f"clock {clock['trusted']:5.2f} -> {clock['tried']:5.2f} s ({clock['tried'] - clock['trusted']:+.2f})  "
        f"{'the same network' if len(digests) == 1 else 'NOT THE SAME NETWORK'}",
        flush=True,
    )


if __name__ == "__main__":
    main()
