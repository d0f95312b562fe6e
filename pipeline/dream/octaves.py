"""Octaves: a picture is scaled from one size to the next, with an ascent at each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import cv2
import numpy as np
import tensorflow as tf

from pipeline.ascent.loop import AscentResult, Loop, Trajectory
from pipeline.ascent.objectives import Objective
from pipeline.ascent.regularizers import tv_bregman
from pipeline.dream.plan import Octave
from pipeline.dream.tiles import Segment, TiledAscent, start


class OctavePlan(Protocol):
    """What happens to a picture between octaves; all pictures are float32 (h, w, 3), from 0 to 1."""

    @property
    def octaves(self) -> Sequence[Octave]: ...

    @property
    def max_loss(self) -> float:
        """An octave ends before the step at which the objective is above this."""

    def enter(self, number: int, picture: np.ndarray) -> np.ndarray:
        """The picture at the size of an octave, before its steps."""

    def leave(self, number: int, picture: np.ndarray) -> np.ndarray:
        """The picture after the steps of an octave."""


@dataclass(frozen=True, eq=False)
class PicturePlan:
    """DeepDream: from a small version of a picture to its own size; each octave adds back the detail that shrinking lost.

    original: as large as the last octave.
    """

    octaves: Sequence[Octave]
    original: np.ndarray
    max_loss: float = float("inf")

    def enter(self, number: int, picture: np.ndarray) -> np.ndarray:
        return resized(picture, self.octaves[number])

    def leave(self, number: int, picture: np.ndarray) -> np.ndarray:
        if number == 0:
            return picture
        full = resized(self.original, self.octaves[number])
        lost = full - resized(resized(self.original, self.octaves[number - 1]), self.octaves[number])
        lost += picture  # in place: a copy of a large photograph takes as much memory as a small network
        return np.clip(lost, 0, 1, out=lost)


@dataclass(frozen=True, eq=False)
class ClassPlan:
    """Class visualisation: from faint noise to larger and larger pictures, each smoothed before its steps."""

    octaves: Sequence[Octave]
    smooth: bool
    max_loss: float = float("inf")

    def enter(self, number: int, picture: np.ndarray) -> np.ndarray:
        picture = resized(picture, self.octaves[number])
        return tv_bregman(picture) if self.smooth else picture

    def leave(self, number: int, picture: np.ndarray) -> np.ndarray:
        return picture


def ascend_octaves(
    compile: Callable[[Octave], TiledAscent], objective: Objective, plan: OctavePlan, first: np.ndarray, loop: Loop
) -> AscentResult:
    """Take a picture through all octaves, resuming from the loop's checkpoint if there is one.

    A checkpoint's notes are the number of the octave and whether any octave before it had a gradient.

    Args:
        compile: gives the ascent for an octave.
        first: the picture that enters the first octave, float32 (h, w, 3) from 0 to 1.

    Returns: of a batch of one picture, as large as the last octave.
    """
    losses: list[np.ndarray] = []
    resumed = Trajectory.load(loop.checkpoint)
    reached, active = (int(resumed.notes[0]), bool(resumed.notes[1])) if resumed else (0, False)
    picture, stopped = first, False
    for number, octave in enumerate(plan.octaves):
        if number < reached:
            continue
        if stopped:  # the last good picture is only enlarged to the final size
            picture = plan.leave(number, plan.enter(number, picture))
            continue
        before = sum(earlier.steps for earlier in plan.octaves[:number])
        if resumed:
            trajectory, resumed = resumed, None
        else:
            state = start(plan.enter(number, picture))._replace(step=tf.constant(before))
            trajectory = Trajectory(state, losses, [number, active])
        segment = Segment(before, octave.steps, octave.start_sigma, octave.end_sigma, plan.max_loss)
        loop.ascend(
            partial(compile(octave).run, objective=objective, segment=segment),
            trajectory,
            before + octave.steps,
            lambda trajectory: bool(trajectory.stopped[0]) or bool(trajectory.losses[-1][-1] > plan.max_loss),
        )
        losses, stopped = trajectory.losses, bool(trajectory.stopped[0])
        active = active or int(trajectory.state.inactive[0]) < octave.steps
        kept = np.asarray(trajectory.state.good if stopped else trajectory.state.values)[0]
        del trajectory  # frees the memory of its state for the next octave
        picture = plan.leave(number, kept)
    return AscentResult(picture[np.newaxis], np.concatenate(losses), np.array([not active]), np.array([stopped]))


def resized(picture: np.ndarray, octave: Octave) -> np.ndarray:
    """A picture at the size of an octave: by area where it shrinks, cubic where it grows; from 0 to 1."""
    shape = (octave.height, octave.width)
    if picture.shape[:2] == shape:
        return picture
    interpolation = cv2.INTER_AREA if shape[0] <= picture.shape[0] else cv2.INTER_CUBIC
    result = cv2.resize(picture, shape[::-1], interpolation=interpolation)
    return np.clip(result, 0, 1, out=result)
