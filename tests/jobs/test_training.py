"""The training job: it learns, keeps its best state, and goes on after an interruption."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from jobs import training


@pytest.fixture
def two_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny data set in CIFAR-10's place: class 0 is dark, class 1 is light."""

    def load(split: str, data_dir: str | None) -> tuple[np.ndarray, np.ndarray]:
        rng = np.random.default_rng(len(split))
        labels = rng.integers(0, 2, 96).astype(np.int32)
        images = rng.integers(0, 100, (96, 32, 32, 3)) + 150 * labels[:, None, None, None]
        return images.astype(np.uint8), labels

    monkeypatch.setattr(training, "_load", load)
    monkeypatch.setattr(training, "HELD_OUT", 32)


def epochs_logged(out: Path) -> list[int]:
    with (out / "log.csv").open(newline="") as file:
        return [int(row["epoch"]) for row in csv.DictReader(file)]


def test_training_learns_and_leaves_a_network_that_loads(two_colours: Any, tmp_path: Path) -> None:
    result = training.train_cifar10(tmp_path, None, epochs=6, batch=16)
    assert result["test_accuracy"] > 0.9
    assert json.loads((tmp_path / "result.json").read_text()) == result
    model = keras.models.load_model(tmp_path / "cifar10.keras")
    images, labels = training._load("test", None)
    assert (model.predict(images.astype(np.float32), verbose=0).argmax(axis=1) == labels).mean() == result["test_accuracy"]


def test_an_interrupted_training_goes_on_from_the_last_whole_epoch_and_keeps_its_best(
    two_colours: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: Any, logs: Any = None) -> None:
            if epoch == 3:
                raise KeyboardInterrupt

    fit = keras.Model.fit

    def interrupted(self: Any, *arguments: Any, callbacks: Any, **options: Any) -> Any:
        return fit(self, *arguments, callbacks=[*callbacks, Stop()], **options)

    monkeypatch.setattr(keras.Model, "fit", interrupted)
    with pytest.raises(KeyboardInterrupt):
        training.train_cifar10(tmp_path, None, epochs=5, batch=16)
    assert epochs_logged(tmp_path) == [0, 1, 2]
    monkeypatch.setattr(keras.Model, "fit", fit)
    monkeypatch.setattr(training, "_best_so_far", lambda log: 2.0)  # nothing that follows can be better
    best = (tmp_path / "best.weights.h5").read_bytes()
    training.train_cifar10(tmp_path, None, epochs=5, batch=16)
    assert epochs_logged(tmp_path) == [0, 1, 2, 3, 4]
    assert (tmp_path / "best.weights.h5").read_bytes() == best


def test_the_best_accuracy_of_an_interrupted_run_is_read_from_its_log(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    log.write_text("epoch,accuracy,val_accuracy\n0,0.3,0.25\n1,0.5,0.75\n2,0.9,0.5\n")
    assert training._best_so_far(log) == 0.75


def test_the_network_is_the_tutorials() -> None:
    model = training.build_network()
    assert [model.get_layer(name).output.shape[1:] for name in ("conv1", "pool1", "conv2", "pool2")] == [
        (32, 32, 64),
        (16, 16, 64),
        (16, 16, 64),
        (8, 8, 64),
    ]
    assert {model.get_layer(name).kernel_size for name in ("conv1", "conv2")} == {(5, 5)}
    assert 4 * model.count_params() < 5_000_000
