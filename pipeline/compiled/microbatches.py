"""Micro-batches: a batch runs through the network a few images at a time, as many micro-batches at once as there are cores."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from math import prod
from typing import Any, TypeVar

import tensorflow as tf

from pipeline.compiled.cpu_session import in_session
from pipeline.compiled.devices import cpu_threads, visible_gpus
from pipeline.compiled.freezing import FrozenGraph, Pass, freeze
from pipeline.compiled.in_place import let_clamps_wait
from pipeline.models.network import Network

Item = TypeVar("Item")
Result = TypeVar("Result")

BATCHES_IN_FLIGHT = 2  # that a scan runs at the same time: more need more memory and gain little
CACHED_BYTES = 2**22  # of a map that is still in the core's cache when the next layer reads it
FEWEST_IMAGES = 4  # in a micro-batch: with fewer, the fixed cost of each operation matters


def microbatch_size(network: Network, batch: int) -> int:
    """How many images of a batch to run at once, all micro-batches being about equal; the whole batch where there is a GPU.

    It depends only on the network and the batch, not on the number of cores, because the last digits of the results
    depend on it.
    """
    if visible_gpus():
        return batch
    largest = max(prod(layer.shape) for layer in network.layers()) * tf.float32.size
    count = -(-batch // max(FEWEST_IMAGES, CACHED_BYTES // largest))
    return -(-batch // count)


def in_microbatches(function: Pass, size: int, images: tf.TensorSpec, *others: tf.TensorSpec, on_cpu: bool = False) -> Pass:
    """A compiled pass over a batch, made of a function of one micro-batch.

    Each core runs a whole micro-batch, so it never waits for another core and reads maps while they are in its cache.
    The maps of as many micro-batches as there are cores are in memory at a time.

    Args:
        function: takes images (size, h, w, 3), the index of the first of them in the batch, int64 (), and all others;
            returns a structure of tensors with any number of rows each. It is traced once, and its variables are frozen.
        size: images in a micro-batch, at most those of the batch.
        images, others: the specs of the arguments of the pass over a batch.
        on_cpu: run on the CPU where there is a GPU too.

    Returns: a callable of images (batch, h, w, 3) and all others, which returns the same structure, of tensors or arrays,
        with the rows of all micro-batches in order. Where the batch is no multiple of the size, black images fill up the
        last micro-batch. Several threads may call it at the same time.
    """
    batch = int(images.shape[0])
    count = -(-batch // size)
    specs = tf.TensorSpec((size, *images.shape[1:]), images.dtype), tf.TensorSpec((), tf.int64), *others
    if count == 1 and not on_cpu:
        whole = freeze(function, *specs)
        return lambda pixels, *others: whole(pixels, 0, *others)
    frozen = FrozenGraph.of(function, *specs)
    let_clamps_wait(frozen.graph)

    def over_batch(images: tf.Tensor, *others: tf.Tensor) -> Any:
        padded = tf.pad(images, [(0, count * size - batch), (0, 0), (0, 0), (0, 0)])

        def of_microbatch(number: tf.Tensor) -> Any:
            return frozen(padded[number * size : (number + 1) * size], tf.cast(number, tf.int64) * size, *others)

        return _concatenated(of_microbatch, count, frozen.structure)

    threads = cpu_threads()
    # If all batches in flight together have fewer micro-batches than there are cores, each operation uses all cores.
    each = 1 if BATCHES_IN_FLIGHT * count >= threads else threads
    return in_session(over_batch, [images, *others], threads, each=each)


def in_flight(
    run: Callable[[Item], Result], items: Iterable[Item], started: Callable[[Future[Result]], object] = lambda result: None
) -> Generator[Result]:
    """What `run` gives for every item, in order; while the caller works on one result, threads run the next items.

    Args:
        started: called with the future of each result as soon as a thread may run it.
    """
    threads = ThreadPoolExecutor(BATCHES_IN_FLIGHT, thread_name_prefix="network")
    running: deque[Future[Result]] = deque()
    try:
        for item in items:
            oldest = running.popleft() if len(running) == BATCHES_IN_FLIGHT else None
            if oldest is not None:
                wait([oldest])  # the next item is begun before this result goes to the caller: the network stays busy
            running.append(threads.submit(run, item))
            started(running[-1])
            if oldest is not None:
                yield oldest.result()
        while running:
            yield running.popleft().result()
    finally:
        threads.shutdown(cancel_futures=True)


def _concatenated(of_microbatch: Callable[[tf.Tensor], Any], count: int, structure: Any) -> Any:
    """The results of all micro-batches, their rows one below the other."""
    flat = tf.nest.flatten(structure)
    rows = [tf.TensorArray(spec.dtype, count, infer_shape=False, element_shape=(None, *spec.shape[1:])) for spec in flat]

    def step(number: tf.Tensor, rows: list[tf.TensorArray]) -> tuple[tf.Tensor, list[tf.TensorArray]]:
        results = tf.nest.flatten(of_microbatch(number))
        return number + 1, [array.write(number, result) for array, result in zip(rows, results, strict=True)]

    _, rows = tf.while_loop(lambda number, _: number < count, step, (0, rows), parallel_iterations=cpu_threads())
    return tf.nest.pack_sequence_as(structure, [array.concat() for array in rows])
