"""The compiled pass: pixels in, maps out, one graph of fixed batch shape with its variables frozen to constants."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf
from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2_as_graph

from pipeline.errors import UnusableModel
from pipeline.machine import cores
from pipeline.models.network import Network
from pipeline.models.precision import reduced

Pass = Callable[..., Any]


@dataclass(frozen=True)
class Tap:
    """Reads layers: uint8 (batch, h, w, 3) -> {layer: float32 map}, for the one batch size it was compiled for."""

    layers: tuple[str, ...]
    run: Pass

    def __call__(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        return dict(self.run(images))


def compile_tap(network: Network, layers: Sequence[str], batch: int) -> Tap:
    """The pass that returns the layers' maps themselves."""
    return Tap(tuple(layers), compile_pass(network, layers, batch, lambda maps: maps))


def compile_pass(
    network: Network,
    layers: Sequence[str],
    batch: int,
    finish: Callable[..., Any],
    extras: Sequence[tf.TensorSpec] = (),
    precision: str = "float32",
    xla: bool = False,
) -> Pass:
    """Preprocessing, the network up to the deepest of the layers, and `finish`, as one frozen graph.

    Args:
        batch: the fixed number of images.
        finish: takes {layer: map}, and then the extras; returns any structure of tensors. Its ops join the graph.
        extras: what else the pass takes after the images.
        precision: of what is heavy in the network, such as convolutions; see `pipeline.models.precision`.
        xla: whether XLA compiles the network.

    Raises: WrongSpec, for a precision that this machine cannot give this network.

    Returns: a callable of uint8 images (batch, h, w, 3) and the extras, giving what `finish` gives.
    """
    return freeze(pass_of(network, layers, batch, finish, precision, xla), network_input(network, batch), *extras)


def pass_of(
    network: Network,
    layers: Sequence[str],
    batch: int,
    finish: Callable[..., Any],
    precision: str = "float32",
    xla: bool = False,
) -> Pass:
    """What `compile_pass` compiles, to be traced by who makes it part of a larger graph. Arguments and errors as there."""

    def traced(images: tf.Tensor) -> dict[str, tf.Tensor]:
        return network.trace(network.preprocess(images), layers)

    read = traced if precision == "float32" else reduced(traced, network_input(network, batch), precision, network.name)
    run = tf.function(read, autograph=False, jit_compile=True) if xla else read
    return lambda images, *others: finish(run(images), *others)


def compile_preprocessing(network: Network, batch: int) -> Pass:
    """What the network is given for some images: uint8 (batch, h, w, 3) -> float32 (batch, h, w, channels)."""
    return freeze(network.preprocess, network_input(network, batch))


def network_input(network: Network, batch: int) -> tf.TensorSpec:
    """Images as a pass takes them: uint8 (batch, h, w, 3)."""
    height, width, _ = network.input_shape
    return tf.TensorSpec((batch, height, width, 3), tf.uint8)


def freeze(function: Callable[..., Any], *specs: tf.TensorSpec) -> Pass:
    """Compile a function of tensors for these shapes and types, its variables read once and made constants.

    Constants let TensorFlow fold batch normalisation into convolutions. XLA stays off, but for what asks for it inside:
    on the CPU it slows depthwise networks many times over.

    Returns: a callable that takes tensors, or arrays, of the specs and returns the structure that `function` returns.
    Raises: UnusableModel, for one that asks a resource other than a variable.
    """
    frozen, _, structure = _frozen(function, specs)

    def run(*arguments: Any) -> Any:
        tensors = [
            tf.ensure_shape(tf.convert_to_tensor(value, spec.dtype), spec.shape)
            for value, spec in zip(arguments, specs, strict=True)
        ]
        # A plain call would first try to bind them to arguments with names, of which a frozen function has none, and
        # write all their values into the error that it then passes over: 2 ms a call.
        return tf.nest.pack_sequence_as(structure, tf.nest.flatten(frozen._call_with_flat_signature(tensors, {})))

    return run


@dataclass(frozen=True)
class FrozenGraph:
    """A function of tensors as a graph without variables, to be made part of other graphs.

    Called with tensors of the graph at work, it adds its operations there and returns what the function returns. They
    are stored there once: as a function of its own, with what TensorFlow keeps beside it, they would be four times.

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
        inputs, outputs = (tuple(tensor.name for tensor in tensors) for tensors in (frozen.inputs, frozen.outputs))
        return cls(graph, inputs, outputs, tf.nest.map_structure(tf.TensorSpec.from_tensor, structure))

    def __call__(self, *tensors: tf.Tensor) -> Any:
        # In the body of a loop, an identity of a tensor from outside is one from inside.
        given = dict(zip(self.inputs, map(tf.identity, tensors), strict=True))
        return tf.nest.pack_sequence_as(
            self.structure, tf.graph_util.import_graph_def(self.graph, given, self.outputs, name="frozen")
        )


def _frozen(function: Callable[..., Any], specs: Sequence[tf.TensorSpec]) -> tuple[Any, GraphDef, Any]:
    """A function compiled without variables, its graph, and the structure of tensors that it returned."""
    # Autograph has nothing to convert here, and would bury an error's one line in a trace of its own.
    concrete = tf.function(function, autograph=False, jit_compile=False).get_concrete_function(*specs)
    # A frozen function gives a flat list: the structure is put back from the one that was frozen.
    structure = concrete.structured_outputs
    frozen, graph = convert_variables_to_constants_v2_as_graph(concrete)
    if len(frozen.inputs) != len(specs):
        held = ", ".join(tensor.name for tensor in frozen.inputs[len(specs) :])
        raise UnusableModel(
            f"the network asks a table or another resource while it runs, which cannot be made a constant: {held}. "
            "Take the layer that does so out of the model."
        )
    return frozen, graph, structure


def cpu_threads() -> int:
    """How many threads TensorFlow computes one operation with, on the CPU."""
    chosen = tf.config.threading.get_intra_op_parallelism_threads() or int(os.environ.get("TF_NUM_INTRAOP_THREADS") or 0)
    return chosen or cores()


def prepare_devices(threads: int | None = None) -> None:
    """Let GPU memory grow as needed, and, where there is no GPU, let every session own the threads that compute for it.

    Call before TensorFlow's first use. Placement is left to TensorFlow.

    Args:
        threads: how many compute one operation on the CPU; None: as TensorFlow chooses.
    """
    if threads is not None:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus:
        os.environ.setdefault("TF_OVERRIDE_GLOBAL_THREADPOOL", "1")  # read when TensorFlow makes its first device
    for gpu in gpus:
        try:
            tf.config.experimental.set_memory_growth(gpu, True)
        except RuntimeError:  # already in use, so the caller's own setting holds
            return
