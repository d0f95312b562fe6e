"""The graph of a network as TensorBoard's Graphs page shows it."""

from __future__ import annotations

from pathlib import Path

import tensorflow as tf
from tensorflow.core.framework import graph_pb2

from pipeline.errors import StoreFailed, one_line
from pipeline.models.network import Network, feed_of

_MOST_BYTES = 1024  # of a constant that is written: the page shows shapes, not weights, and chokes on large files


def write_graph(network: Network, folder: Path) -> Path:
    """Write the pass from pixels to every layer as an event file. Returns: the file. Raises: StoreFailed."""
    height, width, _ = network.input_shape
    names = [layer.name for layer in network.layers()]

    def forward(images: tf.Tensor) -> list[tf.Tensor]:
        return list(network.trace(network.preprocess(images), names).values())

    traced = tf.function(forward, autograph=False).get_concrete_function(
        tf.TensorSpec((None, height, width, feed_of(network).bands), feed_of(network).dtype)
    )
    before = set(folder.glob("*.tfevents.*"))
    try:
        writer = tf.summary.create_file_writer(str(folder))
        with writer.as_default(step=0):
            tf.summary.graph(_without_weights(traced.graph.as_graph_def()))
        writer.close()
    except (tf.errors.OpError, OSError) as error:
        raise StoreFailed(f"the graph could not be written to {folder} ({one_line(error)}). Name another folder.") from None
    return next(iter(set(folder.glob("*.tfevents.*")) - before))


def _without_weights(graph: graph_pb2.GraphDef) -> graph_pb2.GraphDef:
    """The same graph, with a word in the place of every large constant."""
    for nodes in (graph.node, *(function.node_def for function in graph.library.function)):
        for node in nodes:
            value = node.attr["value"].tensor if node.op == "Const" else None
            if value is not None and value.ByteSize() > _MOST_BYTES:
                size, shape = value.ByteSize(), value.tensor_shape
                value.Clear()
                value.dtype, value.tensor_content = tf.string.as_datatype_enum, f"{size} bytes left out".encode()
                value.tensor_shape.CopyFrom(shape)
    return graph
