"""Whether ordinary networks pass the doors for strangers' files: judged, and graphs opened in a child process.

    python -m bench.doors [NAME ...] [--kinds keras,frozen] [--jobs N]

A NAME is a builder of keras.applications, or a file as `model.source` names it (file:X.keras, frozen:X.pb, savedmodel:DIR).
Without any: all builders; FaceNet and the TF1 MobileNet where CONVSCOPE_REAL and CONVSCOPE_SHARED have them. Builders have random
weights and their own size. They are saved in each of `--kinds`: keras (.keras), h5, frozen (a graph with weights), savedmodel.

Each network is opened in a process of its own, where TensorFlow has not started, as by the command line. A line says how many
layers it has, of how many kinds, and how many seconds of a processor the process took (TensorFlow's import among them), or
why it is refused. Exit status 1: one was refused, or a graph was opened without its child.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

_OPEN = """
import json, resource, sys
from pipeline.run import start_tensorflow
start_tensorflow()
from pipeline.errors import ConvscopeError
from pipeline.models import registry, trial
from pipeline.spec.model import ModelSpec

handed = []
def noted(work, where, opened=trial.opened_in_child):
    taken = opened(work, where)
    def noted_too():
        network = taken()
        handed.append(network is not None)
        return network
    return noted_too
trial.opened_in_child = noted
source = sys.argv[1]
try:
    network = registry.open_network(ModelSpec(source=source, preprocess="none"))
except ConvscopeError as error:
    print(json.dumps({"refused": str(error)}))
    raise SystemExit
used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
layers = network.every_layer()
print(json.dumps({
    "layers": len(layers),
    "kinds": len({layer.kind for layer in layers}),
    "seconds": sum(one.ru_utime + one.ru_stime for one in used),
    "in child": all(handed) and bool(handed) if registry.KINDS[source.split(":")[0]].tried else None,
}))
"""
_MAKE = """
import sys
import keras, tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2
name, kind, path = sys.argv[1:]
from pipeline.models.keras.applications import builders
model = builders()[name](weights=None)
if kind in ("keras", "h5"):
    model.save(path)
elif kind == "savedmodel":
    model.export(path, verbose=False)
else:
    call = tf.function(lambda images: model(images, training=False), autograph=False)
    concrete = call.get_concrete_function(tf.TensorSpec((None, *model.input_shape[1:]), tf.float32, "image"))
    with open(path, "wb") as file:
        file.write(convert_variables_to_constants_v2(concrete).graph.as_graph_def().SerializeToString())
"""
_NAMES = {"keras": "file:{}.keras", "h5": "file:{}.h5", "frozen": "frozen:{}.pb", "savedmodel": "savedmodel:{}"}


def main() -> int:
    """Returns: 1 where a network was refused, or its graph opened without a child."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--kinds", default="keras,frozen")
    parser.add_argument("--jobs", type=int, default=1)
    options = parser.parse_args()
    names = [(name, kind) for name in options.names or _usual() for kind in ([""] if ":" in name else options.kinds.split(","))]
    passed = 0
    with ThreadPoolExecutor(options.jobs) as pool:
        for good, line in pool.map(lambda pair: _line(*pair), names):
            passed += good
            print(line, flush=True)
    print(f"{passed} of {len(names)} pass")
    return int(passed < len(names))


def _usual() -> Iterator[str]:
    from pipeline.models.keras.applications import builders

    yield from builders()
    for variable, source in (
        ("CONVSCOPE_REAL", "file:{}/facenet.keras"),
        ("CONVSCOPE_REAL", "file:{}/facenet_keras.h5"),
        ("CONVSCOPE_REAL", "frozen:{}/facenet.pb"),
        ("CONVSCOPE_SHARED", "frozen:{}/models/mobilenet_v1_0.25_224.frozen.pb"),
        ("CONVSCOPE_SHARED", "file:{}/models/mobilefacenet.keras"),
    ):
        filled = source.format(os.environ.get(variable))
        if variable in os.environ and Path(filled.partition(":")[2]).exists():
            yield filled


def _line(name: str, kind: str) -> tuple[bool, str]:
    """Whether one network passes, and its line."""
    with tempfile.TemporaryDirectory() as folder:
        source = _NAMES[kind].format(f"{folder}/{name}") if kind else name
        if kind:
            made = subprocess.run(
                [sys.executable, "-c", _MAKE, name, kind, source.partition(":")[2]], capture_output=True, text=True
            )
            if made.returncode:
                return False, f"{name:20} {kind:10} NOT MADE: {made.stderr.strip().splitlines()[-1]}"
        ended = subprocess.run([sys.executable, "-c", _OPEN, source], capture_output=True, text=True)
    short = f"{name if kind else Path(source).name:28} {kind or source.partition(':')[0]:10}"
    if ended.returncode or not ended.stdout:
        return False, f"{short} ENDED WITH {ended.returncode}: {(ended.stderr.strip().splitlines() or ['nothing'])[-1]}"
    said = json.loads(ended.stdout.splitlines()[-1])
    if "refused" in said:
        return False, f"{short} REFUSED: {said['refused']}"
    child = {True: "in its child", False: "WITHOUT A CHILD", None: ""}[said["in child"]]
    return (
        said["in child"] is not False,
        f"{short} {said['layers']:5,} layers of {said['kinds']:2} kinds  {said['seconds']:6.1f} s  {child}",
    )


if __name__ == "__main__":
    sys.exit(main())
