"""How a layer behind an upper clamp is read as if the clamp were not there: one rule for every kind of network.

A clamp is recognised by its operation: see `pipeline.models.clamps`. So are hard sigmoids, hard tanhs and ReLUs of any
maximum, which are made of these, and a quantisation, whose largest number is a ceiling. Behind it a layer may pass the
values on by operations that keep their order: see `_PASSED_ON`, `_RISING` and `_BY_CONSTANT`. Convolutions, means, and sums and
products of maps are no such thing: what they are given is clamped, and they are not.

For a layer y = f(min(x, c)) with an f that never falls, y = min(u, f(c)) with u = f(x): the spatial maximum of u gives that
of y. A ceiling is one number, or one a channel, which is infinite where a channel has none. A lower clamp stays in u, so
that a unit which is inactive is so in both; where it would be u's last operation, it is given beside u, as a floor.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from pipeline.models.clamps import CLAMPS, Constants, clamp_of, folded, run_again, threshold_of
from pipeline.models.moved_constants import joined, moved
from pipeline.models.network import Unclipped

# What moves values, or leaves some out, but makes none: the ceiling moves with them. Of these, the values are the first input.
_PASSED_ON = frozenset(
    {
        *("Identity", "StopGradient", "Snapshot", "PreventGradient", "CheckNumerics", "EnsureShape"),
        *("Reshape", "Squeeze", "ExpandDims", "Transpose", "StridedSlice", "Slice", "MirrorPad", "ResizeNearestNeighbor"),
        *("MaxPool", "MaxPoolV2", "Max", "SpaceToDepth", "DepthToSpace", "Tile", "BroadcastTo", "GatherV2", "Gather"),
        *("ReverseV2", "Roll", "SplitV", "Unpack"),
    }
)
_PADS = frozenset({"Pad", "PadV2"})  # they add a number of their own, which must not lie above the ceiling
_RISING = frozenset({"Relu", "LeakyRelu", "Cast", "Round", "Rint", "Floor", "Ceil"})  # functions of each value that never fall
# Operations of each value and a constant, which keep the order of values with the constant second, if it is positive in a
# product or a quotient.
_BY_CONSTANT: dict[str, tuple[Callable[..., Any], Callable[..., tf.Tensor]]] = {
    "Add": (np.add, tf.add),
    "AddV2": (np.add, tf.add),
    "BiasAdd": (np.add, tf.add),
    "Sub": (np.subtract, tf.subtract),
    "Mul": (np.multiply, tf.multiply),
    "RealDiv": (np.divide, tf.divide),
    "Div": (np.divide, tf.divide),
    "Maximum": (np.maximum, tf.maximum),
}
_COMMUTES = frozenset({"Add", "AddV2", "Mul", "Maximum"})
_FALLING = frozenset({"Sub", "Neg"})
_QUANTIZES = frozenset(
    {"FakeQuantWithMinMaxArgs", "FakeQuantWithMinMaxVars", "QuantizeAndDequantizeV2", "QuantizeAndDequantizeV3"}
)


def without_ceiling(output: tf.Tensor, images: tf.Tensor) -> Unclipped:
    """A tensor of a traced network without the upper clamp that it comes from; the tensor itself where there is none.

    The operations behind the clamp are added to the graph a second time. The ceiling is a scalar, or has as many axes as the
    tensor, of length 1 but for those along which it differs.

    Args:
        images: what the network was given, in the same graph.
    """
    reading = _Reading(images)
    unclipped = reading.look(output)
    return Unclipped(output) if unclipped is None else reading.lowered(unclipped)


def on_map(unclipped: Unclipped, output: tf.Tensor, make: Callable[[tf.Tensor], tf.Tensor]) -> Unclipped:
    """A layer without its clamp as a map; the layer as it is where a channel has not one ceiling at all places.

    Args:
        unclipped: what `without_ceiling` gives for the layer's output.
        make: how the map, float32 (batch, h, w, channels), is made of the output by moving its values.

    Returns: with a ceiling, if any, that is a scalar or float32 (channels,).
    """
    ceiling = unclipped.ceiling
    if ceiling is not None and ceiling.shape.rank:
        numbers = _of_channels(ceiling.shape.as_list(), output, make)
        ceiling = None if numbers is None else tf.gather(tf.reshape(ceiling, [-1]), numbers)
    if ceiling is None:
        return Unclipped(make(output))
    floor = None if unclipped.floor is None else tf.cast(unclipped.floor, tf.float32)
    return Unclipped(make(unclipped.raw), tf.cast(ceiling, tf.float32), floor, make(output))


def _of_channels(lengths: list[int], output: tf.Tensor, make: Callable[[tf.Tensor], tf.Tensor]) -> np.ndarray | None:
    """Which number of a constant of some lengths is each channel's: int (channels,); None where that differs by position."""
    shape = output.shape[1:]
    if not shape.is_fully_defined() or lengths[0] != 1:
        return None
    numbers = np.broadcast_to(np.arange(np.prod(lengths), dtype=np.float32).reshape(lengths), (1, *shape.as_list()))
    with tf.init_scope():
        placed = make(tf.constant(numbers)).numpy()
    first = placed[0, 0, 0]
    return first.astype(np.int64) if (placed == first).all() else None


class _Reading:
    """Reads tensors of one graph, each once."""

    def __init__(self, images: tf.Tensor) -> None:
        self._images = images
        self._constant = Constants(images).of
        self._known: dict[object, Unclipped | None] = {}
        self._floors: dict[object, tuple[tf.Tensor, tf.Tensor]] = {}  # of values raised here: what they were, and the floor

    def lowered(self, unclipped: Unclipped) -> Unclipped:
        """The same, with the last of the lower clamps that were added to the graph as its floor."""
        raw, floor = self._floors.get(unclipped.raw.ref(), (unclipped.raw, None))
        return Unclipped(raw, unclipped.ceiling, floor)

    def look(self, tensor: tf.Tensor) -> Unclipped | None:
        """The tensor without its clamp; None where it is not behind one."""
        key = tensor.ref()
        if key not in self._known:
            self._known[key] = None if tensor is self._images else self._look(tensor)
        return self._known[key]

    def _look(self, tensor: tf.Tensor) -> Unclipped | None:
        operation = tensor.op
        kind, inputs = operation.type, list(operation.inputs)
        if kind in CLAMPS and (clamp := clamp_of(operation, self._constant)) is not None:
            value, ceiling, floor = clamp
            further = self.look(value)
            if further is not None and further.ceiling is not None:
                value, ceiling = further.raw, folded(np.minimum, tf.minimum, further.ceiling, ceiling)
            return Unclipped(value, ceiling) if floor is None else self._raised(Unclipped(value, ceiling), floor)
        if kind in _PASSED_ON:
            return self._again(tensor, lambda ceiling: moved(ceiling, operation))
        if kind == "Split":  # the axis comes first
            return self._again(tensor, lambda ceiling: ceiling if ceiling.shape.rank == 0 else None, 1)
        if kind == "IdentityN":
            return self.look(inputs[tensor.value_index])
        if kind in _PADS:
            added = 0.0 if len(inputs) < 3 else tf.get_static_value(inputs[2])
            ceiling = self._known_ceiling(inputs[0])
            fits = added is not None and ceiling is not None and np.all(added <= ceiling)
            return self._again(tensor, lambda ceiling: moved(ceiling, operation)) if fits else None
        if kind in ("ConcatV2", "Concat", "Pack"):
            return self._joined(tensor)
        if kind in _RISING and tensor.dtype.is_floating:
            return self._again(tensor, lambda ceiling: run_again(operation, [ceiling]))
        if kind in ("Select", "SelectV2"):
            return self._chosen(tensor)
        if kind in _QUANTIZES and (not kind.startswith("QuantizeAnd") or operation.get_attr("range_given")):
            return self._quantized(tensor)
        return self._by_constant(tensor) if kind in _BY_CONSTANT or kind in ("Minimum", "Neg") else None

    def _by_constant(self, tensor: tf.Tensor) -> Unclipped | None:
        """Behind an operation of each value and a constant, by which values keep their order."""
        operation, kind = tensor.op, tensor.op.type
        if kind in _FALLING and (turned := self._turned(tensor)) is not None:
            return turned
        if kind not in _BY_CONSTANT:
            return self._of_two_maps(tensor) if kind == "Minimum" else None
        first, second = operation.inputs
        constant, value = self._constant(second, first), first
        if kind == "BiasAdd" and operation.get_attr("data_format") != b"NHWC":
            return None
        if constant is None and kind in _COMMUTES:
            constant, value = self._constant(first, second), second
        if constant is None:
            return self._leaky(tensor) or self._straight_through(tensor) or self._of_two_maps(tensor)
        base = self.look(value)
        if base is None or base.ceiling is None:
            return None
        if kind == "Maximum":
            return self._raised(base, constant)
        if kind in ("Mul", "RealDiv", "Div"):
            factor = tf.get_static_value(constant)
            if factor is None or not np.all(factor > 0):
                return None
        in_numpy, in_graph = _BY_CONSTANT[kind]
        raw = run_again(operation, [base.raw, second] if value is first else [first, base.raw])
        return Unclipped(raw, folded(in_numpy, in_graph, base.ceiling, constant))

    def _turned(self, tensor: tf.Tensor) -> Unclipped | None:
        """Behind a lower clamp of values that are then turned round: number - max(x, floor)."""
        operation = tensor.op
        *number, value = operation.inputs
        if value.op.type not in ("Relu", "Maximum"):
            return None
        source, floor = value.op.inputs[0], tf.constant(0, value.dtype)
        if value.op.type == "Maximum":
            bounds = [(source, bound) for source, bound in zip(value.op.inputs, reversed(value.op.inputs), strict=True)]
            known = [(source, self._constant(bound, source)) for source, bound in bounds]
            source, floor = next(((source, bound) for source, bound in known if bound is not None), (source, None))
        above = self._constant(number[0], value) if number else tf.constant(0, value.dtype)
        if floor is None or above is None:
            return None
        return Unclipped(run_again(operation, [*number, source]), folded(np.subtract, tf.subtract, above, floor))

    def _leaky(self, tensor: tf.Tensor) -> Unclipped | None:
        """Behind clamp(relu(x)) - slope * relu(threshold - x), as Keras writes leaky ReLUs: at the ceiling it is the clamp."""
        if tensor.op.type != "Sub":
            return None
        clamped, taken = tensor.op.inputs
        factors = list(taken.op.inputs) if taken.op.type == "Mul" else []
        below = [(factor, self._below(factor)) for factor in factors if factor.op.type == "Relu"]
        if len(below) != 1 or below[0][1] is None:
            return None
        half, (x, threshold) = below[0][0], below[0][1]
        if not all(factor is half or self._constant(factor, half) is not None for factor in factors):
            return None
        base, ceiling = self.look(clamped), self._known_ceiling(clamped)
        if base is None or ceiling is None or not np.all(ceiling > max(threshold, 0)) or not _is_above(base.raw, x):
            return None
        return Unclipped(base.raw - taken, base.ceiling)

    def _below(self, half: tf.Tensor) -> tuple[tf.Tensor, float] | None:
        """x and the threshold of relu(threshold - x); of relu(-x) the threshold is 0."""
        value, threshold = half.op.inputs[0], 0.0
        if value.op.type == "AddV2":
            number = self._constant(value.op.inputs[1], value.op.inputs[0])
            known = None if number is None or number.shape.rank else tf.get_static_value(number)
            if known is None:
                return None
            value, threshold = value.op.inputs[0], float(known)
        return (value.op.inputs[0], threshold) if value.op.type == "Neg" else None

    def _straight_through(self, tensor: tf.Tensor) -> Unclipped | None:
        """Behind value + (x - stop_gradient(x)), which is the value with the gradient of x."""
        value, nothing = tensor.op.inputs
        if tensor.op.type != "AddV2" or nothing.op.type != "Sub" or nothing.op.inputs[1].op.type != "StopGradient":
            return None
        same = nothing.op.inputs[1].op.inputs[0] is nothing.op.inputs[0]
        return self.look(value) if same else None

    def _of_two_maps(self, tensor: tf.Tensor) -> Unclipped | None:
        """Behind a minimum of maps, or a maximum of two that have the same ceiling."""
        kind, sources = tensor.op.type, list(tensor.op.inputs)
        if kind not in ("Maximum", "Minimum"):
            return None
        bases = [self.look(source) for source in sources]
        ceilings = [base.ceiling for base in bases if base is not None and base.ceiling is not None]
        if not ceilings:
            return None
        known = [tf.get_static_value(ceiling) for ceiling in ceilings]
        if kind == "Maximum" and (len(known) < 2 or known[0] is None or not np.array_equal(*known)):
            return None
        if any(source.shape.rank != tensor.shape.rank for source in sources):
            return None
        raws = [source if base is None else base.raw for source, base in zip(sources, bases, strict=True)]
        return Unclipped(run_again(tensor.op, raws), folded(np.minimum, tf.minimum, ceilings[0], ceilings[-1]))

    def _chosen(self, tensor: tf.Tensor) -> Unclipped | None:
        """Behind a choice by position of values with the same ceiling and numbers below it; or of a number above a threshold."""
        condition, *sources = tensor.op.inputs
        threshold = threshold_of(tensor.op, self._constant)
        if threshold is not None:
            value, ceiling = threshold
            base = self.look(value)
            raw = value if base is None else base.raw
            return Unclipped(tf.where(tensor >= ceiling, tf.maximum(raw, ceiling), tensor), ceiling)
        bases = [self.look(source) for source in sources]
        ceilings = [self._known_ceiling(source) for source in sources]
        ceiling = next((ceiling for ceiling in ceilings if ceiling is not None), None)
        if ceiling is None:
            return None
        raws = []
        for source, base, own, other in zip(sources, bases, ceilings, reversed(sources), strict=True):
            number = None if base is not None else self._constant(source, other)
            known = None if number is None else tf.get_static_value(number)
            if not (np.array_equal(own, ceiling) if own is not None else known is not None and np.all(known <= ceiling)):
                return None
            raws.append(source if base is None else base.raw)
        first = next(base for base in bases if base is not None)
        return Unclipped(run_again(tensor.op, [condition, *raws]), first.ceiling)

    def _quantized(self, tensor: tf.Tensor) -> Unclipped | None:
        """Behind a quantisation, whose largest number is its ceiling: what reaches it has the order of what was quantised."""
        operation = tensor.op
        value, *bounds = operation.inputs
        base = self.look(value)
        top = tf.constant(value.dtype.max / 4, value.dtype) if base is None or base.ceiling is None else base.ceiling
        ceiling = run_again(operation, [top, *bounds])
        raw = value if base is None else base.raw
        return Unclipped(tf.where(tensor >= ceiling, tf.maximum(raw, ceiling), tensor), ceiling)

    def _joined(self, tensor: tf.Tensor) -> Unclipped | None:
        """Behind a concatenation of maps, any of which has a ceiling; along a new axis, all of them the same."""
        operation, sources = tensor.op, list(tensor.op.inputs)
        axes = {"Concat": 0, "ConcatV2": len(sources) - 1}
        number = sources.pop(axes[operation.type]) if operation.type in axes else None
        bases = [self.look(source) for source in sources]
        if all(base is None for base in bases):
            return None
        without = tf.constant(np.inf, tensor.dtype) if tensor.dtype.is_floating else None
        ceilings = [without if base is None else base.ceiling for base in bases]
        if any(ceiling is None for ceiling in ceilings):
            return None
        axis = None if number is None else tf.get_static_value(number)
        if axis is None:
            known = [tf.get_static_value(ceiling) for ceiling in ceilings]
            same = all(value is not None and value.ndim == 0 and value == known[0] for value in known)
            ceiling = ceilings[0] if same else None
        else:
            ceiling = joined(ceilings, sources, int(axis) % (tensor.shape.rank or 1))
        if ceiling is None:
            return None
        values = [source if base is None else base.raw for source, base in zip(sources, bases, strict=True)]
        if number is not None:
            values.insert(axes[operation.type], number)
        return Unclipped(run_again(operation, values), ceiling)

    def _again(self, tensor: tf.Tensor, of_ceiling: Callable[[tf.Tensor], tf.Tensor | None], number: int = 0) -> Unclipped | None:
        """The tensor's operation once more, with the input of this number without its clamp."""
        inputs = list(tensor.op.inputs)
        base = self.look(inputs[number])
        ceiling = None if base is None or base.ceiling is None else of_ceiling(base.ceiling)
        if base is None or ceiling is None:
            return None
        inputs[number] = base.raw
        return Unclipped(run_again(tensor.op, inputs, tensor.value_index), ceiling)

    def _raised(self, unclipped: Unclipped, floor: tf.Tensor) -> Unclipped:
        """Above a floor, a constant."""
        raw, value = unclipped.raw, unclipped.raw
        is_zero = floor.shape.rank == 0 and tf.get_static_value(floor) == 0
        if not is_zero:
            value = tf.maximum(raw, floor)
        elif raw.op.type != "Relu":
            value = tf.nn.relu(raw)
        if value is not raw and floor.shape.rank == 0:
            self._floors[value.ref()] = raw, floor
        return Unclipped(value, folded(np.maximum, tf.maximum, unclipped.ceiling, floor))

    def _known_ceiling(self, tensor: tf.Tensor) -> np.ndarray | None:
        """The ceiling of a tensor, where it is known; None where there is none or it is not."""
        base = self.look(tensor)
        return None if base is None or base.ceiling is None else tf.get_static_value(base.ceiling)


def _is_above(value: tf.Tensor, x: tf.Tensor) -> bool:
    """Whether a value is max(x, 0), or x above a threshold and else 0."""
    if value.op.type != "Relu":
        return False
    (source,) = value.op.inputs
    return source is x or (source.op.type in ("Select", "SelectV2") and source.op.inputs[1] is x)
