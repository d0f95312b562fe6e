"""One job in several runs: any shards, in any order, at the same time, give the results of one run."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
from stopping import RESULTS, Stopping, changed

from pipeline import run
from pipeline.activations.part_file import saved_parts
from pipeline.errors import FolderHeld, Interrupted, PartsMissing, StoreFailed, TooManyBad, WrongSpec
from pipeline.options import RunOptions
from pipeline.receipt import read_receipt
from pipeline.shards import merge, run_shard
from pipeline.store.locks import hold
from pipeline.store.places import place


@pytest.fixture(scope="module")
def small(spec: Any) -> Any:
    """The spec of the 20 pictures in ten batches."""
    return changed(spec, data={"batch": 2})


def shards(spec: Any, out: Any, numbers: Any, count: Any) -> Any:
    for index in numbers:
        run_shard(spec, (index, count), out, Stopping())
    return out / spec.name


@pytest.mark.parametrize(("count", "order"), [(1, [0]), (3, [0, 2, 1]), (7, [6, 1, 4, 0, 5, 3, 2])])
def test_any_number_of_shards_in_any_order_gives_the_bytes_of_one_run(
    small: Any, tmp_path: Path, finished: Any, tree_of: Any, count: Any, order: Any
) -> None:
    folder = shards(small, tmp_path, order, count)
    assert sorted(tree_of(folder)) == sorted(f"parts/{index + 1}-of-{count}.part" for index in order)
    last = Stopping()
    merge(folder, last)
    assert last.scanned == []
    assert tree_of(folder, *RESULTS) == tree_of(finished, *RESULTS)
    assert read_receipt(folder).state == "finished" and not list((folder / "parts").iterdir())


def test_a_shard_that_is_interrupted_goes_on_and_the_merge_has_the_same_bytes(
    small: Any, tmp_path: Path, finished: Any, tree_of: Any
) -> None:
    with pytest.raises(Interrupted, match="4 of 10 examples are scanned and saved"):
        run_shard(small, (1, 2), tmp_path, Stopping("scan of shard 2 of 2", 4))
    with pytest.raises(PartsMissing, match=r"lacks parts 1 of 2; the rest of part 2 of 2, which stands at 4 of 10"):
        merge(tmp_path / "tiny", Stopping())
    last = Stopping()
    run_shard(small, (1, 2), tmp_path, last)
    assert [done for _, done in last.news] == [4, 6, 8, 10]
    merge(shards(small, tmp_path, [0], 2), Stopping())
    assert tree_of(tmp_path / "tiny", *RESULTS) == tree_of(finished, *RESULTS)


def test_missing_parts_are_named_and_worth_another_try(small: Any, tmp_path: Path) -> None:
    folder = shards(small, tmp_path, [1, 3], 5)
    with pytest.raises(PartsMissing, match=r"tiny lacks parts 1, 3, 5 of 5\. Run what is missing with --shard I/N") as caught:
        merge(folder, Stopping())
    assert caught.value.exit_code == 75 and "\n" not in str(caught.value)


def test_shards_of_another_number_do_not_come_into_the_way(small: Any, tmp_path: Path, finished: Any, tree_of: Any) -> None:
    shards(small, tmp_path, [0, 2, 3], 4)
    folder = merge(shards(small, tmp_path, [0, 1], 2), Stopping())
    assert tree_of(folder, *RESULTS) == tree_of(finished, *RESULTS) and not list((folder / "parts").iterdir())


def test_a_plain_run_uses_the_parts_that_all_shards_have_left(small: Any, tmp_path: Path, finished: Any, tree_of: Any) -> None:
    folder = shards(small, tmp_path, [0, 1], 2)
    with hold(folder), pytest.raises(FolderHeld):
        merge(folder, Stopping())
    last = Stopping()
    folder = run(small, tmp_path, reporter=last)
    assert last.scanned == [] and tree_of(folder, *RESULTS) == tree_of(finished, *RESULTS)


def test_a_run_with_other_settings_uses_no_parts(small: Any, tmp_path: Path) -> None:
    shards(small, tmp_path, [0, 1], 2)
    last = Stopping()
    run(changed(small, activations={"top_k": 1}), tmp_path, reporter=last)
    assert last.scanned[0] == 0 and last.scanned[-1] == 20


def test_a_finished_job_has_nothing_left_for_its_shards_and_merges(copied: Any, spec: Any, tree_of: Any) -> None:
    before = tree_of(copied)
    shard, merged = Stopping(), Stopping()
    run_shard(spec, (0, 2), copied.parent, shard)
    merge(copied, merged)
    for reporter in (shard, merged):
        assert reporter.lines == [f"{copied} is finished: nothing to do. For other settings, choose another --out or name."]
    assert tree_of(copied) == before


def test_shards_that_are_scanned_again_replace_finished_results(copied: Any, spec: Any, tree_of: Any, reporter: Any) -> None:
    before = tree_of(copied, *RESULTS)
    (copied / "index" / "activations.parquet").write_bytes(b"damaged")
    for index, examples in ((0, 8), (1, 12)):
        shard = Stopping()
        run_shard(spec, (index, 2), copied.parent, shard, options=RunOptions(anew=True))
        assert shard.news[0][1] == 0 and shard.news[-1] == (f"scan of shard {index + 1} of 2", examples)
    merge(copied, reporter)
    assert tree_of(copied, *RESULTS) == before


def test_a_merge_that_was_stopped_when_it_cleared_the_parts_away_is_gone_on_with(
    small: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finished: Any, tree_of: Any
) -> None:
    folder, remove = shards(small, tmp_path, [0, 1], 2), Path.unlink

    def stopped(path: Any, missing_ok: Any = False) -> None:
        remove(path, missing_ok)
        if path.suffix == ".part":
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "unlink", stopped)
        with pytest.raises(KeyboardInterrupt):
            merge(folder, Stopping())
    assert len(list((folder / "parts").iterdir())) == 1
    last = Stopping()
    merge(folder, last)
    assert last.scanned == [] and tree_of(folder, *RESULTS) == tree_of(finished, *RESULTS)
    assert read_receipt(folder).state == "finished" and not list((folder / "parts").iterdir())


def test_a_folder_without_parts_or_with_a_damaged_one_is_named(small: Any, tmp_path: Path) -> None:
    from pipeline.errors import Fault

    with pytest.raises(WrongSpec, match="none has no parts to merge"):
        merge(tmp_path / "none", Stopping())
    folder = shards(small, tmp_path, [0], 1)
    part = folder / "parts" / "1-of-1.part"
    data = part.read_bytes()
    for damage in (b"", b"torn", data[: len(data) // 2], data[:500] + bytes(40) + data[540:]):
        part.write_bytes(damage)
        with pytest.raises(Fault, match=r"parts/1-of-1.part is damaged .*Remove it") as caught:
            merge(folder, Stopping())
        assert "\n" not in str(caught.value) and caught.value.exit_code == 1


# Parts that do not belong together.


def test_a_part_of_another_network_or_other_data_is_named(
    small: Any, tiny_model: Any, write_pictures: Any, tmp_path: Path
) -> None:
    import keras

    file, images = tmp_path / "model.keras", write_pictures(tmp_path / "images", count=8)
    tiny_model.save(file)
    spec = changed(small, model={"source": f"file:{file}"}, data={"source": f"folder:{images}"})
    folder = shards(spec, tmp_path, [0], 2)
    other = keras.models.clone_model(tiny_model)
    other.set_weights([2 * weights for weights in tiny_model.get_weights()])
    other.save(file)
    shards(spec, tmp_path, [1], 2)
    with pytest.raises(WrongSpec, match=r"2-of-2.part does not belong to .*1-of-2.part: the network has changed") as caught:
        merge(folder, Stopping())
    assert caught.value.exit_code == 2 and "\n" not in str(caught.value)
    run_shard(spec, (0, 2), tmp_path, Stopping(), options=RunOptions(anew=True))
    (images / "cat" / "000.png").unlink()
    with pytest.raises(WrongSpec, match=r"cannot be merged: the data set has changed: it has 7 examples, and had 8"):
        merge(folder, Stopping())
    assert not (folder / "run.json").exists()


def test_unreadable_images_of_all_shards_are_judged_together(small: Any, write_pictures: Any, tmp_path: Path) -> None:
    images = write_pictures(tmp_path / "images", count=9)
    for name in ("cat/000.png", "dog/007.png"):
        (images / name).write_bytes(b"torn")
    folder = shards(changed(small, data={"source": f"folder:{images}", "max_bad": 0.15}), tmp_path / "out", [0, 1], 2)
    with pytest.raises(TooManyBad, match="2 of 9 images cannot be read"):
        merge(folder, Stopping())
    assert len(saved_parts(folder)) == 2


# Runs side by side.


def test_a_shard_that_is_at_work_is_named_with_its_holder_and_the_others_are_free(small: Any, tmp_path: Path) -> None:
    folder = tmp_path / "tiny"
    with hold(folder, part=(1, 3)):
        with pytest.raises(FolderHeld) as caught:
            run_shard(small, (1, 3), tmp_path, Stopping())
        assert f"shard 2 of 3 in {folder} is held by process {os.getpid()} on {socket.gethostname()} since " in str(caught.value)
        run_shard(small, (0, 3), tmp_path, Stopping())
        with hold(folder):
            pass
    run_shard(small, (1, 3), tmp_path, Stopping())
    assert sorted(path.name for path in (folder / "parts").iterdir()) == ["1-of-3.part", "2-of-3.part"]


def test_a_lock_file_that_its_last_holder_has_just_removed_is_recreated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, flock, calls = tmp_path / "tiny", fcntl.flock, []

    def removed_meanwhile(file: Any, how: Any) -> None:
        calls.append(how)
        if len(calls) == 1:
            (folder / "parts" / ".1-of-2.lock").unlink()
        flock(file, how)

    monkeypatch.setattr(fcntl, "flock", removed_meanwhile)
    with hold(folder, part=(0, 2)), pytest.raises(FolderHeld), hold(folder, part=(0, 2)):
        pytest.fail("two hold one shard")
    assert not list((folder / "parts").iterdir())


def test_a_shard_on_a_disk_that_takes_no_writes_is_one_line(small: Any, small_disk: Any) -> None:
    disk = small_disk(64)
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    with pytest.raises(StoreFailed, match="Read-only file system") as caught:
        run_shard(small, (0, 2), disk, Stopping())
    assert "\n" not in str(caught.value) and caught.value.exit_code == 1


def test_a_run_spares_what_another_shard_is_writing(small: Any, tmp_path: Path) -> None:
    half = tmp_path / "tiny" / "parts" / ".aside-0123abcd-2-of-2.part"
    half.parent.mkdir(parents=True)
    half.write_bytes(b"half")
    run_shard(small, (0, 2), tmp_path, Stopping())
    assert half.exists()
    run_shard(small, (1, 2), tmp_path, Stopping())
    assert not half.exists()


def test_shards_meet_at_an_address(small: Any, finished: Any, tree_of: Any) -> None:
    address = f"memory://{os.urandom(8).hex()}"
    with pytest.raises(Interrupted):
        run_shard(small, (1, 2), address, Stopping("scan of shard 2 of 2", 4))
    assert [saved.part.done for saved in saved_parts(place(address) / "tiny")] == [4]
    for index in (0, 1):
        run_shard(small, (index, 2), address, Stopping())
    folder = merge(place(address) / "tiny", Stopping())
    results = {str(path.relative_to(folder)): path.read_bytes() for name in RESULTS for path in (folder / name).rglob("*")}
    assert results == tree_of(finished, *RESULTS)
    assert [path.name for path in (folder / "parts").rglob("*")] == []


# The command line.


def test_shards_and_merge_from_the_command_line(
    command: Any, write_spec: Any, tmp_path: Path, finished: Any, tree_of: Any
) -> None:
    path, out = write_spec(tmp_path / "tiny.toml"), tmp_path / "out"
    status, _, error = command("run", path, "--out", out, "--shard", "2/2", "--log-json")
    assert status == 0
    lines = [json.loads(line) for line in error.splitlines()]
    assert all({"time", "job", "message"} <= line.keys() and line["job"] == "tiny" for line in lines)
    status, shown, _ = command("show", out / "tiny")
    assert status == 0 and shown == "tiny: shards, not merged yet\n  shard 2 of 2: 12 of 12 examples are saved\n"
    status, _, error = command("merge", out / "tiny", "--log-json")
    answer = json.loads(error.splitlines()[-1])
    assert (
        status == 75 and answer["error"] == "PartsMissing" and answer["exit"] == 75 and "lacks parts 1 of 2" in answer["message"]
    )
    assert command("run", path, "--out", out, "--shard", "1/2")[0] == 0
    status, shown, _ = command("merge", out / "tiny")
    assert status == 0 and shown.startswith("tiny: finished, 20 examples, 3 layers\n  activations: 20 images, scanned by earlier")
    assert tree_of(out / "tiny", *RESULTS) == tree_of(finished, *RESULTS)


@pytest.mark.parametrize("words", [["--shard", "0/2"], ["--shard", "3/2"], ["--shard", "2"], ["--shard", "a/b"]])
def test_a_shard_that_cannot_be_is_refused(command: Any, words: Any) -> None:
    status, _, error = command("run", "demo", *words)
    assert status == 2 and "is not of the form I/N, with I from 1 to N" in error


@pytest.mark.parametrize("value", ["-1", "often", "inf", "nan"])
def test_a_time_between_saves_that_cannot_be_is_refused(command: Any, value: Any) -> None:
    status, _, error = command("run", "demo", "--save-every", value)
    assert status == 2 and "is not a number of seconds" in error


def test_a_shard_has_no_stages_of_its_own(command: Any) -> None:
    assert command("run", "demo", "--shard", "1/2", "--stage", "activations")[0] == 2


def test_the_time_between_saves_reaches_the_run(
    command: Any, write_spec: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jobs import commands

    seen = []
    monkeypatch.setattr(commands, "run_shard", lambda *arguments: seen.append(arguments))
    assert command("run", write_spec(tmp_path / "tiny.toml"), "--shard", "3/4", "--save-every", "7", "--update", "--anew")[0] == 0
    ((_, shard, out, _, options),) = seen
    assert (shard, out, options) == ((2, 4), "out", RunOptions(save_every=7, update=True, anew=True))
