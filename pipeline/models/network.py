"""What every kind of network offers: the one primitive on which every stage is built."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import prod
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np

from pipeline.errors import UnknownLayer, UnknownName

if TYPE_CHECKING:
    import tensorflow as tf

    from pipeline.models.head import Head


LOGITS = "logits"  # the name under which every network gives its logits
EMBEDDING = "embedding"  # the layer by which the network of images of an encoder gives their vectors
SHAPES_ALONE = ("Shape", "ShapeN", "Size", "Rank")  # operations that read the shape of a tensor, and no value


@dataclass(frozen=True)
class Feed:
    """The shape of an image as a pass over a network takes it: (height, width, bands + packed).

    bands: of the image: three, RGB, or the network's own.
    packed: bands behind them that hold what the network's other inputs are given, see `pipeline.models.other_inputs`.
    dtype: "uint8"; or "float32", where values from 0 to 255 are those of `data.range`, and others lie outside of it.
    """

    bands: int = 3
    packed: int = 0
    dtype: str = "uint8"

    @property
    def depth(self) -> int:
        return self.bands + self.packed


def feed_of(network: Network) -> Feed:
    """The form of the images that a pass over a network takes; RGB where the network says nothing else."""
    feed: Feed = getattr(network, "feed", Feed())
    return feed


def alone(network: Network) -> Network:
    """The network as a function of the image alone; the same one, where it has no other inputs."""
    as_alone = getattr(network, "alone", None)
    only: Network = network if as_alone is None else as_alone()
    return only


@dataclass(frozen=True)
class LayerInfo:
    """One layer whose output can be looked at.

    shape: (height, width, channels) of its map for the network's input size; a layer without a map, such as
    Dense, is (1, 1, units).
    of_tokens: whether the map is put together of rows of a tensor that lie on the image.
    base: the layer whose directions its channels are; None for a layer of the network itself.
    """

    name: str
    kind: str
    shape: tuple[int, int, int]
    of_tokens: bool = False
    base: str | None = None

    @property
    def channels(self) -> int:
        return self.shape[2]


@dataclass(frozen=True)
class UnreadableLayer:
    """A layer whose output cannot be looked at, and why: a few words without a full stop."""

    name: str
    kind: str
    reason: str


@dataclass(frozen=True)
class TokenTensor(UnreadableLayer):
    """A layer whose tensor may hold tokens of the image, as long as it is not known where they lie.

    shape: of the tensor, the batch first, which may be several rows an image.
    """

    shape: tuple[int | None, ...] = ()


ASKED = "as asked"  # the reason of a setting that the spec names


@dataclass(frozen=True)
class Setting:
    """A key of `[model]` as it is in force, where the spec may leave it to convscope, and why it has that value."""

    value: str
    reason: str

    def __str__(self) -> str:
        return f"{self.value} ({self.reason})"


@dataclass(frozen=True, eq=False)
class Kernel:
    """One learned kernel of a convolution, laid out the same for every kind.

    weights: float32 (height, width, inputs, filters): how each filter weighs each of the inputs that it takes.
    groups: the inputs of the layer fall into so many groups, in order, and the filters too; a filter takes the
        inputs of its own group. 1: all take all. A depthwise kernel has a group for every input.
    part: "kernel", or "depthwise" or "pointwise": a separable convolution has one of each.
    transposed: whether the weights are what one unit of the input adds to the output, not what is taken from it.
    """

    weights: np.ndarray
    groups: int = 1
    part: str = "kernel"
    transposed: bool = False

    @classmethod
    def depthwise(cls, weights: np.ndarray, part: str = "kernel") -> Kernel:
        """From the weights of a depthwise convolution, (height, width, inputs, filters of each input)."""
        height, width, inputs, multiplier = weights.shape
        return cls(weights.reshape(height, width, 1, inputs * multiplier), inputs, part)

    @classmethod
    def of_transposed(cls, weights: np.ndarray) -> Kernel:
        """From the weights of a transposed convolution, (height, width, filters, inputs)."""
        return cls(np.ascontiguousarray(weights.transpose(0, 1, 3, 2)), transposed=True)

    @property
    def filters(self) -> int:
        return int(self.weights.shape[3])

    @property
    def inputs(self) -> int:
        return int(self.weights.shape[2])

    def first_input(self, filter: int) -> int:
        """The number, in the layer's input, of the first channel that a filter takes; the others follow."""
        return filter // (self.filters // self.groups) * self.inputs


TOKENS = "tokens without a grid"
_AXES = ("no", "one", "two", "three", "four", "five", "six", "seven")


def shape_problem(kind: str, shape: Sequence[int | None], dtype: str = "float32") -> str | None:
    """Why an output of this shape, the batch first, and type is no layer to look at; None where it is one."""
    if "float" not in dtype:
        return f"gives {dtype}, not floats"
    if len(shape) in (2, 4):
        return "its size is not known" if None in shape[1:] else None
    if len(shape) == 3:
        return f"{TOKENS}: {' x '.join('?' if size is None else str(size) for size in shape[1:])}"
    if len(shape) == 1:
        return "one number an image, without channels"
    return f"{kind}: {_AXES[len(shape)] if len(shape) < len(_AXES) else len(shape)} axes"


def unreadable(name: str, kind: str, problem: str, shape: Sequence[int | None], dtype: str) -> UnreadableLayer:
    """A layer that cannot be looked at, or not before it is known where its tokens lie. Shape and type as of `shape_problem`."""
    may_be_tokens = len(shape) in (3, 4) and "float" in dtype and None not in shape[1:]
    return TokenTensor(name, kind, problem, tuple(shape)) if may_be_tokens else UnreadableLayer(name, kind, problem)


def in_groups(layers: Sequence[LayerInfo], most: int) -> Iterator[list[LayerInfo]]:
    """Consecutive layers whose maps of one image hold at most so many floats together; a larger layer stands alone."""
    group: list[LayerInfo] = []
    room = most
    for layer in layers:
        floats = prod(layer.shape)
        if group and floats > room:
            yield group
            group, room = [], most
        group.append(layer)
        room -= floats
    if group:
        yield group


@dataclass(frozen=True)
class Unclipped:
    """A layer's output, or what it is made of, without its upper clamp, such as that of ReLU6.

    The network gives min(max(raw, floor), ceiling). The maximum of a map does not change when the floor is taken of it
    instead of the map, so what reads maxima reads `raw`, and the lower clamp is not computed a second time.

    raw: of the shape and type of what the network gives.
    ceiling: the largest that the network gives, of the same type, a scalar, or (channels,) where it differs by channel and is
        infinite for those without an upper clamp; None where no channel has one.
    floor: a lower clamp that is not in `raw`, of the same type, a scalar; None where there is none.
    clipped: what the network gives; None where that is `raw`.
    """

    raw: tf.Tensor
    ceiling: tf.Tensor | None = None
    floor: tf.Tensor | None = None
    clipped: tf.Tensor | None = None

    @property
    def given(self) -> tf.Tensor:
        """The output of the network as it is."""
        return self.raw if self.clipped is None else self.clipped

    @property
    def value(self) -> tf.Tensor:
        """The output that the network would have without its upper clamp: max(raw, floor)."""
        import tensorflow as tf

        return self.raw if self.floor is None else tf.maximum(self.raw, self.floor)


class Network(Protocol):
    """An image network whose every layer can be read.

    A network may have a member `unclipped`, with the arguments of `trace`, which returns {layer: Unclipped}; `read_unclipped`
    calls it. For a network without one, no layer has an upper clamp. A network without a member `feed` takes RGB,
    and one without `alone` has no other inputs.
    For `outputs` see `outputs_of`.
    """

    name: str
    input_shape: tuple[int, int, int]  # height, width, channels

    @property
    def settings(self) -> Mapping[str, Setting]:
        """The settings in force for keys that a spec may leave open, "preprocess" at least. Raises: WrongSpec, UnusableModel."""

    def layers(self) -> list[LayerInfo]:
        """The layers that can be looked at, in the order of the forward pass."""

    def every_layer(self) -> list[LayerInfo | UnreadableLayer]:
        """All layers of the network in that order, those of `layers` and those that cannot be looked at."""

    def digest(self) -> str:
        """A short hexadecimal digest of the architecture, the weights and the preprocessing."""

    def preprocess(self, images: tf.Tensor) -> tf.Tensor:
        """Pixels as its `Feed` says, uint8 or float in 0..255, (batch, h, w, 3) -> float32, what the network takes."""

    def trace(self, images: tf.Tensor, layers: Sequence[str]) -> dict[str, tf.Tensor]:
        """The layers' outputs for preprocessed images, inside the caller's tf.function; inference mode.

        Returns: {layer: float (batch, h, w, c)}; layers without a map come as (batch, 1, 1, units). "logits" is
        a layer too: (batch, classes), before the last nonlinearity; (batch, h, w, classes) where the head is a map.
        """

    def head(self) -> Head:
        """The kind of the output that `trace` gives as "logits". Raises: UnusableModel, for a network without any."""

    def feeds(self, layer: str) -> tuple[str, ...]:
        """The layers that a layer is made from, the nearest on each way back; none where only the image is on the way.

        "logits" are made from the layer that gives them. Raises: UnknownLayer.
        """

    def convolutions(self) -> list[str]:
        """The layers that have a learned kernel, in the order of `layers`."""

    def kernels(self, layers: Sequence[str]) -> dict[str, tuple[Kernel, ...]]:
        """The learned kernels of those of the layers that are convolutions. Raises: UnknownLayer.

        A layer's filters give its channels, in order; where it has two kernels, those of the second do.
        """


def own_layers(network: Network) -> list[LayerInfo]:
    """The layers of a network that can be looked at, without directions, which are beside the way to its output."""
    return [layer for layer in network.layers() if layer.base is None]


def outputs_of(network: Network) -> dict[str | None, Network]:
    """The network once for every output that is explained, by the output's name; by None where there is but one."""
    outputs = getattr(network, "outputs", None)
    return {None: network} if outputs is None else dict(outputs())


def unknown_layer(network: Network, pattern: str) -> UnknownName:
    """The error for a name or glob that no layer that can be looked at has: why those that it matches cannot be."""
    unreadable = [layer for layer in network.every_layer() if isinstance(layer, UnreadableLayer)]
    matches = [layer for layer in unreadable if layer.name == pattern] or [
        layer for layer in unreadable if fnmatchcase(layer.name, pattern)
    ]
    if not matches:
        known = [layer.name for layer in network.layers()]
        return UnknownLayer.among(pattern, known, where=f"in {network.name}", hint="List them: convscope layers SPEC")
    more = f", and {len(matches) - 1} more match {pattern!r}" if len(matches) > 1 else ""
    return UnknownLayer(
        f"{matches[0].name!r} of {network.name} cannot be looked at: {matches[0].reason}{more}. "
        "Name another layer; convscope layers SPEC lists those that can be."
    )


def read_unclipped(network: Network, images: tf.Tensor, layers: Sequence[str]) -> dict[str, Unclipped]:
    """The layers' outputs, as `Network.trace` gives them, without their upper clamps."""
    unclipped = getattr(network, "unclipped", None)
    if unclipped is None:
        return {layer: Unclipped(value) for layer, value in network.trace(images, layers).items()}
    return dict(unclipped(images, layers))


Value = TypeVar("Value", bound=Hashable)


def nearest_layers(
    starts: Iterable[Value], inputs_of: Callable[[Value], Iterable[Value]], name_of: Callable[[Value], str | None]
) -> tuple[str, ...]:
    """The layers met first on every way back from some values of a graph, breadth first.

    Args:
        inputs_of: the values that a value is made from.
        name_of: the layer that a value is the output of; None for a value between layers.
    """
    names: dict[str, None] = {}
    queue = list(dict.fromkeys(starts))
    seen = set(queue)
    for value in queue:
        name = name_of(value)
        if name is not None:
            names[name] = None
            continue
        further = [source for source in dict.fromkeys(inputs_of(value)) if source not in seen]
        seen.update(further)
        queue += further
    return tuple(names)
