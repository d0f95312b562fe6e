"""Solved fields are kept for later jobs: read where they are whole and about the same, solved anew otherwise."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from pipeline.fields import FieldCache, solve_fields
from pipeline.models.keras.model import keras_network
from pipeline.models.network import LayerInfo
from pipeline.store.user_cache import user_cache
from recfield import ReceptiveField

LAYER = LayerInfo("conv", "Conv2D", (5, 4, 2))


@pytest.fixture(scope="module")
def network() -> Any:
    x = inputs = keras.Input((20, 24, 3))
    x = keras.layers.Conv2D(4, 3, padding="same", name="conv0")(x)
    x = keras.layers.Concatenate(name="joined")([x, keras.layers.Conv2D(2, 5, padding="same", name="wide")(x)])
    return keras_network(keras.Model(inputs, x), "joined", None, "unit")


@pytest.fixture
def probes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The layers of each group that is solved by probes, while the test runs."""
    sent: list[int] = []
    of_layers = ReceptiveField.of_layers

    def counted(imshape: Any, forward: Any, in_flight: Any) -> Any:
        solved = of_layers(imshape, forward, in_flight)
        sent.append(len(solved))
        return solved

    monkeypatch.setattr(ReceptiveField, "of_layers", counted)
    return sent


@pytest.fixture
def cache(network: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FieldCache:
    monkeypatch.setenv("CONVSCOPE_CACHE", str(tmp_path / "cache"))
    actual = FieldCache.of(network, network.digest(), tmp_path / "job")
    assert actual is not None
    return actual


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.json"))


def test_what_was_solved_before_is_not_solved_again(network: Any, cache: FieldCache, probes: list[int]) -> None:
    first = solve_fields(network, network.layers(), cache)
    second = solve_fields(network, network.layers(), cache)
    assert probes == [len(first)] and list(second) == list(first)
    for name, field in second.items():
        np.testing.assert_array_equal(field.boxes, first[name].boxes)
        assert field.boxes.dtype == np.int32 and field.probes == 0
        assert (field.size, field.stride, field.is_global) == (first[name].size, first[name].stride, first[name].is_global)
        np.testing.assert_array_equal(field.draw_example(), first[name].draw_example())


def test_layers_that_are_new_are_solved_alone(network: Any, cache: FieldCache, probes: list[int]) -> None:
    layers = network.layers()
    solve_fields(network, layers[:2], cache)
    fields = solve_fields(network, layers, cache)
    assert probes == [2, len(layers) - 2] and list(fields) == [layer.name for layer in layers]


def test_the_job_s_own_folder_serves_where_the_user_s_is_gone(
    network: Any, cache: FieldCache, probes: list[int], tmp_path: Path
) -> None:
    solve_fields(network, network.layers(), cache)
    for path in files(tmp_path / "cache"):
        path.unlink()
    solve_fields(network, network.layers(), cache)
    assert len(probes) == 1


def test_channels_of_a_field_that_was_read_are_those_of_one_that_was_solved(network: Any, cache: FieldCache) -> None:
    joined = [layer for layer in network.layers() if layer.name == "joined"]
    solved = solve_fields(network, joined, cache)["joined"]
    read = solve_fields(network, joined, cache)["joined"]
    for channel in range(6):
        np.testing.assert_array_equal(read.channel_boxes(channel), solved.channel_boxes(channel))
    assert (read.channel_boxes(0) != read.channel_boxes(5)).any()
    with pytest.raises(IndexError):
        read.channel_boxes(6)


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-9])


def edited(path: Path) -> None:
    tree = json.loads(path.read_text())
    tree["rows"][0] = [0, 1]
    path.write_text(json.dumps(tree))


def of_another_layer(path: Path) -> None:
    path.write_bytes(next(other for other in files(path.parent) if other != path).read_bytes())


def changed(**values: Any) -> Callable[[Path], None]:
    """A whole file, its check right, that says something else."""

    def change(path: Path) -> None:
        from pipeline.fields.cache import _check

        tree = {name: value for name, value in json.loads(path.read_text()).items() if name != "check"} | values
        path.write_text(json.dumps({**tree, "check": _check(tree)}))

    return change


DAMAGE = [
    truncated,
    edited,
    of_another_layer,
    lambda path: path.write_bytes(b""),
    lambda path: path.write_text("[1]"),
    changed(solver="another"),
    changed(format=0),
    changed(network="0" * 16),
    changed(input=[20, 25]),
    changed(rows=[[0, 21]] * 20),
    changed(rows=[[-1, 3]] * 20),
    changed(rows=[[3, 3]] * 20),
    changed(rows=[[0, 3]] * 19),
    changed(boxes="AAAA"),
]


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_file_that_is_damaged_or_about_something_else_counts_as_none(
    network: Any, cache: FieldCache, probes: list[int], tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    layer = network.layers()[:1]
    boxes = solve_fields(network, network.layers()[:2], cache)[layer[0].name].boxes
    for folder in (tmp_path / "cache", tmp_path / "job"):
        damage(next(path for path in files(folder) if path.stem == layer[0].name))
    np.testing.assert_array_equal(solve_fields(network, layer, cache)[layer[0].name].boxes, boxes)
    solve_fields(network, layer, cache)
    assert probes == [2, 1], "solved anew, once, and the file made good"


def test_boxes_of_any_shape_come_back(cache: FieldCache) -> None:
    rng = np.random.default_rng(0)
    first, last = rng.integers(0, 10, (5, 4, 2)), rng.integers(11, 20, (5, 4, 2))
    boxes = np.concatenate([first, last], axis=2).astype(np.int32)
    boxes[2, 1] = 0  # a unit that sees nothing
    cache.write(LAYER, boxes)
    read = cache.read(LAYER)
    assert read is not None and read.dtype == np.int32
    np.testing.assert_array_equal(read, boxes)
    assert cache.read(LayerInfo("conv", "Conv2D", (4, 5, 2))) is None


def test_a_folder_that_cannot_be_written_is_passed_over(network: Any, cache: FieldCache, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    solve_fields(network, network.layers(), cache)
    assert len(files(tmp_path / "job")) == len(network.layers())


def test_the_networks_used_last_stay(network: Any, cache: FieldCache, tmp_path: Path) -> None:
    boxes = np.zeros((5, 4, 4), np.int32)
    folder = tmp_path / "cache" / "fields"
    for number in range(70):
        other = FieldCache(f"{number:016}", (20, 24), (folder / str(number),))
        other.write(LAYER, boxes)
        os.utime(folder / str(number), (number, number))
        if number == 60:  # the first is used again, and so outlives the second
            assert FieldCache(f"{0:016}", (20, 24), (folder / "0",)).read(LAYER) is not None
    assert {path.name for path in folder.iterdir()} == {"0", *map(str, range(7, 70))}


def test_the_cache_is_where_the_user_s_variables_say(monkeypatch: pytest.MonkeyPatch, network: Any) -> None:
    monkeypatch.setenv("CONVSCOPE_CACHE", "off")
    assert user_cache() is None and FieldCache.of(network, "0" * 16) is None
    monkeypatch.setenv("CONVSCOPE_CACHE", "/else/where")
    assert user_cache() == Path("/else/where")
    monkeypatch.delenv("CONVSCOPE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cached")
    assert user_cache() == Path("/cached/convscope")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/x")
    assert user_cache() == Path("/home/x/.cache/convscope")


def test_a_command_solves_once_and_anew_with_no_cache(
    command: Any, write_spec: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, probes: list[int]
) -> None:
    monkeypatch.setenv("CONVSCOPE_CACHE", str(tmp_path / "cache"))
    spec = write_spec(tmp_path / "tiny.toml")
    printed = command("layers", spec)
    assert printed[0] == 0 and command("layers", spec) == printed and len(probes) == 1
    assert command("layers", spec, "--no-cache") == printed and len(probes) == 2
    assert command("run", spec, "--out", tmp_path / "out")[0] == 0 and len(probes) == 2
    assert command("run", spec, "--out", tmp_path / "anew", "--no-cache")[0] == 0 and len(probes) == 3
    index = [(tmp_path / out / "tiny" / "index" / "fields.parquet").read_bytes() for out in ("out", "anew")]
    assert index[0] == index[1]
