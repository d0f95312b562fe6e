"""Following positions through a graph: from the image through every operation, without running the network.

What moves numbers is run on their positions; of what computes with them only the axes matter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import graph_pb2, node_def_pb2

from pipeline.models.network import SHAPES_ALONE
from pipeline.models.tokens.positions import EXTRA, NOWHERE, Positions, combined, compressed, is_map_like, lost_at, of_maps

AS_ASKED = "as asked"  # the root of a grid that the job gives

_MOVES = frozenset(
    {
        *("Reshape", "Transpose", "ConjugateTranspose", "Squeeze", "ExpandDims", "StridedSlice", "Slice", "Split", "SplitV"),
        *("Unpack", "Pack", "ConcatV2", "Pad", "PadV2", "MirrorPad", "Roll", "Gather", "GatherV2", "GatherNd", "ReverseV2"),
        *("BroadcastTo", "Tile", "SpaceToBatchND", "BatchToSpaceND", "SpaceToDepth", "DepthToSpace", "ExtractImagePatches"),
    }
)
_JOINS = ("ConcatV2", "Pack")
_SHAPED = ("Reshape", "Squeeze", "ExpandDims")  # whose result is told by its shape alone
_REDUCES = ("Mean", "Sum", "Max", "Min", "Prod", "EuclideanNorm")
_PRODUCTS = ("MatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3", "Einsum")
_SORTS = ("TopK", "TopKV2", "RandomShuffle", "Sort")
_HALVES = (tf.float16.as_datatype_enum, tf.bfloat16.as_datatype_enum, tf.float64.as_datatype_enum)


class Follower:
    """The positions of every float tensor that depends on the images, by name."""

    def __init__(
        self, graph: tf.Graph, images: tf.Tensor, spatial: tuple[int, int], grids: Mapping[int, tuple[int, int]]
    ) -> None:
        """Follow the images through the whole of a graph.

        Args:
            images: of a fixed shape, more than one.
            spatial: their axes of height and width.
            grids: by a number of tokens, the grid that the job says they are of; extra tokens come first.
        """
        self.images = int(images.shape[0])
        self.asked = grids
        self.size = tuple(int(images.shape[axis]) for axis in spatial)
        self.known: dict[str, Positions] = {images.name: of_maps(tuple(images.shape), spatial, "the image")}
        self.attention: list[tf.Tensor] = []  # after its softmax
        for operation in graph.get_operations():
            if operation.type not in SHAPES_ALONE and any(given.name in self.known for given in operation.inputs):
                for output, positions in zip(operation.outputs, self._of(operation), strict=False):
                    if output.dtype.is_floating and output.shape.is_fully_defined():
                        self.known[output.name] = self._asked_or(positions, output)
                if operation.type == "Softmax" and self._is_attention(operation.outputs[0]):
                    self.attention.append(operation.outputs[0])

    def _is_attention(self, output: tf.Tensor) -> bool:
        positions = self.known.get(output.name)
        return positions is not None and positions.keys is not None

    def _asked_or(self, positions: Positions, output: tf.Tensor) -> Positions:
        """What the job says of tensors with so many tokens, else what was followed, else what their number tells."""
        shape = tuple(output.shape)
        if len(shape) != 3 or shape[0] != self.images:
            return positions
        if shape[1] in self.asked:
            return tokens_of(shape, self.asked[shape[1]], AS_ASKED)
        if positions.lost == "unknown":
            grid = grid_of(shape[1], self.size)
            return positions if grid is None else tokens_of(shape, grid, "the number of tokens")
        return positions

    def _of(self, operation: tf.Operation) -> list[Positions]:
        given = [self.known.get(tensor.name) for tensor in operation.inputs]
        shapes = [output.shape for output in operation.outputs]
        if any(not shape.is_fully_defined() for shape in shapes):
            return [lost_at(shape.rank or 1, operation.name, "unknown") for shape in shapes]
        known = [one for one in given if one is not None]
        if all(one.lost for one in known):
            return self._of_lost(operation, known[0])
        try:
            if operation.type in _MOVES:
                return self._moved(operation, given)
            if operation.type in _PRODUCTS:
                return [self._product(operation, given)]
            if operation.type in _REDUCES:
                return [self._reduced(operation, known[0])]
        except (ValueError, TypeError, LookupError, tf.errors.OpError):
            return [lost_at(shape.rank, operation.name, "unknown") for shape in shapes]
        if operation.type in _SORTS:
            return [lost_at(shape.rank, operation.name, "mixed") for shape in shapes]
        return [self._computed(operation, given, output) for output in operation.outputs]

    def _of_lost(self, operation: tf.Operation, lost: Positions) -> list[Positions]:
        fresh = [self._fresh(operation, output) for output in operation.outputs]
        return [
            positions or replace(lost, ids=np.ones([1] * output.shape.rank, np.int64))
            for positions, output in zip(fresh, operation.outputs, strict=True)
        ]

    def _computed(self, operation: tf.Operation, given: Sequence[Positions | None], output: tf.Tensor) -> Positions:
        """Of an operation that neither moves nor multiplies: one number after the other, or by windows over maps."""
        shape = tuple(output.shape)
        pairs = [(one, tensor) for one, tensor in zip(given, operation.inputs, strict=True) if one is not None]
        maps = [one for one, tensor in pairs if tensor.shape.rank == 4 == len(shape)]
        windowed = bool(maps) and self._spatial(operation, output) is not None and _is_windowed(operation)
        if windowed and is_map_like(maps[0], self.images, self._axes(operation)):
            return self._fresh(operation, output) or lost_at(4, operation.name, "unknown")
        same = [one for one, tensor in pairs if _fits(one, shape, windowed and tensor.shape.rank == 4, self._axes(operation))]
        if same and (windowed or _is_broadcast(operation, shape)):
            return combined(same, len(shape))
        return self._fresh(operation, output) or lost_at(len(shape), operation.name, "unknown")

    def _fresh(self, operation: tf.Operation, output: tf.Tensor) -> Positions | None:
        """New maps, where an operation works in windows over height and width."""
        spatial = self._spatial(operation, output)
        if spatial is None or not _is_windowed(operation):
            return None
        return of_maps(tuple(output.shape), spatial, operation.name)

    def _spatial(self, operation: tf.Operation, output: tf.Tensor) -> tuple[int, int] | None:
        if output.shape.rank != 4 or output.shape[0] != self.images:
            return None
        return self._axes(operation)

    @staticmethod
    def _axes(operation: tf.Operation) -> tuple[int, int]:
        attributes = operation.node_def.attr
        first = "data_format" in attributes and attributes["data_format"].s.startswith(b"NC")
        return (2, 3) if first else (1, 2)

    def _moved(self, operation: tf.Operation, given: Sequence[Positions | None]) -> list[Positions]:
        """Of an operation that moves numbers: it is run on where they lie."""
        data = [one if one is None or not one.lost else None for one in given]
        finest = max((one for one in data if one is not None), key=lambda one: (one.on_image, one.area))
        data = [one if one is not None and one.grid == finest.grid else None for one in data]
        ids = _run(operation, [None if one is None else one.ids for one in data])
        if finest.keys is None:
            heads = finest.heads if operation.type == "Transpose" else None
            if heads is not None:
                heads = _static(operation.inputs[1]).tolist().index(heads[0]), heads[1]
            return [replace(finest, ids=own, heads=heads) for own in ids]
        keys = _run(operation, [None if one is None or one.keys is None else one.keys.ids for one in data])
        return [
            replace(finest, ids=own, keys=replace(finest.keys, ids=looked), heads=None)
            for own, looked in zip(ids, keys, strict=True)
        ]

    def _reduced(self, operation: tf.Operation, positions: Positions) -> Positions:
        axes = np.atleast_1d(_static(operation.inputs[1])).astype(int)
        rank = operation.inputs[0].shape.rank
        for axis in sorted({int(axis) % rank for axis in axes}, reverse=True):
            positions = positions.without(axis, kept=True)
            if not operation.get_attr("keep_dims"):
                positions = positions.without(axis)
        return positions

    def _product(self, operation: tf.Operation, given: Sequence[Positions | None]) -> Positions:
        """Of a product of tensors along named axes: of one and weights, or of two, as in attention."""
        terms, result = _labels(operation)
        rank = len(result)
        followed = [(one, labels) for one, labels in zip(given, terms, strict=True) if one is not None and not one.lost]
        parts = [_contracted(one, labels, result) for one, labels in followed]
        if len(followed) == 1:
            (positions, is_mixed) = parts[0]
            if is_mixed and rank > 2:
                return lost_at(rank, operation.name, "mixed")
            return positions
        last = rank - 1
        (left, _), (right, _) = parts
        for looks, looked in ((left, right), (right, left)):
            by_key = looked.on_image and looked.ids.shape[last] > 1
            if by_key and looks.ids.shape[last] == 1 and (looks.on_image or (looks.ids == EXTRA).any()):
                return replace(looks, keys=looked, heads=None)
        for number, (own, labels) in enumerate(followed):
            if own.keys is not None:  # what is looked at, weighed by how much it is
                weights, values = parts[number][0], followed[1 - number][1]
                if labels[-1] not in result:
                    shared = [label for label in result[1:] if label in labels and label in values]
                    return replace(weights, keys=None, heads=(result.index(shared[0]), operation.name) if shared else None)
        placed = [one for one, is_mixed in parts if one.on_image and not is_mixed]
        return combined(placed, rank) if placed else lost_at(rank, operation.name, "mixed")


def tokens_of(shape: Sequence[int], grid: tuple[int, int], root: str) -> Positions:
    """Positions of (batch, tokens, width) row by row, those beyond the grid's before them."""
    images, area = shape[0], grid[0] * grid[1]
    ids = np.full((images, shape[1], 1), EXTRA, np.int64)
    ids[:, shape[1] - area :, 0] = 1 + np.arange(images * area).reshape(images, area)
    return Positions(ids, grid, root)


def grid_of(tokens: int, size: Sequence[int], most: int = 8) -> tuple[int, int] | None:
    """The grid of square patches that so many tokens are, but for the fewest extra ones; None where there is none."""
    for area in range(tokens, max(1, tokens - most - 1), -1):
        for rows in range(2, area + 1):
            columns = area // rows
            if rows * columns == area and columns > 1 and size[0] * columns == size[1] * rows and size[0] % rows == 0:
                return rows, columns
    return None


def _contracted(positions: Positions, labels: str, result: str) -> tuple[Positions, bool]:
    """Positions of one term along the axes of a product, and whether those of the image were weighed up with each other."""
    was = positions.on_image
    for axis in reversed(range(len(labels))):
        if labels[axis] not in result:
            positions = positions.without(axis)
    kept = [label for label in labels if label in result]
    order = [kept.index(label) for label in result if label in kept]

    def arranged(ids: np.ndarray) -> np.ndarray:
        moved = iter(ids.transpose(order).shape)
        return ids.transpose(order).reshape([next(moved) if label in kept else 1 for label in result])

    return positions.along(arranged), was and not positions.on_image


def _labels(operation: tf.Operation) -> tuple[list[str], str]:
    """The axes of a product's terms and of its result, a letter each."""
    ranks = [tensor.shape.rank for tensor in operation.inputs]
    if operation.type == "Einsum":
        equation = operation.get_attr("equation").decode().replace(" ", "")
        left, result = equation.split("->")
        terms = left.split(",")
        spare = "ZYXWVUTSRQ"
        if "..." in equation:
            widths = [
                rank - len(term.replace("...", "")) if "..." in term else 0 for rank, term in zip(ranks, terms, strict=True)
            ]
            terms = [term.replace("...", spare[:width][::-1]) for term, width in zip(terms, widths, strict=True)]
            result = result.replace("...", spare[: max(widths)][::-1])
        return terms, result
    names = ("transpose_a", "transpose_b") if operation.type == "MatMul" else ("adj_x", "adj_y")
    flips = [operation.get_attr(name) for name in names]
    batch = "ZYXWVUTSRQ"
    first = batch[: ranks[0] - 2][::-1] + ("ki" if flips[0] else "ik")
    second = batch[: ranks[1] - 2][::-1] + ("jk" if flips[1] else "kj")
    return [first, second], batch[: max(ranks) - 2][::-1] + "ij"


def _is_windowed(operation: tf.Operation) -> bool:
    """Whether a convolution, a pool, a resize or, by its shape, a call that may be one."""
    return any(word in operation.type for word in ("Conv", "Pool", "Resize", "Dilation", "PartitionedCall", "ScaleAndTranslate"))


def _fits(positions: Positions, shape: Sequence[int], windowed: bool, spatial: tuple[int, int]) -> bool:
    """Whether a tensor of a shape may have these positions."""
    ids = positions.ids
    axes = [0, *spatial] if windowed else range(-ids.ndim, 0)
    return ids.ndim <= len(shape) and all(ids.shape[axis] in (1, shape[axis]) for axis in axes)


def _is_broadcast(operation: tf.Operation, shape: Sequence[int]) -> bool:
    """Whether a result has the shape of its inputs broadcast against each other."""
    floats = [tuple(tensor.shape) for tensor in operation.inputs if tensor.dtype.is_floating and tensor.shape.is_fully_defined()]
    if tuple(shape) in floats[:1]:
        return True
    try:
        return np.broadcast_shapes(*floats) == tuple(shape)
    except ValueError:
        return False


def _static(tensor: tf.Tensor) -> np.ndarray:
    value = tf.get_static_value(tensor)
    return _evaluated(tensor) if value is None else np.asarray(value)


def _evaluated(tensor: tf.Tensor) -> np.ndarray:
    """The value of a tensor that is worked out from constants and from shapes. Raises: tf.errors.OpError or ValueError."""
    shapes: dict[str, np.ndarray] = {}
    needed, waiting = {tensor.op}, [tensor.op]
    for operation in waiting:
        if operation.type == "Shape" and operation.inputs[0].shape.is_fully_defined():
            shapes[operation.outputs[0].name] = np.array(operation.inputs[0].shape, operation.outputs[0].dtype.as_numpy_dtype)
            continue
        further = [given.op for given in operation.inputs if given.op not in needed]
        needed.update(further)
        waiting += further
    nodes = [operation.node_def for operation in waiting if operation.outputs[0].name not in shapes]
    with tf.Graph().as_default() as graph:
        given = {name: tf.constant(shape) for name, shape in shapes.items()}
        (output,) = tf.graph_util.import_graph_def(graph_pb2.GraphDef(node=nodes), given, [tensor.name], name="static")
        with tf.compat.v1.Session(graph=graph) as session:
            return np.asarray(session.run(output))


def _run(operation: tf.Operation, ids: Sequence[np.ndarray | None]) -> list[np.ndarray]:
    """What an operation that moves numbers makes of positions; None for a tensor that has none."""
    shapes = [tuple(output.shape) for output in operation.outputs]
    filler = EXTRA if operation.type in _JOINS else NOWHERE
    values: list[Any] = []
    for own, tensor in zip(ids, operation.inputs, strict=True):
        if own is not None:
            values.append(np.broadcast_to(own, tuple(tensor.shape)).astype(np.float32))
        elif tensor.dtype.is_floating:
            values.append(np.full(tuple(tensor.shape), filler, np.float32))
        elif operation.type in _SHAPED:
            values.append(None)
        else:
            values.append(_static(tensor))
    if operation.type in _SHAPED:
        return [compressed(values[0].reshape(shapes[0]).astype(np.int64))]
    node = node_def_pb2.NodeDef()
    node.CopyFrom(operation.node_def)
    del node.input[:]
    for attribute in [name for name in node.attr if name.startswith("_")]:
        del node.attr[attribute]
    for attribute in node.attr.values():
        if attribute.type in _HALVES:
            attribute.type = tf.float32.as_datatype_enum
    with tf.Graph().as_default() as graph:
        names = [tf.constant(value, name=f"given{number}").name for number, value in enumerate(values)]
        node.name, node.input[:] = "moved", names
        given = [graph.get_tensor_by_name(name) for name in names]
        definition = graph_pb2.GraphDef(node=[node])
        outputs = tf.graph_util.import_graph_def(
            definition, dict(zip(names, given, strict=True)), [f"moved:{number}" for number in range(len(shapes))], name=""
        )
        with tf.compat.v1.Session(graph=graph) as session:
            return [compressed(np.rint(value).astype(np.int64)) for value in session.run(outputs)]
