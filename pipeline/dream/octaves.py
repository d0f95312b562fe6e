"""Octaves: a picture on its way from one size to the next, saved while it climbs, so that a stop costs little."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import cv2
import numpy as np
import tensorflow as tf

from pipeline.ascent.checkpoint import load, save
from pipeline.ascent.objectives import Objective
from pipeline.ascent.optimizer import MOST_MISSES, State
from pipeline.ascent.regularizers import tv_bregman
from pipeline.dream.tiles import Stretch, Tiled, start
from pipeline.store.places import Place

_SECONDS = 1.0  # of steps that are made in one call; how they are cut into calls does not change the picture

Tell = Callable[[int, float], None]  # steps made of those planned, the objective


@dataclass(frozen=True)
class Octave:
    """One size of a picture, in pixels, and the steps made at it, with the filter's sigma at its start and its end."""

    height: int
    width: int
    steps: int
    start_sigma: float = 0.0
    end_sigma: float = 0.0


class Course(Protocol):
    """What happens to a picture between octaves; all pictures are float32 (h, w, 3), from 0 to 1."""

    @property
    def octaves(self) -> Sequence[Octave]: ...

    def enter(self, place: int, picture: np.ndarray) -> np.ndarray:
        """The picture at the size of an octave, before its steps."""

    def leave(self, place: int, picture: np.ndarray) -> np.ndarray:
        """The picture after the steps of an octave."""


@dataclass(frozen=True, eq=False)
class FromPicture:
    """DeepDream: from a picture made small to its own size; detail that was lost by shrinking is put back each time.

    original: as large as the last octave.
    """

    octaves: Sequence[Octave]
    original: np.ndarray

    def enter(self, place: int, picture: np.ndarray) -> np.ndarray:
        return resized(picture, self.octaves[place])

    def leave(self, place: int, picture: np.ndarray) -> np.ndarray:
        if place == 0:
            return picture
        here = resized(self.original, self.octaves[place])
        lost = here - resized(resized(self.original, self.octaves[place - 1]), self.octaves[place])
        lost += picture  # in place: of a large photograph every copy takes as much as a small network
        return np.clip(lost, 0, 1, out=lost)


@dataclass(frozen=True, eq=False)
class FromNothing:
    """Class visualisation: from a faint noise to ever larger pictures, each smoothed before its steps."""

    octaves: Sequence[Octave]
    smooth: bool

    def enter(self, place: int, picture: np.ndarray) -> np.ndarray:
        picture = resized(picture, self.octaves[place])
        return tv_bregman(picture) if self.smooth else picture

    def leave(self, place: int, picture: np.ndarray) -> np.ndarray:
        return picture


@dataclass(frozen=True)
class Saving:
    """Where an ascent is saved, and after how many seconds again."""

    path: Place
    every: float


@dataclass(frozen=True, eq=False)
class Dreamt:
    """Where a picture has come to.

    picture: float32 (h, w, 3). losses: float32 (steps,): before each step; NaN where they were not finite.
    dead: it had no gradient at all. stopped: NaN or infinity, however short the steps; the last good picture stands.
    """

    picture: np.ndarray
    losses: np.ndarray
    dead: bool
    stopped: bool


@dataclass
class _At:
    """How far an ascent is: in which octave, the state there (None: before its first step), and the losses so far.

    awake: whether any octave before this one had a gradient.
    """

    place: int
    picture: np.ndarray
    state: State | None = None
    losses: list[np.ndarray] = field(default_factory=list)
    awake: bool = False

    def save(self, saving: Saving) -> None:
        assert self.state is not None
        save(saving.path, [self.place, self.awake, np.concatenate(self.losses), *self.state])

    @classmethod
    def load(cls, saving: Saving, first: np.ndarray) -> _At:
        saved = load(saving.path)
        if not saved:
            return cls(0, first)
        place, awake, losses, *state = saved
        return cls(int(place), first, State(*state), [losses], bool(awake))


def dream(
    compiled: Callable[[Octave], Tiled],
    objective: Objective,
    course: Course,
    first: np.ndarray,
    saving: Saving,
    tell: Tell,
    max_loss: float | None = None,
) -> Dreamt:
    """Take a picture through all octaves, going on from what was saved, if there is anything.

    Args:
        compiled: gives the ascent for an octave.
        first: the picture that enters the first octave, float32 (h, w, 3) from 0 to 1.
        tell: called about every second.
        max_loss: an octave ends before the step at which the objective is above this.
    """
    at = _At.load(saving, first)
    limit = float("inf") if max_loss is None else max_loss
    last_saved, stopped = time.monotonic(), False
    while at.place < len(course.octaves):
        if stopped:  # the last good picture grows to the size that was asked for, and that is all
            entered = course.enter(at.place, at.picture)
            at = _At(at.place + 1, course.leave(at.place, entered), None, at.losses, at.awake)
            continue
        octave = course.octaves[at.place]
        before = sum(one.steps for one in course.octaves[: at.place])
        if at.state is None:
            at.state = start(course.enter(at.place, at.picture))._replace(step=tf.constant(before))
        stretch = Stretch(before, octave.steps, octave.start_sigma, octave.end_sigma, limit)
        tiled, chunk, done = compiled(octave), 1, int(at.state.step) == before + octave.steps
        while not done:
            started = time.monotonic()
            steps = min(chunk, before + octave.steps - int(at.state.step))
            at.state, losses = tiled.climb(at.state, objective, stretch, steps)
            at.losses.append(losses)
            chunk = max(1, min(2 * chunk, int(steps * _SECONDS / max(time.monotonic() - started, 1e-9))))
            stopped = int(at.state.misses[0]) >= MOST_MISSES
            done = stopped or losses[-1] > limit or int(at.state.step) == before + octave.steps
            tell(before + octave.steps if done else int(at.state.step), float(losses[-1]))
            if not done and time.monotonic() - last_saved >= saving.every:
                at.save(saving)
                last_saved = time.monotonic()
        awake = at.awake or int(at.state.asleep[0]) < octave.steps
        kept = np.asarray(at.state.good if stopped else at.state.values)[0]
        at.state = None  # the rest of it makes room for the next octave
        at = _At(at.place + 1, course.leave(at.place, kept), None, at.losses, awake)
    return Dreamt(at.picture, np.concatenate(at.losses), not at.awake, stopped)


def resized(picture: np.ndarray, octave: Octave) -> np.ndarray:
    """A picture at the size of an octave: by area where it shrinks, cubic where it grows; from 0 to 1."""
    shape = (octave.height, octave.width)
    if picture.shape[:2] == shape:
        return picture
    how = cv2.INTER_AREA if shape[0] <= picture.shape[0] else cv2.INTER_CUBIC
    made = cv2.resize(picture, shape[::-1], interpolation=how)
    return np.clip(made, 0, 1, out=made)
