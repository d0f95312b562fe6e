"""The shapes of a graph's tensors, worked out for images of one shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from pipeline.errors import UnusableModel, one_line
from pipeline.models.graphs.graphdef import Operations, channels_first, owner, short
from pipeline.models.graphs.grouped_convolutions import Grouped, grouped
from pipeline.models.graphs.placeholders import Shape


class GraphInput(NamedTuple):
    """The images that a graph is given: at the tensor `name`, of one type and shape."""

    name: str
    dtype: tf.DType
    shape: Shape


class TensorShapes(NamedTuple):
    """What is known of the tensors that images change.

    floats: the shapes of float tensors. types: of all tensors, in forward order. groups: the convolutions in groups.
    """

    floats: dict[str, Shape]
    types: dict[str, tf.DType]
    groups: dict[str, Grouped]


def with_channels(operations: Operations, image: str, dtype: tf.DType, shape: Shape | None) -> Shape:
    """The shape of a graph's image; where the channels are open, the number that its operations accept: 3, 1 or another to 16."""
    shape = shape or (None, None, None, None)
    if len(shape) != 4 or shape[3] is not None or shape[1] in (1, 3):
        return shape
    first = any(channels_first(node) for node in operations.nodes.values())
    for channels in (3, 1, 2, *range(4, 17)):
        tried = (shape[0], channels, *shape[2:]) if first else (*shape[:3], channels)
        try:
            static_shapes(operations, GraphInput(image, dtype, tried), "")
        except UnusableModel:
            continue
        return tried
    return shape


def static_shapes(operations: Operations, given: GraphInput, where: str, run: Sequence[str] = ()) -> TensorShapes:
    """The types of the tensors that images change, and the shapes of the float ones, for images of one shape.

    Args:
        where: the graph's name in errors.
        run: operations whose shapes are measured by running them once, where the graph leaves them open. An open shape
            of any other operation is left out.

    Raises: UnusableModel, for a graph that does not accept such images.
    """
    with tf.Graph().as_default() as graph:
        images = tf.compat.v1.placeholder(given.dtype, given.shape)
        names = operations.dependents(given.name)
        try:
            imported = tf.graph_util.import_graph_def(operations.graph(), {given.name: images}, names, name="network")
        except ValueError as error:
            raise UnusableModel(
                f"{where} does not accept images of shape {tuple(given.shape)} at {short(given.name)!r} ({one_line(error)}). "
                "Set another model.size, or freeze the graph for batches of any length."
            ) from None
        every = {
            f"{name}:{index}": output
            for name, operation in zip(names, imported, strict=True)
            for index, output in enumerate(operation.outputs)
        }
        outputs = {tensor: output for tensor, output in every.items() if output.dtype.is_floating}
        open_ = {
            tensor: tf.shape(output)
            for tensor, output in outputs.items()
            if owner(tensor) in run and (output.shape.rank is None or (output.shape.rank in (2, 3, 4) and None in output.shape))
        }
        measured: dict[str, np.ndarray] = {}
        if open_:
            others = [operation.outputs[0] for operation in graph.get_operations() if operation.type == "Placeholder"][1:]
            values = {images: np.random.default_rng(0).standard_normal([size or 1 for size in given.shape])}
            values |= {other: np.zeros([given.shape[0] or 1, *(size or 1 for size in other.shape[1:])]) for other in others}
            with tf.compat.v1.Session(graph=graph) as session:
                try:
                    measured = session.run(open_, values)
                except tf.errors.OpError as error:
                    reason = one_line(Exception(error.message))
                    raise UnusableModel(f"{where} cannot be run on images of shape {tuple(given.shape)}: {reason}.") from None
    shapes = {tensor: tuple(output.shape) for tensor, output in outputs.items() if output.shape.rank is not None}
    shapes |= {tensor: tuple(int(size) for size in shape) for tensor, shape in measured.items()}
    groups = {name: of_groups for name, operation in zip(names, imported, strict=True) if (of_groups := grouped(operation))}
    return TensorShapes(shapes, {tensor: output.dtype for tensor, output in every.items()}, groups)


def outside_of_flow(operations: Operations, image: str) -> list[str]:
    """The operations that images change, without those in loops and branches of TF1, which run sometimes or often."""
    ends = ("Exit", "RefExit")
    inside: set[str] = set()
    for opens, closes in ((("Enter", "RefEnter"), ends), (("Switch", "RefSwitch"), ("Merge", "RefMerge", *ends))):
        within: set[str] = set()
        for name, node in operations.nodes.items():
            if node.op in opens or (node.op not in closes and any(owner(ref) in within for ref in node.input)):
                within.add(name)
        inside |= within
    return [name for name in operations.dependents(image) if name not in inside]
