"""Updates: where a data set only grew, only the added examples are scanned, and the results are those of a full scan."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from stopping import RESULTS, Stopping, changed

from pipeline import run
from pipeline.activations.part_file import saved_parts
from pipeline.errors import Interrupted, WrongSpec
from pipeline.options import RunOptions
from pipeline.shards import merge, run_shard

UPDATE = RunOptions(update=True)


@pytest.fixture(scope="module")
def stock(write_pictures: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """23 pictures, of which a data set is made that grows."""
    folder = write_pictures(tmp_path_factory.mktemp("stock"), count=23)
    return sorted(folder.rglob("*.png"), key=lambda path: path.name)


@pytest.fixture
def growing(stock: Any, spec: Any, tmp_path: Path) -> Any:
    """A function: make the data set so many pictures long. Returns: the spec of it."""
    images = tmp_path / "images"

    def grow(count: Any, **data: Any) -> Any:
        images.mkdir(exist_ok=True)
        for path in stock[:count]:
            shutil.copy(path, images / path.name)
        return changed(spec, data={"source": f"folder:{images}", "batch": 4, **data})

    return grow


@pytest.fixture
def expected(growing: Any, tmp_path: Path, tree_of: Any) -> Any:
    """A function: the results of a run over all examples."""

    def results(spec: Any) -> Any:
        shutil.rmtree(tmp_path / "whole", ignore_errors=True)
        return tree_of(run(spec, tmp_path / "whole", reporter=Stopping()), *RESULTS)

    return results


@pytest.mark.parametrize(("before", "after"), [(8, 12), (6, 23), (7, 8)])
def test_an_update_scans_only_added_examples_and_ends_with_the_bytes_of_a_full_run(
    growing: Any, expected: Any, tmp_path: Path, tree_of: Any, before: Any, after: Any
) -> None:
    run(growing(before), tmp_path / "out", reporter=Stopping())
    spec, last = growing(after), Stopping()
    folder = run(spec, tmp_path / "out", reporter=last, options=UPDATE)
    assert last.scanned[-1] == after - before
    assert f"the first {before} of {after} examples were scanned before; the rest is new" in last.lines
    assert tree_of(folder, *RESULTS) == expected(spec)


def test_updates_follow_each_other_and_one_of_nothing_does_nothing(
    growing: Any, expected: Any, tmp_path: Path, tree_of: Any
) -> None:
    for count in (3, 10, 11, 23):
        last = Stopping()
        folder = run(growing(count), tmp_path / "out", reporter=last, options=UPDATE)
    assert last.scanned[-1] == 12 and tree_of(folder, *RESULTS) == expected(growing(23))
    last = Stopping()
    run(growing(23), tmp_path / "out", reporter=last, options=UPDATE)
    assert last.news == [] and "nothing to do" in last.lines[-1]


def test_an_interrupted_update_continues_even_when_the_data_have_grown_again(
    growing: Any, expected: Any, tmp_path: Path, tree_of: Any
) -> None:
    run(growing(5), tmp_path / "out", reporter=Stopping())
    with pytest.raises(Interrupted):
        run(growing(15), tmp_path / "out", reporter=Stopping("scan", 7), options=UPDATE)
    spec, last = growing(21), Stopping()
    folder = run(spec, tmp_path / "out", reporter=last, options=UPDATE)
    assert last.scanned[0] == 7 and last.scanned[-1] == 16 and tree_of(folder, *RESULTS) == expected(spec)


def test_an_interrupted_first_run_continues_with_data_that_have_grown(
    growing: Any, expected: Any, tmp_path: Path, tree_of: Any
) -> None:
    with pytest.raises(Interrupted):
        run(growing(10), tmp_path / "out", reporter=Stopping("scan", 8), options=UPDATE)
    spec, last = growing(14), Stopping()
    folder = run(spec, tmp_path / "out", reporter=last, options=UPDATE)
    assert last.scanned == [8, 12, 14] and tree_of(folder, *RESULTS) == expected(spec)


def test_an_update_may_be_spread_over_shards(growing: Any, expected: Any, tmp_path: Path, tree_of: Any) -> None:
    run(growing(6), tmp_path / "out", reporter=Stopping())
    spec = growing(23)
    for index in (1, 0, 2):
        run_shard(spec, (index, 3), tmp_path / "out", Stopping(), UPDATE)
    last = Stopping()
    folder = merge(tmp_path / "out" / "tiny", last)
    assert last.scanned == [] and tree_of(folder, *RESULTS) == expected(spec)


def test_the_shards_of_an_update_need_the_scan_that_they_update(growing: Any, tmp_path: Path) -> None:
    folder = run(growing(6), tmp_path / "out", reporter=Stopping())
    for index in (0, 1):
        run_shard(growing(9), (index, 2), tmp_path / "out", Stopping(), UPDATE)
    (folder / "scan.part").unlink()
    with pytest.raises(WrongSpec, match=r"cannot be merged: they begin at example 6, and scan.part does not hold the scan of"):
        merge(folder, Stopping())


def test_parts_of_added_examples_and_of_all_examples_are_not_confused(growing: Any, tmp_path: Path) -> None:
    folder, spec = run(growing(6), tmp_path / "out", reporter=Stopping()), growing(16)
    run_shard(spec, (0, 2), tmp_path / "out", Stopping())
    run_shard(spec, (1, 2), tmp_path / "out", Stopping(), UPDATE)
    with pytest.raises(WrongSpec, match=r"2-of-2.part does not belong to .*: it begins at another example: 6, not 0"):
        merge(folder, Stopping())
    run_shard(spec, (0, 2), tmp_path / "out", Stopping(), UPDATE)
    assert [(saved.shard.begin, saved.part.done) for saved in saved_parts(folder)] == [(6, 2), (6, 8)]


def test_a_shard_of_data_that_have_grown_since_is_of_other_examples(growing: Any, tmp_path: Path) -> None:
    run_shard(growing(8), (1, 2), tmp_path / "out", Stopping(), UPDATE)
    last = Stopping()
    run_shard(growing(16), (1, 2), tmp_path / "out", last, UPDATE)
    assert [done for _, done in last.news] == [0, 4, 8]


def test_an_update_ignores_a_scan_with_other_settings(growing: Any, tmp_path: Path) -> None:
    run(growing(6), tmp_path / "out", reporter=Stopping())
    last = Stopping()
    run(changed(growing(9), activations={"top_k": 2}), tmp_path / "out", reporter=last, options=UPDATE)
    assert last.scanned == [0, 4, 8, 9]


def test_an_update_ignores_a_scan_with_another_network(growing: Any, tiny_model: Any, tmp_path: Path) -> None:
    import keras

    def saved(model: Any, count: Any) -> Any:
        model.save(tmp_path / "model.keras")
        return changed(growing(count), model={"source": f"file:{tmp_path / 'model.keras'}"})

    run(saved(tiny_model, 6), tmp_path / "out", reporter=Stopping())
    other = keras.models.clone_model(tiny_model)
    other.set_weights([2 * weights for weights in tiny_model.get_weights()])
    last = Stopping()
    run(saved(other, 9), tmp_path / "out", reporter=last, options=UPDATE)
    assert last.scanned == [0, 4, 8, 9]


def test_without_update_grown_data_are_scanned_in_full(growing: Any, expected: Any, tmp_path: Path, tree_of: Any) -> None:
    run(growing(6), tmp_path / "out", reporter=Stopping())
    spec, last = growing(9), Stopping()
    folder = run(spec, tmp_path / "out", reporter=last)
    assert last.scanned[-1] == 9 and tree_of(folder, *RESULTS) == expected(spec)


def test_pictures_that_came_in_between_are_refused_and_nothing_is_changed(
    growing: Any, stock: Any, tmp_path: Path, tree_of: Any
) -> None:
    folder = run(growing(6), tmp_path / "out", reporter=Stopping())
    before = tree_of(folder)
    shutil.copy(stock[7], tmp_path / "images" / "000-between.png")
    with pytest.raises(WrongSpec, match=r"cannot be updated: the first 6 examples are not those that were scanned") as caught:
        run(growing(6), tmp_path / "out", reporter=Stopping(), options=UPDATE)
    assert "Run without --update" in str(caught.value) and "\n" not in str(caught.value) and caught.value.exit_code == 2
    after = tree_of(folder)
    before.pop(".lock"), after.pop(".lock")
    assert after == before
    last = Stopping()
    run(growing(6), tmp_path / "out", reporter=last)
    assert last.scanned[-1] == 7


def test_a_data_set_that_has_shrunk_is_refused(growing: Any, stock: Any, tmp_path: Path) -> None:
    spec = growing(6)
    run(spec, tmp_path / "out", reporter=Stopping())
    (tmp_path / "images" / stock[5].name).unlink()
    with pytest.raises(WrongSpec, match="cannot be updated"):
        run(spec, tmp_path / "out", reporter=Stopping(), options=UPDATE)


def test_a_raised_limit_is_an_update_too(growing: Any, expected: Any, tmp_path: Path, tree_of: Any) -> None:
    run(growing(20, limit=6), tmp_path / "out", reporter=Stopping())
    spec, last = growing(20, limit=13), Stopping()
    folder = run(spec, tmp_path / "out", reporter=last, options=UPDATE)
    assert last.scanned[-1] == 7 and tree_of(folder, *RESULTS) == expected(spec)


def test_windows_of_added_pictures_are_an_update_too(growing: Any, expected: Any, tmp_path: Path, tree_of: Any) -> None:
    from pipeline.spec.data import WindowSpec

    window = WindowSpec(size=12, stride=8)
    run(growing(6, window=window), tmp_path / "out", reporter=Stopping())
    spec, last = growing(9, window=window), Stopping()
    folder = run(spec, tmp_path / "out", reporter=last, options=UPDATE)
    assert last.lines[-1] != "" and any("were scanned before; the rest is new" in line for line in last.lines)
    assert tree_of(folder, *RESULTS) == expected(spec)


def test_an_update_reads_each_part_file_once(growing: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it continues an update that was interrupted."""
    run(growing(6), tmp_path / "out", reporter=Stopping())
    spec = growing(14)
    with pytest.raises(Interrupted):
        run(spec, tmp_path / "out", reporter=Stopping("scan", 2), options=UPDATE)
    reads, read_bytes = [], Path.read_bytes

    def counted(path: Any) -> Any:
        reads.append(path.name)
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", counted)
    run(spec, tmp_path / "out", reporter=Stopping(), options=UPDATE)
    assert [name for name in reads if name.endswith(".part")] == ["scan.part", "1-of-1.part"]
