"""TokenLayers: a network's layers once their tokens lie on the image, and how each map is made of what the reader reads."""

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
from pipeline.models.tokens.placing import Placement, placed
from pipeline.models.tokens.positions import EXTRA, Positions, is_map_like
from pipeline.spec.model import TokensSpec

_IMAGES = 2  # whose positions are followed: of one alone, nothing tells the axis of images
EXTRA_TOKENS, HEADS = "#tokens", "#heads"


class TokenReader(Protocol):
    """What tokens need of how a family of networks is read; see `pipeline.models.reader.Reader`."""

    layout: Layout
    input_shape: tuple[int, int, int]

    def survey(self) -> Sequence[LayerInfo | UnreadableLayer]:
        """All layers in the order of the forward pass."""

    def read(
        self, images: tf.Tensor, names: Sequence[str], others: Mapping[str, tf.Tensor] | None = None
    ) -> Mapping[str, tf.Tensor]:
        """The outputs of layers, of those too whose tokens are not placed yet."""


@dataclass(frozen=True)
class TokenView:
    """How a layer's map is made: of which layer's tensor as the reader reads it, and how."""

    source: str
    make: Callable[[tf.Tensor], tf.Tensor]


@dataclass(frozen=True)
class TokenLayers:
    """survey: all layers in forward order. views: of those that are not the reader's own. setting: what was inferred."""

    survey: Sequence[LayerInfo | UnreadableLayer]
    views: Mapping[str, TokenView] = field(default_factory=dict)
    setting: Setting | None = None

    def source(self, layer: str) -> str:
        """The layer whose tensor the reader reads for a layer."""
        return self.views[layer].source if layer in self.views else layer


def token_layers(reader: TokenReader, spec: TokensSpec | None, where: str) -> TokenLayers:
    """Find where the tokens of a network lie, by following the image through a trace of it; nothing is run.

    Args:
        spec: `model.tokens`. where: the network, for the errors.

    Raises: WrongSpec, for a grid that no layer has.
    """
    survey = list(reader.survey())
    if not any(isinstance(layer, TokenTensor) for layer in survey):
        if spec is not None:
            raise WrongSpec(f"model.tokens says how tokens lie on the image, but {where} has no layer of tokens. Leave it out.")
        return TokenLayers(survey)
    names = [
        tensor.name
        for tensor in survey
        if isinstance(tensor, TokenTensor) or (isinstance(tensor, LayerInfo) and tensor.shape[:2] != (1, 1))
    ]
    survey_of: list[_Survey] = []

    def look(images: tf.Tensor) -> None:
        tensors = reader.read(tf.identity(images), names)
        grids = {} if spec is None else {spec.count: spec.grid}
        follower = Follower(images.graph, images, reader.layout.spatial, grids)
        survey_of.append(_Survey(follower, tensors, reader.layout.spatial))

    image = tf.TensorSpec((_IMAGES, *reader.layout.shape(*reader.input_shape)), tf.float32)
    tf.function(look, autograph=False).get_concrete_function(image)
    layers = survey_of[0].layers(survey)
    if spec is not None and not any(root == AS_ASKED for _, root in survey_of[0].used):
        counts = sorted(
            {int(layer.shape[1] or 0) for layer in survey if isinstance(layer, TokenTensor) and len(layer.shape) == 3}
        )
        raise WrongSpec(
            f"model.tokens = {spec.grid[0]} x {spec.grid[1]} and {spec.extra} extra are {spec.count} tokens, but the layers of "
            f"{where} have {', '.join(map(str, counts))}. Write a grid that fits one of these numbers."
        )
    return layers


class _Survey:
    """One look at a traced network."""

    def __init__(self, follower: Follower, tensors: Mapping[str, tf.Tensor], spatial: tuple[int, int]) -> None:
        self.follower, self.tensors, self.spatial = follower, tensors, spatial
        self.used: list[tuple[tuple[int, int], str]] = []  # grids, and by which operation the image was so divided
        self.views: dict[str, TokenView] = {}
        self.extra = 0
        self.attended: set[str] = set()  # the attention whose heads are listed
        graph = next(iter(tensors.values())).graph
        self.order = {operation.name: number for number, operation in enumerate(graph.get_operations())}
        self.listed = sorted(((self.order[tensor.op.name], name) for name, tensor in tensors.items()), key=lambda item: item[0])

    def layers(self, survey: Sequence[LayerInfo | UnreadableLayer]) -> TokenLayers:
        heads = self._attention(survey)
        every = [described for layer in survey for described in [*self._described(layer), *heads.get(layer.name, [])]]
        return TokenLayers(every, self.views, self._setting())

    def _described(self, layer: LayerInfo | UnreadableLayer) -> Iterator[LayerInfo | UnreadableLayer]:
        """A layer, and what is kept apart from it."""
        tensor = self.tensors.get(layer.name)
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
        where = placed(positions, shape, self.follower.images)
        own = where.tokens or where.extra
        if own is None:
            sizes = " x ".join(map(str, shape[1:]))
            reason = layer.reason if isinstance(layer, UnreadableLayer) else f"{sizes} numbers"
            yield UnreadableLayer(layer.name, layer.kind, f"{reason} ({where.problem})")
            return
        if where.tokens:
            self.used.append((own.shape[:2], positions.root))
        self._add(layer.name, layer.name, own)
        yield LayerInfo(layer.name, layer.kind, own.shape, of_tokens=where.tokens is not None)
        if where.tokens and where.extra:
            self.extra = max(self.extra, where.extra.shape[1])
            self._add(layer.name + EXTRA_TOKENS, layer.name, where.extra)
            yield LayerInfo(layer.name + EXTRA_TOKENS, layer.kind, where.extra.shape)
        if positions.heads is not None and where.tokens and positions.heads[1] not in self.attended:
            self.attended.add(positions.heads[1])
            others = tuple(axis for axis in range(1, len(shape)) if axis not in (*positions.axes, positions.heads[0]))
            sizes_ = [1 if axis in others else size for axis, size in enumerate(shape)]
            norms = placed(positions, sizes_, self.follower.images).tokens
            assert norms is not None
            self._add(
                layer.name + HEADS, layer.name, norms, lambda given: tf.sqrt(tf.reduce_sum(given**2, axis=others, keepdims=True))
            )
            yield LayerInfo(layer.name + HEADS, layer.kind, norms.shape)

    def _is_map(self, positions: Positions, tensor: tf.Tensor) -> bool:
        """Whether a layer that has a map for its reader is one."""
        images = self.follower.images
        if positions.keys is not None or (positions.area > 1 and (positions.ids == EXTRA).all()):
            return False
        channels = ({1, 2, 3} - set(self.spatial)).pop()
        if tensor.shape.rank == 4 and positions.ids.shape[channels] > 1:
            if max(positions.ids.shape[axis] for axis in self.spatial) == 1 < max(tensor.shape[axis] for axis in self.spatial):
                return False  # the axis that would be of channels holds the tokens, those of rows and columns heads and width
            positions = positions.without(channels, kept=True)
        if positions.lost == "unknown" or tensor.shape.rank != 4 or is_map_like(positions, images, self.spatial):
            return True
        if positions.lost == "mixed":
            return False
        if not positions.on_image and positions.keys is None:
            return True
        of_map = tensor.shape[0] == images and set(positions.axes) <= {0, *self.spatial} and positions.grid[0] > 1
        if of_map and len(positions.axes) == 3:
            return placed(positions, tuple(tensor.shape), images).tokens is None
        return False

    def _add(
        self, name: str, source: str, placement: Placement, before: Callable[[tf.Tensor], tf.Tensor] = lambda tensor: tensor
    ) -> None:
        self.views[name] = TokenView(source, lambda tensor: placement(before(tensor)))

    def _attention(self, survey: Sequence[LayerInfo | UnreadableLayer]) -> dict[str, list[LayerInfo]]:
        """The maps of what attention looks at, by the layer behind which each is listed."""
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
            made = attention_view(softmax, self.follower)
            if made is not None:
                self.views[owner + HEADS] = TokenView(owner, _of_softmax(made[1]))
                heads[owner] = [LayerInfo(owner + HEADS, kinds[owner], made[0].shape)]
        return heads

    def _setting(self) -> Setting | None:
        """What was inferred, and from what."""
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
        """The layer in which an operation is, by which the image was divided; else what the positions say."""
        position = self.order.get(root)
        return root if position is None else next((repr(name) for other, name in self.listed if other >= position), root)


def softmax_of(tensor: tf.Tensor) -> tf.Tensor | None:
    """The nearest softmax of more than a vector that a tensor is made from, or is."""
    waiting, seen = [tensor.op], {tensor.op}
    for operation in waiting:
        if operation.type == "Softmax" and (operation.outputs[0].shape.rank or 0) > 2:
            return operation.outputs[0]
        further = [given.op for given in operation.inputs if given.op not in seen]
        seen.update(further)
        waiting += further
    return None


def _of_softmax(make: Callable[[tf.Tensor], tf.Tensor]) -> Callable[[tf.Tensor], tf.Tensor]:
    return lambda tensor: make(softmax_of(tensor))


def attention_view(softmax: tf.Tensor, follower: Follower) -> tuple[Placement, Callable[[tf.Tensor], tf.Tensor]] | None:
    """What each head looks at: from the first extra token, or without one on average from all that look.

    Returns: where the maps lie, and what makes them of the attention (batch, heads, those that look, those looked at). None where
        it cannot be told which axis is of those that look.
    """
    positions = follower.known[softmax.name]
    assert positions.keys is not None
    shape, looked = list(softmax.shape), positions.keys.axes
    # A single token that looks, as in class attention, is an axis of length 1, wherever it stands.
    looking = [axis for axis in positions.axes if axis] or [axis for axis, size in enumerate(shape) if size == 1 and axis][:1]
    if len(looking) != 1 or looking[0] in looked:
        return None
    axis = looking[0]
    beside = np.flatnonzero((positions.ids == EXTRA).all(axis=tuple(set(range(len(shape))) - {axis})))
    shape[axis] = 1
    placement = placed(positions.keys, shape, follower.images).tokens
    if placement is None:
        return None

    def make(tensor: tf.Tensor) -> tf.Tensor:
        if len(beside):
            begin = [int(beside[0]) if number == axis else 0 for number in range(len(shape))]
            tensor = tf.slice(tensor, begin, [1 if number == axis else -1 for number in range(len(shape))])
        else:
            tensor = tf.reduce_mean(tensor, axis=axis, keepdims=True)
        return placement(tensor)

    return placement, make
