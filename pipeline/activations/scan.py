"""The scan: a shard of a data set through a network, once, and every channel's strongest responses kept.

One compiled pass gives each layer's spatial maxima; those alone come to the host. The maps stay on the
device until the heaps have said which responses enter, and the places of those few are found there.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import numpy as np
import tensorflow as tf

from pipeline.activations.heap import Activations
from pipeline.activations.part import Part, Skipped
from pipeline.errors import TooManyBad, UnusableData, carried
from pipeline.models.network import LayerInfo, Network
from pipeline.models.tap import compile_pass
from pipeline.sources.source import Shard, Source

_CHUNKS = (8, 32, 128)  # responses whose places are found in one call; few sizes, so that few graphs are made


@dataclass(frozen=True)
class Plan:
    """What a scan reads and keeps.

    channels: the channels to look at, by number; None: all of every layer.
    on_bad, max_bad: whether an unreadable image stops the scan, and which share of them does.
    """

    layers: tuple[LayerInfo, ...]
    channels: tuple[int, ...] | None
    k: int
    batch: int
    on_bad: str = "skip"
    max_bad: float = 1.0

    def channels_of(self, layer: LayerInfo) -> np.ndarray:
        """The numbers of a layer's channels that are looked at: int64."""
        return np.arange(layer.channels) if self.channels is None else np.array(self.channels, np.int64)

    def empty(self) -> Part:
        """The part of no examples."""
        return Part.empty({layer.name: len(self.channels_of(layer)) for layer in self.layers}, self.k)


@dataclass
class Meter:
    """Where the time of a scan went, in seconds."""

    images: int = 0
    data: float = 0.0
    network: float = 0.0
    heaps: float = 0.0

    @property
    def seconds(self) -> float:
        return self.data + self.network + self.heaps

    def __add__(self, other: Meter) -> Meter:
        return Meter(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))


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
    # The batches are those of a scan of everything: an image is always sent through at the same place in its batch,
    # because some kernels round differently there.
    repeated = (first + part.done) % plan.batch
    fresh = first + part.done
    tap = tap or Tap(network, plan)
    batches = iter(source.stream(shard, part.done - repeated).batch(plan.batch).prefetch(2))
    clock = time.perf_counter()
    while True:
        try:
            batch = next(batches, None)
        except tf.errors.DataLossError as error:
            reason = str(error.message).splitlines()[0]
            raise UnusableData(
                f"the data are damaged after {part.seen:,} examples: {reason}. Prepare the data set anew."
            ) from None
        except tf.errors.OpError as error:
            ours = carried(str(error.message))
            if ours is None:
                raise
            raise ours from None
        waited = time.perf_counter()
        meter.data += waited - clock
        if batch is None:
            break
        images, examples, bad = _padded(batch, plan.batch)
        if repeated:
            examples, bad = np.where(examples < fresh, -1, examples), tuple(one for one in bad if one.example >= fresh)
            repeated = 0
        part = replace(part, skipped=part.skipped + bad)
        judge_bad(part, plan, len(source))
        responses = tap.forward(images)
        answered = time.perf_counter()
        part = learn(part, responses, examples)
        clock = time.perf_counter()
        meter.network += answered - waited
        meter.heaps += clock - answered
        meter.images += int((examples >= 0).sum())
        keep(part)
        progress(part.done, last - first)
    return part, meter


@dataclass(frozen=True)
class Responses:
    """One batch's answer of one layer: its maxima on the host, its maps where they are.

    maxima: float32 (batch, channels), NaN passed over. nans: int64 (batch, channels).
    """

    maxima: np.ndarray
    nans: np.ndarray
    maps: tf.Tensor

    def places(self, images: np.ndarray, channels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows and cols of the first maximum of some maps: int32 (n,) each."""
        flat = np.empty(len(images), np.int64)
        done = 0
        while done < len(images):
            size = next((size for size in _CHUNKS if size >= len(images) - done), _CHUNKS[-1])
            part = slice(done, done + size)
            index = np.zeros((size, 2), np.int32)
            index[: len(images[part])] = np.stack([images[part], channels[part]], axis=1)
            flat[part] = _first_maxima(self.maps, tf.constant(index)).numpy()[: len(images[part])]
            done += size
        width = self.maps.shape[2]
        return (flat // width).astype(np.int32), (flat % width).astype(np.int32)


class Tap:
    """The compiled pass: images in, every layer's maxima and maps out."""

    def __init__(self, network: Network, plan: Plan) -> None:
        """Compile; nothing runs yet."""
        self._names = [layer.name for layer in plan.layers]
        chosen = None if plan.channels is None else tf.constant(plan.channels, tf.int32)

        def finish(maps: dict[str, tf.Tensor]) -> list[tuple[tf.Tensor, tf.Tensor]]:
            if chosen is not None:
                maps = {name: tf.gather(value, chosen, axis=3) for name, value in maps.items()}
            return [(tf.reduce_max(maps[name], axis=[1, 2]), maps[name]) for name in self._names]

        self._run = compile_pass(network, self._names, plan.batch, finish)

    def forward(self, images: np.ndarray) -> dict[str, Responses]:
        """Responses by layer to uint8 images (batch, height, width, 3)."""
        responses = {}
        for name, (maxima, maps) in zip(self._names, self._run(images), strict=True):
            peaks = maxima.numpy()
            nans = np.zeros(peaks.shape, np.int64)
            if np.isnan(peaks).any():  # a maximum over NaN is NaN: only then are the maps looked at again
                count, clean = _without_nan(maps)
                nans, peaks = count.numpy(), clean.numpy()
            responses[name] = Responses(peaks, nans, maps)
        return responses


def learn(part: Part, responses: dict[str, Responses], examples: np.ndarray) -> Part:
    """The part after one batch's responses; examples int64 (batch,), -1 for padding and for what could not be read."""
    real = examples >= 0
    heaps, statistics = dict(part.heaps), dict(part.statistics)
    for name, response in responses.items():
        heaps[name] = _enter(heaps[name], response, examples)
        statistics[name] = statistics[name].update(response.maxima[real])
    return replace(part, heaps=heaps, statistics=statistics, seen=part.seen + int(real.sum()))


def _enter(heap: Activations, response: Responses, examples: np.ndarray) -> Activations:
    """The heap after one batch: places are found only for what enters."""
    area = response.maps.shape[1] * response.maps.shape[2]
    images, channels = heap.entrants(response.maxima, examples, response.nans < area)
    rows, cols = response.places(images, channels)
    heap = heap.insert(channels, response.maxima[images, channels], examples[images], rows, cols)
    return heap.count_nans(response.nans[examples >= 0].sum(axis=0)) if response.nans.any() else heap


@tf.function(reduce_retracing=True)
def _first_maxima(maps: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
    """For (image, channel) pairs, int32 (n, 2), the flat place of the first maximum of the map, NaN passed over."""
    shape = tf.shape(maps)
    area = shape[1] * shape[2]
    flat = tf.reshape(maps, (shape[0], area, shape[3]))
    each = (tf.shape(index)[0], area)
    images, places, channels = (tf.broadcast_to(part, each) for part in (index[:, :1], tf.range(area), index[:, 1:]))
    pairs = tf.stack([images, places, channels], axis=-1)
    values = tf.gather_nd(flat, pairs)
    # NaN becomes -inf, and among nothing but -inf the first that was no NaN is the place.
    nan = tf.math.is_nan(values)
    values = tf.where(nan, -np.inf, values)
    top = tf.reduce_max(values, axis=1, keepdims=True)
    return tf.argmax(tf.cast((values == top) & ~nan, tf.int8), axis=1)


@tf.function(reduce_retracing=True)
def _without_nan(maps: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """How many NaN each map holds, int64, and its maximum without them (-inf where nothing else is there)."""
    nan = tf.math.is_nan(maps)
    count = tf.reduce_sum(tf.cast(nan, tf.int64), axis=[1, 2])
    infinity = tf.constant(np.inf, maps.dtype)
    return count, tf.reduce_max(tf.where(nan, -infinity, maps), axis=[1, 2])


def _padded(batch: dict[str, tf.Tensor], size: int) -> tuple[np.ndarray, np.ndarray, tuple[Skipped, ...]]:
    """A batch at its full size: images, examples (-1 for padding and for what could not be read), and the unreadable."""
    images, examples, errors = batch["image"].numpy(), batch["example"].numpy(), batch["error"].numpy()
    bad = errors != b""
    skipped = tuple(
        Skipped(int(examples[i]), batch["key"][i].numpy().decode("utf-8", "replace"), errors[i].decode("utf-8", "replace"))
        for i in np.flatnonzero(bad)
    )
    examples = np.where(bad, -1, examples)
    missing = size - len(examples)
    if missing:
        images = np.concatenate([images, np.zeros((missing, *images.shape[1:]), images.dtype)])
        examples = np.concatenate([examples, np.full(missing, -1, np.int64)])
    return images, examples, skipped


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
