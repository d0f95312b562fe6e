"""Results: finished patterns, the patches of their channels, their rows in the tables, and the summary of all patterns."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from pipeline.drawing.pixels import encode_png
from pipeline.models.network import Network
from pipeline.patterns.plan import Pattern
from pipeline.progress import Reporter
from pipeline.receipt import read_receipt
from pipeline.spec.patterns import PatternsSpec
from pipeline.store.files import file_name
from pipeline.store.places import Place
from pipeline.store.tables import for_arrow, read_index

_NAMED = 5  # patterns in one message


@dataclass(frozen=True, eq=False)
class StrongestPatches:
    """The strongest patches of one layer, empty if the stage `activations` has not run.

    scores: {channel: scores of its patches, highest first}. images: {channel: their image files, in that order}.
    """

    scores: dict[int, list[float]] = field(default_factory=dict)
    images: dict[int, list[bytes]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class PatternResult:
    """One picture, and the result of its ascent.

    picture: uint8 RGB (height, width, 3).
    losses: float32 (steps,): the objective before each step; it falls where the sign is negative.
    starts: how many starts from noise there were.
    state: "done"; "dead", without any gradient; or "stopped", by NaN or infinity.
    reached: the largest value in the channel's map (the smallest if it was lowered), or the objective's value.
    strongest: the response of the channel's strongest patch; None if there is none to compare with.
    """

    pattern: Pattern
    picture: np.ndarray
    losses: np.ndarray
    starts: int
    state: str
    reached: float
    strongest: float | None = None

    @property
    def sign(self) -> str:
        """The sign as the index has it."""
        return "positive" if self.pattern.sign > 0 else "negative"

    @property
    def title(self) -> str:
        """Its unique name on the sheet: CHANNEL-SIGN-VARIANT."""
        name = self.pattern.channel if self.pattern.name is None else file_name(self.pattern.name)
        return f"{name}-{self.sign}-{self.pattern.variant}"

    @property
    def exceeds(self) -> bool | None:
        """Whether it excites its channel more than the strongest patch does."""
        return None if self.strongest is None else self.reached > self.strongest

    def compared(self, patches: StrongestPatches) -> PatternResult:
        """The same with `strongest`; only raised channels are compared."""
        if self.pattern.channel is None or self.pattern.sign < 0:
            return self
        return replace(self, strongest=next(iter(patches.scores.get(self.pattern.channel, [])), None))

    def without_picture(self) -> PatternResult:
        """A copy without the picture, small enough to keep until all are made."""
        return replace(self, picture=self.picture[:0])


def read_patches(folder: Place, layer: str) -> StrongestPatches:
    """The strongest patches of a layer in the job's folder, if the activations stage is done."""
    receipt = read_receipt(folder)
    if "activations" not in receipt.stages or layer not in receipt.layers:
        return StrongestPatches()
    index = read_index(folder, "activations").select(["layer", "channel", "rank", "score"]).to_pydict()
    rows = zip(index["layer"], index["channel"], index["rank"], index["score"], strict=True)
    scores: dict[int, list[float]] = {}
    for _, channel, _, score in sorted(row for row in rows if row[0] == layer):
        scores.setdefault(channel, []).append(score)
    images: dict[int, list[bytes]] = {}
    with for_arrow(folder / "crops" / f"{file_name(layer)}.parquet") as file:
        for batch in pq.ParquetFile(file, pre_buffer=False).iter_batches(columns=["channel", "image"], use_threads=False):
            for row in batch.to_pylist():
                images.setdefault(row["channel"], []).append(row["image"]["bytes"])
    return StrongestPatches(scores, images)


def dead_channels(folder: Place, layers: Sequence[str]) -> dict[str, frozenset[int]]:
    """By layer the channels that never fire in the job's images, if the activations stage is done; else none."""
    if "activations" not in read_receipt(folder).stages:
        return {}
    channels = read_index(folder, "channels").select(["layer", "channel", "dead"]).to_pydict()
    rows = list(zip(channels["layer"], channels["channel"], channels["dead"], strict=True))
    return {layer: frozenset(channel for row_layer, channel, dead in rows if dead and row_layer == layer) for layer in layers}


def picture_rows(results: Sequence[PatternResult]) -> Iterator[dict[str, list[Any]]]:
    """The rows of patterns/SHEET.parquet, one at a time."""
    for result in results:
        pattern = result.pattern
        yield {
            "image": [{"bytes": encode_png(result.picture), "path": f"{result.title}.png"}],
            "name": [pattern.name],
            "layer": [pattern.layer],
            "channel": [pattern.channel],
            "sign": [result.sign],
            "variant": [pattern.variant],
        }


def index_columns(spec: PatternsSpec, network: Network, results: Sequence[PatternResult]) -> dict[str, list[Any]]:
    """The columns of index/patterns.parquet."""
    height, width, _ = network.input_shape
    parameters = json.dumps(spec.model_dump(mode="json", exclude={"layers", "channels", "objectives", "snapshot"}))
    patterns = [result.pattern for result in results]
    return {
        "name": [pattern.name for pattern in patterns],
        "layer": [pattern.layer for pattern in patterns],
        "channel": [pattern.channel for pattern in patterns],
        "sign": [result.sign for result in results],
        "variant": [pattern.variant for pattern in patterns],
        "objective": [str(pattern.objective) for pattern in patterns],
        "state": [result.state for result in results],
        "seed": [spec.seed] * len(results),
        "starts": [result.starts for result in results],
        "steps": [len(result.losses) for result in results],
        "height": [height] * len(results),
        "width": [width] * len(results),
        "parameters": [parameters] * len(results),
        "loss": [result.losses[-1] for result in results],
        "losses": [result.losses for result in results],
        "reached": [result.reached for result in results],
        "strongest": [result.strongest for result in results],
        "exceeds": [result.exceeds for result in results],
    }


def summarise(
    reporter: Reporter, results: Sequence[PatternResult], left_out: Mapping[str, Sequence[int]] = MappingProxyType({})
) -> dict[str, Any]:
    """The stage's entry in run.json; reports patterns that are dead or stopped.

    Args:
        left_out: the channels without a pattern because they never fire in the job's images, by layer.
    """
    compared = [result for result in results if result.exceeds is not None]
    exceeding = sum(bool(result.exceeds) for result in compared)
    words = [f"{len(results):,} patterns"]
    if compared:
        words.append(f"{exceeding:,} of {len(compared):,} above the strongest patch")
    failed = {}
    for state, problem in (("dead", "have no gradient from any start"), ("stopped", "stopped at NaN or infinity")):
        titles = [f"{result.pattern.layer or 'objective'} {result.title}" for result in results if result.state == state]
        failed[state] = len(titles)
        if titles:
            more = f" and {len(titles) - _NAMED} more" if len(titles) > _NAMED else ""
            names = ", ".join(titles[:_NAMED])
            reporter.say(f"patterns that {problem}: {names}{more}. See index/patterns.parquet, column state.")
            words.append(f"{len(titles):,} {state}")
    never = sum(map(len, left_out.values()))
    if never:
        words.append(f"{never:,} channels left out, which never fire in these images")
    counts = {"pictures": len(results), "compared": len(compared), "exceeding": exceeding, **failed}
    return {"summary": ", ".join(words), **counts, "left_out": {layer: list(channels) for layer, channels in left_out.items()}}
