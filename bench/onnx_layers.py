"""Every layer of networks in ONNX against onnxruntime: how many are listed and compared, and the largest difference.

    python -m bench.onnx_layers [--size SIDE] [--names] FILE.onnx...

Two random images. Where tokens lie is worked out here a second time, in NumPy and from shapes alone: row by row behind the extra
tokens, or in square windows, shifted by half a window or not. Of rows in any other order, such as the units of Hiera, only the
values are compared here, each with its nearest row: whether they lie right says bench.token_places. Differences are shares of the
largest value of the layer's map.
Exits 1 where one is above 1e-4 or a layer has no counterpart. --names prints both by name.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import permutations
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

LARGEST, IMAGES, MOST_EXTRA = 1e-4, 2, 16


@dataclass
class Comparison:
    """The result for a network.

    placed: how many layers by the order of their tokens. worst: the largest difference and its layer. different: layers that
    differ by more than LARGEST. apart: layers without a counterpart in onnxruntime.
    """

    listed: int = 0
    left_out: int = 0
    placed: dict[str, int] = field(default_factory=dict)
    worst: tuple[float, str] = (0.0, "")
    different: list[str] = field(default_factory=list)
    apart: list[str] = field(default_factory=list)


def maps_of(values: np.ndarray, shape: tuple[int, int, int]) -> Iterator[tuple[str, np.ndarray]]:
    """Every map (IMAGES, rows, columns, channels) that a tensor of onnxruntime could stand for, with the name of its order."""
    rows, columns, channels = shape
    full = (IMAGES, *shape)
    if values.ndim == 4:
        yield "map", values.transpose(0, 2, 3, 1)
        yield "map", values
        yield from _rolled(values, shape)
    if prod(values.shape) == prod(full) and (rows, columns) == (1, 1):
        yield "vector", values.reshape(full)
    if rows * columns == 1 and values.ndim < 3:
        return
    for sizes, order in _orders(values):
        moved = values.transpose(order)
        for axis in range(1, len(sizes)):
            rest = prod(sizes[axis + 1 :])
            if rest != channels:
                continue
            tokens = moved.reshape(IMAGES, -1, channels) if moved.shape[0] % IMAGES == 0 else np.zeros((IMAGES, 0, channels))
            extra = tokens.shape[1] - rows * columns
            if moved.shape[0] == IMAGES and 0 <= extra <= MOST_EXTRA:
                yield "tokens", tokens[:, extra:].reshape(full)
                yield "tokens, extra ones last", tokens[:, : rows * columns].reshape(full)
            yield from _windows(tokens, moved.shape[: axis + 1], shape)


def _rolled(values: np.ndarray, shape: tuple[int, int, int]) -> Iterator[tuple[str, np.ndarray]]:
    """Maps on their way to shifted windows or back, rolled up, left or both ways: here rolled back."""
    for whole in (values, values.transpose(0, 2, 3, 1)):
        for shift in range(1, shape[0] // 2 + 1) if whole.shape == (IMAGES, *shape) else ():
            yield from (("rolled map", np.roll(whole, by, (1, 2))) for by in ((shift, 0), (0, shift), (shift, shift)))


def _orders(values: np.ndarray) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Every order of a tensor's axes that leaves the first in front: the sizes in that order, and the order."""
    for order in permutations(range(1, values.ndim)):
        whole = (0, *order)
        yield tuple(values.shape[axis] for axis in whole), whole


def _windows(tokens: np.ndarray, before: tuple[int, ...], shape: tuple[int, int, int]) -> Iterator[tuple[str, np.ndarray]]:
    """Maps that were cut into square windows, window after window, perhaps rolled by half a window up and left before."""
    rows, columns, channels = shape
    count = prod(before)
    for side in range(2, max(rows, columns) + 7):
        down, across = -(-rows // side), -(-columns // side)
        if count != IMAGES * down * across * side**2 or tokens.shape[1] != down * across * side**2 or down * across == 1:
            continue
        if before[-1] not in (side, side**2) and prod(before[-2:]) != side**2:
            continue
        apart = tokens.reshape(IMAGES, down, across, side, side, channels)
        yield "grid", apart.transpose(0, 3, 1, 4, 2, 5).reshape(IMAGES, down * side, across * side, channels)[:, :rows, :columns]
        whole = apart.transpose(0, 1, 3, 2, 4, 5).reshape(IMAGES, down * side, across * side, channels)
        yield "windows", whole[:, :rows, :columns]
        yield "shifted windows", np.roll(whole, (side // 2, side // 2), (1, 2))[:, :rows, :columns]


def views_of(values: np.ndarray, layer: str, shape: tuple[int, int, int]) -> Iterator[tuple[str, np.ndarray]]:
    """The same for LAYER#tokens and LAYER#heads, and for plain layers."""
    if layer.endswith("#tokens"):
        for _, order in _orders(values):
            moved = values.transpose(order)
            beside = moved.reshape(*moved.shape[:2], -1)[:, : shape[1]]
            if beside.size == IMAGES * prod(shape):
                yield "tokens beside", beside.reshape(IMAGES, *shape)
    elif layer.endswith("#heads"):
        if values.ndim >= 3:
            for axis in range(1, values.ndim):
                norms = np.sqrt((values.astype(np.float64) ** 2).sum(axis))
                yield from (("heads", candidate) for _, candidate in maps_of(norms, shape))
            yield from (("attention", candidate) for _, candidate in maps_of(values[..., 0, :], shape))
            yield from (("attention", candidate) for _, candidate in maps_of(values.mean(-2), shape))
    else:
        yield from maps_of(values, shape)


def in_another_order(values: np.ndarray, mine: np.ndarray) -> np.ndarray | None:
    """For each token of our map the nearest row of a tensor, whatever their order; None if the sizes cannot fit."""
    direction = np.random.default_rng(1).normal(size=mine.shape[3])
    best: np.ndarray | None = None
    for sizes, order in _orders(values):
        axes = [axis for axis in range(1, len(sizes)) if prod(sizes[axis:]) == mine.shape[3]]
        count = prod(sizes[1 : axes[0]]) if axes and sizes[0] == IMAGES else 0
        if not mine[0, ..., 0].size <= count <= mine[0, ..., 0].size + MOST_EXTRA:
            continue
        rows, like = values.transpose(order).reshape(IMAGES, count, -1), np.empty_like(mine)
        for image in range(IMAGES):
            tokens = mine[image].reshape(-1, mine.shape[3])
            sums = rows[image] @ direction
            ranks = sums.argsort()
            near = np.searchsorted(sums[ranks], tokens @ direction)[:, np.newaxis] + np.arange(-3, 3)  # rounding swaps neighbours
            candidates = rows[image][ranks[near.clip(0, count - 1)]]
            closest = np.abs(candidates - tokens[:, np.newaxis]).max(-1).argmin(1)
            like[image] = candidates[np.arange(len(tokens)), closest].reshape(mine.shape[1:])
        if best is None or np.abs(like - mine).max() < np.abs(best - mine).max():
            best = like
    return best


def compared(path: Path, size: int | None) -> Comparison:
    """One network, layer by layer."""
    import onnx
    import onnxruntime
    import tensorflow as tf

    from pipeline.models.onnx.onnx_network import open_onnx
    from pipeline.spec.model import ModelSpec

    spec = ModelSpec(source=f"onnx:{path}", layers=["*"], preprocess="torch", size=None if size is None else (size, size))
    network = open_onnx(str(path), spec)
    layers = list(network.layers())
    result = Comparison(len(layers), len(network.every_layer()) - len(layers))
    model = onnx.load(str(path))
    outputs = {node.name: node.output[0] for node in model.graph.node if node.name and len([o for o in node.output if o]) == 1}
    every = {output for node in model.graph.node for output in node.output}
    sources = {layer.name: layer.name.partition("#")[0] for layer in layers}
    tensors = {name: [outputs.get(source, source)] for name, source in sources.items()}
    for name, source in sources.items():
        if name.endswith("#heads"):  # where the softmax has five axes, the heads it shows are listed at a layer behind it
            tensors[name] += [outputs.get(f"{source.rpartition('/')[0]}/Softmax", "")]
    named = every & {tensor for several in tensors.values() for tensor in several}
    theirs = _theirs(model, sorted(named), _images(network.input_shape))
    del onnx, onnxruntime

    @tf.function(autograph=False)
    def trace(images: tf.Tensor) -> Any:
        return network.trace(images, [layer.name for layer in layers])

    ours = trace(tf.constant(_images(network.input_shape)))
    for layer in layers:
        several = [theirs[tensor] for tensor in tensors[layer.name] if tensor in theirs]
        values = several[0] if several else None
        mine = ours[layer.name].numpy()
        best = (np.inf, "")
        for how, other in (view for each in several for view in views_of(each, layer.name, layer.shape)):
            if other.shape == mine.shape:
                share = float(np.abs(mine - other).max() / max(np.abs(other).max(), 1e-6))
                best = min(best, (share, how))
                if share <= LARGEST:
                    break
        if values is not None and best[0] > LARGEST and mine[0, ..., 0].size > 1 and "#" not in layer.name:
            like = in_another_order(values, mine)
            if like is not None:
                best = min(best, (float(np.abs(mine - like).max() / max(np.abs(like).max(), 1e-6)), "in another order"))
        if np.isinf(best[0]):
            result.apart.append(layer.name)
            continue
        result.placed[best[1]] = result.placed.get(best[1], 0) + 1
        result.worst = max(result.worst, (best[0], layer.name))
        if best[0] > LARGEST:
            result.different.append(f"{layer.name} ({best[0]:.1e})")
    return result


def _images(shape: tuple[int, int, int]) -> np.ndarray:
    return np.random.default_rng(0).uniform(-1, 1, (IMAGES, *shape)).astype(np.float32)


def _theirs(model: Any, tensors: list[str], images: np.ndarray) -> dict[str, np.ndarray]:
    """Tensors as onnxruntime computes them; image by image if the file takes only single images."""
    import onnx
    import onnxruntime

    constants = {tensor.name for tensor in model.graph.initializer}
    image = next(value for value in model.graph.input if value.name not in constants)
    sizes = [dim.dim_value for dim in image.type.tensor_type.shape.dim]
    images = images.transpose(0, 3, 1, 2) if sizes[1] in (1, 3) else images
    ends = {output.name for output in model.graph.output}
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in tensors if name not in ends)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    batches = np.split(images, IMAGES) if sizes[0] == 1 else [images]
    answers = [session.run(tensors, {image.name: batch}) for batch in batches]
    return {
        name: np.concatenate(parts) if np.ndim(parts[0]) else parts[0]
        for name, parts in zip(tensors, zip(*answers, strict=False), strict=False)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--size", type=int, help="of the image, where a file leaves it open")
    parser.add_argument("--names", action="store_true", help="name the layers without a counterpart, and those that differ")
    options = parser.parse_args()
    failed = False
    print(f"{'network':44} {'listed':>6} {'left out':>8} {'compared':>8} {'largest':>8}  how tokens lie")
    for path in options.files:
        try:
            result = compared(path, options.size)
        except Exception as error:
            print(f"{path.stem:44} {type(error).__name__}: {error}", flush=True)
            failed = True
            continue
        count = result.listed - len(result.apart)
        how = ", ".join(f"{number} {name}" for name, number in sorted(result.placed.items()))
        print(f"{path.stem:44} {result.listed:6} {result.left_out:8} {count:8} {result.worst[0]:8.1e}  {how}", flush=True)
        if options.names:
            print(
                *(f"    differs: {name}" for name in result.different), *(f"    alone: {name}" for name in result.apart), sep="\n"
            )
        failed = failed or bool(result.different or result.apart)
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
