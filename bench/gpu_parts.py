"""The parts of `bench.gpu`: each takes a folder of its own and returns what it measured, as JSON has it."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import numpy as np

from bench.precision import compare
from bench.scan import CASES, WARM_UP, Case, InMemory, Scanning
from bench.yardsticks import bare, keras_model
from pipeline.errors import WrongSpec

STAGES = ("activations", "featuremaps", "filters", "gradcam", "patterns", "dream")
_OURS: dict[str, dict[str, Any]] = {  # small, and all that a stage compiles
    "gradcam": {"first": 2, "steps": 4, "samples": 8, "batch": 2, "sanity": ["randomisation", "curves"]},
    "patterns": {"channels": [0, 1], "steps": 2},
    "dream": {"first": 1, "iterations": 1, "num_octave": 1},
}


def keras_network(path: Path) -> dict[str, Any]:
    """A network of the usual layers, and the spec's table for it."""
    import keras

    layers = keras.layers
    x = image = keras.Input((32, 32, 3))
    x = layers.BatchNormalization()(layers.Conv2D(8, 3, padding="same", activation="relu", name="first")(x))
    x = layers.ReLU(6.0, name="capped")(layers.DepthwiseConv2D(3, padding="same")(layers.MaxPooling2D()(x)))
    x = layers.Conv2D(8, 3, strides=2, activation="relu", name="last")(layers.UpSampling2D(2)(x))
    keras.Model(image, layers.Dense(5, activation="softmax")(layers.GlobalAveragePooling2D()(x))).save(path)
    return {"source": f"file:{path}", "preprocess": "unit", "layers": ["first", "capped", "last"]}


def token_network(path: Path) -> dict[str, Any]:
    """A small vision transformer, and the spec's table for it."""
    import keras

    layers = keras.layers
    image = keras.Input((32, 32, 3))
    x = layers.Reshape((16, 16))(layers.Conv2D(16, 8, strides=8, name="patches")(image))
    y = layers.LayerNormalization(name="norm")(x)
    x = layers.Add(name="after")([x, layers.MultiHeadAttention(2, 8, name="attention")(y, y)])
    x = layers.Dense(16, activation="gelu", name="hidden")(layers.LayerNormalization()(x))
    keras.Model(image, layers.Dense(5, activation="softmax")(layers.GlobalAveragePooling1D()(x))).save(path)
    return {"source": f"file:{path}", "preprocess": "unit", "layers": ["patches", "norm", "hidden", "attention#heads"]}


def frozen_network(path: Path) -> dict[str, Any]:
    """A frozen graph with batch normalisation and nearest resizing as TensorFlow 1 has them, and the spec's table for it."""
    import tensorflow as tf

    from pipeline.compiled.freezing import FrozenGraph

    rng = np.random.default_rng(0)
    weights = [rng.normal(0, 0.3, shape).astype(np.float32) for shape in ((3, 3, 3, 8), (3, 3, 8, 8), (8, 5))]
    statistics = {"scale": [1.0] * 8, "offset": [0.1] * 8, "mean": [0.0] * 8, "variance": [1.0] * 8}

    def network(image: tf.Tensor) -> tf.Tensor:
        x = tf.nn.conv2d(image, weights[0], 1, "SAME")
        x = tf.raw_ops.FusedBatchNormV3(x=x, **statistics, is_training=False)[0]
        x = tf.nn.relu(x, name="first")
        x = tf.raw_ops.ResizeNearestNeighbor(images=x, size=[48, 48])
        x = tf.nn.relu(tf.nn.conv2d(x, weights[1], 2, "SAME"), name="last")
        return tf.nn.softmax(tf.reduce_mean(x, [1, 2]) @ weights[2], name="classes")

    path.write_bytes(FrozenGraph.of(network, tf.TensorSpec((None, 32, 32, 3), name="image")).graph.SerializeToString())
    return {"source": f"frozen:{path}", "preprocess": "unit", "layers": ["first", "last"]}


def spec_of(
    folder: Path, model: dict[str, Any], stages: Sequence[str], tables: Mapping[str, Any] = {}, images: int = 6
) -> dict[str, Any]:
    """A job on random pictures, which it writes where there are none."""
    import cv2

    pictures = folder / "pictures"
    if not pictures.exists():
        pictures.mkdir()
        for number, picture in enumerate(np.random.default_rng(0).integers(0, 256, (images, 160, 160, 3), np.uint8)):
            cv2.imwrite(str(pictures / f"{number}.jpg"), picture)
    data = {"source": f"folder:{pictures}", "batch": 4}
    return {"name": "job", "stages": list(stages), "model": model, "data": data, **tables}


def kernels_missing(folder: Path, stages: Sequence[str]) -> dict[str, list[str]]:
    """The operations without a GPU kernel of each stage's passes, compiled as on a GPU: {"gradcam, frozen": [...]}.

    Fields are not among them: they are solved on the CPU. An operation that would be an error in deterministic passes counts too.
    """
    from pipeline.attribution.methods import METHODS
    from pipeline.attribution.methods.method import AtAttention
    from pipeline.compiled import microbatches
    from pipeline.compiled.tf_private import executed_graphs, without_gpu_kernel
    from pipeline.run import run
    from pipeline.spec import JobSpec

    attention = [name for name, method in METHODS.items() if any(isinstance(at, AtAttention) for at in method.needs("last"))]
    methods = {
        "keras": [name for name in METHODS if name not in attention],  # which is read in networks of tokens alone
        "tokens": [*attention, "gradcam", "gradient"],
        "frozen": ["gradcam", "hirescam", "gradcam++", "gradient", "guided_backprop", "guided_gradcam", "integrated_gradients"],
    }
    missing: dict[str, list[str]] = {}
    for kind, make in (("keras", keras_network), ("tokens", token_network), ("frozen", frozen_network)):
        model = make(folder / f"{kind}.{'pb' if kind == 'frozen' else 'keras'}")
        tables = {**_OURS, "gradcam": {**_OURS["gradcam"], "methods": methods[kind]}}
        spec = JobSpec.model_validate(spec_of(folder, model, stages, {name: tables[name] for name in stages if name in tables}))
        for stage in stages:
            with ExitStack() as stack:
                stack.enter_context(mock.patch.object(microbatches, "visible_gpus", return_value=["a GPU"]))
                graphs = stack.enter_context(executed_graphs())
                run(spec, folder / kind, stages=[stage])
            assert graphs or stage == "filters", f"{stage} has compiled nothing"
            parts = [part for graph in graphs for part in (graph.node, *(body.node_def for body in graph.library.function))]
            types = {node.op for nodes in parts for node in nodes}
            random = {kind for kind in types if kind.startswith(("FusedBatchNormGrad", "ResizeNearestNeighborGrad"))}
            kernels = {name for graph in graphs for name in without_gpu_kernel(graph)}
            missing[f"{stage}, {kind}"] = sorted(kernels | {f"{name} (not deterministic)" for name in random})
    return missing


def _kernels(folder: Path) -> dict[str, Any]:
    missing = kernels_missing(folder, STAGES)
    return {"passed": not any(missing.values()), **{stage: names for stage, names in missing.items() if names}}


def _run(spec: dict[str, Any], path: Path, out: Path, *options: str) -> float:
    """Run a job from the command line, in a process of its own. Returns: seconds."""
    path.write_text(_toml(spec))
    began = time.monotonic()
    command = [sys.executable, "-m", "jobs", "run", str(path), "--out", str(out), *options]
    child = subprocess.run(command, capture_output=True, text=True)
    if child.returncode:
        raise RuntimeError(child.stderr[-1000:] + child.stdout[-1000:])
    return time.monotonic() - began


def _toml(spec: dict[str, Any]) -> str:
    """A spec as TOML: its numbers, texts and lists are written as in JSON."""
    tables = {name: value for name, value in spec.items() if isinstance(value, dict)}
    lines = [f"{name} = {json.dumps(value)}" for name, value in spec.items() if name not in tables]
    for name, table in tables.items():
        lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in table.items())]
    return "\n".join(lines) + "\n"


def digests(folder: Path, pattern: str) -> dict[str, str]:
    """Of the files below a folder: {path: SHA-256}."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob(pattern))
        if path.is_file()
    }


def _same(one: dict[str, str], other: dict[str, str]) -> list[str]:
    """The files that differ, or are there once only."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def _bytes(folder: Path) -> dict[str, Any]:
    spec = spec_of(folder, keras_network(folder / "network.keras"), ["activations"], images=40)
    path = folder / "job.toml"
    for name in ("first", "second"):
        _run(spec, path, folder / name)
    for shard in ("1/2", "2/2"):
        _run(spec, path, folder / "shards", "--shard", shard)
    subprocess.run([sys.executable, "-m", "jobs", "merge", str(folder / "shards" / "job")], check=True, capture_output=True)
    first, second, shards = (digests(folder / name / "job" / "index", "*.parquet") for name in ("first", "second", "shards"))
    differ = {"twice": _same(first, second), "shards": _same(first, shards)}
    return {"passed": bool(first) and not any(differ.values()), "tables": len(first), "differ": differ}


def _ascents(folder: Path) -> dict[str, Any]:
    differ = {}
    for kind, make in (("keras", keras_network), ("frozen", frozen_network)):
        model = make(folder / {"keras": "network.keras", "frozen": "network.pb"}[kind])
        patterns, dreams = {"channels": [0, 1, 2], "steps": 24}, {"first": 1, "iterations": 4}
        spec = spec_of(folder, model, ["activations", "patterns", "dream"], {"patterns": patterns, "dream": dreams})
        runs = [folder / f"{kind}-{number}" for number in (1, 2)]
        for out in runs:
            _run(spec, folder / "job.toml", out)
        one, other = (digests(out / "job" / "mosaics", "*.*") for out in runs)
        assert any("dream" in name for name in one) and any("patterns" in name for name in one)
        differ[kind] = _same(one, other)
    return {"passed": not any(differ.values()), "differ": differ}


def _fields(folder: Path) -> dict[str, Any]:
    import tensorflow as tf

    from pipeline.compiled.freezing import freeze
    from pipeline.fields import solve_fields
    from pipeline.models.registry import open_network, select_layers
    from pipeline.spec.model import ModelSpec
    from recfield import ReceptiveField

    chosen = ["block1_conv2", "block2_conv2", "block3_conv3"]
    network = open_network(ModelSpec(source="keras:VGG16", weights="none", top=False, size=(96, 96), layers=chosen))
    spec = tf.TensorSpec((16, *network.input_shape), tf.float32)
    run = freeze(lambda images: network.trace(images, chosen), spec)
    here = ReceptiveField.of_layers(spec.shape.as_list(), lambda images: {name: y.numpy() for name, y in run(images).items()})
    cpu = solve_fields(network, select_layers(network, chosen))
    same = {name: bool(np.array_equal(here[name].boxes, cpu[name].boxes)) for name in chosen}
    sizes = {name: here[name].size for name in chosen}
    return {
        "passed": all(same.values()),
        "leaks": {name: field.leaks for name, field in here.items()},
        "same": same,
        "sizes": sizes,
    }


def _precision(folder: Path) -> dict[str, Any]:
    import tensorflow as tf

    from pipeline.activations.heap_members import Strongest
    from pipeline.activations.scan import scan

    case = _cases()[0]
    network = case.open()
    plan = case.plan(network)
    actual: dict[str, Any] = {}
    source = InMemory(case.images(network, 0)[:1])
    source.grow()
    full, _ = scan(network, source, plan)
    others: dict[str, dict[str, Any]] = {name: {"precision": name} for name in ("float16", "tf32")} | {"xla": {"xla": True}}
    for name, other in others.items():
        try:
            part, _ = scan(network, source, replace(plan, **other))
        except (WrongSpec, tf.errors.OpError) as error:
            actual[name] = {"refused": str(error)[:500]}
            continue
        heaps = [(member.heap, part.of(Strongest)[layer].heap) for layer, member in full.of(Strongest).items()]
        pairs = [compare(*pair) for pair in heaps]
        actual[name] = {"winners": min(share for share, _ in pairs), "moved": max(moved for _, moved in pairs)}
    return actual


def _cases() -> list[Case]:
    """On a GPU the networks of `bench.scan`; elsewhere the smallest of them, and little of it."""
    from pipeline.compiled.devices import visible_gpus

    return list(CASES) if visible_gpus() else [replace(CASES[-1], batch=32, batches=2)]


def _scan(folder: Path) -> dict[str, Any]:
    import tensorflow as tf

    from pipeline.compiled.devices import visible_gpus

    rounds = 3
    actual: dict[str, Any] = {}
    gpu = bool(visible_gpus())
    arithmetics: dict[str, dict[str, Any]] = {"float32": {}, "tf32": {"precision": "tf32"}, "float16": {"precision": "float16"}}
    arithmetics |= {"xla": {"xla": True}} if gpu else {}
    for case in _cases():
        network = case.open()
        model = keras_model(network)
        for batch in sorted({case.batch, 4 * case.batch, 16 * case.batch}) if gpu else [case.batch]:
            sized = replace(case, batch=batch, batches=max(2, case.batches * case.batch // batch))
            run, images = bare(model), sized.images(network, rounds)
            plain = [_bare_rate(run, sized, each) for each in images][WARM_UP:]
            for name, other in arithmetics.items():
                key = f"{network.name} {batch} {name}"
                try:
                    if gpu:
                        tf.config.experimental.reset_memory_stats("GPU:0")
                    scanning = Scanning(network, replace(sized.plan(network), **other), InMemory(images))
                    rates = [scanning.rate() for _ in images][WARM_UP:]
                except (WrongSpec, tf.errors.OpError) as error:
                    actual[key] = {"refused": str(error)[:500]}
                    continue
                peak = tf.config.experimental.get_memory_info("GPU:0")["peak"] / 1e6 if gpu else None
                actual[key] = {
                    "images/s": round(median(rates), 1),
                    "of bare": round(median(rates) / median(plain), 3),
                    "MB": peak,
                }
    return actual


def _bare_rate(run: Callable[..., Any], case: Case, images: np.ndarray) -> float:
    began = time.perf_counter()
    for first in range(0, len(images), case.batch):
        run(images[first : first + case.batch], first)
    return len(images) / (time.perf_counter() - began)


def _job(folder: Path) -> dict[str, Any]:
    from bench.dream import climber
    from pipeline.compiled.devices import visible_gpus
    from pipeline.models.registry import open_network
    from pipeline.spec.model import ModelSpec

    gpu = bool(visible_gpus())
    source = {"source": "keras:MobileNetV2", "weights": "none", "layers": ["out_relu"]} if gpu else None
    model, images = source or keras_network(folder / "network.keras"), 2000 if gpu else 20
    index = _run(spec_of(folder, model, ["activations"], images=images), folder / "job.toml", folder / "index")
    again = {"gradcam": {"first": images // 4}}
    maps = _run(spec_of(folder, model, ["gradcam"], again), folder / "job.toml", folder / "maps")
    network = open_network(ModelSpec.model_validate(model))
    run, steps = climber(network, model["layers"][-1], 8), 32 if gpu else 2
    run(steps)
    began = time.perf_counter()
    run(steps)
    rates = {"index images/s": images / index, "gradcam images/s": images // 4 / maps}
    return {**rates, "ascent steps/s": steps / (time.perf_counter() - began)}


MEASURES: dict[str, Callable[[Path], dict[str, Any]]] = {
    "kernels": _kernels,
    "bytes": _bytes,
    "ascents": _ascents,
    "fields": _fields,
    "precision": _precision,
    "scan": _scan,
    "job": _job,
}
