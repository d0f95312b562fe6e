"""A patches step that was stopped goes on where it was, and ends with the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.patches import PatchOptions, Winners, write_patches
from pipeline.sources.fit import Fit

COUNT, CHANNELS, K = 80, 24, 5
OPTIONS = PatchOptions(Fit(16, 16), save_every=0)


@pytest.fixture(scope="module")
def winners() -> list[Winners]:
    """Winners of two layers all over the images."""
    random = np.random.default_rng(1)
    layers = []
    for name in ("first", "second"):
        examples = np.array([random.permutation(COUNT)[:K] for _ in range(CHANNELS)], np.int64)
        corners = random.integers(0, 8, (CHANNELS, K, 2))
        scores = np.sort(random.random((CHANNELS, K), np.float32), axis=1)[:, ::-1]
        at, extents = np.zeros((CHANNELS, K), np.int32), np.full((CHANNELS, 2), 8, np.int32)
        boxes = np.concatenate([corners, corners + 8], axis=2).astype(np.int32)
        layers.append(Winners(name, np.arange(CHANNELS), scores, examples, at, at, boxes, extents))
    return layers


@pytest.fixture
def source(in_memory: Any) -> Any:
    """Images that count how often each is read."""
    source = in_memory(np.random.default_rng(0).integers(0, 256, (COUNT, 32, 32, 3)))
    fetch, source.read = source.fetch, []

    def counted(examples: Any) -> Iterator[Any]:
        for example, image in fetch(examples):
            source.read.append(example)
            yield example, image

    source.fetch = counted
    return source


def stopping(title: str, after: int, error: type[BaseException], seen: list[int]) -> Callable[..., Any]:
    """Steps, of which one stops when more than so many units are done; `seen` gets what it reports."""

    @contextmanager
    def step(name: str, unit: str) -> Iterator[Any]:
        def advance(done: int, total: int) -> None:
            if name == title:
                seen.append(done)
                if done > after:
                    raise error

        yield advance

    return step


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def whole(winners: Any, in_memory: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What an uninterrupted run leaves."""
    folder = tmp_path_factory.mktemp("whole")
    write_patches(winners, in_memory(np.random.default_rng(0).integers(0, 256, (COUNT, 32, 32, 3))), folder, OPTIONS)
    return tree(folder)


@pytest.mark.parametrize("error", [KeyboardInterrupt, MemoryError])  # what ends a run in order, and what does not
@pytest.mark.parametrize(("title", "after"), [("patches", 40), ("mosaics", 4)])
def test_a_run_that_was_stopped_goes_on_where_it_was(
    winners: Any, source: Any, whole: Any, tmp_path: Path, title: Any, after: Any, error: Any
) -> None:
    seen: list[int] = []
    with pytest.raises(error):
        write_patches(winners, source, tmp_path, replace(OPTIONS, step=stopping(title, after, error, seen)))
    source.read.clear()
    write_patches(winners, source, tmp_path, replace(OPTIONS, step=stopping(title, 10**9, error, again := [])))
    assert again[0] > 0 and again == sorted(again)
    assert len(source.read) < COUNT - 30 if title == "patches" else source.read == []
    assert tree(tmp_path) == whole


def test_what_other_winners_left_is_not_used(winners: Any, source: Any, whole: Any, tmp_path: Path) -> None:
    others = [replace(layer, boxes=layer.boxes + np.array([0, 0, 1, 1], np.int32)) for layer in winners]
    with pytest.raises(KeyboardInterrupt):
        write_patches(others, source, tmp_path, replace(OPTIONS, step=stopping("mosaics", 4, KeyboardInterrupt, [])))
    source.read.clear()
    write_patches(winners, source, tmp_path, OPTIONS)
    assert source.read == np.unique([layer.examples for layer in winners]).tolist() and tree(tmp_path) == whole


@pytest.mark.parametrize("name", ["patches.npz", "patches.spool"])
def test_what_is_damaged_is_made_again(winners: Any, source: Any, whole: Any, tmp_path: Path, name: Any) -> None:
    with pytest.raises(KeyboardInterrupt):
        write_patches(winners, source, tmp_path, replace(OPTIONS, step=stopping("patches", 40, KeyboardInterrupt, [])))
    path = tmp_path / "parts" / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    write_patches(winners, source, tmp_path, OPTIONS)
    assert tree(tmp_path) == whole
