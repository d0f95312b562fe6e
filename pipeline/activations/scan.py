"""The scan: a shard of a data set through a network, once, and every channel's strongest responses kept.

While the network is at one batch, in threads of its own, the heaps take what it answered to the batch before, and
the source, in threads of TensorFlow's, makes ready the batches after. Two batches are on their way at the same time:
cores, or a GPU, that have nothing more to do for the one begin with the other.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing
from dataclasses import dataclass, fields, replace

import numpy as np
import tensorflow as tf

from pipeline.activations.heap import Activations
from pipeline.activations.meter import Meter, Stopwatch
from pipeline.activations.part import Part, Skipped
from pipeline.activations.scan_pass import Gates, Responses, Tap
from pipeline.compiled.microbatches import AT_ONCE
from pipeline.errors import TooManyBad, UnusableData, carried
from pipeline.models.network import LayerInfo, Network
from pipeline.sources.source import Shard, Source


@dataclass(frozen=True)
class Plan:
    """What a scan reads and keeps.

    channels: the channels to look at, by number; None: all of every layer.
    bottom_k: how many of the weakest responses are kept too. label_k: how many of the strongest for each label.
    labels: the data set's, needed for label_k alone.
    on_bad, max_bad: whether an unreadable image stops the scan, and which share of them does.
    precision, xla: how the network is run.
    """

    layers: tuple[LayerInfo, ...]
    channels: tuple[int, ...] | None
    k: int
    batch: int
    on_bad: str = "skip"
    max_bad: float = 1.0
    precision: str = "float32"
    xla: bool = False
    bottom_k: int = 0
    label_k: int = 0
    labels: tuple[str, ...] = ()

    def channels_of(self, layer: LayerInfo) -> np.ndarray:
        """The numbers of a layer's channels that are looked at: int64."""
        return np.arange(layer.channels) if self.channels is None else np.array(self.channels, np.int64)

    def empty(self) -> Part:
        """The part of no examples."""
        counts = {layer.name: len(self.channels_of(layer)) for layer in self.layers}
        return Part.empty(counts, self.k, self.bottom_k, self.label_k, len(self.labels))

    def compile(self, network: Network) -> Tap:
        """The pass that this plan needs."""
        return Tap(network, self.layers, self.channels, self.batch, self.precision, self.xla)


Progress = Callable[[int, int], None]  # examples done, examples in all


def scan(
    network: Network,
    source: Source,
    plan: Plan,
    shard: Shard = Shard(),
    progress: Progress = lambda done, total: None,
    begun: Part | None = None,
    keep: Callable[[Part], None] = lambda part: None,
    tap: Tap | None = None,
) -> tuple[Part, Meter]:
    """Stream one shard through the network.

    Args:
        progress: told how many of the shard's examples are done, and how many it has.
        begun: what an earlier scan of the same shard has found; this one goes on from there.
        keep: given, after each batch, a part of exactly the examples up to there. It is a value: nothing changes it later.
        tap: the compiled pass of this network and plan, from who has it already.

    Returns: what was found, `begun` included, and where this scan's time went.
    Raises: TooManyBad, when more than `max_bad` of the source, or with `on_bad = "fail"` any, cannot be read.
    """
    first, last = shard.bounds(len(source))
    part, meter = begun or plan.empty(), Meter()
    if first + part.done >= last:
        return part, meter
    stopwatch = Stopwatch(meter)
    batches = _batches(source, plan, shard, part.done)
    # Gates only narrow, so those of a part from before the last batches let pass whatever can enter now.
    with closing(_answered(tap or plan.compile(network), batches, lambda batch: gates(part, batch), stopwatch)) as answered:
        for batch, responses in answered:
            with stopwatch.spent_on("heaps"):
                part = learn(part, batch, responses)
            judge_bad(part, plan, len(source))
            meter.images += batch.readable
            with stopwatch.spent_on("writing"):
                keep(part)
            progress(part.done, last - first)
    return part, meter


@dataclass(frozen=True)
class Batch:
    """Images on their way, always as many.

    images: uint8 tensor or array (batch, height, width, 3).
    examples: int64 (batch,): -1 for padding and for what could not be read.
    labels: str (batch,): "" where there is none.
    label_places: int (batch,): of the labels among those of the plan; -1 for those that are not.
    skipped: what could not be read.
    """

    images: tf.Tensor | np.ndarray
    examples: np.ndarray
    labels: np.ndarray
    label_places: np.ndarray
    skipped: tuple[Skipped, ...] = ()

    @property
    def readable(self) -> int:
        return int((self.examples >= 0).sum())


def gates(part: Part, batch: Batch) -> dict[str, Gates]:
    """Which responses to a batch can enter the heaps of a part, by layer."""
    found = {}
    for name, heap in part.heaps.items():
        floor = heap.floor[np.newaxis]
        if name in part.by_label:
            by_label = part.by_label[name].floor.reshape(-1, heap.channels)
            of_images = np.where(batch.label_places[:, np.newaxis] < 0, np.inf, by_label[batch.label_places])
            floor = np.minimum(floor, of_images).astype(np.float32)
        weakest = part.weakest.get(name)
        ceiling = np.full(heap.channels, -np.inf, np.float32) if weakest is None else -weakest.floor
        found[name] = Gates(floor, ceiling[np.newaxis])
    return found


def learn(part: Part, batch: Batch, responses: dict[str, Responses]) -> Part:
    """The part after one more batch, whose examples are higher than all in the part."""
    real = batch.examples >= 0
    heaps, statistics, tallies = dict(part.heaps), dict(part.statistics), dict(part.tallies)
    weakest, by_label = dict(part.weakest), dict(part.by_label)
    for name, response in responses.items():
        passed = _Passed.of(response, batch)
        heap = passed.into(heaps[name])
        heaps[name] = heap if response.nans is None else heap.count_nans(response.nans[real].sum(axis=0))
        statistics[name] = statistics[name].update(response.maxima[real])
        tallies[name] = tallies[name].update(response.maxima[real], batch.examples[real], batch.labels[real])
        if name in weakest:
            weakest[name] = replace(passed, scores=-passed.scores).into(weakest[name])
        if name in by_label:
            by_label[name] = passed.of_labels(batch.label_places, heap.channels).into(by_label[name])
    return Part(heaps, statistics, tallies, weakest, by_label, part.seen + batch.readable, part.skipped + batch.skipped)


@dataclass(frozen=True, eq=False)
class _Passed:
    """The responses of one layer that passed the gates: (n,) each."""

    images: np.ndarray
    channels: np.ndarray
    scores: np.ndarray
    examples: np.ndarray
    rows: np.ndarray
    cols: np.ndarray

    @classmethod
    def of(cls, response: Responses, batch: Batch) -> _Passed:
        real = batch.examples[response.images] >= 0
        images, channels, rows, cols = (of[real] for of in (response.images, response.channels, response.rows, response.cols))
        return cls(images, channels, response.maxima[images, channels], batch.examples[images], rows, cols)

    def into(self, heap: Activations) -> Activations:
        return heap.insert(self.channels, self.scores, self.examples, self.rows, self.cols)

    def of_labels(self, places: np.ndarray, channels: int) -> _Passed:
        """Those whose image has a label, with the numbers that their channels have for it."""
        place = places[self.images]
        kept = _Passed(*(getattr(self, one.name)[place >= 0] for one in fields(self)))
        return replace(kept, channels=place[place >= 0] * channels + kept.channels)


def _answered(
    tap: Tap, batches: Iterator[Batch], gates_for: Callable[[Batch], dict[str, Gates]], stopwatch: Stopwatch
) -> Generator[tuple[Batch, dict[str, Responses]]]:
    """Every batch with what the network answers to it; while the caller is at one, the network is at the next two."""

    def ask(batch: Batch, gates: dict[str, Gates]) -> tuple[dict[str, Responses], float]:
        return tap.ask(batch.images, gates), time.perf_counter()

    threads = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="network")
    asked: deque[tuple[Batch, Future[tuple[dict[str, Responses], float]]]] = deque()
    try:
        while True:
            with stopwatch.spent_on("data"):
                batch = next(batches, None)
            answered = asked.popleft() if asked and (batch is None or len(asked) == AT_ONCE) else None
            if answered is not None:
                wait([answered[1]])  # and no more: before the caller has this batch, the network has another to go on with
            if batch is not None:
                asked.append((batch, threads.submit(ask, batch, gates_for(batch))))
                stopwatch.watch(asked[-1][1])
            if answered is not None:
                yield answered[0], answered[1].result()[0]
            elif batch is None:
                return
    finally:
        threads.shutdown(cancel_futures=True)


def _batches(source: Source, plan: Plan, shard: Shard, done: int) -> Iterator[Batch]:
    """A shard's batches, from the example on that follows so many; they are cut where a scan of everything cuts them.

    An image is so always sent through at the same place in its batch: some kernels round differently there.
    """
    fresh = shard.bounds(len(source))[0] + done
    repeated = fresh % plan.batch
    batches = iter(source.stream(shard, done - repeated).batch(plan.batch).prefetch(2))
    while True:
        try:
            batch = next(batches, None)
        except tf.errors.DataLossError as error:
            reason = str(error.message).splitlines()[0]
            raise UnusableData(f"the data are damaged after {done:,} examples: {reason}. Prepare the data set anew.") from None
        except tf.errors.OpError as error:
            ours = carried(str(error.message))
            if ours is None:
                raise
            raise ours from None
        if batch is None:
            return
        yield _padded(batch, plan, fresh)
        done += len(batch["example"]) - repeated
        repeated = 0


def _padded(batch: dict[str, tf.Tensor], plan: Plan, fresh: int) -> Batch:
    """A batch at its full size; what comes before the example `fresh` is there to fill it, no more."""
    images, examples, errors = batch["image"], batch["example"].numpy(), batch["error"].numpy()
    bad = (errors != b"") & (examples >= fresh)
    skipped = tuple(
        Skipped(int(examples[i]), batch["key"][i].numpy().decode("utf-8", "replace"), errors[i].decode("utf-8", "replace"))
        for i in np.flatnonzero(bad)
    )
    examples = np.where((errors != b"") | (examples < fresh), -1, examples)
    labels = [label.decode("utf-8", "replace") for label in batch["label"].numpy()]
    missing = plan.batch - len(examples)
    if missing:
        images = tf.pad(images, [(0, missing), (0, 0), (0, 0), (0, 0)])
        examples = np.concatenate([examples, np.full(missing, -1, np.int64)])
        labels += [""] * missing
    places = {label: place for place, label in enumerate(plan.labels)}
    return Batch(images, examples, np.array(labels), np.array([places.get(label, -1) for label in labels]), skipped)


def judge_bad(part: Part, plan: Plan, total: int) -> None:
    """Whether a part has too many unreadable examples for a source of `total`. Raises: TooManyBad."""
    if not part.skipped:
        return
    last = part.skipped[-1]
    if plan.on_bad == "fail":
        raise TooManyBad(f'{last.key!r} cannot be read: {last.reason}. Mend it, or set data.on_bad = "skip".')
    if len(part.skipped) > plan.max_bad * total:
        raise TooManyBad(
            f"{len(part.skipped)} of {total} images cannot be read, more than data.max_bad = {plan.max_bad:g} allows; "
            f"the last: {last.key!r}: {last.reason}. Mend them, or raise max_bad."
        )
