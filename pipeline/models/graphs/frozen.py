"""`frozen:X.pb`, and what `savedmodel:` becomes: the reader of a GraphDef whose weights are constants."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import graph_pb2

from pipeline.errors import UnusableModel
from pipeline.models.ending import Ending, Step, ending_of
from pipeline.models.graphs.constants import check_constants
from pipeline.models.graphs.graph_stem import infer_from_graph
from pipeline.models.graphs.graphdef import Operations, canonical, channels_first, one_number, owner, read_graph, short, unbatched
from pipeline.models.graphs.grouped_convolutions import without_groups
from pipeline.models.graphs.inlining import FLOW, folded, inlined, register_functions
from pipeline.models.graphs.kernels import convolution_of, evaluated, kernel_of
from pipeline.models.graphs.op_safety import check_harmless, check_operations
from pipeline.models.graphs.placeholders import cut, find_image, look, settled
from pipeline.models.graphs.shapes import GraphInput, outside_of_flow, static_shapes, with_channels
from pipeline.models.head import OutputSpec
from pipeline.models.image_network import ImageNetwork
from pipeline.models.layout import image_layout
from pipeline.models.network import (
    LOGITS,
    SHAPES_ALONE,
    Kernel,
    LayerInfo,
    Setting,
    TokenTensor,
    UnreadableLayer,
    nearest_layers,
    shape_problem,
    unreadable,
)
from pipeline.models.other_inputs import IMAGE, Given
from pipeline.models.output import End
from pipeline.spec.model import ModelSpec

_AFTER_KERNEL = ("BiasAdd", "Squeeze", "StridedSlice", "Pad")  # what may stand behind a kernel within one node

_BATCH = 5  # images for which shapes are worked out: a length that hardly any other axis has
_RANDOM = ("Random", "TruncatedNormal", "Multinomial")  # in the types of operations that draw


def open_frozen(path: str, spec: ModelSpec) -> ImageNetwork:
    """Read a frozen GraphDef, of TF1 or TF2. Raises: MissingInput, UnusableModel, WrongSpec, UnknownName."""
    file = Path(path)
    return graph_network(read_graph(file), file.stem, str(file), spec)


def graph_network(graph: graph_pb2.GraphDef, name: str, where: str, spec: ModelSpec) -> ImageNetwork:
    """A frozen graph read as a Network; the graph is not changed.

    Args:
        where: what errors call it.
        spec: tells the image, the other inputs' values, the logits, the size and the preprocessing.

    Raises: UnusableModel, WrongSpec, UnknownName.
    """
    reader = GraphReader(graph, where, spec)
    mode: str | Setting = spec.preprocess
    if mode == "auto" and "int" not in reader.takes:
        mode = reader.infer_preprocessing(where)
    return ImageNetwork(reader, name, mode, OutputSpec.of(spec), where)


@dataclass(frozen=True)
class _Tensor:
    """A layer of a graph: the name of its tensor, its sizes behind the batch, and what it holds for an image."""

    name: str
    sizes: tuple[int | None, ...]
    shape: tuple[int, int, int] = (0, 0, 0)


@dataclass(frozen=True)
class GraphOrigin:
    """The network in another format that a graph was translated from.

    layers: {tensor: the name and the kind of a layer}; other tensors are no layers.
    ends: the tensors that the network ends in.
    hint: as for `pipeline.models.reader.Reader`.
    """

    layers: Mapping[str, tuple[str, str]]
    ends: Sequence[str]
    hint: str = ""


class GraphReader:
    """Reads a graph without variables, cut to what an image can change in it.

    Its layers are the float tensors that images change, of one map or one vector an image. They are called as their
    operations, `op`, and `op:1` where one gives several; the kind is the operation's type.
    """

    def __init__(self, graph: graph_pb2.GraphDef, where: str, spec: ModelSpec, origin: GraphOrigin | None = None) -> None:
        """Check a graph, settle its other inputs, and work out what its tensors are. Arguments, errors: as `graph_network`.

        Args:
            origin: what the graph was translated from, if from anything.
        """
        self._origin, self._where, self._allow = origin, where, tuple(spec.allow)
        check_harmless(graph, where)
        operations = Operations.of(graph, where)
        image = find_image(operations, spec, where)
        self._dtype, own_shape = look(operations, image, where)
        self.takes = self._dtype.name
        entry = operations.nodes[owner(image)]
        if entry.op == "Cast" and canonical(str(spec.inputs.get(IMAGE, ""))) != image:  # whole numbers are fed
            self.takes = tf.as_dtype(entry.attr["SrcT"].type).name
        operations, given = settled(operations, spec, image, where)
        operations = cut(folded(inlined(operations, where)), image, given, where)
        self.given: Mapping[str, Given] = {name: value for name, value in given.items() if name in operations.nodes}
        check_operations(operations, where, spec.allow)
        check_constants(operations, where)
        own_shape = with_channels(operations, image, self._dtype, own_shape)
        self.layout, self.input_shape = image_layout(own_shape, f"{where} at {short(image)!r}", spec.size)
        self.hint = origin.hint if origin else ""
        if own_shape[0] is not None:
            fixed = GraphInput(image, self._dtype, (own_shape[0], *self.layout.shape(*self.input_shape)))
            operations = unbatched(operations, image, own_shape[0], static_shapes(operations, fixed, where).floats)
        self._operations, self._image = operations, image
        self._has_flow = any(node.op in FLOW for node in operations.nodes.values())
        register_functions(operations)
        self._tensors = self._find_tensors(where)
        self._names = {tensor.name: name for name, tensor in [*self._rows.items(), *self._tensors.items()]}
        self._check_repeatable(where)

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_dtype": self._dtype.name}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take what another process has read, once its operations are judged here too. Raises: UnusableModel."""
        self.__dict__ |= state | {"_dtype": tf.as_dtype(state["_dtype"])}
        check_operations(self._operations, self._where, self._allow)
        register_functions(self._operations)

    def infer_preprocessing(self, where: str) -> Setting:
        """What the graph's own first steps leave to do. Raises: WrongSpec, where that cannot be told."""
        return infer_from_graph(self, self._operations, self._image, self._names, where)

    def survey(self) -> Sequence[LayerInfo | UnreadableLayer]:
        return self._survey

    def channels_first(self) -> Sequence[str]:
        nodes = self._operations.nodes
        return [name for name, tensor in self._tensors.items() if channels_first(nodes[owner(tensor.name)])]

    def read(
        self, images: tf.Tensor, names: Sequence[str], others: Mapping[str, tf.Tensor] | None = None
    ) -> Mapping[str, tf.Tensor]:
        tensors = [self._tensors.get(name) or self._rows[name] for name in names]
        names_in_graph = [tensor.name for tensor in tensors]
        needed = self._operations.ancestors(names_in_graph, self._image)
        part = without_groups(self._operations.part(needed - self.given.keys()).graph(), self._groups)
        fed = {self._image: tf.cast(images, self._dtype)}
        fed |= {f"{name}:0": self._value(name, images, others) for name in self.given if name in needed}

        def imported(*tensors_fed: tf.Tensor) -> list[tf.Tensor]:
            return tf.graph_util.import_graph_def(part, dict(zip(fed, tensors_fed, strict=True)), names_in_graph, name="network")

        if self._has_flow:  # TF1's loops bear none of the order that tf.function gives to what it traces
            imported = tf.compat.v1.wrap_function(
                imported, [tf.TensorSpec(placeholder.shape, placeholder.dtype) for placeholder in fed.values()]
            )
        outputs = imported(*fed.values())
        return {name: _of_known_shape(*pair) for name, pair in zip(names, zip(outputs, tensors, strict=True), strict=True)}

    def ends(self) -> Sequence[End]:
        nodes = self._operations.nodes
        taken = {ref for name in self._makers for ref in nodes[name].input}
        if self._origin is not None:
            taken = {tensor.name for tensor in (*self._tensors.values(), *self._rows.values())} - set(self._origin.ends)
        # What turns the last tensors into whole numbers, such as ArgMax, is no maker, and passed over.
        names = [name for name, tensor in self._tensors.items() if tensor.name not in taken]
        shapes = {name: self._tensors[name].shape for name in names}
        ends = [
            End(name, channels, size != [1, 1], size=None if size == [1, 1] else (size[0], size[1]))
            for name, (*size, channels) in shapes.items()
        ]
        rows = {name: tensor.sizes for name, tensor in self._rows.items() if tensor.name not in taken and len(tensor.sizes) == 2}
        return ends + [End(name, None, rows=(size[0] or 0, size[1] or 0)) for name, size in rows.items()]

    def ending(self, layer: str) -> Ending[str] | None:
        ending = ending_of(self._tensors[layer].name, self._step)
        evidence = self._names.get(ending.evidence)
        return None if evidence is None else replace(ending, evidence=evidence)

    def sources(self, name: str) -> tuple[str, ...]:
        return nearest_layers(
            self._inputs_of((self._tensors.get(name) or self._rows[name]).name), self._inputs_of, self._names.get
        )

    def convolutions(self) -> list[str]:
        changing = set(self._operations.dependents(self._image))
        return [name for name in self._tensors if convolution_of(self._operations, self._kernel_at(name), changing)]

    def _kernel_at(self, name: str) -> str:
        """The operation in which a layer's learned kernel is, if it has one."""
        operation = owner(self._tensors[name].name)
        if self._origin is not None:  # a node became several operations, with the kernel before the last of them
            scope = operation.rpartition("/")[0]
            for _ in _AFTER_KERNEL:
                node = self._operations.nodes[operation]
                if node.op not in _AFTER_KERNEL or not owner(node.input[0]).startswith(f"{scope}/"):
                    break
                operation = owner(node.input[0])
        return operation

    def kernels(self, layers: Sequence[str]) -> dict[str, tuple[Kernel, ...]]:
        changing = set(self._operations.dependents(self._image))
        candidates = {name: convolution_of(self._operations, self._kernel_at(name), changing) for name in layers}
        nodes = {name: node for name, node in candidates.items() if node is not None}
        channels = {tensor.name: tensor.shape[2] for tensor in self._tensors.values()} | {self._image: self.input_shape[2]}
        weights = evaluated(self._operations, [node.input[1] for node in nodes.values()])
        return {name: (kernel_of(self._operations, node, weights[node.input[1]], channels),) for name, node in nodes.items()}

    def identity(self, logits: str | None) -> list[Any]:
        return [self._image, None if logits is None else self._tensors[logits].name]

    def contents(self) -> Iterator[bytes]:
        nodes = self._operations.nodes
        for part in (*(nodes[name] for name in sorted(nodes)), self._operations.library):
            yield part.SerializeToString(deterministic=True)

    def _check_repeatable(self, where: str) -> None:
        """Refuse a graph that gives random numbers, such as those of Dropout that was left on. Raises: UnusableModel."""
        draws = [name for name, node in self._operations.nodes.items() if any(word in node.op for word in _RANDOM)]
        ends = [end.name for end in self.ends() if self._sees_image(end.name, draws)] if draws else []
        if not ends:
            return
        shape = (2, *(size or 1 for size in self.layout.shape(*self.input_shape)))
        image = tf.constant(np.random.default_rng(0).integers(0, 256, shape), tf.float32)
        run = tf.function(lambda images: dict(self.read(images, ends)), autograph=False)
        first, again = run(image), run(image)
        pairs = [(np.nan_to_num(first[end]), np.nan_to_num(again[end])) for end in ends]
        if any(
            not np.allclose(values, repeated, rtol=1e-4, atol=1e-5 * np.abs(values).max(initial=0)) for values, repeated in pairs
        ):
            raise UnusableModel(
                f"{where} draws random numbers for every image, at {draws[0]!r}, so that no answer would come twice: its "
                "Dropout or noise was left on. Export it in inference mode: training=False."
            )

    def _sees_image(self, end: str, draws: Collection[str]) -> bool:
        """Whether the values of an image reach an end, and not its size alone, as that of Dropout's noise does."""
        tensors = [self._tensors[end].name if end in self._tensors else self._rows[end].name]
        for tensor in tensors:
            node = self._operations.nodes.get(owner(tensor))
            if node is not None and node.name not in draws and node.op not in SHAPES_ALONE:
                tensors += [ref for ref in node.input if ref not in tensors]
        return self._image in tensors

    def _value(self, name: str, images: tf.Tensor, others: Mapping[str, tf.Tensor] | None) -> tf.Tensor:
        """What another input is given; zeros where nothing is said."""
        placeholder = self.given[name].input
        batch = images.shape[0] or tf.shape(images)[0]
        shape = (batch, *(size or 1 for size in placeholder.shape))
        return tf.zeros(shape, placeholder.dtype) if others is None else tf.cast(others[name], placeholder.dtype)

    def _step(self, tensor: str) -> Step[str] | None:
        node = self._operations.nodes.get(owner(tensor))
        return None if node is None else Step(node.op, [ref for ref in node.input if ref[0] != "^"], one_number(node))

    def _inputs_of(self, tensor: str) -> list[str]:
        """The tensors whose values the operation of a tensor takes; none before the image."""
        node = self._operations.nodes.get(owner(tensor))
        if tensor == self._image or node is None or node.op in SHAPES_ALONE:
            return []
        return [ref for ref in node.input if not ref.startswith("^")]

    def _find_tensors(self, where: str) -> dict[str, _Tensor]:
        """The layers by name, in forward order; what the others are goes into the survey."""
        operations = self._operations
        image_input = GraphInput(self._image, self._dtype, (_BATCH, *self.layout.shape(*self.input_shape)))
        plain = set(outside_of_flow(operations, self._image))
        shapes, types, self._groups = static_shapes(operations, image_input, where, list(plain))
        self._makers = {owner(tensor) for tensor in shapes}
        self._survey: list[LayerInfo | UnreadableLayer] = []
        self._rows: dict[str, _Tensor] = {}  # of which each image has several
        tensors = {}
        for tensor, dtype in types.items():
            name, kind = short(tensor), operations.nodes[owner(tensor)].op
            if self._origin is not None:
                if tensor not in self._origin.layers:
                    continue
                name, kind = self._origin.layers[tensor]
            name = f"{name}:0" if name == LOGITS else name  # which is taken
            shape = shapes.get(tensor)
            problem = _problem(kind, shape, dtype, owner(tensor) in plain)
            if problem:
                self._survey.append(unreadable(name, kind, problem, shape or (), dtype.name if owner(tensor) in plain else ""))
                if isinstance(self._survey[-1], TokenTensor) and shape is not None:
                    self._rows[name] = _Tensor(tensor, tuple(shape[1:]))
                continue
            assert shape is not None
            height, width, channels = self.layout.sizes(shape[1:]) if len(shape) == 4 else (1, 1, shape[1])
            tensors[name] = _Tensor(tensor, tuple(shape[1:]), (int(height or 0), int(width or 0), int(channels or 0)))
            self._survey.append(LayerInfo(name, kind, tensors[name].shape))
        return tensors


def _of_known_shape(output: tf.Tensor, tensor: _Tensor) -> tf.Tensor:
    if output.shape.rank is not None and output.shape[1:].is_fully_defined():
        return output
    return tf.ensure_shape(output, (None, *tensor.sizes))


def _problem(kind: str, shape: Sequence[int | None] | None, dtype: tf.DType, is_plain: bool) -> str | None:
    """Why a tensor is no layer to look at; None where it is one."""
    if not is_plain:
        return "inside a loop or a branch that images decide"
    if shape is None and dtype.is_floating:
        return "its number of axes is not known"
    problem = shape_problem(kind, shape or (), dtype.name)
    if problem is None and shape is not None and shape[0] != _BATCH:
        return f"gives {shape[0]} rows for {_BATCH} images"
    return problem
