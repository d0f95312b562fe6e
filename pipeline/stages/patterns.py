"""The stage `patterns`: for every channel that is asked for, the picture that fires it most."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np
import tensorflow as tf

from pipeline.ascent.checkpoint import load, save
from pipeline.ascent.loop import Climb, climb
from pipeline.ascent.measure import Measure, check_reach, compile_measure
from pipeline.ascent.objectives import Form, Objective
from pipeline.ascent.optimizer import Ascent, Way
from pipeline.ascent.parametrization import CANVASES, Canvas, quick_size
from pipeline.ascent.transforms import Shake
from pipeline.drawing.pixels import encode_png
from pipeline.job import Job
from pipeline.models.network import Network
from pipeline.patterns.contact_sheet import Made, draw_sheet, read_found
from pipeline.patterns.plan import Pattern, check_patterns, sheets
from pipeline.progress import Advance
from pipeline.report.section import Section
from pipeline.spec.patterns import PatternsSpec
from pipeline.stages.stage import Outcome, Stage
from pipeline.store.places import Place
from pipeline.store.tables import PATTERNS, write_crops, write_index


def patterns(job: Job) -> Outcome:
    """Make, measure and show the pictures of `[patterns]`.

    Batches that are done, and how far another has come, stay in parts/patterns until all are done; a stage that
    was interrupted goes on from there.

    Raises: UnusableModel, for layers that no gradient reaches; StoreFailed.
    """
    if tf.config.list_physical_devices("GPU"):
        tf.config.experimental.enable_op_determinism()
    spec = job.spec.patterns
    wanted = sheets(spec, job.layers)
    check_reach(
        job.network, list(dict.fromkeys(name for sheet in wanted for one in sheet.patterns for name in one.objective.layers))
    )
    parts = job.folder / "parts" / "patterns"
    shown: list[Made] = []
    with job.reporter.step("patterns", "steps") as advance:
        studio = Studio(job.network, spec, parts, advance, sum(len(sheet.patterns) for sheet in wanted))
        for sheet in wanted:
            found = read_found(job.folder, sheet.name)
            made = [one for batch in batches(sheet.patterns, spec) for one in studio.make(batch)]
            made = [one.beside(found) for one in made]
            write_crops(job.folder / "patterns" / f"{sheet.file}.parquet", _rows(made), PATTERNS)
            draw_sheet(job.folder / "mosaics" / "patterns", sheet, made, found)
            shown += [one.without_picture() for one in made]
    write_index(job.folder, "patterns", _columns(spec, job.network, shown))
    _remove_others(job.folder, [sheet.file for sheet in wanted])
    _clear(parts)
    return _told(job, shown)


def batches(wanted: Sequence[Pattern], spec: PatternsSpec) -> Iterator[list[Pattern]]:
    """Batches of one form, as equal in length as can be; the variants of one pattern stay together."""
    for _, same in groupby(wanted, key=lambda pattern: pattern.objective.form):
        patterns = list(same)
        count = len(patterns) // spec.variants
        number = -(-count // (spec.batch // spec.variants))
        length = -(-count // number) * spec.variants
        yield from (patterns[first : first + length] for first in range(0, len(patterns), length))


def way_of(spec: PatternsSpec) -> Way:
    """How the pictures of a spec climb."""
    shake = Shake(spec.shake.pad, spec.shake.jitter, spec.shake.scale, spec.shake.rotate)
    return Way(spec.optimiser, spec.rate, shake, spec.tv, spec.l2, spec.variants, spec.diversity, spec.seed)


def canvas_of(spec: PatternsSpec, network: Network, shake: Shake) -> Canvas:
    """The canvas of a spec: what the network sees, and the rim around it, or somewhat more."""
    height, width, _ = network.input_shape
    sizes = (quick_size(height + 2 * shake.rim(height)), quick_size(width + 2 * shake.rim(width)))
    more = {"decay": spec.decay} if spec.canvas == "fourier" else {}
    return CANVASES[spec.canvas](*sizes, decorrelated=spec.decorrelated, **more)


@dataclass
class Studio:
    """Makes batch after batch, and keeps what it has compiled while the form of the objectives stays the same."""

    network: Network
    spec: PatternsSpec
    parts: Place
    advance: Advance
    total: int  # pictures, of all batches
    done: int = 0
    compiled: dict[tuple[Form, int], tuple[Ascent, Measure]] = field(default_factory=dict)

    def make(self, wanted: Sequence[Pattern]) -> list[Made]:
        """The pictures of one batch, made or found among the parts."""
        key = self._key(wanted)
        arrays = load(self.parts / f"{key}.done.npz")
        if arrays is None:
            arrays = self._make(wanted, self.parts / f"{key}.npz")
            save(self.parts / f"{key}.done.npz", arrays)
        self.done += len(wanted)
        return [Made.of(pattern, *values) for pattern, *values in zip(wanted, *arrays, strict=True)]

    def _make(self, wanted: Sequence[Pattern], snapshot: Place) -> list[np.ndarray]:
        climbs = [pattern.climbs for pattern in wanted]
        ascent, measure = self._compiled(climbs)
        keys = [f"{pattern.climbs} {pattern.variant}" for pattern in wanted]
        plan = Climb(self.spec.steps, self.spec.seed, self.spec.contrast, self.spec.snapshot)

        def tell(steps: int, loss: float) -> None:
            done = self.done * self.spec.steps + steps * len(wanted)
            self.advance(done, self.total * self.spec.steps, f"loss {loss:.4g}")

        climbed = climb(ascent, climbs, keys, plan, snapshot, tell)
        pictures = ascent.pictures(climbed.state)
        values, high, low = measure(pictures, [pattern.objective for pattern in wanted])
        lowered = np.array([pattern.sign < 0 for pattern in wanted])
        named = np.array([pattern.channel is None for pattern in wanted])
        reached = np.where(named, values, np.where(lowered, low, high))
        return [pictures, climbed.losses.T, climbed.starts, climbed.dead, climbed.stopped, reached]

    def _compiled(self, climbs: Sequence[Objective]) -> tuple[Ascent, Measure]:
        key = (climbs[0].form, len(climbs))
        if key not in self.compiled:
            self.compiled.clear()  # each holds the network's weights
            way = way_of(self.spec)
            canvas = canvas_of(self.spec, self.network, way.shake)
            self.compiled[key] = (Ascent.compile(self.network, canvas, climbs, way), compile_measure(self.network, climbs))
        return self.compiled[key]

    def _key(self, wanted: Sequence[Pattern]) -> str:
        """The name of a batch among the parts: another spec or network has others."""
        told = [self.network.digest(), self.spec.model_dump(mode="json", exclude={"snapshot"})]
        told += [f"{pattern.climbs} {pattern.variant}" for pattern in wanted]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:20]


def _rows(made: Sequence[Made]) -> Iterator[dict[str, list[Any]]]:
    for one in made:
        pattern = one.pattern
        yield {
            "image": [{"bytes": encode_png(one.picture), "path": f"{one.title}.png"}],
            "name": [pattern.name],
            "layer": [pattern.layer],
            "channel": [pattern.channel],
            "sign": [one.sign],
            "variant": [pattern.variant],
        }


def _columns(spec: PatternsSpec, network: Network, made: Sequence[Made]) -> dict[str, list[Any]]:
    height, width, _ = network.input_shape
    parameters = json.dumps(spec.model_dump(mode="json", exclude={"layers", "channels", "objectives", "snapshot"}))
    return {
        "name": [one.pattern.name for one in made],
        "layer": [one.pattern.layer for one in made],
        "channel": [one.pattern.channel for one in made],
        "sign": [one.sign for one in made],
        "variant": [one.pattern.variant for one in made],
        "objective": [str(one.pattern.objective) for one in made],
        "state": [one.state for one in made],
        "seed": [spec.seed] * len(made),
        "starts": [one.starts for one in made],
        "steps": [len(one.losses) for one in made],
        "height": [height] * len(made),
        "width": [width] * len(made),
        "parameters": [parameters] * len(made),
        "loss": [one.losses[-1] for one in made],
        "losses": [one.losses for one in made],
        "reached": [one.reached for one in made],
        "strongest": [one.strongest for one in made],
        "exceeds": [one.exceeds for one in made],
    }


def _told(job: Job, made: Sequence[Made]) -> Outcome:
    """The receipt; and a word to the user on what did not go well."""
    of_state = {state: [one for one in made if one.state == state] for state in ("dead", "stopped")}
    compared = [one for one in made if one.exceeds is not None]
    above = sum(bool(one.exceeds) for one in compared)
    words = [f"{len(made):,} patterns"]
    if compared:
        words.append(f"{above:,} of {len(compared):,} above the strongest patch")
    for state, what in (("dead", "have no gradient, whatever the start"), ("stopped", "stopped at NaN or infinity")):
        if of_state[state]:
            titles = [f"{one.sheet} {one.title}" for one in of_state[state]]
            more = f" and {len(titles) - 5} more" if len(titles) > 5 else ""
            job.reporter.say(f"patterns that {what}: {', '.join(titles[:5])}{more}. See index/patterns.parquet, column state.")
            words.append(f"{len(titles):,} {state}")
    return {
        "told": ", ".join(words),
        "pictures": len(made),
        "compared": len(compared),
        "exceeding": above,
        "dead": len(of_state["dead"]),
        "stopped": len(of_state["stopped"]),
    }


def _clear(parts: Place) -> None:
    for path in [*parts.glob("*.npz")]:
        path.unlink()


def _remove_others(folder: Place, names: Sequence[str]) -> None:
    """Remove what an earlier run left of layers that this one does not have."""
    kept = {f"{name}.parquet" for name in names} | {f"{name}{suffix}.png" for name in names for suffix in ("", "-found", "-loss")}
    for path in [*(folder / "patterns").glob("*.parquet"), *(folder / "mosaics" / "patterns").glob("*.png")]:
        if path.name not in kept:
            path.unlink()


def check(job: Job) -> None:
    """Hold `[patterns]` against the network, before any work is done. Raises: any WrongSpec."""
    check_patterns(job.spec.patterns, job.network, job.layers)


STAGE = Stage(
    "patterns",
    patterns,
    table=PatternsSpec,
    check=check,
    reads=("activations",),  # a pattern is compared with the channel's strongest patches
    index=("patterns",),
    folders=("patterns", "mosaics/patterns"),
    section=Section("the pattern each channel responds to"),
)
