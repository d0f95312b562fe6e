"""Octaves: pictures between sizes, and ascents that were stopped half way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.ascent.checkpoint import Checkpoint
from pipeline.ascent.loop import Loop
from pipeline.ascent.objectives import channel, layer
from pipeline.ascent.regularizers import tv_bregman
from pipeline.dream.octaves import ClassPlan, PicturePlan, ascend_octaves, resized
from pipeline.dream.plan import Octave
from pipeline.dream.tiles import Segment, TileConfig, TiledAscent

OCTAVES = (Octave(13, 14, 4, 0.5, 0.3), Octave(18, 20, 5, 0.4, 0.3), Octave(25, 28, 3, 0.4, 0.3))


@pytest.fixture(scope="module")
def photo() -> Any:
    """float32 (25, 28, 3), with detail of all sizes."""
    return np.random.default_rng(1).uniform(0.3, 0.7, (25, 28, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def first_layer(smooth: Any) -> Any:
    """An ascent on the first layer of the smooth network."""
    return TiledAscent.compile(smooth, layer("first"), TileConfig(0.01, levels=1, sigma=0.5, seed=2), 2)


class Still:
    """An ascent that changes nothing; without a gradient in the octaves whose first step has one of these numbers."""

    def __init__(self, inactive: Any = ()) -> None:
        self.inactive, self.segments = inactive, []

    def run(self, state: Any, objective: Any, segment: Any, steps: Any) -> Any:
        self.segments.append((int(state.step), segment))
        inactive = state.inactive + steps * (segment.first in self.inactive)
        return state._replace(step=state.step + steps, inactive=inactive), np.ones((steps, 1), np.float32)


def dream(
    ascent: Any, plan: Any, path: Any, every: Any = 60.0, report: Any = lambda steps, loss: None, objective: Any = layer("first")
) -> Any:
    """The picture and its losses, dead, stopped."""
    loop = Loop(Checkpoint(path, every), report)
    result = ascend_octaves(lambda _: ascent, objective, plan, plan.original, loop)
    return result.values[0], result.losses[:, 0], bool(result.dead[0]), bool(result.stopped[0])


def stop_at(number: Any) -> Any:
    def stop(steps: Any, loss: Any) -> None:
        if steps >= number:
            raise KeyboardInterrupt

    return stop


def test_a_picture_that_no_step_changes_keeps_all_its_detail(photo: Any, tmp_path: Path) -> None:
    picture, losses, *_ = dream(Still(), PicturePlan(OCTAVES, photo), tmp_path / "a.npz")
    np.testing.assert_allclose(picture, photo, atol=1e-5)
    assert np.abs(resized(resized(photo, OCTAVES[0]), OCTAVES[2]) - photo).max() > 0.05
    assert len(losses) == 12


def test_detail_that_is_added_back_stays_between_black_and_white() -> None:
    photo = np.random.default_rng(1).integers(0, 2, (25, 28, 3)).astype(np.float32)
    assert PicturePlan(OCTAVES, photo).leave(2, photo).min() == 0 and PicturePlan(OCTAVES, photo).leave(2, photo).max() == 1
    enlarged = resized(photo, Octave(50, 56, 1))  # cubic, which overshoots
    assert enlarged.min() == 0 and enlarged.max() == 1


def test_pictures_shrink_by_area_and_grow_smoothly(photo: Any) -> None:
    np.testing.assert_allclose(
        resized(photo[:24], Octave(12, 14, 1)), photo[:24].reshape(12, 2, 14, 2, 3).mean(axis=(1, 3)), atol=1e-6
    )
    assert resized(photo, Octave(50, 84, 1)).shape == (50, 84, 3)


def test_the_steps_of_an_octave_follow_those_of_the_one_before(photo: Any, tmp_path: Path) -> None:
    still = Still()
    dream(still, PicturePlan(OCTAVES, photo, 9.0), tmp_path / "a.npz")
    expected = [Segment(0, 4, 0.5, 0.3, 9.0), Segment(4, 5, 0.4, 0.3, 9.0), Segment(9, 3, 0.4, 0.3, 9.0)]
    assert list(dict.fromkeys(segment for _, segment in still.segments)) == expected
    for step, segment in still.segments:
        assert segment.first <= step < segment.first + segment.steps


@pytest.mark.parametrize(("inactive", "dead"), [((), False), ((0,), False), ((9,), False), ((0, 4), False), ((0, 4, 9), True)])
def test_a_picture_without_a_gradient_in_any_octave_is_dead_interrupted_or_not(
    photo: Any, tmp_path: Path, inactive: Any, dead: Any
) -> None:
    plan = PicturePlan(OCTAVES, photo)
    assert dream(Still(inactive), plan, tmp_path / "whole.npz")[2] is dead
    with pytest.raises(KeyboardInterrupt):
        dream(Still(inactive), plan, tmp_path / "stopped.npz", 0.0, stop_at(11))
    assert dream(Still(inactive), plan, tmp_path / "stopped.npz")[2] is dead


def test_a_class_is_smoothed_as_it_enters_an_octave(photo: Any) -> None:
    rough = resized(photo, OCTAVES[1])
    np.testing.assert_array_equal(ClassPlan(OCTAVES, smooth=True).enter(1, photo), tv_bregman(rough))
    np.testing.assert_array_equal(ClassPlan(OCTAVES, smooth=False).enter(1, photo), rough)


@pytest.mark.parametrize("step", [2, 5, 10])
def test_an_interrupted_dream_goes_on_to_the_same_bits(first_layer: Any, photo: Any, tmp_path: Path, step: Any) -> None:
    plan = PicturePlan(OCTAVES, photo)
    picture, losses, *_ = dream(first_layer, plan, tmp_path / "whole.npz")
    checkpoint, steps = tmp_path / "stopped.npz", []
    with pytest.raises(KeyboardInterrupt):
        dream(first_layer, plan, checkpoint, 1e-9, stop_at(step))
    resumed, same, *_ = dream(first_layer, plan, checkpoint, report=lambda done, loss: steps.append(done))
    np.testing.assert_array_equal(resumed, picture)
    np.testing.assert_array_equal(same, losses)
    assert checkpoint.exists() and (step == 2 or steps[0] > 2) and len(steps) < 12


def test_each_octave_ends_where_the_largest_loss_is_passed(first_layer: Any, photo: Any, tmp_path: Path) -> None:
    picture, losses, *_ = dream(first_layer, PicturePlan(OCTAVES, photo), tmp_path / "whole.npz")
    limit = float(losses[2])
    changed_less, fewer, _, stopped = dream(first_layer, PicturePlan(OCTAVES, photo, limit), tmp_path / "some.npz")
    assert len(fewer) < len(losses) and (fewer > limit).sum() >= 1 and not stopped
    assert np.abs(changed_less - photo).mean() < np.abs(picture - photo).mean()


def test_nan_stops_the_picture_and_keeps_the_last_good_one(cliff: Any, tmp_path: Path) -> None:
    photo = np.full((24, 24, 3), 0.55, np.float32)
    octaves = (Octave(12, 12, 60), Octave(24, 24, 60))
    ascent = TiledAscent.compile(cliff, layer("light"), TileConfig(0.02), 1)
    picture, losses, dead, stopped = dream(ascent, PicturePlan(octaves, photo), tmp_path / "a.npz", objective=layer("light"))
    assert stopped and not dead and picture.shape == (24, 24, 3) and len(losses) < 60
    assert np.isfinite(picture).all() and 0.55 < picture[..., 0].mean() < 0.61


def test_a_picture_whose_channel_never_fires_is_dead_and_unchanged(silent: Any, tmp_path: Path) -> None:
    photo, never = np.full((12, 12, 3), 0.5, np.float32), channel("eyes", 2)
    ascent = TiledAscent.compile(silent, never, TileConfig(0.02), 1)
    plan = PicturePlan((Octave(12, 12, 5),), photo)
    picture, _, dead, stopped = dream(ascent, plan, tmp_path / "a.npz", objective=never)
    assert dead and not stopped
    np.testing.assert_allclose(picture, photo, atol=1e-6)
