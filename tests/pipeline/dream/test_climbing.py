"""Climbing and its snapshots: first noises, what is told and what is kept, on an ascent without a network."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from pipeline.ascent import loop as climbing
from pipeline.ascent.checkpoint import load, save
from pipeline.ascent.loop import Climb, climb, wake
from pipeline.ascent.optimizer import State, Way
from pipeline.ascent.parametrization import pixels
from pipeline.dream import channel
from pipeline.store import files

PAIR = [channel("x", 0), channel("x", 1)]
KEYS = ["a", "b"]


def stairs(values=lambda step: (step, -step)):
    """An ascent that adds 1 to every value at each step, and tells of these objectives."""

    def go(state, objectives, steps):
        step = int(state.step)
        curve = np.float32([values(number) for number in range(step, step + steps)])
        return state._replace(step=tf.constant(step + steps), values=state.values + steps), curve

    return SimpleNamespace(canvas=pixels(4, 5), climb=go)


def no_word(steps, loss):
    pass


def test_the_first_noise_goes_by_the_seed_and_the_key_of_a_picture_and_not_by_its_place():
    state, starts = wake(stairs(), PAIR, KEYS, Climb(1, 0, 0.1))
    turned, _ = wake(stairs(), PAIR, KEYS[::-1], Climb(1, 0, 0.1))
    other, _ = wake(stairs(), PAIR, KEYS, Climb(1, 1, 0.1))
    stronger, _ = wake(stairs(), PAIR, KEYS, Climb(1, 0, 0.3))
    assert starts.tolist() == [1, 1] and np.any(state.values[0] != state.values[1])
    np.testing.assert_array_equal(turned.values, state.values[::-1])
    assert np.mean(other.values != state.values) > 0.9
    np.testing.assert_allclose(stronger.values, 3 * state.values, rtol=1e-5)


def test_every_start_of_a_picture_is_another_noise():
    first, second = (climbing._noises(stairs(), KEYS, start, Climb(1, 0, 0.1)) for start in (1, 2))
    assert np.mean(first != second) > 0.9


def test_only_those_that_sleep_begin_anew_until_they_wake(monkeypatch):
    """The second wakes once it was lifted from its third noise."""
    plan, lifted = Climb(1, 0, 0.1), []

    def look(state, objectives, steps):
        asleep = np.int32([0, len(lifted) < 2])
        return state._replace(asleep=tf.constant(asleep)), None

    def lift(state, objectives, steps):
        lifted.append(state.values)
        return state._replace(good=state.values + 100), None

    monkeypatch.setattr(climbing.Ascent, "compile", lambda *_: SimpleNamespace(climb=lift))
    sleepy = SimpleNamespace(canvas=pixels(4, 5), climb=look, network=None, way=Way())
    state, starts = wake(sleepy, PAIR, KEYS, plan)
    assert starts.tolist() == [1, 3]
    np.testing.assert_array_equal(state.values[0], climbing._noises(sleepy, KEYS, 1, plan)[0])
    np.testing.assert_array_equal(state.values[1], climbing._noises(sleepy, KEYS, 3, plan)[1] + 100)


def test_what_is_told_is_the_mean_of_those_that_are_numbers(tmp_path):
    told = []
    some = stairs(lambda step: (np.nan, 5) if step else (1, 3))
    climbed = climb(some, PAIR, KEYS, Climb(1, 0, 0.1), tmp_path / "a", lambda steps, loss: told.append((steps, loss)))
    assert told == [(1, 2.0)] and climbed.losses.tolist() == [[1, 3]]
    climb(some, PAIR, KEYS, Climb(9, 0, 0.1), tmp_path / "b", lambda steps, loss: told.append((steps, loss)))
    assert told[-1] == (9, 5.0)
    climb(stairs(lambda step: (np.nan, np.inf)), PAIR, KEYS, Climb(1, 0, 0.1), tmp_path / "c", lambda *words: told.append(words))
    assert np.isnan(told[-1][1])


def test_all_that_was_saved_comes_back_the_starts_too(tmp_path, monkeypatch):
    begin = State.start(tf.zeros((2, 4, 5, 3)))
    monkeypatch.setattr(climbing, "wake", lambda *_: (begin, np.int32([1, 3])))

    def stop(steps, loss):
        if steps > 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        climb(stairs(), PAIR, KEYS, Climb(20, 0, 0.1, every=0.0), tmp_path / "a.npz", stop)
    monkeypatch.setattr(climbing, "wake", None)  # not called again
    climbed = climb(stairs(), PAIR, KEYS, Climb(20, 0, 0.1, every=0.0), tmp_path / "a.npz", no_word)
    assert climbed.starts.tolist() == [1, 3] and climbed.losses[:, 0].tolist() == list(range(20))
    assert climbed.state.step == 20 and np.all(climbed.state.values == 20)


def test_nothing_is_saved_before_its_time_or_after_the_last_step(tmp_path):
    climb(stairs(), PAIR, KEYS, Climb(20, 0, 0.1, every=60.0), tmp_path / "a.npz", no_word)
    climb(stairs(), PAIR, KEYS, Climb(1, 0, 0.1, every=0.0), tmp_path / "b.npz", no_word)
    assert not list(tmp_path.iterdir())


def test_a_file_that_was_cut_anywhere_is_as_good_as_none(tmp_path):
    path, arrays = tmp_path / "a.npz", [np.int32(3), np.float32([[1, np.nan]]), np.zeros(0, bool)]
    assert load(path) is None
    save(path, arrays)
    for saved, array in zip(load(path), arrays, strict=True):
        np.testing.assert_array_equal(saved, array)
        assert saved.dtype == array.dtype and saved.shape == array.shape
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert load(path) is None, length


def test_a_save_that_fails_half_way_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "a.npz"
    save(path, [np.int32(1)])
    monkeypatch.setattr(files.os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        save(path, [np.int32(2)])
    assert load(path) == [1] and len(list(tmp_path.iterdir())) == 1
