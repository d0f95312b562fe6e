"""What all tests share: one tiny network a session, folders of pictures, sources in memory, and the command line."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["CONVSCOPE_CACHE"] = "off"  # what tests solve is not for the user's own jobs, and theirs not for tests

import cv2
import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, settings
from zygote import Programs

from pipeline import load_spec, run
from pipeline.errors import UnusableData
from pipeline.geometry import Box
from pipeline.progress import Reporter
from pipeline.sources.decode import Decoder
from pipeline.sources.fit import Fit
from pipeline.sources.source import Image, Shard

ROOT = Path(__file__).resolve().parents[1]
# Before any module of tests: some start TensorFlow as soon as they are imported.
PROGRAMS = Programs()

# The same examples in every run, however busy the machine is.
settings.register_profile(
    "steady", deadline=None, derandomize=True, max_examples=150, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("steady")


@pytest.fixture(scope="session")
def tiny_model() -> Any:
    """16x16 RGB pixels -> `edges` (14x14x4, rectified), `shapes` (6x6x5), `classes` (3 units); never trained.

    All weights are small whole numbers: on pixels of 0 to 3 every sum is exact in float32, in any order.
    """

    random = np.random.default_rng(7)
    x = inputs = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(4, 3, activation="relu", name="edges")(x)
    x = keras.layers.Conv2D(5, 3, strides=2, name="shapes")(x)
    x = keras.layers.Flatten(name="flat")(x)
    model = keras.Model(inputs, keras.layers.Dense(3, name="classes")(x), name="tiny")
    for variable in model.weights:
        variable.assign(random.integers(-1, 2, variable.shape))
    return model


@pytest.fixture(scope="session")
def tiny_file(tiny_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The tiny network as a file."""
    path = tmp_path_factory.mktemp("model") / "tiny.keras"
    tiny_model.save(path)
    return path


@pytest.fixture(scope="session")
def write_pictures() -> Any:
    """A function: `count` random PNGs of 20x24 pixels and more in FOLDER/cat and FOLDER/dog."""

    def write(folder: Any, count: Any = 20, seed: Any = 0) -> Any:
        random = np.random.default_rng(seed)
        for index in range(count):
            pixels = random.integers(0, 256, (20 + index % 5, 24 + index % 3, 3), np.uint8)
            path = Path(folder) / ("cat", "dog")[index % 2] / f"{index:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
        return Path(folder)

    return write


@pytest.fixture(scope="session")
def pictures(write_pictures: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A folder of 20 pictures that no test changes."""
    return write_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="session")
def write_spec(tiny_file: Any, pictures: Any) -> Any:
    """A function: a spec file for the tiny network on the 20 pictures; tables given by name add to it or change it."""

    def write(path: Any, name: Any = "tiny", **tables: Any) -> Any:
        tree = {
            "model": {"source": f"file:{tiny_file}", "layers": ["edges", "shapes", "classes"], "preprocess": "none"},
            "data": {"source": f"folder:{pictures}", "batch": 8},
            "activations": {"top_k": 3},
        }
        lines = [f"name = {json.dumps(name)}", 'stages = ["activations"]']
        for table in dict.fromkeys((*tree, *tables)):
            lines.append(f"[{table}]")
            lines += [f"{key} = {json.dumps(value)}" for key, value in (tree.get(table, {}) | tables.get(table, {})).items()]
        path = Path(path)
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    return write


class RememberingReporter(Reporter):
    """A reporter that remembers what was said instead of printing it."""

    def __init__(self) -> None:
        super().__init__("test")
        self.lines = []

    def say(self, text: Any, **facts: Any) -> None:
        self.lines.append(text)


@pytest.fixture
def reporter() -> Any:
    """A reporter; `reporter.lines` is what it said."""
    return RememberingReporter()


@pytest.fixture(scope="session")
def quiet() -> Any:
    """A reporter for runs of which nothing but the results matters."""
    return RememberingReporter()


@pytest.fixture(scope="session")
def spec(write_spec: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The spec of the tiny network on the 20 pictures, three winners a channel."""
    return load_spec(write_spec(tmp_path_factory.mktemp("spec") / "tiny.toml"))


@pytest.fixture(scope="session")
def finished(spec: Any, quiet: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The folder of a finished job, which no test changes."""
    return run(spec, tmp_path_factory.mktemp("out"), reporter=quiet)


@pytest.fixture
def copied(finished: Any, tmp_path: Path) -> Any:
    """A copy of the finished job to do anything to."""
    return shutil.copytree(finished, tmp_path / "out" / finished.name)


class InMemory:
    """A source of arrays. `broken` examples cannot be read; `fetched` counts who asked for which."""

    decoder = Decoder()

    def __init__(self, images: Any, labels: Any = None, broken: Any = (), fit: Any = None) -> None:
        self.images = [np.asarray(image, np.uint8) for image in images]
        self.labels = sorted(set(labels)) if labels else None
        self._labels = labels or [""] * len(self.images)
        self._broken = set(broken)
        self._fit = fit or Fit(*self.images[0].shape[:2])
        self.fetched = []

    def __len__(self) -> Any:
        return len(self.images)

    def digest(self, count: Any = None) -> Any:
        return "0"

    def stream(self, shard: Shard, start: Any = 0) -> Any:
        first, last = shard.bounds(len(self))
        order = range(first + start, last)
        columns = {
            "example": np.array(order, np.int64),
            "key": np.array([f"image{i}" for i in order], object),
            "label": np.array([self._labels[i] for i in order], object),
            "image": np.array([self._fit.apply(self.images[i]) * (i not in self._broken) for i in order], np.uint8).reshape(
                -1, self._fit.height, self._fit.width, 3
            ),
            "error": np.array(["torn" if i in self._broken else "" for i in order], object),
        }
        return tf.data.Dataset.from_tensor_slices(columns)

    def find(self, key: Any) -> Any:
        return next((example for example in range(len(self)) if key == f"image{example}"), None)

    def fetch(self, examples: Any) -> Iterator[Any]:
        for example in sorted(set(examples)):
            self.fetched.append(example)
            if example in self._broken:
                raise UnusableData(f"image {example} cannot be read: torn.")
            pixels = self.images[example]
            yield example, Image(f"image{example}", self._labels[example] or None, pixels, Box.whole(*pixels.shape[:2]))


@pytest.fixture(scope="session")
def in_memory() -> Any:
    """The class of sources in memory."""
    return InMemory


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Iterator[Any]:
    """A function: run the command line in this process. Returns: exit status, stdout, stderr."""
    from jobs.cli import main

    handler = signal.getsignal(signal.SIGTERM)

    def run(*arguments: Any) -> Any:
        capsys.readouterr()
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as stop:  # argparse's way
            status = stop.code  # type: ignore[assignment]
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    yield run
    signal.signal(signal.SIGTERM, handler)


@pytest.fixture(scope="session")
def process() -> Iterator[Any]:
    """A function: start Python with some arguments, in a process of its own that finds convscope from any folder."""
    started = []

    def start(*arguments: Any, **options: Any) -> Any:
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        usual = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
        child = subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            env={**usual, "PYTHONPATH": path, "TF_CPP_MIN_LOG_LEVEL": "3"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # Shells have what they start in the background ignore SIGINT, and their children with it.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            **options,
        )
        started.append(child)
        return child

    yield start
    for child in started:
        if child.poll() is None:
            child.kill()
        child.communicate()


@pytest.fixture(scope="session")
def program() -> Any:
    """A function: run a program in a process in which TensorFlow is imported and has not started. Returns: how it ended."""
    return PROGRAMS.run


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Any]:
    """A function: a folder on a real file system of so many KiB."""
    mounted = []

    def mount(kibibytes: Any) -> Any:
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={kibibytes}k", "tmpfs", str(folder)]
        try:
            result = subprocess.run(command, capture_output=True, text=True)
        except OSError as error:
            pytest.skip(f"no tmpfs can be mounted here: {error}")
        if result.returncode:
            pytest.skip(f"no tmpfs can be mounted here: {result.stderr.strip()}")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture(scope="session")
def tree_of() -> Any:
    """A function: {relative path: bytes} of the files below a folder, hidden ones too."""

    def tree(folder: Any, *parts: Any) -> Any:
        tops = [Path(folder) / part for part in parts] or [Path(folder)]
        return {
            str(path.relative_to(folder)): path.read_bytes() for top in tops for path in sorted(top.rglob("*")) if path.is_file()
        }

    return tree
