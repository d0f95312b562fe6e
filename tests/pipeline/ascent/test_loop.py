"""The loop, its checkpoints and the noises it starts from, on an ascent without a network."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from pipeline.ascent import starts as starts_module
from pipeline.ascent.checkpoint import Checkpoint
from pipeline.ascent.loop import Loop, Trajectory
from pipeline.ascent.objectives import channel
from pipeline.ascent.optimizer import AscentConfig, State
from pipeline.ascent.parametrization import pixels
from pipeline.ascent.starts import Noise, find_starts
from pipeline.store import files
from pipeline.store.arrays import load, save

PAIR = [channel("x", 0), channel("x", 1)]
KEYS = ["a", "b"]


def stairs(state: Any, objectives: Any = None, steps: Any = 0, losses: Any = lambda step: (step, -step)) -> Any:
    """Steps that add 1 to every value."""
    step = int(state.step)
    curve = np.float32([losses(number) for number in range(step, step + steps)])
    return state._replace(step=tf.constant(step + steps), values=state.values + steps), curve


ON_STAIRS = SimpleNamespace(parametrization=pixels(4, 5), run=stairs)


def new_trajectory() -> Any:
    return Trajectory(State.start(tf.zeros((2, 4, 5, 3))), notes=[np.int32([1, 3])])


def ascend(
    path: Any, steps: Any, every: Any = 60.0, report: Any = lambda steps, loss: None, run: Any = stairs, **keys: Any
) -> Any:
    """What a loop comes to from its checkpoint, or from the beginning."""
    checkpoint = Checkpoint(path, every)
    trajectory = Trajectory.load(checkpoint) or new_trajectory()
    Loop(checkpoint, report).ascend(run, trajectory, steps, **keys)
    return trajectory


def test_the_first_noise_depends_on_the_seed_and_the_key_of_a_picture_but_not_on_its_position() -> None:
    state, starts = find_starts(ON_STAIRS, PAIR, KEYS, Noise(0, 0.1))
    reversed_, _ = find_starts(ON_STAIRS, PAIR, KEYS[::-1], Noise(0, 0.1))
    other, _ = find_starts(ON_STAIRS, PAIR, KEYS, Noise(1, 0.1))
    stronger, _ = find_starts(ON_STAIRS, PAIR, KEYS, Noise(0, 0.3))
    assert starts.tolist() == [1, 1] and np.any(state.values[0] != state.values[1])
    np.testing.assert_array_equal(reversed_.values, state.values[::-1])
    assert np.mean(other.values != state.values) > 0.9
    np.testing.assert_allclose(stronger.values, 3 * state.values, rtol=1e-5)


def test_only_inactive_pictures_restart_each_time_from_other_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second picture has a gradient after it was lifted from its third noise."""
    lifted = []

    def run(state: Any, objectives: Any, steps: Any) -> Any:
        return state._replace(inactive=tf.constant(np.int32([0, len(lifted) < 2]))), None

    def lift(state: Any, objectives: Any, steps: Any) -> Any:
        lifted.append(state.values)
        return state._replace(good=state.values + 100), None

    monkeypatch.setattr(starts_module.Ascent, "compile", lambda *_: SimpleNamespace(run=lift))  # type: ignore[attr-defined]
    silent = SimpleNamespace(parametrization=pixels(4, 5), run=run, network=None, config=AscentConfig())
    state, starts = find_starts(silent, PAIR, KEYS, Noise(0, 0.1))
    first, _ = find_starts(ON_STAIRS, PAIR, KEYS, Noise(0, 0.1))
    assert starts.tolist() == [1, 3]
    np.testing.assert_array_equal(state.values[0], first.values[0])
    np.testing.assert_array_equal(state.values[1], lifted[1][1] + 100)
    noises = [first.values[1], lifted[0][1], lifted[1][1]]
    assert all(np.mean(noises[i] != noises[j]) > 0.9 for i, j in ((0, 1), (0, 2), (1, 2)))


def test_the_loss_reported_is_the_mean_of_those_that_are_finite(tmp_path: Path) -> None:
    reports = []

    def report(steps: Any, loss: Any) -> None:
        reports.append((steps, loss))

    first_finite = partial(stairs, losses=lambda step: (np.nan, 5) if step else (1, 3))
    trajectory = ascend(tmp_path / "a", 1, report=report, run=first_finite)
    assert reports == [(1, 2.0)] and np.concatenate(trajectory.losses).tolist() == [[1, 3]]
    ascend(tmp_path / "b", 9, report=report, run=first_finite)
    assert reports[-1] == (9, 5.0)
    ascend(tmp_path / "c", 1, report=report, run=partial(stairs, losses=lambda step: (np.nan, np.inf)))
    assert np.isnan(reports[-1][1])


def test_a_loop_that_ends_early_reports_the_end_that_was_planned(tmp_path: Path) -> None:
    reports = []
    trajectory = ascend(
        tmp_path / "a", 20, report=lambda steps, loss: reports.append(steps), ended=lambda trajectory: trajectory.step >= 3
    )
    assert trajectory.step == 3 and reports == [1, 20]


def test_a_checkpoint_holds_the_state_the_losses_and_the_notes(tmp_path: Path) -> None:
    def stop(steps: Any, loss: Any) -> None:
        if steps > 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ascend(tmp_path / "a.npz", 20, every=0.0, report=stop)
    assert 0 < Trajectory.load(Checkpoint(tmp_path / "a.npz", 0.0)).step < 20
    trajectory = ascend(tmp_path / "a.npz", 20)
    assert trajectory.notes[0].tolist() == [1, 3]
    assert np.concatenate(trajectory.losses)[:, 0].tolist() == list(range(20))
    assert trajectory.step == 20 and np.all(trajectory.state.values == 20)


def test_nothing_is_saved_before_its_time_or_after_the_last_step(tmp_path: Path) -> None:
    ascend(tmp_path / "a.npz", 20, every=60.0)
    ascend(tmp_path / "b.npz", 1, every=0.0)
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_cut_anywhere_is_read_as_none(tmp_path: Path) -> None:
    path, arrays = tmp_path / "a.npz", [np.int32(3), np.float32([[1, np.nan]]), np.zeros(0, bool)]
    assert load(path) is None
    save(path, arrays)
    for saved, array in zip(load(path), arrays, strict=True):
        np.testing.assert_array_equal(saved, array)
        assert saved.dtype == array.dtype and saved.shape == array.shape  # type: ignore[attr-defined]
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert load(path) is None, length


def test_a_save_that_fails_half_way_leaves_the_earlier_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.npz"
    save(path, [np.int32(1)])
    monkeypatch.setattr(files.os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))  # type: ignore[attr-defined]
    with pytest.raises(KeyboardInterrupt):
        save(path, [np.int32(2)])
    assert load(path) == [1] and len(list(tmp_path.iterdir())) == 1  # type: ignore[comparison-overlap]
