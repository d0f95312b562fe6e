"""`frozen:X.pb`, and what `savedmodel:` becomes: a GraphDef whose weights are constants, read as a Network."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import graph_pb2

from pipeline.errors import UnknownLayer, UnknownName, UnusableModel, WrongSpec, one_line
from pipeline.models.graphs.graphdef import Operations, canonical, channels_first, owner, read_graph, short, unbatched
from pipeline.models.graphs.inlining import FLOW, folded, inlined, register_functions
from pipeline.models.graphs.op_safety import check_operations
from pipeline.models.graphs.placeholders import Shape, cut, find_image, look, settled
from pipeline.models.kernels import convolution_of, evaluated, of_operation, taken_by
from pipeline.models.layout import check_device, image_layout
from pipeline.models.network import LOGITS, Kernel, LayerInfo
from pipeline.models.preprocessing import check_mode, prepare
from pipeline.spec.model import ModelSpec

# What may stand between a softmax and the end of a network without changing which number belongs to which class.
_TRANSPARENT = ("Identity", "Cast", "Reshape", "Squeeze", "StopGradient", "Snapshot")
_SOFTMAX = ("Softmax", "LogSoftmax")

_ARITHMETIC = ("Add", "AddV2", "Sub", "Mul", "RealDiv", "Div", "BiasAdd")

_BATCH = 5  # images for which shapes are worked out: a length that hardly any other axis has


def open_frozen(path: str, spec: ModelSpec) -> FrozenNetwork:
    """Read a frozen GraphDef, of TF1 or TF2. Raises: MissingInput, UnusableModel, WrongSpec, UnknownName."""
    where = Path(path)
    return FrozenNetwork(read_graph(where), where.stem, str(where), spec)


class FrozenNetwork:
    """A graph without variables, cut to what an image can change in it."""

    def __init__(self, graph: graph_pb2.GraphDef, name: str, where: str, spec: ModelSpec) -> None:
        """Check a graph, settle its other inputs, and work out what its tensors are; the graph is not changed.

        Args:
            where: what errors call it.
            spec: tells the image, the other inputs' values, the logits, the size and the preprocessing.

        Raises: UnusableModel, WrongSpec, UnknownName.
        """
        idle = sorted({"weights", "top", "trusted", "custom"} & spec.model_fields_set)
        if idle:
            raise WrongSpec(f"model.{idle[0]} is for other kinds of networks; {where} brings all it has. Leave it out.")
        check_operations(graph, where)
        self.name, self._where = name, where
        operations = Operations.of(graph, where)
        image = find_image(operations, spec, where)
        self._dtype, own_shape = look(operations, image, where)
        operations = cut(folded(inlined(settled(operations, spec, image, where), where)), image, where)
        own_shape = _with_channels(operations, image, self._dtype, own_shape)
        self._layout, self.input_shape = image_layout(own_shape, f"{where} at {short(image)!r}", spec.size)
        check_mode(spec.preprocess, self.input_shape[2], self._with_hint(operations, image))
        self._preprocessing = spec.preprocess
        if own_shape[0] is not None:
            fixed = (own_shape[0], *self._layout.shape(*self.input_shape))
            operations = unbatched(operations, image, own_shape[0], _static(operations, image, self._dtype, fixed, where))
        self._operations, self._image = operations, image
        self._has_flow = any(node.op in FLOW for node in operations.nodes.values())
        register_functions(operations)
        self._tensors = self._find_tensors()
        self._named_logits = self._check_named(spec.logits)
        check_device(self, self._channels_first(), where)

    def layers(self) -> list[LayerInfo]:
        """The float tensors that images change, of one map or one vector an image, in forward order.

        They are called as their operations, `op`, and `op:1` where one gives several; the kind is the operation's type.
        """
        return [
            LayerInfo(_layer_name(tensor), self._operations.nodes[owner(tensor)].op, found.shape)
            for tensor, found in self._tensors.items()
        ]

    def digest(self) -> str:
        """16 hexadecimal digits of the graph, its inputs and the preprocessing."""
        told = [self.input_shape, self._preprocessing, self._image, self._named_logits]
        digest = hashlib.sha256(json.dumps(told).encode())
        nodes = self._operations.nodes
        for part in (*(nodes[name] for name in sorted(nodes)), self._operations.library):
            digest.update(part.SerializeToString(deterministic=True))
        return digest.hexdigest()[:16]

    def preprocess(self, images: tf.Tensor) -> tf.Tensor:
        """RGB pixels, uint8 or float in 0..255, (batch, h, w, 3) -> float32 (batch, h, w, 3, or 1 for a grey network)."""
        return prepare(images, self._preprocessing, self.input_shape[2])

    @tf.autograph.experimental.do_not_convert  # what calls it may be converted, and Python alone is at work here
    def trace(self, images: tf.Tensor, layers: Sequence[str]) -> dict[str, tf.Tensor]:
        """The layers' outputs for preprocessed images; only what they need is imported into the caller's graph.

        Gradients flow, and follow the overrides of the caller's graph (`gradient_override_map`).

        Returns: {layer: float32 (batch, h, w, c)}; a layer without a map as (batch, 1, 1, units); "logits" as
        (batch, classes), before any softmax.

        Raises: UnknownLayer; WrongSpec or UnusableModel, for logits that are not one tensor.
        """
        if tf.executing_eagerly():
            return dict(tf.function(lambda images: self.trace(images, layers), autograph=False)(images))
        tensors = {name: self._logits() if name == LOGITS else self._tensor(name) for name in layers}
        wanted = list(dict.fromkeys(tensors.values()))
        part = self._operations.part(self._operations.ancestors(wanted, self._image)).graph()

        def read(fed: tf.Tensor) -> list[tf.Tensor]:
            return tf.graph_util.import_graph_def(part, {self._image: fed}, wanted, name="network")

        fed = self._layout.feed(tf.cast(images, self._dtype))
        if self._has_flow:  # TF1's loops bear none of the order that tf.function gives to what it traces
            read = tf.compat.v1.wrap_function(read, [tf.TensorSpec(fed.shape, fed.dtype)])
        found = read(fed)
        values = {tensor: tf.cast(value, tf.float32) for tensor, value in zip(wanted, found, strict=True)}
        return {name: self._shaped(values[tensor], tensor, name == LOGITS) for name, tensor in tensors.items()}

    def feeds(self, layer: str) -> tuple[str, ...]:
        """The layers that a layer is made from, the nearest on each way back; none where only the image is on the way.

        Raises: UnknownLayer; WrongSpec or UnusableModel, for logits that are not one tensor.
        """
        nodes = self._operations.nodes
        queue = [self._logits()] if layer == LOGITS else taken_by(nodes[owner(self._tensor(layer))])
        found: dict[str, None] = {}
        for ref in queue:
            if ref in self._tensors:
                found[_layer_name(ref)] = None
            elif ref != self._image:
                queue += [further for further in taken_by(nodes[owner(ref)]) if further not in queue]
        return tuple(found)

    def convolutions(self) -> list[str]:
        """The layers that have a learned kernel, whatever constants it is worked out from, in forward order."""
        changing = set(self._operations.dependents(self._image))
        return [_layer_name(tensor) for tensor in self._tensors if convolution_of(self._operations, owner(tensor), changing)]

    def kernels(self, layers: Sequence[str]) -> dict[str, tuple[Kernel, ...]]:
        """The learned kernels of those of the layers that are convolutions. Raises: UnknownLayer."""
        changing = set(self._operations.dependents(self._image))
        tensors = {name: self._tensor(name) for name in layers if name != LOGITS}
        found = {name: convolution_of(self._operations, owner(tensor), changing) for name, tensor in tensors.items()}
        nodes = {name: node for name, node in found.items() if node is not None}
        channels = {tensor: found.shape[2] for tensor, found in self._tensors.items()} | {self._image: self.input_shape[2]}
        weights = evaluated(self._operations, [node.input[1] for node in nodes.values()])
        return {name: (of_operation(self._operations, node, weights[node.input[1]], channels),) for name, node in nodes.items()}

    def _shaped(self, value: tf.Tensor, tensor: str, flat: bool) -> tf.Tensor:
        found = self._tensors[tensor]
        if flat:
            return tf.reshape(value, (-1, found.shape[2]))
        value = self._layout.maps(value) if found.is_map else value[:, tf.newaxis, tf.newaxis, :]
        return tf.ensure_shape(value, (None, *found.shape))

    def _tensor(self, name: str) -> str:
        tensor = canonical(name)
        if tensor not in self._tensors:
            known = [layer.name for layer in self.layers()]
            raise UnknownLayer.among(name, known, where=f"in {self.name}", hint="List them: convscope layers SPEC")
        return tensor

    # ---- logits

    def _logits(self) -> str:
        """The tensor that was named, or the one that the graph ends in, before any softmax."""
        if self._named_logits:
            return self._named_logits
        ends = self._ends()
        found = list(dict.fromkeys(tensor for tensor in map(self._before_softmax, ends) if self._is_vector(tensor)))
        if len(found) == 1:
            return found[0]
        if found:
            raise WrongSpec(
                f"{self._where} ends in several tensors that may be the logits: {', '.join(map(short, found))}. "
                f'Name one: model.logits = "{found[0]}".'
            )
        raise UnusableModel(
            f"{self._where} has no logits: it ends in {', '.join(map(short, ends)) or 'nothing'}, not in one number a class. "
            'Name them, if they are there: model.logits = "op:0".'
        )

    def _check_named(self, named: str | None) -> str | None:
        if named is None:
            return None
        vectors = [tensor for tensor in self._tensors if self._is_vector(tensor)]
        if canonical(named) not in vectors:
            raise UnknownName.among(
                named, map(short, vectors), where=f"a tensor of {self._where} with one number a class (model.logits)"
            )
        return self._before_softmax(canonical(named))

    def _is_vector(self, tensor: str) -> bool:
        return tensor in self._tensors and self._tensors[tensor].shape[:2] == (1, 1)

    def _ends(self) -> list[str]:
        """The tensors that no other tensor is made from; what turns them into whole numbers, such as ArgMax, is passed over."""
        nodes = self._operations.nodes
        taken = {ref for name in self._makers for ref in nodes[name].input}
        return [tensor for tensor in self._tensors if tensor not in taken]

    def _before_softmax(self, tensor: str) -> str:
        nodes, found = self._operations.nodes, tensor
        while owner(found) in nodes and nodes[owner(found)].op in _TRANSPARENT:
            found = nodes[owner(found)].input[0]
        node = nodes.get(owner(found))
        return node.input[0] if node is not None and node.op in _SOFTMAX else tensor

    # ---- tensors

    def _find_tensors(self) -> dict[str, _Tensor]:
        """The float tensors that images change, of one map or one vector an image, by name."""
        operations, fed = self._operations, (_BATCH, *self._layout.shape(*self.input_shape))
        plain = _outside_of_flow(operations, self._image)
        shapes = _static(operations, self._image, self._dtype, fed, self._where, plain)
        self._makers = {owner(tensor) for tensor in shapes}
        found = {}
        for tensor, shape in shapes.items():
            if owner(tensor) in plain and len(shape) in (2, 4) and shape[0] == _BATCH and None not in shape:
                sizes = self._layout.sizes(shape[1:]) if len(shape) == 4 else (1, 1, shape[1])
                found[tensor] = _Tensor((int(sizes[0] or 0), int(sizes[1] or 0), int(sizes[2] or 0)), len(shape) == 4)
        return found

    def _channels_first(self) -> list[str]:
        """The layers whose operations are told that channels come first."""
        nodes = self._operations.nodes
        return [tensor for tensor in self._tensors if channels_first(nodes[owner(tensor)])]

    def _with_hint(self, operations: Operations, image: str) -> str:
        """How errors about the preprocessing call the graph: with a word where it seems to do its own."""
        first = [operations.nodes[name] for name in operations.consumers().get(image, [])]
        if len(first) == 1 and first[0].op in _ARITHMETIC:
            return f'{self._where} (it begins with {first[0].op} {first[0].name!r}: perhaps "none")'
        return self._where


@dataclass(frozen=True)
class _Tensor:
    """What a tensor holds for one image: (height, width, channels), and whether it is a map at all."""

    shape: tuple[int, int, int]
    is_map: bool


def _layer_name(tensor: str) -> str:
    # The name "logits" is taken, by what is not always this tensor.
    return tensor if short(tensor) == LOGITS else short(tensor)


def _with_channels(operations: Operations, image: str, dtype: tf.DType, shape: Shape | None) -> Shape:
    """The shape of a graph's image; where the channels are open, the number that its operations accept: 3, or else 1."""
    shape = shape or (None, None, None, None)
    if len(shape) != 4 or shape[3] is not None or shape[1] in (1, 3):
        return shape
    first = any(channels_first(node) for node in operations.nodes.values())
    for channels in (3, 1):
        tried = (shape[0], channels, *shape[2:]) if first else (*shape[:3], channels)
        try:
            _static(operations, image, dtype, tried, "")
        except UnusableModel:
            continue
        return tried
    return shape


def _static(
    operations: Operations, image: str, dtype: tf.DType, fed: Shape, where: str, run: Sequence[str] = ()
) -> dict[str, Shape]:
    """The shapes of the float tensors that images change, for images of one shape.

    Args:
        run: operations whose shapes are found by running them once, where they cannot be told otherwise; what is
            not among them and is not told is left out.

    Raises: UnusableModel, for a graph that does not accept such images.
    """
    with tf.Graph().as_default() as graph:
        images = tf.compat.v1.placeholder(dtype, fed)
        names = operations.dependents(image)
        try:
            found = tf.graph_util.import_graph_def(operations.graph(), {image: images}, names, name="network")
        except ValueError as error:
            raise UnusableModel(
                f"{where} does not accept images of shape {tuple(fed)} at {short(image)!r} ({one_line(error)}). "
                "Set another model.size, or freeze the graph for batches of any length."
            ) from None
        outputs = {
            f"{name}:{index}": output
            for name, operation in zip(names, found, strict=True)
            for index, output in enumerate(operation.outputs)
            if output.dtype.is_floating
        }
        open_ = {
            tensor: tf.shape(output)
            for tensor, output in outputs.items()
            if owner(tensor) in run and (output.shape.rank is None or (output.shape.rank in (2, 4) and None in output.shape))
        }
        told: dict[str, np.ndarray] = {}
        if open_:
            with tf.compat.v1.Session(graph=graph) as session:
                try:
                    told = session.run(open_, {images: np.random.default_rng(0).standard_normal([size or 1 for size in fed])})
                except tf.errors.OpError as error:
                    reason = one_line(Exception(error.message))
                    raise UnusableModel(f"{where} cannot be run on images of shape {tuple(fed)}: {reason}.") from None
    shapes = {tensor: tuple(output.shape) for tensor, output in outputs.items() if output.shape.rank is not None}
    return shapes | {tensor: tuple(int(size) for size in shape) for tensor, shape in told.items()}


def _outside_of_flow(operations: Operations, image: str) -> list[str]:
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
