"""Octaves: pictures between sizes, and ascents that were stopped half way."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.ascent.regularizers import tv_bregman
from pipeline.dream import layer
from pipeline.dream.octaves import FromNothing, FromPicture, Octave, Saving, dream, resized
from pipeline.dream.tiles import Stretch, Tiled, TiledWay

OCTAVES = (Octave(13, 14, 4, 0.5, 0.3), Octave(18, 20, 5, 0.4, 0.3), Octave(25, 28, 3, 0.4, 0.3))


@pytest.fixture(scope="module")
def photo():
    """float32 (25, 28, 3), with detail of all sizes."""
    return np.random.default_rng(1).uniform(0.3, 0.7, (25, 28, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def climbing(smooth):
    """An ascent on the first layer of the smooth network."""
    return Tiled.compile(smooth, layer("first"), TiledWay(0.01, levels=1, sigma=0.5, seed=2), 2)


class Resting:
    """An ascent that moves nothing; `asleep` in some octaves, told by the number of their first step."""

    def __init__(self, asleep=()):
        self.asleep, self.stretches = asleep, []

    def climb(self, state, objective, stretch, steps):
        self.stretches.append((int(state.step), stretch))
        asleep = state.asleep + steps * (stretch.first in self.asleep)
        return state._replace(step=state.step + steps, asleep=asleep), np.ones(steps, np.float32)


def no_word(steps, loss):
    pass


def test_a_picture_that_no_step_changes_comes_back_with_all_its_detail(photo, tmp_path):
    course = FromPicture(OCTAVES, photo)
    dreamt = dream(lambda _: Resting(), layer("first"), course, photo, Saving(tmp_path / "a.npz", 60), no_word)
    np.testing.assert_allclose(dreamt.picture, photo, atol=1e-5)
    assert np.abs(resized(resized(photo, OCTAVES[0]), OCTAVES[2]) - photo).max() > 0.05
    assert len(dreamt.losses) == 12


def test_lost_detail_never_leads_beyond_black_and_white():
    photo = np.random.default_rng(1).integers(0, 2, (25, 28, 3)).astype(np.float32)
    assert FromPicture(OCTAVES, photo).leave(2, photo).min() == 0 and FromPicture(OCTAVES, photo).leave(2, photo).max() == 1
    sized = resized(photo, Octave(50, 56, 1))  # cubic, and so beyond them of its own
    assert sized.min() == 0 and sized.max() == 1


def test_pictures_shrink_by_area_and_grow_smoothly(photo):
    np.testing.assert_allclose(
        resized(photo[:24], Octave(12, 14, 1)), photo[:24].reshape(12, 2, 14, 2, 3).mean(axis=(1, 3)), atol=1e-6
    )
    assert resized(photo, Octave(50, 84, 1)).shape == (50, 84, 3)


def test_every_octave_is_the_stretch_of_the_ascent_that_follows_the_one_before(photo, tmp_path):
    resting = Resting()
    dream(lambda _: resting, layer("first"), FromPicture(OCTAVES, photo), photo, Saving(tmp_path / "a.npz", 60), no_word, 9.0)
    expected = [Stretch(0, 4, 0.5, 0.3, 9.0), Stretch(4, 5, 0.4, 0.3, 9.0), Stretch(9, 3, 0.4, 0.3, 9.0)]
    assert list(dict.fromkeys(stretch for _, stretch in resting.stretches)) == expected
    for step, stretch in resting.stretches:
        assert stretch.first <= step < stretch.first + stretch.steps


@pytest.mark.parametrize(("asleep", "dead"), [((), False), ((0,), False), ((9,), False), ((0, 4), False), ((0, 4, 9), True)])
def test_a_picture_is_dead_that_had_no_gradient_in_any_octave_stopped_on_the_way_or_not(photo, tmp_path, asleep, dead):
    def run(name, tell):
        course = FromPicture(OCTAVES, photo)
        return dream(lambda _: Resting(asleep), layer("first"), course, photo, Saving(tmp_path / name, 0.0), tell)

    def stop(steps, loss):
        if steps >= 11:
            raise KeyboardInterrupt

    assert run("whole.npz", no_word).dead is dead
    with pytest.raises(KeyboardInterrupt):
        run("stopped.npz", stop)
    assert run("stopped.npz", no_word).dead is dead


def test_a_class_is_smoothed_as_it_enters_an_octave(photo):
    rough = resized(photo, OCTAVES[1])
    np.testing.assert_array_equal(FromNothing(OCTAVES, smooth=True).enter(1, photo), tv_bregman(rough))
    np.testing.assert_array_equal(FromNothing(OCTAVES, smooth=False).enter(1, photo), rough)


@pytest.mark.parametrize("stop_at", [2, 5, 10])
def test_an_ascent_that_was_stopped_goes_on_to_the_same_bits(climbing, photo, tmp_path, stop_at):
    course, objective = FromPicture(OCTAVES, photo), layer("first")
    whole = dream(lambda _: climbing, objective, course, photo, Saving(tmp_path / "whole.npz", 60), no_word)

    def stop(steps, loss):
        if steps >= stop_at:
            raise KeyboardInterrupt

    saving = Saving(tmp_path / "stopped.npz", 1e-9)
    with pytest.raises(KeyboardInterrupt):
        dream(lambda _: climbing, objective, course, photo, saving, stop)
    steps = []
    resumed = dream(lambda _: climbing, objective, course, photo, saving, lambda done, loss: steps.append(done))
    np.testing.assert_array_equal(resumed.picture, whole.picture)
    np.testing.assert_array_equal(resumed.losses, whole.losses)
    assert saving.path.exists() and (stop_at == 2 or steps[0] > 2) and len(steps) < 12


def test_each_octave_ends_where_the_largest_loss_is_passed(climbing, photo, tmp_path):
    course, objective = FromPicture(OCTAVES, photo), layer("first")
    whole = dream(lambda _: climbing, objective, course, photo, Saving(tmp_path / "whole.npz", 60), no_word)
    limit = float(whole.losses[2])
    some = dream(lambda _: climbing, objective, course, photo, Saving(tmp_path / "some.npz", 60), no_word, limit)
    assert len(some.losses) < len(whole.losses) and (some.losses > limit).sum() >= 1 and not some.stopped
    assert np.abs(some.picture - photo).mean() < np.abs(whole.picture - photo).mean()


def test_nan_stops_the_picture_and_keeps_the_last_good_one(cliff, tmp_path):
    photo = np.full((24, 24, 3), 0.55, np.float32)
    octaves = (Octave(12, 12, 60), Octave(24, 24, 60))
    tiled = Tiled.compile(cliff, layer("light"), TiledWay(0.02), 1)
    dreamt = dream(lambda _: tiled, layer("light"), FromPicture(octaves, photo), photo, Saving(tmp_path / "a.npz", 60), no_word)
    assert dreamt.stopped and not dreamt.dead and dreamt.picture.shape == (24, 24, 3) and len(dreamt.losses) < 60
    assert np.isfinite(dreamt.picture).all() and 0.55 < dreamt.picture[..., 0].mean() < 0.61


def test_a_picture_without_gradient_is_dead(sleepy, tmp_path):
    photo = np.full((12, 12, 3), 0.5, np.float32)
    from pipeline.dream import channel

    tiled = Tiled.compile(sleepy, channel("eyes", 2), TiledWay(0.02), 1)
    course = FromPicture((Octave(12, 12, 5),), photo)
    dreamt = dream(lambda _: tiled, channel("eyes", 2), course, photo, Saving(tmp_path / "a.npz", 60), no_word)
    assert dreamt.dead and not dreamt.stopped
    np.testing.assert_allclose(dreamt.picture, photo, atol=1e-6)
