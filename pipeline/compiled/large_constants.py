"""Large constants of frozen graphs as tensors that the graph is given, because TensorFlow copies what lies inside a function.

While it makes a function ready to run, TensorFlow holds some twenty copies of the function's graph, one for each pass of its
optimizers. With the 553 MB of VGG16's weights inside, that is more memory than many machines have. A tensor from outside
is held once.
"""

from __future__ import annotations

import tensorflow as tf
from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.framework.node_def_pb2 import NodeDef

SMALL_GRAPH = 64 * 2**20  # bytes of constants that are all left where they are: copies of them are cheap
# Bytes of a constant that is given. TensorFlow cannot fold a factor into it, such as that of batch normalisation, but kernels as
# large belong to small maps, over which multiplying takes next to no time.
LARGE = 2**20
_FLOATS = (tf.float32.as_datatype_enum, tf.float16.as_datatype_enum, tf.bfloat16.as_datatype_enum, tf.float64.as_datatype_enum)


def without_large_constants(graph: GraphDef) -> tuple[GraphDef, dict[str, tf.Tensor]]:
    """A graph with placeholders for its large constants, if all of its constants are large together; otherwise as it is.

    Args:
        graph: without variables; it stays as it is.

    Returns: the graph, and the constants by the names of the tensors in whose place they are.
    """
    sizes = {node.name: _size(node) for node in graph.node}
    if sum(sizes.values()) < SMALL_GRAPH:
        return graph, {}
    taken = {name for name, size in sizes.items() if size >= LARGE}
    rest, given = GraphDef(library=graph.library, versions=graph.versions), dict[str, tf.Tensor]()
    for node in graph.node:
        added = rest.node.add()
        if node.name in taken:
            with tf.init_scope():
                given[f"{node.name}:0"] = tf.constant(tf.make_ndarray(node.attr["value"].tensor))
            added.name, added.op, added.device = node.name, "Placeholder", node.device
            added.attr["dtype"].type = node.attr["dtype"].type
            added.attr["shape"].shape.CopyFrom(node.attr["value"].tensor.tensor_shape)
        else:
            added.CopyFrom(node)
            # There is nothing to wait for; and what waits for a placeholder does not wait for the tensor in its place.
            added.input[:] = [name for name in node.input if not (name.startswith("^") and name[1:] in taken)]
    return rest, given


def _size(node: NodeDef) -> int:
    """The bytes of a constant of floats; 0 for another operation, and for a constant in a loop, which waits for it."""
    is_constant = node.op == "Const" and node.attr["dtype"].type in _FLOATS and not node.input
    return len(node.attr["value"].tensor.tensor_content) if is_constant else 0
