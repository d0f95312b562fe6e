"""A Keras model in memory, read as a Network: functional, sequential or subclassed."""

from __future__ import annotations

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


def keras_reader(model: keras.Model, name: str, size: tuple[int, int] | None) -> FunctionalReader | SubclassedReader:
    """The reader for a model's kind. Arguments and errors as of `keras_network`."""
    if is_subclassed(model):
        return SubclassedReader(model, name, size)
    inputs = getattr(model, "inputs", None) or ()
    if not has_graph(model) or len(inputs) != 1:
        if len(inputs) > 1:
            names = ", ".join(str(tensor.name) for tensor in inputs)
            raise UnusableModel(
                f"{name} cannot be read: it has {len(inputs)} inputs ({names}). Wrap it in a model of the image alone, its other "
                "inputs made in the graph, such as "
                "keras.Model(image, model([image, keras.ops.zeros_like(image[:, 0, 0])])), and save that."
            )
        raise UnusableModel(
            f"{name} cannot be read: it is an unbuilt model, whose layers' shapes are not known. Name a built model of one image "
            "input, or export it (model.export) and write savedmodel:DIR."
        )
    return FunctionalReader(model, name, size)


def is_subclassed(model: Any) -> bool:
    """Whether a model's graph stands in its own code alone."""
    return isinstance(model, keras.Model) and not isinstance(model, keras.Sequential) and not has_graph(model)
