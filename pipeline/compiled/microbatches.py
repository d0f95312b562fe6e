"""Pieces: a batch that goes through a pass a few images at a time, as many pieces at once as there are cores."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import tensorflow as tf

from pipeline.compiled.compile import cpu_threads
from pipeline.compiled.cpu_session import in_session
from pipeline.compiled.freezing import FrozenGraph, Pass, freeze
from pipeline.models.network import Network

AT_ONCE = 2  # batches that a scan has on their way: more would take more memory, and bring little
_SMALL = 2**22  # bytes of a map that a core still finds in its cache when the next layer reads it
_FEWEST = 4  # images: with fewer, what operations cost beside their work begins to show


def piece_size(network: Network, batch: int) -> int:
    """How many images of a batch go through a network best at once, all pieces about alike; all where there is a GPU.

    It depends on the network and the batch alone, not on the cores: so do the last digits of what comes out.
    """
    if tf.config.list_physical_devices("GPU"):
        return batch
    largest = max(prod(layer.shape) for layer in network.layers()) * tf.float32.size
    pieces = -(-batch // max(_FEWEST, _SMALL // largest))
    return -(-batch // pieces)


def in_pieces(function: Pass, piece: int, images: tf.TensorSpec, *others: tf.TensorSpec) -> Pass:
    """A compiled pass over a batch, made of a function of a piece of it.

    A core that has its own piece waits for no other, and the maps of a piece are read while they are still in its
    cache. Memory holds the maps of as many pieces as there are cores.

    Args:
        function: takes images (piece, h, w, 3), the number that the first of them has in the batch, int64 (), and all
            others; gives a structure of tensors, of any number of rows each. It is traced once, its variables frozen.
        piece: images in a piece, at most as many as in the batch.
        images, others: the specs of what the pass over a batch takes.

    Returns: a callable of images (batch, h, w, 3) and all others, which gives the same structure, of tensors or arrays,
        each with the rows of all pieces, in order. Where the batch is no multiple of a piece, black images fill up the
        last. It may be called from several threads at the same time.
    """
    batch = int(images.shape[0])
    pieces = -(-batch // piece)
    specs = tf.TensorSpec((piece, *images.shape[1:]), images.dtype), tf.TensorSpec((), tf.int64), *others
    if pieces == 1:
        whole = freeze(function, *specs)
        return lambda pixels, *others: whole(pixels, 0, *others)
    frozen = FrozenGraph.of(function, *specs)

    def over_batch(images: tf.Tensor, *others: tf.Tensor) -> Any:
        padded = tf.pad(images, [(0, pieces * piece - batch), (0, 0), (0, 0), (0, 0)])

        def of_piece(number: tf.Tensor) -> Any:
            return frozen(padded[number * piece : (number + 1) * piece], tf.cast(number, tf.int64) * piece, *others)

        return _joined(of_piece, pieces, frozen.structure)

    threads = cpu_threads()
    # Where even the pieces of all batches on their way are fewer than the cores, operations share the cores.
    return in_session(over_batch, [images, *others], threads, each=1 if AT_ONCE * pieces >= threads else threads)


def _joined(of_piece: Callable[[tf.Tensor], Any], pieces: int, structure: Any) -> Any:
    """What all pieces gave, one below the other."""
    flat = tf.nest.flatten(structure)
    rows = [tf.TensorArray(one.dtype, pieces, infer_shape=False, element_shape=(None, *one.shape[1:])) for one in flat]

    def step(number: tf.Tensor, rows: list[tf.TensorArray]) -> tuple[tf.Tensor, list[tf.TensorArray]]:
        found = tf.nest.flatten(of_piece(number))
        return number + 1, [each.write(number, one) for each, one in zip(rows, found, strict=True)]

    _, rows = tf.while_loop(lambda number, _: number < pieces, step, (0, rows), parallel_iterations=cpu_threads())
    return tf.nest.pack_sequence_as(structure, [each.concat() for each in rows])
