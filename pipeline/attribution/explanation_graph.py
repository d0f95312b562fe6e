"""The graph of an explanation: the network traced once, with all that the methods need, of which any part runs alone."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import tensorflow as tf

from pipeline.attribution.detections import strongest
from pipeline.attribution.methods.method import AtAttention, AtLayer, AtPixels, LayerOutput, Quantity, Relevance
from pipeline.attribution.own_regions import cells_of, regions_of, score_in_region
from pipeline.attribution.plan import ExplainPlan
from pipeline.attribution.targets import PREDICTED, predicted, starting_relevance
from pipeline.compiled.convolution_gradients import lighten
from pipeline.compiled.freezing import FrozenGraph
from pipeline.compiled.gradients import gradient_of, gradients_of
from pipeline.compiled.graph_parts import source_behind
from pipeline.compiled.graph_walk import LayerTensor, LogitsGraph, layers_of, trace_once, types_inside, upstream
from pipeline.compiled.guided_relu import CHANGES, Guide, guide
from pipeline.compiled.on_the_way import trace_on_the_way
from pipeline.compiled.relevance import COMPOSITES, Propagation
from pipeline.errors import UnusableModel, WrongSpec
from pipeline.models.network import LOGITS, Network, feed_of, own_layers
from pipeline.models.tokens.flow import attention_flow

_WEIGHTED = {"Conv2D", "DepthwiseConv2dNative", "Conv2DBackpropInput", "Conv", "MatMul", "BatchMatMul", "BatchMatMulV2", "Einsum"}
# By which input weights pass an operation: attention reshapes them, and a convolution in groups takes each group its own.
_PASSES_ON = {"Identity": 0, "Cast": 0, "Reshape": 0, "Transpose": 0, "Split": 1}


@dataclass(frozen=True)
class Answer:
    """The outputs of the graph for one batch.

    logits: float32 (batch, classes of the network).
    asked: int (batch, targets, 1 + cells): what was explained, nothing of it PREDICTED any more; see `ExplanationGraph`.
    scores: float32 (batch, targets): the numbers that the gradients are of.
    values: float32 (batch, targets, …) by quantity, without targets for a `LayerOutput`.
    """

    logits: np.ndarray
    asked: np.ndarray
    scores: np.ndarray
    values: dict[Quantity, np.ndarray]

    @property
    def classes(self) -> np.ndarray:
        """The classes that were explained: int (batch, targets)."""
        return self.asked[..., 0]

    @classmethod
    def joined(cls, answers: Sequence[Answer], count: int) -> Answer:
        """The answers of consecutive batches as one, of the first so many images."""

        def rows(parts: Iterable[np.ndarray]) -> np.ndarray:
            return np.concatenate(list(parts))[:count]

        return cls(
            rows(answer.logits for answer in answers),
            rows(answer.asked for answer in answers),
            rows(answer.scores for answer in answers),
            {quantity: rows(answer.values[quantity] for answer in answers) for quantity in answers[0].values},
        )


@dataclass(frozen=True)
class LayerWeights:
    """The weights of one operation.

    source: the constant of the graph that holds them.
    layer: the one they belong to; "logits" where a layer gives them and goes on to something else, such as a softmax.
    """

    source: str
    values: np.ndarray
    layer: str


@dataclass(frozen=True)
class ExplanationGraph:
    """The traced network with the quantities of a job, its variables made constants. It runs batches of one fixed size.

    It is asked for targets, int (batch, targets, 1 + cells): of each the class, and then the positions of its region, 1 within
    and 0 outside, where a target has one that is the image's own, else no cells. PREDICTED stands for what the network predicts
    of the image that is given; a changed image is given the prediction for the image itself.

    guide: what guided backpropagation replaced; None where no quantity is guided.
    weights: of the network, from the logits back to the images; empty unless they were asked for.
    frozen: gives the logits, what was explained, the scores and then the quantities, of tensors of the specs.
    channel_axes: of the output of each layer that a `LayerOutput` asks for.
    parts: what `GraphPasses` has compiled so far, by its keys.
    """

    quantities: tuple[Quantity, ...]
    guide: Guide | None
    weights: Sequence[LayerWeights]
    frozen: FrozenGraph
    specs: tuple[tf.TensorSpec, ...]
    channel_axes: Mapping[str, int] = field(default_factory=dict)
    parts: dict[Hashable, Callable[..., list[tf.Tensor]]] = field(default_factory=dict)

    @property
    def run(self) -> GraphPasses:
        """Passes of the graph as it is."""
        return GraphPasses(self)

    def with_weights(self, values: Mapping[str, np.ndarray]) -> GraphPasses:
        """Passes with other weights in the place of some, by their source."""
        return GraphPasses(self, tuple(tf.constant(values.get(weight.source, weight.values)) for weight in self.weights))


@dataclass(frozen=True)
class GraphPasses:
    """Passes of a graph over batches of its one size.

    They are asked as `ExplanationGraph` says, or for classes alone, int (batch, targets), in the images' own regions.

    weights: in the place of the graph's own, in their order; none for its own.
    """

    graph: ExplanationGraph
    weights: tuple[tf.Tensor, ...] = ()

    def __call__(self, images: np.ndarray, asked: np.ndarray, quantities: Sequence[Quantity]) -> Answer:
        """One pass, which computes no more than these quantities need.

        images: (batch, height, width, depth) in 0 to 255. asked: as of the class.
        """
        graph, needed = self.graph, tuple(quantities)
        ends = [*graph.frozen.outputs[:3], *(graph.frozen.outputs[3 + graph.quantities.index(quantity)] for quantity in needed)]
        outputs = self._part(needed, graph.frozen.inputs, ends, graph.specs)(*self._tensors(images, asked), *self.weights)
        logits, explained, scores, *values = (tensor.numpy() for tensor in outputs)
        return Answer(logits, explained, scores, dict(zip(needed, values, strict=True)))

    def behind(self, pairs: tf.Tensor, numbers: np.ndarray, masks: np.ndarray, asked: np.ndarray) -> np.ndarray:
        """The scores, float32 (batch, targets), of images of which masks leave some.

        Args:
            pairs: float32 (n, 2, height, width, depth): images, each with what stands where nothing of it is left.
            numbers: int (batch,): whose row. masks: float32 (batch, height, width) from 0 to 1, what is left.
            asked: as of the class.
        """
        images, targets = self.graph.specs

        def masked(pairs: tf.Tensor, numbers: tf.Tensor, masks: tf.Tensor, *others: tf.Tensor) -> list[tf.Tensor]:
            image, empty = tf.unstack(tf.gather(pairs, numbers), axis=1)
            return [empty + masks[..., tf.newaxis] * (image - empty), *others]

        specs = [
            tf.TensorSpec((None, *pairs.shape[1:])),
            tf.TensorSpec(images.shape[:1], tf.int32),
            tf.TensorSpec(images.shape[:3]),
            targets,
        ]
        part = self._part("behind", self.graph.frozen.inputs, [self.graph.frozen.outputs[2]], specs, masked)
        arguments = tf.constant(numbers, tf.int32), *self._tensors(masks, asked)
        return np.asarray(part(pairs, *arguments, *self.weights)[0])

    def scores_from(self, layer: str, output: np.ndarray, images: np.ndarray, asked: np.ndarray) -> np.ndarray:
        """The scores, float32 (batch, targets), with another output in the place of a layer's own; see `LayerOutput`."""
        frozen, position = self.graph.frozen, 3 + self.graph.quantities.index(LayerOutput(layer))
        spec, source = frozen.structure[position], source_behind(frozen.graph, frozen.outputs[position])
        key, names = LayerOutput(layer), [*frozen.inputs, source]
        part = self._part(key, names, [frozen.outputs[2]], [*self.graph.specs, spec])
        (scores,) = part(*self._tensors(images, asked), tf.constant(output, spec.dtype), *self.weights)
        return np.asarray(scores)

    def _tensors(self, images: np.ndarray, asked: np.ndarray) -> tuple[tf.Tensor, tf.Tensor]:
        if asked.ndim == 2:
            own = np.full((*asked.shape, self.graph.specs[1].shape[2] - 1), PREDICTED)
            asked = np.concatenate([asked[..., np.newaxis], own], axis=2)
        return tf.constant(images, tf.float32), tf.constant(asked, tf.int32)

    def _part(
        self,
        key: Hashable,
        names: Sequence[str],
        ends: Sequence[str],
        specs: Sequence[tf.TensorSpec],
        before: Callable[..., Sequence[tf.Tensor]] = lambda *arguments: arguments,
    ) -> Callable[..., list[tf.Tensor]]:
        """The part of the graph from some tensors to others, compiled once by its key.

        specs: of what it is given, of which `before` makes the tensors of those names; the other weights, if there are any,
            come after all else.
        """
        weights = self.graph.weights if self.weights else ()
        names = [*names, *(f"{weight.source}:0" for weight in weights)]
        specs = [*specs, *(tf.TensorSpec(weight.values.shape, weight.values.dtype) for weight in weights)]

        def part(*arguments: tf.Tensor) -> list[tf.Tensor]:
            return self.graph.frozen.part(dict(zip(names, before(*arguments), strict=True)), ends)

        parts, key = self.graph.parts, (key, bool(weights))
        if key not in parts:
            parts[key] = tf.function(part, autograph=False).get_concrete_function(*specs)
        return parts[key]


def trace_explanations(network: Network, plan: ExplainPlan) -> ExplanationGraph:
    """Trace a network once, for all quantities: it runs forward once a batch, and back once a target.

    Raises: WrongSpec, for a layer on which the logits do not depend; UnusableModel, where guided backpropagation
        finds nothing to replace, or for a network without logits.
    """
    drawing = _Drawing(network, plan)
    height, width, _ = network.input_shape
    specs = (
        tf.TensorSpec((plan.batch, height, width, feed_of(network).depth), tf.float32),
        tf.TensorSpec((plan.batch, len(plan.targets), 1 + cells_of(network, plan.targets)), tf.int32),
    )
    frozen = FrozenGraph.of(drawing, *specs)
    weights = _weights_of(frozen, drawing.owners) if plan.with_weights else []
    return ExplanationGraph(
        drawing.quantities, drawing.guide, weights, frozen.without_large_constants(), specs, drawing.channel_axes
    )


def check_explanations(network: Network, layers: Sequence[str], needs: Iterable[Quantity] = ()) -> None:
    """Find, without a gradient, what `trace_explanations` would refuse. Raises: WrongSpec, UnusableModel."""
    asked = set(needs)

    def look(images: tf.Tensor) -> tf.Tensor:
        traced = trace_on_the_way(network, images, [*layers, LOGITS])
        logits_graph = LogitsGraph(traced[LOGITS])
        for layer in layers:
            _located(logits_graph, traced[layer], layer, network)
        if any(isinstance(quantity, AtAttention) for quantity in asked):
            attention_flow(images, network.name)
        for kind in CHANGES:
            if AtPixels(kind) in asked:
                guide(logits_graph, images, network.name, kind)
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
        self.channel_axes: dict[str, int] = {}

    def __call__(self, pixels: tf.Tensor, asked: tf.Tensor) -> list[tf.Tensor]:
        """Returns: logits, what was explained, scores and the quantities in order."""
        layers = list(
            dict.fromkeys(
                quantity.layer
                for quantity in self.quantities
                if not isinstance(quantity, (AtPixels, AtAttention)) and quantity.layer is not None
            )
        )
        every = [layer.name for layer in own_layers(self.network)] if self.with_weights else []
        traced = trace_on_the_way(self.network, self.network.preprocess(pixels), [*layers, *every, LOGITS])
        logits = traced[LOGITS]
        logits_graph = LogitsGraph(logits)
        lighten(logits_graph.operations)
        owners = layers_of(logits_graph, {name: traced[name] for name in every})
        self.owners = {operation.name: layer for operation, layer in owners.items()}
        tensors = {layer: _located(logits_graph, traced[layer], layer, self.network) for layer in layers}
        best = strongest(logits, self.network.head()) if logits.shape.rank == 3 else predicted(logits)
        explained = tf.where(asked[..., 0] == PREDICTED, best[:, tf.newaxis], asked[..., 0])
        regions = regions_of(logits, explained, asked[..., 1:])
        scores = [
            score_in_region(target, logits, explained[:, slot], regions[:, slot]) for slot, target in enumerate(self.targets)
        ]
        totals = [tf.reduce_sum(score) for score in scores]  # images do not mix: each gets the gradient of its own score
        values: dict[Quantity, tf.Tensor] = {}
        attention = [quantity for quantity in self.quantities if isinstance(quantity, AtAttention)]
        if attention:
            flow = attention_flow(pixels, self.network.name)
            for asked_of in attention:
                weighted = totals if asked_of.by_gradients else []
                flows = [flow.weighted(gradients_of(total, list(flow.blocks))) for total in weighted]
                values[asked_of] = tf.stack(flows or [flow.rollout() for _ in totals], axis=1)
        for layer, tensor in tensors.items():
            values |= self._at_layer(layer, tensor, totals)
        # ReLUs are changed once all that needs plain gradients has them; what lets all pass does not ask what let less pass.
        if AtPixels() in self.quantities:
            values[AtPixels()] = self._at_pixels(pixels, totals)
        for relus in CHANGES:
            if AtPixels(relus) in self.quantities:
                self.guide = guide(logits_graph, pixels, self.network.name, relus)
                values[AtPixels(relus)] = self._at_pixels(pixels, totals)
        for composite in dict.fromkeys(quantity.composite for quantity in self.quantities if isinstance(quantity, Relevance)):
            propagation = Propagation(logits_graph, pixels, COMPOSITES[composite], self.network.name)
            starts = [
                starting_relevance(target, logits, explained[:, slot], score)
                for slot, (target, score) in enumerate(zip(self.targets, scores, strict=True))
            ]
            for quantity in self.quantities:
                if isinstance(quantity, Relevance) and quantity.composite == composite:
                    located = None if quantity.layer is None else tensors[quantity.layer]
                    values[quantity] = tf.stack(
                        [self._relevance(quantity, propagation, logits, start, located) for start in starts], axis=1
                    )
        targets = tf.concat([explained[..., tf.newaxis], regions], axis=-1)
        return [logits, targets, tf.stack(scores, axis=1), *(values[quantity] for quantity in self.quantities)]

    def _at_layer(self, layer: str, tensor: LayerTensor, totals: Sequence[tf.Tensor]) -> dict[Quantity, tf.Tensor]:
        quantities = [
            quantity for quantity in self.quantities if isinstance(quantity, (AtLayer, LayerOutput)) and quantity.layer == layer
        ]
        maps, values = tensor.as_map(tensor.tensor), dict[Quantity, tf.Tensor]()
        asks = any(isinstance(quantity, AtLayer) and quantity.by_gradients for quantity in quantities)
        gradients = [_gradient(total, tensor, layer, self.network) if asks else maps for total in totals]
        for quantity in quantities:
            if isinstance(quantity, AtLayer):
                by_target = gradients if quantity.by_gradients else [maps for _ in totals]
                values[quantity] = tf.stack([quantity.combine(maps, gradient) for gradient in by_target], axis=1)
            else:
                values[quantity] = tf.identity(tensor.tensor)
                self.channel_axes[layer] = tensor.channel_axis
        return values

    def _relevance(
        self, asked: Relevance, propagation: Propagation, logits: tf.Tensor, start: tf.Tensor, located: LayerTensor | None
    ) -> tf.Tensor:
        if located is None:
            (relevance,) = propagation.back(logits, start, [propagation.pixels])
        else:
            (relevance,) = propagation.back(logits, start, [located.tensor])
            if asked.channel is None:
                return located.as_map(relevance)
            only = tf.one_hot(asked.channel, relevance.shape[located.channel_axis])
            shape = [1] * relevance.shape.rank
            shape[located.channel_axis] = -1
            (relevance,) = propagation.back(located.tensor, relevance * tf.reshape(only, shape), [propagation.pixels])
        return tf.reduce_sum(relevance[..., : feed_of(self.network).bands], axis=-1)

    def _at_pixels(self, pixels: tf.Tensor, totals: Sequence[tf.Tensor]) -> tf.Tensor:
        by_pixels = [gradient_of(total, pixels) for total in totals]
        gradients = [gradient for gradient in by_pixels if gradient is not None]
        if len(gradients) < len(totals):
            raise UnusableModel(
                f"the logits of {self.network.name} depend on the pixels by no gradient, which gradcam.methods needs. Name "
                "methods that need none: occlusion, rise, kernelshap, lime, scorecam, ablationcam, eigencam."
            )
        return tf.stack([gradient[..., : feed_of(self.network).bands] for gradient in gradients], axis=1)


def _weights_of(frozen: FrozenGraph, owners: Mapping[str, str]) -> list[LayerWeights]:
    """The weights of the forward pass, those nearest the logits first."""
    weights: dict[str, LayerWeights] = {}
    with tf.Graph().as_default() as graph:
        tf.graph_util.import_graph_def(frozen.graph, name="")
        logits = graph.get_tensor_by_name(frozen.outputs[0])
    for operation in reversed(upstream(logits)):
        if not types_inside(operation) & _WEIGHTED:
            continue
        for tensor in operation.inputs:
            source = tensor.op
            while source.type in _PASSES_ON:
                source = source.inputs[_PASSES_ON[source.type]].op
            values = tf.get_static_value(source.outputs[0]) if source.type == "Const" else None
            if values is not None and values.ndim >= 2 and values.dtype.kind == "f":
                weights.setdefault(source.name, LayerWeights(source.name, values, owners.get(operation.name, LOGITS)))
    return list(weights.values())


def _located(logits_graph: LogitsGraph, traced: tf.Tensor, layer: str, network: Network) -> LayerTensor:
    located = logits_graph.locate(traced)
    if located is None:
        raise _unconnected(layer, network)
    return located


def _gradient(total: tf.Tensor, located: LayerTensor, layer: str, network: Network) -> tf.Tensor:
    gradient = gradient_of(total, located.tensor)
    if gradient is None:
        raise _unconnected(layer, network)
    return located.as_map(gradient)


def _unconnected(layer: str, network: Network) -> WrongSpec:
    return WrongSpec(f"the logits of {network.name} do not depend on {layer!r} by any gradient. Name a layer they depend on.")
