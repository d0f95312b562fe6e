"""The gallery: the pictures of a sheet in one, beside the patches that were found, and how their losses went."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from pipeline.drawing.mosaic import MosaicLayout, centre_tile, draw_mosaic
from pipeline.drawing.pixels import decode_png, encode_png, resize
from pipeline.drawing.plots import many_losses
from pipeline.patterns.plan import Pattern, Sheet
from pipeline.store.files import file_name, write_bytes
from pipeline.store.places import Place
from pipeline.store.tables import read_index

_SIDE = 128  # pixels of a picture's longer side, where it is not shown as it is
_PATCH = 96  # pixels of a patch's longer side


@dataclass(frozen=True, eq=False)
class Found:
    """What the activations stage has found for one layer, where it ran.

    scores: {channel: what its patches scored, highest first}. patches: {channel: their PNG files, in that order}.
    """

    scores: dict[int, list[float]] = field(default_factory=dict)
    patches: dict[int, list[bytes]] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Made:
    """One picture, and what came of its ascent.

    picture: uint8 RGB (height, width, 3).
    losses: float32 (steps,): the objective before each step; it falls where the sign is negative.
    state: "done"; "dead", without any gradient; or "stopped", by NaN or infinity.
    reached: the largest value in the channel's map (the smallest, where it was lowered), or the objective's value.
    strongest: the response of the strongest patch found for the channel; None where there is none to compare with.
    """

    pattern: Pattern
    picture: np.ndarray
    losses: np.ndarray
    starts: int
    state: str
    reached: float
    strongest: float | None = None

    @classmethod
    def of(cls, pattern: Pattern, picture: Any, losses: Any, starts: Any, dead: Any, stopped: Any, reached: Any) -> Made:
        state = "dead" if dead else "stopped" if stopped else "done"
        return cls(pattern, picture, losses * np.float32(pattern.sign), int(starts), state, float(reached))

    @property
    def sign(self) -> str:
        """The sign as the index has it."""
        return "positive" if self.pattern.sign > 0 else "negative"

    @property
    def sheet(self) -> str:
        """Where it stands, for people."""
        return self.pattern.layer or "objective"

    @property
    def title(self) -> str:
        """What tells it from the others of its sheet: CHANNEL-SIGN-VARIANT."""
        name = self.pattern.channel if self.pattern.name is None else file_name(self.pattern.name)
        return f"{name}-{self.sign}-{self.pattern.variant}"

    @property
    def caption(self) -> str:
        """What is written below it: why there is nothing to see, or what it reached."""
        return _number(self.reached) if self.state == "done" else self.state

    @property
    def exceeds(self) -> bool | None:
        """Whether it fires its channel more than the strongest patch does."""
        return None if self.strongest is None else self.reached > self.strongest

    def beside(self, found: Found) -> Made:
        """The same, held against what was found; only raised channels have something to be held against."""
        if self.pattern.channel is None or self.pattern.sign < 0:
            return self
        return replace(self, strongest=next(iter(found.scores.get(self.pattern.channel, [])), None))

    def without_picture(self) -> Made:
        """The same, small enough to be kept until all are made."""
        return replace(self, picture=self.picture[:0])


def read_found(folder: Place, layer: str) -> Found:
    """What the job's folder holds of the activations of a layer, if that stage is done."""
    receipt = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    if "activations" not in receipt["stages"] or layer not in receipt["layers"]:
        return Found()
    index = read_index(folder, "activations").select(["layer", "channel", "rank", "score"]).to_pydict()
    rows = zip(index["layer"], index["channel"], index["rank"], index["score"], strict=True)
    scores: dict[int, list[float]] = {}
    for _, channel, _, score in sorted(row for row in rows if row[0] == layer):
        scores.setdefault(channel, []).append(score)
    patches: dict[int, list[bytes]] = {}
    with (folder / "crops" / f"{file_name(layer)}.parquet").open("rb") as file:
        for batch in pq.ParquetFile(file).iter_batches(columns=["channel", "image"]):
            for row in batch.to_pylist():
                patches.setdefault(row["channel"], []).append(row["image"]["bytes"])
    return Found(scores, patches)


def draw_sheet(folder: Place, sheet: Sheet, made: Sequence[Made], found: Found) -> None:
    """Write SHEET.png, SHEET-loss.png, and where there are patches SHEET-found.png. Raises: StoreFailed."""
    rows: dict[Any, list[Made]] = {}
    for one in made:
        rows.setdefault(one.pattern.channel if one.pattern.name is None else one.pattern.name, []).append(one)
    write_bytes(folder / f"{sheet.file}.png", _mosaic(rows, None))
    write_bytes(
        folder / f"{sheet.file}-loss.png", many_losses(sheet.name, np.stack([one.losses * one.pattern.sign for one in made]))
    )
    if found.patches:
        write_bytes(folder / f"{sheet.file}-found.png", _mosaic(rows, found))
    else:
        (folder / f"{sheet.file}-found.png").unlink(missing_ok=True)


def _mosaic(rows: dict[Any, list[Made]], found: Found | None) -> bytes:
    """A row a channel or name: its pictures, then the patches that were found; below each how strongly it fires."""
    numbers = [number if isinstance(number, int) else place for place, number in enumerate(rows)]
    patches = [found.patches.get(number, []) if found else [] for number in numbers]
    pictures = list(rows.values())
    groups, tiles = [len(pictures[0])], [_tile(*pictures[0][0].picture.shape[:2])]
    if found:
        groups, tiles = [*groups, max(map(len, patches))], [*tiles, (_PATCH, _PATCH)]
    layout = MosaicLayout.of(len(rows), groups, tiles, max(numbers), captioned=True)

    def tile(row: int, group: int, place: int) -> np.ndarray | None:
        if group == 0:
            return resize(pictures[row][place].picture, *layout.tile[0])
        if place >= len(patches[row]):
            return None
        return centre_tile(decode_png(patches[row][place]), layout.tile[1])

    def caption(row: int, group: int, place: int) -> str:
        if group == 0:
            return pictures[row][place].caption
        scores = found.scores[numbers[row]] if found and place < len(patches[row]) else []
        return _number(scores[place]) if scores else ""

    return encode_png(draw_mosaic(layout, numbers, tile, caption))


def _number(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _tile(height: int, width: int) -> tuple[int, int]:
    """The size at which a picture is shown: small ones are enlarged by a whole number, large ones are shrunk."""
    longest = max(height, width)
    scale = max(1, _SIDE // longest) if longest <= _SIDE else _SIDE / longest
    return round(height * scale), round(width * scale)
