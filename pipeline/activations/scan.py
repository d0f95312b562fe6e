"""The scan: one shard of a data set through a network, once, keeping every channel's strongest responses.

The heaps are updated with the previous batch's outputs while the network runs the next ones in threads of its own, and
tf.data prepares the batches after those. Two batches are in the network at a time: cores, or a GPU, that have nothing
left to do for the first start on the second.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np
import tensorflow as tf

from pipeline.activations.member import Candidates, Responses, Thresholds
from pipeline.activations.part import Part, Skipped, check_bad
from pipeline.activations.plan import Progress, ScanPlan
from pipeline.activations.scan_pass import Peaks, ScanPass
from pipeline.activations.scan_times import ScanTimes, Stopwatch
from pipeline.compiled.devices import tensor_float_32
from pipeline.compiled.microbatches import in_flight
from pipeline.models.network import Network
from pipeline.sources.source import Shard, Source, drawn


@dataclass(frozen=True)
class ScanSession:
    """Where a scan continues, what it calls after each batch, and what it need not compile.

    begun: what an earlier scan of the same shard has collected.
    keep: called with a part of exactly the examples up to this batch. Parts are values: nothing changes one later.
    progress: called with how many of the shard's examples are done, and how many it has.
    scan_pass: the compiled pass of the network and the plan, where the caller has it already.
    """

    begun: Part | None = None
    keep: Callable[[Part], None] = lambda part: None
    progress: Progress = lambda done, total: None
    scan_pass: ScanPass | None = None


def scan(
    network: Network, source: Source, plan: ScanPlan, shard: Shard = Shard(), session: ScanSession = ScanSession()
) -> tuple[Part, ScanTimes]:
    """Stream one shard through the network.

    Returns: what was collected, with what the session had begun, and where this scan's time went.
    Raises: TooManyBad, when more than `max_bad` of the source, or with `on_bad = "fail"` any, cannot be read.
    """
    first, last = shard.bounds(len(source))
    part, times = session.begun or Part.empty(plan), ScanTimes()
    if first + part.done >= last:
        return part, times
    stopwatch = Stopwatch(times)
    batches = _batches(source, plan, shard, part.done)
    scan_pass = session.scan_pass or ScanPass(network, plan)
    # Thresholds only rise, so those of a part that lacks the last batches let pass whatever can enter now.
    outputs = _outputs(scan_pass, batches, lambda batch: part.thresholds(batch.label_numbers), stopwatch)
    with closing(outputs), tensor_float_32(plan.precision == "tf32"):
        for batch, peaks in outputs:
            with stopwatch.spent_on("heaps"):
                responses = {layer: batch.responses(of_layer) for layer, of_layer in peaks.items()}
                part = part.update(responses, batch.readable, batch.skipped)
            check_bad(part, plan, len(source))
            times.images += batch.readable
            with stopwatch.spent_on("writing"):
                session.keep(part)
            session.progress(part.done, last - first)
    return part, times


@dataclass(frozen=True, eq=False)
class BatchResponses:
    """How every channel responds to the readable images of a batch or several.

    examples: int64 (n,); keys, labels: str (n,).
    responses: float32 (n, channels) by layer: what heaps order by, spatial maxima before an upper clamp.
    """

    examples: np.ndarray
    keys: np.ndarray
    labels: np.ndarray
    responses: dict[str, np.ndarray]

    @classmethod
    def joined(cls, batches: Sequence[BatchResponses]) -> BatchResponses:
        """Those of several batches, one at least."""
        examples, keys, labels = (
            np.concatenate([getattr(batch, name) for batch in batches]) for name in ("examples", "keys", "labels")
        )
        layers = batches[0].responses
        responses = {layer: np.concatenate([batch.responses[layer] for batch in batches]) for layer in layers}
        return cls(examples, keys, labels, responses)


def stream_responses(network: Network, source: Source, plan: ScanPlan, least: int) -> Iterator[BatchResponses]:
    """The responses to a whole source, as a scan of the plan sees them, for at least so many images at a time; nothing is kept.

    Raises: UnusableData, for data that are damaged.
    """
    closed = {layer.name: Thresholds.closed(len(plan.channels_of(layer))) for layer in plan.layers}
    batches = _batches(source, plan, Shard(), 0)
    outputs = _outputs(ScanPass(network, plan), batches, lambda batch: closed, Stopwatch(ScanTimes()))
    with closing(outputs), tensor_float_32(plan.precision == "tf32"):
        waiting: list[BatchResponses] = []
        for batch, peaks in outputs:
            real = batch.examples >= 0
            responses = {layer: batch.responses(of_layer).keys for layer, of_layer in peaks.items()}
            waiting.append(BatchResponses(batch.examples[real], batch.keys[real], batch.labels[real], responses))
            if sum(len(of_batch.examples) for of_batch in waiting) >= least:
                yield BatchResponses.joined(waiting)
                waiting.clear()
        if any(len(of_batch.examples) for of_batch in waiting):
            yield BatchResponses.joined(waiting)


@dataclass(frozen=True)
class Batch:
    """Images on their way through the network; every batch has the same number, the last one by padding.

    images: uint8 tensor or array (batch, height, width, 3).
    examples: int64 (batch,): -1 for padding and for images that could not be read.
    groups: int64 (batch,): the source image that each example is cut from.
    labels: str (batch,): "" for an image without a label.
    label_numbers: int64 (batch,): the labels' numbers in the plan; -1 for labels that the plan does not name.
    skipped: images that could not be read.
    keys: str (batch,).
    """

    images: tf.Tensor | np.ndarray
    examples: np.ndarray
    groups: np.ndarray
    labels: np.ndarray
    label_numbers: np.ndarray
    skipped: tuple[Skipped, ...] = ()
    keys: np.ndarray = field(default_factory=lambda: np.zeros(0, str))

    @property
    def readable(self) -> int:
        return int((self.examples >= 0).sum())

    def responses(self, peaks: Peaks) -> Responses:
        """A layer's responses to the readable images, from its peaks over the whole batch."""
        real = self.examples >= 0
        maxima, examples, groups = peaks.maxima[real], self.examples[real], self.groups[real]
        unclipped = None if peaks.unclipped is None else peaks.unclipped[real]
        kept = real[peaks.images]
        images, channels = (np.cumsum(real) - 1)[peaks.images[kept]], peaks.channels[kept]
        scores = maxima[images, channels]
        shares = np.zeros((len(scores), 0), np.uint8) if peaks.shares is None else peaks.shares[kept]
        candidates = Candidates(
            channels=channels,
            scores=scores,
            examples=examples[images],
            rows=peaks.rows[kept],
            cols=peaks.cols[kept],
            unclipped=np.full_like(scores, np.nan) if unclipped is None else unclipped[images, channels],
            groups=groups[images],
            maps=shares,
            images=images,
        )
        nans = None if peaks.nans is None else peaks.nans[real]
        return Responses(maxima, examples, self.labels[real], self.label_numbers[real], candidates, nans, unclipped)


def _outputs(
    scan_pass: ScanPass,
    batches: Iterator[Batch],
    thresholds_for: Callable[[Batch], dict[str, Thresholds]],
    stopwatch: Stopwatch,
) -> Generator[tuple[Batch, dict[str, Peaks]]]:
    """Every batch with the network's output; while the caller works on one batch, the network runs the next two."""

    def with_thresholds() -> Iterator[tuple[Batch, dict[str, Thresholds]]]:
        while True:
            with stopwatch.spent_on("data"):
                batch = next(batches, None)
            if batch is None:
                return
            yield batch, thresholds_for(batch)

    def run(item: tuple[Batch, dict[str, Thresholds]]) -> tuple[tuple[Batch, dict[str, Peaks]], float]:
        batch, thresholds = item
        return (batch, scan_pass.run(batch.images, thresholds)), time.perf_counter()

    with closing(in_flight(run, with_thresholds(), stopwatch.watch)) as outputs:
        for output, _ in outputs:
            yield output


def _batches(source: Source, plan: ScanPlan, shard: Shard, done: int) -> Iterator[Batch]:
    """A shard's batches after its first `done` examples, cut where a scan of the whole source cuts them.

    Every image is so at the same position of its batch in any sharding: some kernels round differently by position.
    """
    fresh = shard.bounds(len(source))[0] + done
    repeated = fresh % plan.batch
    for batch in drawn(source.stream(shard, done - repeated).batch(plan.batch).prefetch(2)):
        yield _padded(batch, plan, fresh)


def _padded(batch: dict[str, tf.Tensor], plan: ScanPlan, fresh: int) -> Batch:
    """A batch at its full size; examples before `fresh` only fill it and do not count."""
    images, examples, errors = batch["image"], batch["example"].numpy(), batch["error"].numpy()
    bad = (errors != b"") & (examples >= fresh)
    skipped = tuple(
        Skipped(int(examples[i]), batch["key"][i].numpy().decode("utf-8", "replace"), errors[i].decode("utf-8", "replace"))
        for i in np.flatnonzero(bad)
    )
    groups = batch["group"].numpy() if "group" in batch else examples
    examples = np.where((errors != b"") | (examples < fresh), -1, examples)
    labels, keys = ([text.decode("utf-8", "replace") for text in batch[name].numpy()] for name in ("label", "key"))
    missing = plan.batch - len(examples)
    if missing:
        images = tf.pad(images, [(0, missing), (0, 0), (0, 0), (0, 0)])
        examples, groups = (np.concatenate([numbers, np.full(missing, -1, np.int64)]) for numbers in (examples, groups))
        labels, keys = ([*texts, *[""] * missing] for texts in (labels, keys))
    codes = {label: number for number, label in enumerate(plan.labels)}
    numbers = np.array([codes.get(label, -1) for label in labels])
    return Batch(images, examples, groups, np.array(labels), numbers, skipped, np.array(keys))
