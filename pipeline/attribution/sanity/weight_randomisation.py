"""Cascade: a compiled pass whose weights become random layer by layer, from the logits back to the images.

The network itself stays as it is. Its weights are made constants, and others are fed in their place. Where it uses
them inside functions, as Keras does for grouped convolutions, they stay variables, and the pass reads others in their place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from pipeline.attribution.methods import Drawing, Explained, Key
from pipeline.compiled.compile import network_input
from pipeline.compiled.graph_walk import calls_functions, types_inside, upstream
from pipeline.compiled.tf_private import captures_of, constants_for_variables, set_captures
from pipeline.models.network import LOGITS, Network

_MOST_STEPS = 12  # networks are made random in as many steps at most
_WEIGHTED = {"Conv2D", "DepthwiseConv2dNative", "Conv2DBackpropInput", "Conv", "MatMul", "BatchMatMul", "BatchMatMulV2", "Einsum"}
_PASSES_ON = ("Identity", "Cast", "ReadVariableOp", "Reshape", "Transpose")  # attention reshapes its weights

# Images, classes, and how many kernels are random, to logits, classes and the values of the keys.
Run = Callable[[tf.Tensor, tf.Tensor, int], Sequence[tf.Tensor]]


@dataclass(frozen=True)
class Kernel:
    """The weights of one operation: its source in the graph, their values, and the layer they belong to.

    source: the operation, a constant or a variable's placeholder, that they come from.
    layer: "logits" where a layer gives them and goes on to something else, such as a softmax.
    """

    source: str
    values: np.ndarray
    layer: str


class Cascade:
    """Says what the network says with its own weights, and with random ones from the logits down to some layer.

    kernels: from the logits back to the images.
    """

    def __init__(self, run: Run, keys: tuple[Key, ...], kernels: Sequence[Kernel]) -> None:
        self._run, self._keys, self.kernels = run, keys, kernels

    @classmethod
    def of(cls, network: Network, keys: Sequence[Key], batch: int, slots: int) -> Cascade:
        """Compile; arguments and errors as of `passes.compile_pass`."""
        drawing = Drawing(network, tuple(keys), owned=True)
        specs = (network_input(network, batch), tf.TensorSpec((batch, slots), tf.int32))

        def flat(images: tf.Tensor, classes: tf.Tensor) -> list[tf.Tensor]:
            logits, shown, values = drawing(images, classes)
            return [logits, shown, *values]

        concrete = tf.function(flat, autograph=False).get_concrete_function(*specs)
        kernels, run = (_exchanged if calls_functions(network) else _fed)(concrete, drawing.owners)
        return cls(run, drawing.keys, kernels)

    def steps(self, images: np.ndarray, classes: np.ndarray) -> Iterator[tuple[int, str, Explained]]:
        """What the pass says as more and more layers are random, for fixed classes: none first, all last.

        Yields: how many layers are random, the last of them ("" at first), and what is said.
        """
        count = len(self.kernels)
        for step in sorted({0, 1, *(round(at) for at in np.linspace(0, count, min(count, _MOST_STEPS) + 1))}):
            logits, shown, *values = self._run(tf.constant(images), tf.constant(classes, tf.int32), step)
            maps = {key: value.numpy() for key, value in zip(self._keys, values, strict=True)}
            yield step, self.kernels[step - 1].layer if step else "", Explained(logits.numpy(), shown.numpy(), maps)


def _fed(concrete: Any, owners: Mapping[str, str]) -> tuple[list[Kernel], Run]:
    """The kernels of a pass, and the pass with its weights made constants that are fed."""
    frozen, _ = constants_for_variables(concrete)
    kernels = _kernels(frozen.outputs[0], owners, _constant)
    noise = _noise(kernels)
    graph, ends = frozen.graph.as_graph_def(), [tensor.name for tensor in frozen.outputs]
    names = [*(tensor.name for tensor in frozen.inputs), *(f"{kernel.source}:0" for kernel in kernels)]

    def body(*given: tf.Tensor) -> list[tf.Tensor]:
        return tf.graph_util.import_graph_def(graph, dict(zip(names, given, strict=True)), ends, name="")

    weights = [tf.TensorSpec(kernel.values.shape, kernel.values.dtype) for kernel in kernels]
    function = tf.compat.v1.wrap_function(body, [*(tf.TensorSpec(one.shape, one.dtype) for one in frozen.inputs), *weights])

    def run(images: tf.Tensor, classes: tf.Tensor, step: int) -> list[tf.Tensor]:
        given = [*noise[:step], *(kernel.values for kernel in kernels[step:])]
        return function(images, classes, *map(tf.constant, given))

    return kernels, run


def _exchanged(concrete: Any, owners: Mapping[str, str]) -> tuple[list[Kernel], Run]:
    """The kernels of a pass, and the pass reading other variables in the place of the network's own."""
    captures = captures_of(concrete)
    own = {capture.inner.op: capture.variable for capture in captures if capture.variable is not None}
    kernels = _kernels(concrete.outputs[0], owners, lambda source: own[source].numpy() if source in own else None)
    noise = [tf.Variable(values, trainable=False) for values in _noise(kernels)]

    def run(images: tf.Tensor, classes: tf.Tensor, step: int) -> list[tf.Tensor]:
        random = {kernel.source: variable.handle for kernel, variable in zip(kernels[:step], noise[:step], strict=True)}
        set_captures(concrete, [random.get(capture.inner.op.name, capture.outer) for capture in captures])
        return concrete(images, classes)

    return kernels, run


def _kernels(logits: tf.Tensor, owners: Mapping[str, str], values_of: Callable[[tf.Operation], Any]) -> list[Kernel]:
    """The weights of the forward pass, those nearest the logits first; `values_of` an operation: None for no weights."""
    found: dict[str, Kernel] = {}
    for operation in reversed(upstream(logits)):
        if not types_inside(operation) & _WEIGHTED:
            continue
        for given in operation.inputs:
            source = given.op
            while source.type in _PASSES_ON:
                source = source.inputs[0].op
            values = values_of(source)
            if values is not None and values.ndim >= 2 and values.dtype.kind == "f":
                found.setdefault(source.name, Kernel(source.name, values, owners.get(operation.name, LOGITS)))
    return list(found.values())


def _constant(source: tf.Operation) -> np.ndarray | None:
    return tf.get_static_value(source.outputs[0]) if source.type == "Const" else None


def _noise(kernels: Sequence[Kernel]) -> list[np.ndarray]:
    """Random weights, the same for every image. Their deviations are the kernels', so that signals neither die nor explode."""
    random = np.random.default_rng(0)
    return [random.normal(0, float(one.values.std()), one.values.shape).astype(one.values.dtype) for one in kernels]
