"""A Keras model in memory, read as a Network: functional, sequential or subclassed."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import keras

from pipeline.compiled.keras_private import has_graph
from pipeline.errors import UnusableModel
from pipeline.models.head import OutputSpec
from pipeline.models.image_network import ImageNetwork
from pipeline.models.keras.functional import FunctionalReader
from pipeline.models.keras.subclassed import SubclassedReader
from pipeline.models.network import Setting


def keras_network(
    model: keras.Model,
    name: str,
    size: tuple[int, int] | None,
    preprocessing: str | Setting,
    output: OutputSpec = OutputSpec(),
) -> ImageNetwork:
    """Every layer's map, and the logits before the last nonlinearity; the model is shared, never changed.

    Args:
        size: (height, width), needed where the model leaves them open.
        preprocessing: a key of `MODES`, and where convscope chose it, why.
        output: what is known of the model's output beside its graph.

    Raises: UnusableModel, WrongSpec, UnknownName.
    """
    return ImageNetwork(keras_reader(model, name, size), name, preprocessing, output)


def keras_reader(
    model: keras.Model, name: str, size: tuple[int, int] | None, inputs: Mapping[str, Any] = MappingProxyType({})
) -> FunctionalReader | SubclassedReader:
    """The reader for a model's kind. Arguments and errors as of `keras_network`.

    Args:
        inputs: `model.inputs`: which input takes the images, and what the others are given.
    """
    if is_subclassed(model):
        return SubclassedReader(model, name, size, inputs)
    if not has_graph(model) or not getattr(model, "inputs", None):
        raise UnusableModel(
            f"{name} cannot be read: it is an unbuilt model, whose layers' shapes are not known. Name a built model, "
            "or export it (model.export) and write savedmodel:DIR."
        )
    return FunctionalReader(model, name, size, inputs)


def is_subclassed(model: Any) -> bool:
    """Whether a model's graph stands in its own code alone."""
    return isinstance(model, keras.Model) and not isinstance(model, keras.Sequential) and not has_graph(model)
