"""The graph of an explanation: the network traced once, with all that the methods need, of which any part runs alone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from pipeline.attribution.methods.method import AtLayer, AtPixels, Quantity
from pipeline.attribution.plan import ExplainPlan
from pipeline.attribution.targets import PREDICTED
from pipeline.compiled.freezing import FrozenGraph
from pipeline.compiled.graph_walk import LayerTensor, LogitsGraph, calls_functions, layers_of, trace_once, types_inside, upstream
from pipeline.compiled.guided_relu import Guide, guide
from pipeline.compiled.tf_private import Capture, captures_of, set_captures
from pipeline.errors import WrongSpec
from pipeline.models.network import LOGITS, Network

_WEIGHTED = {"Conv2D", "DepthwiseConv2dNative", "Conv2DBackpropInput", "Conv", "MatMul", "BatchMatMul", "BatchMatMulV2", "Einsum"}
_PASSES_ON = ("Identity", "Cast", "ReadVariableOp", "Reshape", "Transpose")  # attention reshapes its weights


@dataclass(frozen=True)
class Answer:
    """What the graph gives for one batch.

    logits: float32 (batch, classes of the network).
    classes: int (batch, targets): those explained; where PREDICTED was asked, which it was.
    scores: float32 (batch, targets): the numbers that the gradients are of.
    values: float32 (batch, targets, …) by quantity.
    """

    logits: np.ndarray
    classes: np.ndarray
    scores: np.ndarray
    values: dict[Quantity, np.ndarray]

    @classmethod
    def joined(cls, answers: Sequence[Answer], count: int) -> Answer:
        """The answers of consecutive batches as one, of the first so many images."""

        def rows(parts: Iterable[np.ndarray]) -> np.ndarray:
            return np.concatenate(list(parts))[:count]

        return cls(
            rows(one.logits for one in answers),
            rows(one.classes for one in answers),
            rows(one.scores for one in answers),
            {quantity: rows(one.values[quantity] for one in answers) for quantity in answers[0].values},
        )


# Images (batch (batch, height, width, 3) in 0 to 255, int32 classes (batch, targets) and some of the graph's quantities.
Run = Callable[[np.ndarray, np.ndarray, Sequence[Quantity]], Answer]


@dataclass(frozen=True)
class LayerWeights:
    """The weights of one operation.

    source: the operation, a constant or a variable's placeholder, that they come from.
    layer: the one they belong to; "logits" where a layer gives them and goes on to something else, such as a softmax.
    """

    source: str
    values: np.ndarray
    layer: str


class ExplanationGraph(Protocol):
    """The traced network with the quantities of a job. It runs batches of one fixed size.

    guide: what guided backpropagation replaced; None where no quantity is guided.
    weights: of the network, from the logits back to the images; empty unless they were asked for.
    """

    @property
    def quantities(self) -> tuple[Quantity, ...]: ...

    @property
    def guide(self) -> Guide | None: ...

    @property
    def weights(self) -> Sequence[LayerWeights]: ...

    def run(self, images: np.ndarray, classes: np.ndarray, quantities: Sequence[Quantity]) -> Answer:
        """One pass, which computes no more than these quantities need."""

    def with_weights(self, values: Mapping[str, np.ndarray]) -> Run:
        """The same with other weights in the place of some, by their source."""


def trace_explanations(network: Network, plan: ExplainPlan) -> ExplanationGraph:
    """Trace a network once, for all quantities: it runs forward once a batch, and back once a target.

    Raises: WrongSpec, for a layer on which the logits do not depend; UnusableModel, where guided backpropagation
        finds nothing to replace, or for a network without logits.
    """
    drawing = _Drawing(network, plan)
    height, width, _ = network.input_shape
    specs = (tf.TensorSpec((plan.batch, height, width, 3), tf.float32), tf.TensorSpec((plan.batch, len(plan.targets)), tf.int32))
    # TensorFlow cannot freeze the gradients of functions that read variables.
    return (_with_variables if calls_functions(network) else _frozen)(drawing, specs)


def check_explanations(network: Network, layers: Sequence[str], guided: bool) -> None:
    """Find, without a gradient, what `trace_explanations` would refuse. Raises: WrongSpec, UnusableModel."""

    def look(images: tf.Tensor) -> tf.Tensor:
        traced = network.trace(images, [*layers, LOGITS])
        logits_graph = LogitsGraph(traced[LOGITS])
        for layer in layers:
            _located(logits_graph, traced[layer], layer, network)
        if guided:
            guide(logits_graph, images, network.name)
        return traced[LOGITS]

    trace_once(network, look)


class _Drawing:
    """Draws the explanation into the graph of the tf.function that calls it, and remembers what it met there.

    owners: where weights are asked for, the layer of every operation of the network, by their names.
    """

    def __init__(self, network: Network, plan: ExplainPlan) -> None:
        self.network, self.quantities, self.targets, self.with_weights = network, plan.quantities, plan.targets, plan.with_weights
        self.guide: Guide | None = None
        self.owners: dict[str, str] = {}

    def __call__(self, pixels: tf.Tensor, classes: tf.Tensor) -> list[tf.Tensor]:
        """Returns: logits, classes, scores and the quantities in order."""
        layers = list(dict.fromkeys(one.layer for one in self.quantities if isinstance(one, AtLayer)))
        every = [layer.name for layer in self.network.layers()] if self.with_weights else []
        traced = self.network.trace(self.network.preprocess(pixels), [*layers, *every, LOGITS])
        logits = traced[LOGITS]
        logits_graph = LogitsGraph(logits)
        owners = layers_of(logits_graph, {name: traced[name] for name in every})
        self.owners = {operation.name: layer for operation, layer in owners.items()}
        tensors = {layer: _located(logits_graph, traced[layer], layer, self.network) for layer in layers}
        explained = tf.where(classes == PREDICTED, tf.argmax(logits, axis=1, output_type=tf.int32)[:, tf.newaxis], classes)
        scores = [target.score(logits, explained[:, slot]) for slot, target in enumerate(self.targets)]
        totals = [tf.reduce_sum(score) for score in scores]  # images do not mix: each gets the gradient of its own score
        values: dict[Quantity, tf.Tensor] = {}
        for layer, tensor in tensors.items():
            maps = tensor.as_map(tensor.tensor)
            gradients = [_gradient(total, tensor, layer, self.network) for total in totals]
            for quantity in self.quantities:
                if isinstance(quantity, AtLayer) and quantity.layer == layer:
                    values[quantity] = tf.stack([quantity.combine(maps, gradient) for gradient in gradients], axis=1)
        # ReLUs are guided once all that needs plain gradients has them.
        for quantity in (AtPixels(), AtPixels(guided=True)):
            if quantity in self.quantities:
                if quantity.guided:
                    self.guide = guide(logits_graph, pixels, self.network.name)
                values[quantity] = tf.stack([tf.gradients(total, pixels)[0] for total in totals], axis=1)
        return [logits, explained, tf.stack(scores, axis=1), *(values[quantity] for quantity in self.quantities)]


@dataclass(frozen=True)
class _FrozenExplanation:
    """An explanation whose variables are constants. Its parts are compiled when they first run."""

    quantities: tuple[Quantity, ...]
    guide: Guide | None
    weights: Sequence[LayerWeights]
    frozen: FrozenGraph
    specs: tuple[tf.TensorSpec, ...]
    _compiled: dict[tuple[tuple[Quantity, ...], bool], Callable[..., list[tf.Tensor]]] = field(default_factory=dict)

    def run(self, images: np.ndarray, classes: np.ndarray, quantities: Sequence[Quantity]) -> Answer:
        part = self._part(tuple(quantities), False)
        return _answer(part(*_tensors(images, classes)), quantities)

    def with_weights(self, values: Mapping[str, np.ndarray]) -> Run:
        fed = [tf.constant(values.get(weights.source, weights.values)) for weights in self.weights]

        def run(images: np.ndarray, classes: np.ndarray, quantities: Sequence[Quantity]) -> Answer:
            part = self._part(tuple(quantities), True)
            return _answer(part(*_tensors(images, classes), *fed), quantities)

        return run

    def _part(self, quantities: tuple[Quantity, ...], fed: bool) -> Callable[..., list[tf.Tensor]]:
        if (quantities, fed) not in self._compiled:
            weights = self.weights if fed else ()
            names = [*self.frozen.inputs, *(f"{one.source}:0" for one in weights)]
            ends = [*self.frozen.outputs[:3], *(self.frozen.outputs[3 + self.quantities.index(one)] for one in quantities)]

            def part(*given: tf.Tensor) -> list[tf.Tensor]:
                return list(
                    tf.graph_util.import_graph_def(self.frozen.graph, dict(zip(names, given, strict=True)), ends, name="")
                )

            specs = [*self.specs, *(tf.TensorSpec(one.values.shape, one.values.dtype) for one in weights)]
            self._compiled[quantities, fed] = tf.function(part, autograph=False).get_concrete_function(*specs)
        return self._compiled[quantities, fed]


def _frozen(drawing: _Drawing, specs: tuple[tf.TensorSpec, ...]) -> ExplanationGraph:
    frozen = FrozenGraph.of(drawing, *specs)
    weights: list[LayerWeights] = []
    if drawing.with_weights:
        with tf.Graph().as_default() as graph:
            tf.graph_util.import_graph_def(frozen.graph, name="")
            weights = _weights_of(graph.get_tensor_by_name(frozen.outputs[0]), drawing.owners, _constant)
    return _FrozenExplanation(drawing.quantities, drawing.guide, weights, frozen, specs)


@dataclass(frozen=True)
class _ExplanationWithVariables:
    """An explanation that reads variables inside functions, as Keras does for grouped convolutions, and runs as a whole."""

    quantities: tuple[Quantity, ...]
    guide: Guide | None
    weights: Sequence[LayerWeights]
    concrete: Any
    captures: list[Capture]

    def run(self, images: np.ndarray, classes: np.ndarray, quantities: Sequence[Quantity]) -> Answer:
        return self.with_weights({})(images, classes, quantities)

    def with_weights(self, values: Mapping[str, np.ndarray]) -> Run:
        variables = {source: tf.Variable(value, trainable=False) for source, value in values.items()}

        def run(images: np.ndarray, classes: np.ndarray, quantities: Sequence[Quantity]) -> Answer:
            others = (variables.get(capture.inner.op.name) for capture in self.captures)
            set_captures(
                self.concrete,
                [capture.outer if other is None else other.handle for capture, other in zip(self.captures, others, strict=True)],
            )
            whole = self.concrete(*_tensors(images, classes))
            return _answer([*whole[:3], *(whole[3 + self.quantities.index(one)] for one in quantities)], quantities)

        return run


def _with_variables(drawing: _Drawing, specs: tuple[tf.TensorSpec, ...]) -> ExplanationGraph:
    concrete = tf.function(drawing, autograph=False).get_concrete_function(*specs)
    captures = captures_of(concrete)
    own = {capture.inner.op: capture.variable for capture in captures if capture.variable is not None}
    weights: list[LayerWeights] = []
    if drawing.with_weights:
        weights = _weights_of(concrete.outputs[0], drawing.owners, lambda source: own[source].numpy() if source in own else None)
    return _ExplanationWithVariables(drawing.quantities, drawing.guide, weights, concrete, captures)


def _weights_of(logits: tf.Tensor, owners: Mapping[str, str], values_of: Callable[[tf.Operation], Any]) -> list[LayerWeights]:
    """The weights of the forward pass, those nearest the logits first; `values_of` an operation: None for no weights."""
    weights: dict[str, LayerWeights] = {}
    for operation in reversed(upstream(logits)):
        if not types_inside(operation) & _WEIGHTED:
            continue
        for given in operation.inputs:
            source = given.op
            while source.type in _PASSES_ON:
                source = source.inputs[0].op
            values = values_of(source)
            if values is not None and values.ndim >= 2 and values.dtype.kind == "f":
                weights.setdefault(source.name, LayerWeights(source.name, values, owners.get(operation.name, LOGITS)))
    return list(weights.values())


def _constant(source: tf.Operation) -> np.ndarray | None:
    return tf.get_static_value(source.outputs[0]) if source.type == "Const" else None


def _tensors(images: np.ndarray, classes: np.ndarray) -> tuple[tf.Tensor, tf.Tensor]:
    return tf.constant(images, tf.float32), tf.constant(classes, tf.int32)


def _answer(outputs: Sequence[tf.Tensor], quantities: Sequence[Quantity]) -> Answer:
    logits, classes, scores, *values = (tensor.numpy() for tensor in outputs)
    return Answer(logits, classes, scores, dict(zip(quantities, values, strict=True)))


def _located(logits_graph: LogitsGraph, traced: tf.Tensor, layer: str, network: Network) -> LayerTensor:
    located = logits_graph.locate(traced)
    if located is None:
        raise _unconnected(layer, network)
    return located


def _gradient(total: tf.Tensor, located: LayerTensor, layer: str, network: Network) -> tf.Tensor:
    (gradient,) = tf.gradients(total, located.tensor)
    if gradient is None:
        raise _unconnected(layer, network)
    return located.as_map(gradient)


def _unconnected(layer: str, network: Network) -> WrongSpec:
    return WrongSpec(
        f"gradcam.layers: the logits of {network.name} do not depend on {layer!r} by any gradient. Name a layer they depend on."
    )
