"""Freezing: a function of tensors becomes a graph of fixed shapes, with its variables as constants."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import tensorflow as tf
from tensorflow.core.framework.graph_pb2 import GraphDef

from pipeline.compiled.graph_parts import part_of, tensors_read
from pipeline.compiled.large_constants import without_large_constants
from pipeline.compiled.tf_private import graph_with_constants, register_function
from pipeline.errors import UnusableModel

Pass = Callable[..., Any]


def freeze(function: Callable[..., Any], *specs: tf.TensorSpec) -> Pass:
    """Compile a function of tensors for these shapes and types, with its variables read once and turned into constants.

    Constants let TensorFlow fold batch normalisation into convolutions. XLA stays off, except in functions that ask for it:
    on the CPU it slows depthwise networks many times over.

    Returns: a callable that takes tensors, or arrays, of the specs and returns the structure that `function` returns.
    Raises: UnusableModel, for a function that reads a resource other than a variable, such as a table.
    """
    frozen = [FrozenGraph.of(function, *specs).without_large_constants()]
    structure = frozen[0].structure
    # A tf.function would add control dependencies across loops, which Switch and Merge cannot have. What is wrapped is kept: the
    # graph, whose constants are as large as the network, is taken out of its list instead.
    compiled = first_alone(tf.compat.v1.wrap_function(lambda *tensors: frozen.pop().flat(*tensors), list(specs), name="frozen"))

    def run(*arguments: Any) -> Any:
        tensors = [
            tf.ensure_shape(tf.convert_to_tensor(value, spec.dtype), spec.shape)
            for value, spec in zip(arguments, specs, strict=True)
        ]
        return tf.nest.pack_sequence_as(structure, compiled(*tensors))

    return run


def first_alone(call: Pass) -> Pass:
    """The same pass, whose first call runs alone: it plans the graph, and threads that called meanwhile would plan it again,
    each with weights of its own."""
    first, planned = threading.Lock(), threading.Event()

    def run(*arguments: Any) -> Any:
        if not planned.is_set():
            with first:
                if not planned.is_set():
                    outputs = call(*arguments)
                    planned.set()
                    return outputs
        return call(*arguments)

    return run


@dataclass(frozen=True)
class FrozenGraph:
    """A function of tensors as a graph without variables, for use inside other graphs.

    Called with tensors of the current graph, it adds its operations to it and returns what the function returns. The
    graph then holds the constants once; a tf.function would keep several copies of them.

    inputs, outputs: names of tensors.
    structure: TensorSpecs, as the function returns tensors.
    given: what it is given by itself beside the inputs, by the names of tensors; see `without_large_constants`.
    """

    graph: GraphDef
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    structure: Any
    given: Mapping[str, tf.Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, function: Callable[..., Any], *specs: tf.TensorSpec) -> FrozenGraph:
        """Freeze a function of tensors of these specs. Raises: UnusableModel, as `freeze` does."""
        # Autograph has nothing to convert here, and would wrap the one line of an error in a long trace.
        concrete = tf.function(function, autograph=False, jit_compile=False).get_concrete_function(*specs)
        graph = graph_with_constants(concrete)
        left = {node.name for node in graph.node if node.op == "Placeholder"}
        held = [tensor.name for tensor in concrete.inputs[len(specs) :] if tensor.op.name in left]
        if held:
            raise UnusableModel(
                "the network reads a table or another resource while it runs, which cannot be turned into a constant: "
                f"{', '.join(held)}. Remove the layer that does so from the model."
            )
        inputs, outputs = (
            tuple(tensor.name for tensor in tensors) for tensors in (concrete.inputs[: len(specs)], concrete.outputs)
        )
        # What no output needs, such as a check that the function made on the side, would run in every tf.function.
        graph = part_of(graph, [*inputs, *outputs])
        for node in graph.node:
            # A gradient of Python's own, such as that of swish, knows the tensors of the graph that it was traced in alone.
            if "_gradient_op_type" in node.attr and node.attr["_gradient_op_type"].s.startswith(b"CustomGradient"):
                del node.attr["_gradient_op_type"]
        for called in graph.library.function:  # by XLA: a tf.function does not look for them in its graph
            register_function(called)
        return cls(graph, inputs, outputs, tf.nest.map_structure(tf.TensorSpec.from_tensor, concrete.structured_outputs))

    def without_large_constants(self) -> FrozenGraph:
        """The same for use inside functions, which have copies of their constants, but not of what they are given."""
        graph, given = without_large_constants(self.graph)
        return replace(self, graph=graph, given=given)

    def __call__(self, *tensors: tf.Tensor) -> Any:
        return tf.nest.pack_sequence_as(self.structure, self.flat(*tensors))

    def flat(self, *tensors: tf.Tensor) -> list[tf.Tensor]:
        """What the function returns, without its structure."""
        # In the body of a loop, an identity of a tensor from outside is one from inside.
        fed = dict(zip(self.inputs, map(tf.identity, tensors), strict=True))
        fed |= {name: tf.identity(constant) for name, constant in self.given.items()}
        return list(tf.graph_util.import_graph_def(self.graph, fed, self.outputs, name="frozen"))

    def part(self, given: Mapping[str, tf.Tensor], ends: Sequence[str]) -> list[tf.Tensor]:
        """Some tensors of the graph, with others in the place of some, such as of the inputs; all by their names.

        No other operations join the graph that calls this: a tf.function runs all those that may have a state, needed or not.
        """
        replaced = {**self.given, **given}
        part = part_of(self.graph, ends, replaced)
        read = tensors_read(part)
        tensors = {name: tf.identity(tensor) for name, tensor in replaced.items() if name in read}
        return list(tf.graph_util.import_graph_def(part, tensors, ends, name=""))
