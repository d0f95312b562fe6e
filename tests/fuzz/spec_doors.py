"""Doors of specs and of arguments."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from random import Random
from typing import Any

from door import Commands, Door
from mutation import mutate_text, mutate_tree
from workshop import Workshop

_EVERYTHING = """
[data.window]
size = 8
stride = 8
[activations]
top_k = 3
bottom_k = 1
channels = [0, 1]
crop = "field"
[filters]
layers = ["edges"]
sort = "norm"
[featuremaps]
layers = ["edges"]
examples = [0, 1]
first = 2
[gradcam]
methods = ["gradcam"]
targets = [0, "predicted", { output = 1, region = [0, 0, 1, 0.5] }]
steps = 16
[patterns]
layers = ["edges"]
channels = [0]
steps = 2
shake = { pad = 0.1, rotate = 5.0 }
[[patterns.objectives]]
name = "two"
terms = [{ kind = "channel", layer = "edges", channel = 0, weight = 2.0 }]
[dream]
layers = { edges = 1.0 }
iterations = 1
zoom = { frames = 2 }
[dream.visualization]
classes = [0, 1]
[[dream.visualization.octaves]]
scale = 1.4
iter_n = 2
"""


def _specs(shop: Workshop) -> list[bytes]:
    stages = '"activations", "filters", "featuremaps", "gradcam", "patterns", "dream", "report"'
    every = shop.spec(rest=_EVERYTHING).replace('"activations", "report"', stages)
    return [shop.spec().encode(), every.encode(), every.encode()]


def _mutate_spec(random: Random, data: bytes) -> bytes:
    if random.random() < 0.4:
        return mutate_text(random, data)
    try:
        return as_toml(mutate_tree(random, tomllib.loads(data.decode()))).encode("utf-8", "surrogatepass")
    except (ValueError, RecursionError, AttributeError):
        return mutate_text(random, data)


def as_toml(tree: dict[str, Any]) -> str:
    """A tree as TOML, tables within tables inline; what TOML cannot say, such as null, is left out of lists and tables."""
    return "".join(f"{_key(key)} = {_inline(value)}\n" for key, value in tree.items() if value is not None)


def _inline(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_key(key)} = {_inline(inner)}" for key, inner in value.items() if inner is not None) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(_inline(inner) for inner in value if inner is not None) + "]"
    if isinstance(value, float):
        return repr(value) if "e" not in repr(value) else f"{value:e}"
    return json.dumps(value).replace("\x7f", "\\u007f")


def _key(key: str) -> str:
    return json.dumps(key).replace("\x7f", "\\u007f")


def _open_spec(shop: Workshop, folder: Path, data: bytes) -> Commands:
    (folder / "job.toml").write_bytes(data)
    (folder / "out").mkdir()  # else nothing in it is ever looked up
    return [["check", f"{folder}/job.toml", "--out", f"{folder}/out"]]


def _overrides(shop: Workshop) -> list[bytes]:
    return [
        b"data.batch=8",
        b"model.layers=['edges']",
        b"data.window={size=8,stride=4}",
        b"dream.visualization.octaves=[{iter_n=2}]\ndata.limit=2",
        b"gradcam.targets=['predicted']\nmodel.size=[16,16]",
    ]


def _open_overrides(shop: Workshop, folder: Path, data: bytes) -> Commands:
    texts = [line.replace("\0", " ") for line in data.decode("utf-8", "surrogateescape").split("\n")][:20]
    return [
        ["check", f"{shop.folder}/base.toml", "--out", f"{folder}/out", *(word for text in texts for word in ("--set", text))]
    ]


def _old_parameters(shop: Workshop) -> list[bytes]:
    return [
        b"import numpy as np\noctaves = [{'scale': 1.0, 'iter_n': 190, 'start_sigma': 0.44, 'end_sigma': 0.304}]\n"
        b"background_color = np.float32([250.0, 250.0, 250.0])\nclasses = [1, 2]\nuse_bilateral = True\nmodel = 'x'\n",
        b"classes: list = (1, 2, 3)\nlayer = 'a' + 'b'\nuse_tv_bregman = False\nlogdir_path = {'a': 1 + 2j}\n",
    ]


def _open_parameters(shop: Workshop, folder: Path, data: bytes) -> Commands:
    (folder / "params.py").write_bytes(data)
    return [["params", f"{folder}/params.py"]]


DOORS: dict[str, Door] = {
    "spec": Door(_specs, _mutate_spec, _open_spec, share=4),
    "set": Door(_overrides, mutate_text, _open_overrides),
    "params": Door(_old_parameters, mutate_text, _open_parameters, share=3),
}
