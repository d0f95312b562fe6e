"""Explanations of arrays of images, for tests that need no data set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from pipeline.attribution.explainer import Explained, Explainer, ImageBatch
from pipeline.attribution.methods import METHODS
from pipeline.attribution.plan import ExplainPlan, MapKey
from pipeline.attribution.targets import Classes, ClassTarget
from pipeline.compiled.tf_private import graph_with_constants
from pipeline.models.network import Network


def explainer_of(network: Network, keys: Sequence[MapKey], batch: int, targets: int = 1, **settings: Any) -> Explainer:
    """An explainer of methods at layers, for batches of one size and so many classes an image."""
    classes = tuple(ClassTarget(Classes(1, None), 0) for _ in range(targets))
    return Explainer.of(network, ExplainPlan(tuple((METHODS[name], layer) for name, layer in keys), classes, batch, **settings))


def explain(explainer: Explainer, images: np.ndarray, classes: np.ndarray) -> Explained:
    """What an explainer says of uint8 images (count, height, width, 3) and int classes (count, targets)."""
    return explainer.explain(ImageBatch([], images, classes.tolist()))


@dataclass(frozen=True)
class Compiled:
    """Methods and layers of a network, compiled; called with images and classes."""

    explainer: Explainer

    def __call__(self, images: np.ndarray, classes: np.ndarray) -> Explained:
        return explain(self.explainer, images, classes)

    @property
    def guide(self) -> Any:
        return self.explainer.graph.guide


def compile_explanations(network: Network, keys: Sequence[MapKey], batch: int, targets: int) -> Compiled:
    """A function of images and classes; see `explainer_of`."""
    return Compiled(explainer_of(network, keys, batch, targets))


def stored(model: Any, kind: str, folder: Path) -> str:
    """Write a model as a `file`, `savedmodel` or `frozen` network. Returns: the spec's `source`."""
    if kind == "file":
        model.save(folder / "net.keras")
        return f"file:{folder / 'net.keras'}"
    if kind == "savedmodel":
        model.export(folder / "net", verbose=False)
        return f"savedmodel:{folder / 'net'}"
    spec = tf.TensorSpec((None, *model.input_shape[1:]), tf.float32)
    concrete = tf.function(lambda x: model(x, training=False), autograph=False).get_concrete_function(spec)
    (folder / "net.pb").write_bytes(graph_with_constants(concrete).SerializeToString())
    return f"frozen:{folder / 'net.pb'}"
