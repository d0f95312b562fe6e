"""Freezing: a function of tensors becomes a graph of fixed shapes, with its variables as constants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf
from tensorflow.core.framework.graph_pb2 import GraphDef

from pipeline.compiled.tf_private import call_flat, constants_for_variables
from pipeline.errors import UnusableModel

Pass = Callable[..., Any]


def freeze(function: Callable[..., Any], *specs: tf.TensorSpec) -> Pass:
    """Compile a function of tensors for these shapes and types, with its variables read once and turned into constants.

    Constants let TensorFlow fold batch normalisation into convolutions. XLA stays off, except in functions that ask for it:
    on the CPU it slows depthwise networks many times over.

    Returns: a callable that takes tensors, or arrays, of the specs and returns the structure that `function` returns.
    Raises: UnusableModel, for a function that reads a resource other than a variable, such as a table.
    """
    frozen, _, structure = _frozen(function, specs)

    def run(*arguments: Any) -> Any:
        tensors = [
            tf.ensure_shape(tf.convert_to_tensor(value, spec.dtype), spec.shape)
            for value, spec in zip(arguments, specs, strict=True)
        ]
        return tf.nest.pack_sequence_as(structure, call_flat(frozen, tensors))

    return run


@dataclass(frozen=True)
class FrozenGraph:
    """A function of tensors as a graph without variables, for use inside other graphs.

    Called with tensors of the current graph, it adds its operations to it and returns what the function returns. The
    graph then holds the constants once; a tf.function would keep several copies of them.

    inputs, outputs: names of tensors.
    structure: TensorSpecs, as the function returns tensors.
    """

    graph: GraphDef
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    structure: Any

    @classmethod
    def of(cls, function: Callable[..., Any], *specs: tf.TensorSpec) -> FrozenGraph:
        """Freeze a function of tensors of these specs. Raises: UnusableModel."""
        frozen, graph, structure = _frozen(function, specs)
        for node in graph.node:
            # A gradient of Python's own, such as that of swish, knows the tensors of the graph that it was traced in alone.
            if "_gradient_op_type" in node.attr and node.attr["_gradient_op_type"].s.startswith(b"CustomGradient"):
                del node.attr["_gradient_op_type"]
        inputs, outputs = (tuple(tensor.name for tensor in tensors) for tensors in (frozen.inputs, frozen.outputs))
        return cls(graph, inputs, outputs, tf.nest.map_structure(tf.TensorSpec.from_tensor, structure))

    def __call__(self, *tensors: tf.Tensor) -> Any:
        # In the body of a loop, an identity of a tensor from outside is one from inside.
        fed = dict(zip(self.inputs, map(tf.identity, tensors), strict=True))
        return tf.nest.pack_sequence_as(
            self.structure, tf.graph_util.import_graph_def(self.graph, fed, self.outputs, name="frozen")
        )


def _frozen(function: Callable[..., Any], specs: Sequence[tf.TensorSpec]) -> tuple[Any, GraphDef, Any]:
    """A function compiled without variables, its graph, and the structure of tensors that it returned."""
    # Autograph has nothing to convert here, and would wrap the one line of an error in a long trace.
    concrete = tf.function(function, autograph=False, jit_compile=False).get_concrete_function(*specs)
    # A frozen function returns a flat list; the structure is that of the original function.
    structure = concrete.structured_outputs
    frozen, graph = constants_for_variables(concrete)
    if len(frozen.inputs) != len(specs):
        held = ", ".join(tensor.name for tensor in frozen.inputs[len(specs) :])
        raise UnusableModel(
            f"the network reads a table or another resource while it runs, which cannot be turned into a constant: {held}. "
            "Remove the layer that does so from the model."
        )
    return frozen, graph, structure
