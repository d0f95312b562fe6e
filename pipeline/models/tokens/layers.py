"""TokenLayers: a network's layers with tokens turned into maps, and how each map is computed from the tensors it comes from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import tensorflow as tf

from pipeline.errors import WrongSpec
from pipeline.models.layout import Layout
from pipeline.models.network import ASKED, LayerInfo, Setting, TokenTensor, UnreadableLayer
from pipeline.models.tokens.following import AS_ASKED, Follower
from pipeline.models.tokens.placing import Placement, placements
from pipeline.models.tokens.positions import EXTRA, Positions, is_map_like
from pipeline.spec.model import TokensSpec

_IMAGES = 2  # are followed: with a single image, the axis of images would look like any other of length 1
EXTRA_TOKENS, HEADS = "#tokens", "#heads"
_REARRANGING = frozenset(  # kinds of layers, in all families of networks, after which four axes need be no map
    ("Reshape", "Transpose", "Permute", "MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3", "Einsum", "Dot", "Softmax")
)


class TokenReader(Protocol):
    """The part of `pipeline.models.reader.Reader` that this module needs."""

    layout: Layout
    input_shape: tuple[int, int, int]

    def survey(self) -> Sequence[LayerInfo | UnreadableLayer]:
        """All layers in the order of the forward pass."""

    def read(
        self, images: tf.Tensor, names: Sequence[str], others: Mapping[str, tf.Tensor] | None = None
    ) -> Mapping[str, tf.Tensor]:
        """The outputs of layers, including those that the survey lists as TokenTensor."""


@dataclass(frozen=True)
class TokenView:
    """How a layer's map is computed: `make` of the tensor that the reader reads for the layer `source`."""

    source: str
    make: Callable[[tf.Tensor], tf.Tensor]


@dataclass(frozen=True)
class TokenLayers:
    """A network's layers.

    survey: all layers in forward order. views: for layers whose maps are not what the reader reads. setting: the grids inferred.
    """

    survey: Sequence[LayerInfo | UnreadableLayer]
    views: Mapping[str, TokenView] = field(default_factory=dict)
    setting: Setting | None = None

    def source(self, layer: str) -> str:
        """The layer whose tensor the reader reads for a layer."""
        return self.views[layer].source if layer in self.views else layer


def token_layers(reader: TokenReader, spec: TokensSpec | None, where: str) -> TokenLayers:
    """Turn a network's layers of tokens into layers with maps, by following the image through a trace; the network is not run.

    Args:
        reader: of the network.
        spec: `model.tokens`, or None.
        where: the network's name, for errors.

    Raises: WrongSpec, if no layer has as many tokens as the spec's grid, or the graph shows another grid.
    """
    survey = list(reader.survey())
    no_tokens = f"model.tokens says how tokens lie on the image, but {where} has no layer of tokens. Leave it out."
    if not any(isinstance(layer, TokenTensor) or _may_hold_tokens(layer) for layer in survey):
        if spec is not None:
            raise WrongSpec(no_tokens)
        return TokenLayers(survey)
    names = [
        tensor.name
        for tensor in survey
        if isinstance(tensor, TokenTensor) or (isinstance(tensor, LayerInfo) and tensor.shape[:2] != (1, 1))
    ]
    traces: list[_Trace] = []

    def trace(images: tf.Tensor) -> None:
        tensors = reader.read(tf.identity(images), names)
        grids = {} if spec is None else {spec.count: spec.grid}
        follower = Follower(images.graph, images, reader.layout.spatial, grids)
        traces.append(_Trace(follower, tensors, reader.layout.spatial, is_alone=not getattr(reader, "given", None)))

    image = tf.TensorSpec((_IMAGES, *reader.layout.shape(*reader.input_shape)), tf.float32)
    tf.function(trace, autograph=False).get_concrete_function(image)
    layers = traces[0].layers(survey)
    if spec is not None and traces[0].follower.contradictions:
        (rows, columns), operation = next(iter(traces[0].follower.contradictions.items()))
        raise WrongSpec(
            f"model.tokens says that {spec.count} tokens are {spec.grid[0]} x {spec.grid[1]} and {spec.extra} extra, but at "
            f"{operation!r} the graph of {where} makes them from {rows} x {columns} parts of the image. Leave model.tokens out."
        )
    if spec is not None and not any(root == AS_ASKED for _, root in traces[0].used):
        counts = sorted(
            {int(layer.shape[1] or 0) for layer in survey if isinstance(layer, TokenTensor) and len(layer.shape) == 3}
        )
        if not counts and layers.setting is None:
            raise WrongSpec(no_tokens)
        advice = f"have {', '.join(map(str, counts))}. Write a grid that fits one of these numbers."
        if layers.setting is not None:
            advice = f"have others, and their graph shows the grids: {layers.setting.value}. Leave model.tokens out."
        raise WrongSpec(
            f"model.tokens = {spec.grid[0]} x {spec.grid[1]} and {spec.extra} extra are {spec.count} tokens, but the layers of "
            f"{where} {advice}"
        )
    return layers


def _may_hold_tokens(layer: LayerInfo | UnreadableLayer) -> bool:
    """Whether a tensor of four axes may be something other than a map, such as (batch, heads, width, tokens) of attention."""
    return isinstance(layer, LayerInfo) and layer.shape[:2] != (1, 1) and layer.kind in _REARRANGING


class _Trace:
    """A traced network: its layers' tensors, their positions, and what has been listed so far."""

    def __init__(
        self, follower: Follower, tensors: Mapping[str, tf.Tensor], spatial: tuple[int, int], is_alone: bool = True
    ) -> None:
        self.follower, self.tensors, self.spatial = follower, tensors, spatial
        self.is_alone = is_alone  # whether the images are the network's only input
        self.used: list[tuple[tuple[int, int], str]] = []  # grids, and the operation that divided the image into each
        self.views: dict[str, TokenView] = {}
        self.extra = 0  # the most extra tokens of any layer
        self.attended: set[str] = set()  # operations of attention whose heads are listed already
        graph = next(iter(tensors.values())).graph
        self.order = {operation.name: number for number, operation in enumerate(graph.get_operations())}
        self.listed = sorted(((self.order[tensor.op.name], name) for name, tensor in tensors.items()), key=lambda item: item[0])

    def layers(self, survey: Sequence[LayerInfo | UnreadableLayer]) -> TokenLayers:
        heads = self._attention(survey)
        every = [described for layer in survey for described in [*self._described(layer), *heads.get(layer.name, [])]]
        return TokenLayers(every, self.views, self._setting())

    def _described(self, layer: LayerInfo | UnreadableLayer) -> Iterator[LayerInfo | UnreadableLayer]:
        """A layer, followed by its LAYER#tokens and LAYER#heads if it has these."""
        tensor = self.tensors.get(layer.name)
        if self.is_alone and tensor is not None and tensor.op.name not in self.follower.dependent:
            yield UnreadableLayer(layer.name, layer.kind, "the same for every image, such as a learned query or position")
            return
        positions = None if tensor is None else self.follower.known.get(tensor.name)
        if tensor is None or (isinstance(layer, LayerInfo) and (positions is None or self._is_map(positions, tensor))):
            yield layer
            return
        if positions is None or not tensor.shape.is_fully_defined():
            yield layer
            return
        if positions.keys is not None:
            yield UnreadableLayer(
                layer.name, layer.kind, f"attention between tokens: LAYER{HEADS} shows what a softmax of it looks at"
            )
            return
        shape = tuple(tensor.shape)
        placing = placements(positions, shape, self.follower.images)
        main = placing.tokens or placing.extra
        if main is None:
            sizes = " x ".join(map(str, shape[1:]))
            reason = layer.reason if isinstance(layer, UnreadableLayer) else f"{sizes} numbers"
            yield UnreadableLayer(layer.name, layer.kind, f"{reason} ({placing.problem})")
            return
        if placing.tokens:
            self.used.append((main.shape[:2], positions.root))
        self._add(layer.name, layer.name, main)
        yield LayerInfo(layer.name, layer.kind, main.shape, of_tokens=placing.tokens is not None)
        if placing.tokens and placing.extra:
            self.extra = max(self.extra, placing.extra.shape[1])
            self._add(layer.name + EXTRA_TOKENS, layer.name, placing.extra)
            yield LayerInfo(layer.name + EXTRA_TOKENS, layer.kind, placing.extra.shape)
        if positions.heads is not None and placing.tokens and positions.heads[1] not in self.attended:
            self.attended.add(positions.heads[1])
            width_axes = tuple(axis for axis in range(1, len(shape)) if axis not in (*positions.axes, positions.heads[0]))
            norm_shape = [1 if axis in width_axes else size for axis, size in enumerate(shape)]
            norms = placements(positions, norm_shape, self.follower.images).tokens
            assert norms is not None
            self._add(
                layer.name + HEADS,
                layer.name,
                norms,
                lambda vectors: tf.sqrt(tf.reduce_sum(vectors**2, axis=width_axes, keepdims=True)),
            )
            yield LayerInfo(layer.name + HEADS, layer.kind, norms.shape)

    def _is_map(self, positions: Positions, tensor: tf.Tensor) -> bool:
        """Whether a tensor that the reader takes for a map is one, by its positions."""
        images = self.follower.images
        if positions.keys is not None or positions.lost == "mixed" or (positions.area > 1 and (positions.ids == EXTRA).all()):
            return False
        channels = ({1, 2, 3} - set(self.spatial)).pop()
        if tensor.shape.rank == 4 and positions.ids.shape[channels] > 1:
            if max(positions.ids.shape[axis] for axis in self.spatial) == 1 < max(tensor.shape[axis] for axis in self.spatial):
                return False  # the channels' axis holds the tokens, and those of rows and columns hold heads and width
            positions = positions.without(channels, kept=True)
        if positions.lost == "unknown" or tensor.shape.rank != 4 or is_map_like(positions, images, self.spatial):
            return True
        if not positions.on_image and positions.keys is None:
            return True
        of_map = tensor.shape[0] == images and set(positions.axes) <= {0, *self.spatial} and positions.grid[0] > 1
        if of_map and len(positions.axes) == 3:
            return placements(positions, tuple(tensor.shape), images).tokens is None
        return False

    def _add(
        self, name: str, source: str, placement: Placement, before: Callable[[tf.Tensor], tf.Tensor] = lambda tensor: tensor
    ) -> None:
        self.views[name] = TokenView(source, lambda tensor: placement(before(tensor)))

    def _attention(self, survey: Sequence[LayerInfo | UnreadableLayer]) -> dict[str, list[LayerInfo]]:
        """LAYER#heads for every softmax of attention, by the layer that it is listed after."""
        kinds = {layer.name: layer.kind for layer in survey}
        heads: dict[str, list[LayerInfo]] = {}
        for softmax in self.follower.attention:
            owners = [name for position, name in self.listed if position >= self.order[softmax.op.name]][:8]
            owner = next((name for name in owners if softmax_of(self.tensors[name]) is softmax), None)
            outer = None if owner is None else owner.rpartition("/")[0]
            if outer in self.tensors and softmax_of(self.tensors[str(outer)]) is softmax:
                owner = outer
            if owner is None or owner + HEADS in self.views:
                continue
            view = attention_view(softmax, self.follower)
            if view is not None:
                placement, make = view
                self.views[owner + HEADS] = TokenView(owner, _of_softmax(make))
                heads[owner] = [LayerInfo(owner + HEADS, kinds[owner], placement.shape)]
        return heads

    def _setting(self) -> Setting | None:
        """The grids of tokens, and the layers that they were inferred from."""
        grids = {f"{rows} x {columns}": root for (rows, columns), root in reversed(self.used)}
        if not grids:
            return None
        roots = dict.fromkeys(reversed(grids.values()))
        beside = f"; {self.extra} beside them, kept apart as LAYER{EXTRA_TOKENS}" if self.extra else ""
        value = ", ".join(reversed(grids)) + (f" + {self.extra}" if self.extra else "")
        if list(roots) == [AS_ASKED]:
            return Setting(value, ASKED + beside)
        return Setting(value, f"followed from {', '.join(dict.fromkeys(map(self._root, roots)))}{beside}")

    def _root(self, root: str) -> str:
        """The layer that holds the operation `root`; `root` itself if it is not an operation."""
        position = self.order.get(root)
        return root if position is None else next((repr(name) for other, name in self.listed if other >= position), root)


def softmax_of(tensor: tf.Tensor) -> tf.Tensor | None:
    """The nearest softmax of rank 3 or more among the operations that a tensor depends on, its own included; or None."""
    waiting, seen = [tensor.op], {tensor.op}
    for operation in waiting:
        if operation.type == "Softmax" and (operation.outputs[0].shape.rank or 0) > 2:
            return operation.outputs[0]
        further = [source.op for source in operation.inputs if source.op not in seen]
        seen.update(further)
        waiting += further
    return None


def _of_softmax(make: Callable[[tf.Tensor], tf.Tensor]) -> Callable[[tf.Tensor], tf.Tensor]:
    return lambda tensor: make(softmax_of(tensor))


def attention_view(softmax: tf.Tensor, follower: Follower) -> tuple[Placement, Callable[[tf.Tensor], tf.Tensor]] | None:
    """Maps of what each head looks at, from the first extra token, or the mean over all queries if there is none.

    Returns: the placement of the maps, and the function that computes them from attention (batch, heads, queries, keys). None if
        the axis of the queries cannot be told from the others.
    """
    positions = follower.known[softmax.name]
    assert positions.keys is not None
    shape = list(softmax.shape)
    # A single query, as in class attention, is an axis of length 1, at any position.
    query_axes = [axis for axis in positions.axes if axis] or [axis for axis, size in enumerate(shape) if size == 1 and axis][:1]
    if len(query_axes) != 1 or query_axes[0] in positions.keys.axes:
        return None
    axis = query_axes[0]
    extra = np.flatnonzero((positions.ids == EXTRA).all(axis=tuple(set(range(len(shape))) - {axis})))
    shape[axis] = 1
    placement = placements(positions.keys, shape, follower.images).tokens
    if placement is None:
        return None

    def make(tensor: tf.Tensor) -> tf.Tensor:
        if len(extra):
            begin = [int(extra[0]) if number == axis else 0 for number in range(len(shape))]
            tensor = tf.slice(tensor, begin, [1 if number == axis else -1 for number in range(len(shape))])
        else:
            tensor = tf.reduce_mean(tensor, axis=axis, keepdims=True)
        return placement(tensor)

    return placement, make
