"""What operators of ONNX compute with: values that know how they are stored, and one call of an operator."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

# Networks are translated for batches of this length, a prime, and run with any: whatever is computed from a batch's length is a
# multiple of it, which no other length in a network is.
BATCH = 10007

_SMALL = 64  # numbers: longer tables of integers are not looked through for lengths


@dataclass(frozen=True, eq=False)
class Value:
    """A tensor of ONNX, or an array that no image changes.

    last: whether axis 1 of ONNX's tensor is stored as the last one, as TensorFlow's convolutions want it.
    maps: whether a tensor that is stored as ONNX has it holds its channels on the last axis all the same.
    """

    data: Any
    last: bool = False
    maps: bool = False

    @property
    def is_static(self) -> bool:
        return isinstance(self.data, np.ndarray)

    @property
    def rank(self) -> int:
        return len(self.data.shape)

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes in ONNX's order; multiples of BATCH stand for what grows with the batch."""
        sizes = tuple(int(size) for size in self.data.shape)
        return (sizes[0], sizes[-1], *sizes[1:-1]) if self.last else sizes

    def stored_axis(self, axis: int) -> int:
        """Where an axis of ONNX's tensor is stored."""
        axis = axis + self.rank if axis < 0 else axis
        return axis if not self.last or axis == 0 else (self.rank - 1 if axis == 1 else axis - 1)


class CannotTranslate(Exception):
    """A call that the table does not cover; its text ends the sentence that names the node."""


@dataclass(frozen=True, eq=False)
class NodeCall:
    """One node of a graph as its operator sees it.

    batch: the length of the batch as a tensor; None where arrays are computed at once.
    branch: runs a subgraph on some values.
    """

    kind: str
    attributes: Mapping[str, Any]
    inputs: Sequence[Value | None]
    outputs: int
    opset: int
    batch: Any = None
    branch: Callable[[Any, Sequence[Value]], list[Value]] | None = None

    def attr(self, name: str, default: Any = None) -> Any:
        return self.attributes.get(name, default)

    def value(self, index: int) -> Value | None:
        return self.inputs[index] if index < len(self.inputs) else None

    def has(self, index: int) -> bool:
        return self.value(index) is not None

    def need(self, index: int) -> Value:
        value = self.value(index)
        if value is None:
            raise CannotTranslate(f"lacks its input {index}")
        return value

    def tensor(self, index: int) -> tf.Tensor:
        """An input as a tensor in ONNX's order of axes."""
        value = self.need(index)
        return self.tensor_of(plain(value).data)

    def optional(self, index: int) -> tf.Tensor | None:
        return self.tensor(index) if self.has(index) else None

    def channels_last(self, index: int) -> tf.Tensor:
        """An input as a tensor (batch, ..., channels)."""
        return self.tensor_of(stored_last(self.need(index)).data)

    def tensor_of(self, data: Any) -> tf.Tensor:
        """An array as a tensor: lengths of the batch in it become those of the batch that is run."""
        if not isinstance(data, np.ndarray):
            return data
        if self.batch is not None and data.dtype in (np.int64, np.int32) and 0 < data.size <= _SMALL and grows(data):
            return tf.reshape(tf.stack([self.length(int(size), data.dtype) for size in data.flat]), data.shape)
        return tf.constant(data)

    def static(self, index: int) -> np.ndarray:
        """An input that must be known before any image is. Raises: CannotTranslate."""
        value = plain(self.need(index))
        if value.is_static:
            return value.data
        if tf.is_tensor(value.data):
            known = tf.get_static_value(value.data)
            if known is not None:
                return np.asarray(known)
        raise CannotTranslate(f"takes its input {index} from the image; convscope needs it constant")

    def integers(self, index: int, name: str, default: Any = None) -> Any:
        """Integers that old opsets give as an attribute and new ones as an input."""
        if self.has(index):
            return [int(number) for number in self.static(index).reshape(-1)]
        value_of_attribute = self.attr(name, default)
        return [value_of_attribute] if isinstance(value_of_attribute, int) else value_of_attribute

    def length(self, size: int, dtype: Any = np.int32) -> tf.Tensor:
        if self.batch is None or size == 0 or size % BATCH:
            return tf.constant(size, dtype)
        return tf.cast(self.batch * (size // BATCH), dtype)

    def lengths(self, sizes: Sequence[int]) -> Any:
        """A shape to make a tensor of: an array, or where it grows with the batch a tensor."""
        if self.batch is None or not grows(sizes):
            return np.asarray(sizes, np.int32)
        return tf.stack([self.length(int(size)) for size in sizes])

    def reshape(self, tensor: tf.Tensor, sizes: Sequence[int]) -> tf.Tensor:
        """A tensor of another shape; the length that grows with the batch is left open."""
        sizes = [int(size) for size in sizes]
        growing = [axis for axis, size in enumerate(sizes) if size and size % BATCH == 0]
        if self.batch is not None and len(growing) == 1:
            sizes[growing[0]] = -1
            return tf.reshape(tensor, np.asarray(sizes, np.int32))
        return tf.reshape(tensor, self.lengths(sizes))


def grows(sizes: Any) -> bool:
    """Whether any of some lengths is one that grows with the batch."""
    return any(size and size % BATCH == 0 for size in np.asarray(sizes).flat)


def plain(value: Value) -> Value:
    """The value in ONNX's order of axes."""
    if not value.last:
        return value
    rank = value.rank
    return Value(tf.transpose(value.data, (0, rank - 1, *range(1, rank - 1))))


def stored_last(value: Value) -> Value:
    """The value with axis 1 of ONNX's tensor stored last."""
    if value.last or value.rank < 3:
        return value
    order = (0, *range(2, value.rank), 1)
    return Value(value.data.transpose(order) if value.is_static else tf.transpose(value.data, order), last=True)


def aligned(values: Sequence[Value]) -> tuple[list[Any], bool, bool]:
    """Values that are broadcast against each other, all stored alike; whether that is with channels last, and `Value.maps`."""
    rank = max(value.rank for value in values)
    if not any(value.last and value.rank == rank for value in values):
        return [plain(value).data for value in values], False, any(value.maps and value.rank == rank for value in values)
    data = []
    for value in values:
        if value.rank == 0 or (value.last and value.rank == rank):
            data.append(value.data)
            continue
        tensor = plain(value)
        shape = (1,) * (rank - tensor.rank) + tensor.shape
        array = tensor.data
        if tensor.rank < rank:
            for _ in range(rank - tensor.rank):
                array = array[np.newaxis] if tensor.is_static else tf.expand_dims(array, 0)
        if sum(size != 1 for size in shape[1:]) and shape[1:] != (1,) * (rank - 1):
            array = stored_last(Value(array)).data
        data.append(array)
    return data, True, False
