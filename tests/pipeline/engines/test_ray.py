"""The Ray engine on a pretended Ray, whose workers fail when a test wants them to."""

from __future__ import annotations

import dataclasses
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from pretended import PretendedRay, RayError, TaskError
from scanned import in_bytes

from pipeline import load_spec, run
from pipeline.activations.part import Part
from pipeline.activations.part_file import PartSaver, Provenance, SavedPart, saved_parts, shard_path, write_part
from pipeline.activations.plan import ScanPlan
from pipeline.activations.scan import ScanSession, scan
from pipeline.activations.scan_pass import ScanPass
from pipeline.activations.scan_state import ScanState
from pipeline.engines import ray as engine
from pipeline.errors import Fault, Interrupted, TooManyBad, Unreachable, UnusableData, WrongSpec
from pipeline.models.keras.model import keras_network
from pipeline.options import RunOptions
from pipeline.run import open_job
from pipeline.sources.source import Shard


@pytest.fixture
def job(write_spec: Any, tmp_path: Path, reporter: Any) -> Any:
    """The tiny network on 20 pictures, one a batch, for three workers."""
    spec = load_spec(write_spec(tmp_path / "tiny.toml"), ["data.batch=1"])
    return dataclasses.replace(open_job(spec, tmp_path / "out" / "tiny", reporter), options=RunOptions("ray", 3, save_every=3600))


@pytest.fixture
def plan(job: Any) -> Any:
    return ScanPlan(job.layers, None, 3, 1)


@pytest.fixture(scope="module")
def scan_pass(tiny_model: Any) -> Any:
    """The compiled pass of all workers."""
    network = keras_network(tiny_model, "tiny", None, "none")
    layers = tuple(layer for layer in network.layers() if layer.name in ("edges", "shapes", "classes"))
    return ScanPass(network, ScanPlan(layers, None, 3, 1))


@pytest.fixture
def pretended(job: Any, scan_pass: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The Ray that the engine finds."""
    ray = PretendedRay(job, scan_pass)
    monkeypatch.setattr(engine, "require", lambda: ray)
    monkeypatch.setattr(ray, "is_initialized", lambda: True, raising=False)
    return ray


def scan_all(job: Any, plan: Any, progress: Any = lambda done, total: None) -> Any:
    return engine.scan_all(ScanState.read(job), plan, progress)


def scan_here(job: Any, plan: Any, scan_pass: Any, shard: Any = Shard()) -> Any:
    """A scan in this process, without Ray."""
    return scan(job.network, job.source, plan, shard, ScanSession(scan_pass=scan_pass))[0]


@pytest.fixture
def expected(job: Any, plan: Any, scan_pass: Any) -> Any:
    return in_bytes(scan_here(job, plan, scan_pass))


def test_shards_in_any_order_give_what_one_scan_gives(pretended: Any, job: Any, plan: Any, expected: Any) -> None:
    news = []
    part, times = scan_all(job, plan, progress=lambda done, total: news.append((done, total)))
    assert in_bytes(part) == expected and times.images == 20 and times.network > 0
    assert news[-1] == (20, 20) and news == sorted(news) and len(news) > 5


def test_there_are_more_shards_than_workers_and_never_more_at_work_than_workers(pretended: Any, job: Any, plan: Any) -> None:
    scan_all(job, plan)
    assert len(pretended.workers) == 3 and pretended.most_at_work == 3 and pretended.submitted["scan"] == 6
    assert pretended.submitted["open"] == 3, "a worker opens the network once"
    assert sorted(map(id, pretended.killed)) == sorted(map(id, pretended.workers)), "nobody is left"


def test_finished_shards_are_kept_and_used_by_the_next_scan_with_any_number_of_workers(
    pretended: Any, job: Any, plan: Any, expected: Any
) -> None:
    pretended.failures[4] = [TaskError(UnusableData("torn."))]
    with pytest.raises(UnusableData):
        scan_all(job, plan)
    kept = [saved for saved in saved_parts(job.folder) if saved.complete]
    assert 0 < len(kept) < 6
    write_part(shard_path(job.folder, Shard(0, 11, 1)), SavedPart(Provenance.of(job), Shard(0, 11, 1), Part.empty(plan)))
    again = dataclasses.replace(job, options=RunOptions("ray", 1))
    part, times = scan_all(again, plan)
    assert in_bytes(part) == expected and times.images == 20 - sum(saved.part.done for saved in kept)
    assert f"continuing after {20 - times.images} of 20 examples, which an earlier run has scanned" in job.reporter.lines


def test_examples_that_an_earlier_scan_has_seen_are_left_out(pretended: Any, job: Any, plan: Any) -> None:
    write_part(shard_path(job.folder, Shard(0, 11)), SavedPart(Provenance.of(job), Shard(0, 11), Part.empty(plan)))
    base = SavedPart(dataclasses.replace(Provenance.of(job), examples=7), Shard(), Part.empty(plan))
    part, _ = engine.scan_all(ScanState(job, base, saved_parts(job.folder)), plan, lambda done, total: None)
    alone = scan_here(job, plan, pretended.scan_pass, Shard(0, 1, 1, 7))
    assert in_bytes(part) == in_bytes(alone) and part.seen == 13
    assert pretended.submitted["scan"] == 6, "shards of what was there before divide nothing of what is new"


@pytest.mark.parametrize(
    "error", [RayError("its node has died"), TaskError(OSError("no such device")), TaskError(Unreachable("no answer."))]
)
def test_a_worker_that_fails_is_replaced_and_its_shard_runs_again(
    pretended: Any, job: Any, plan: Any, expected: Any, error: Any
) -> None:
    pretended.failures[2] = [error, error]
    part, _ = scan_all(job, plan)
    assert in_bytes(part) == expected
    assert len(pretended.workers) == 5 and pretended.submitted["scan"] == 8
    said = [line for line in job.reporter.lines if line.startswith("shard 3-of-6 failed: ")]
    assert len(said) == 2 and not any("\n" in line for line in said)


@pytest.mark.parametrize(
    ("error", "raised", "says"),
    [
        (RayError("its node has died"), Fault, "shard 3-of-6 failed 3 times; the last time: its node has died. "),
        (TaskError(OSError("no such\ndevice")), Fault, "shard 3-of-6 failed 3 times; the last time: OSError: no such device. "),
        (TaskError(Unreachable("no answer.")), Unreachable, "no answer."),
    ],
)
def test_a_shard_that_fails_three_times_stops_the_job_with_its_error(
    pretended: Any, job: Any, plan: Any, error: Any, raised: Any, says: Any
) -> None:
    pretended.failures[2] = [error] * 9
    with pytest.raises(raised, match=says) as caught:
        scan_all(job, plan)
    assert len(pretended.failures[2]) == 6 and "\n" not in str(caught.value)
    assert set(map(id, pretended.killed)) == set(map(id, pretended.workers))


@pytest.mark.parametrize("error", [UnusableData("torn."), TooManyBad("all of them.")])
def test_what_is_wrong_with_the_spec_or_the_data_is_not_tried_again(pretended: Any, job: Any, plan: Any, error: Any) -> None:
    pretended.failures[2] = [TaskError(error)]
    with pytest.raises(type(error)) as caught:
        scan_all(job, plan)
    assert caught.value is error and len(pretended.workers) == 3


@pytest.mark.parametrize(
    ("broken", "max_bad", "fails"), [((0, 1, 2), 0.15, False), ((0, 7, 14), 0.15, False), ((0, 7, 14), 0.1, True)]
)
def test_unreadable_images_are_counted_over_the_whole_data_set_as_in_one_scan(
    job: Any, plan: Any, scan_pass: Any, monkeypatch: pytest.MonkeyPatch, in_memory: Any, broken: Any, max_bad: Any, fails: Any
) -> None:
    pixels = np.random.default_rng(1).integers(0, 4, (20, 16, 16, 3))
    job = dataclasses.replace(job, source=in_memory(pixels, broken=broken))
    plan = dataclasses.replace(plan, max_bad=max_bad)
    ray = PretendedRay(job, scan_pass)
    monkeypatch.setattr(engine, "require", lambda: ray)
    monkeypatch.setattr(ray, "is_initialized", lambda: True, raising=False)
    if not fails:
        assert in_bytes(scan_all(job, plan)[0]) == in_bytes(scan_here(job, plan, scan_pass))
        return
    scans: list[Any] = [lambda: scan_all(job, plan), lambda: scan_here(job, plan, scan_pass)]
    for scanned in scans:
        with pytest.raises(TooManyBad, match="3 of 20 images cannot be read"):
            scanned()


def test_workers_that_cannot_be_started_three_times_in_a_row_stop_the_job(pretended: Any, job: Any, plan: Any) -> None:
    pretended.opening_fails = [RayError("out of memory")] * 3
    with pytest.raises(Fault, match="opening the job in a worker failed 3 times; the last time: out of memory"):
        scan_all(job, plan)


def test_workers_that_are_started_at_last_forget_the_failures_before(pretended: Any, job: Any, plan: Any, expected: Any) -> None:
    twice = [RayError("out of memory")] * 2
    pretended.opening_fails = [*twice, None, None, None, *twice]
    pretended.failures[2] = [RayError("its node has died")]
    part, _ = scan_all(job, plan)
    assert in_bytes(part) == expected and len(pretended.workers) == 3 + 2 + 1 + 2


@pytest.mark.parametrize(("gpus", "asked", "workers"), [(0, None, 2), (5, None, 5), (2, 4, 4)])
def test_there_is_a_worker_for_each_gpu_else_for_each_machine_unless_their_number_is_given(
    job: Any, plan: Any, scan_pass: Any, monkeypatch: pytest.MonkeyPatch, gpus: Any, asked: Any, workers: Any
) -> None:
    ray = PretendedRay(job, scan_pass, gpus)
    monkeypatch.setattr(engine, "require", lambda: ray)
    monkeypatch.setattr(ray, "is_initialized", lambda: True, raising=False)
    scan_all(dataclasses.replace(job, options=RunOptions("ray", asked)), plan)
    assert len(ray.workers) == workers and ray.options["num_gpus"] == (1 if gpus else 0)


class Stop(Exception):
    """Ends a scan from within."""


class StoppingPass:
    """A compiled pass that stops the scan at its second batch."""

    def __init__(self, scan_pass: Any) -> None:
        self._pass, self._calls = scan_pass, 0

    def run(self, images: Any, thresholds: Any) -> Any:
        self._calls += 1
        if self._calls > 1:
            raise Stop
        return self._pass.run(images, thresholds)


def scan_one_batch(ray: Any) -> None:
    """Every shard that is being scanned finishes its first batch."""
    for handle, method, arguments in [*ray._tasks.values()]:
        if method == "scan":
            handle._worker.scan_pass = StoppingPass(ray.scan_pass)
            with pytest.raises(Stop):
                handle._worker.scan(*arguments)


@pytest.mark.parametrize(("every", "answers"), [(3600, True), (0, True), (0, False)])
def test_an_interrupt_saves_the_latest_parts_of_unfinished_shards_and_claims_no_more(
    pretended: Any, job: Any, plan: Any, expected: Any, monkeypatch: pytest.MonkeyPatch, every: Any, answers: Any
) -> None:
    wait, rounds, stopped = pretended.wait, [], []

    def interrupted(references: Any, num_returns: Any = 1, timeout: Any = None) -> Any:
        if stopped and not answers:
            return [], references
        for_scans = all(pretended._tasks[reference][1] == "scan" for reference in references)
        if for_scans and pretended.submitted["scan"] == 4 and not stopped:  # one is finished, three are at work
            rounds.append(references)
            if len(rounds) == 1:
                scan_one_batch(pretended)
            if len(rounds) < 3 and not every:  # they report how many examples are done
                return [], references
            stopped.append(True)
            raise KeyboardInterrupt
        return wait(references, num_returns, timeout)

    with monkeypatch.context() as patched:
        patched.setattr(engine, "_COUNT_EVERY", every)
        patched.setattr(pretended, "wait", interrupted)
        with pytest.raises(Interrupted, match="of 20 examples are scanned and saved") as caught:
            scan_all(job, plan)
    saved = saved_parts(job.folder)
    done = sum(saved.part.done for saved in saved)
    assert sorted(saved.part.done for saved in saved)[:-1] == [1, 1, 1] * answers and f": {done} of 20 " in str(caught.value)
    part, times = scan_all(job, plan)
    assert in_bytes(part) == expected and times.images == 20 - done


def test_an_interrupt_while_a_finished_shard_is_saved_loses_nothing(
    pretended: Any, job: Any, plan: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, calls = PartSaver.save, []

    def interrupted(keeper: Any) -> None:
        calls.append(keeper)
        if len(calls) == 1:
            raise KeyboardInterrupt
        save(keeper)

    monkeypatch.setattr(PartSaver, "save", interrupted)
    with pytest.raises(Interrupted):
        scan_all(job, plan)
    (saved,) = saved_parts(job.folder)
    assert saved.complete and saved.part.done == 4


def test_the_latest_parts_are_saved_when_the_job_is_to_be_tried_again(
    pretended: Any, job: Any, plan: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_COUNT_EVERY", 0)
    monkeypatch.setattr(engine, "_PART_EVERY", 0)
    finished = []

    def unreachable(done: Any, total: Any) -> None:
        if pretended.submitted["scan"] > 2:
            finished.append(done)
            scan_one_batch(pretended)
        if len(finished) > 1:
            raise Unreachable("gone.")

    with pytest.raises(Unreachable):
        scan_all(job, plan, progress=unreachable)
    assert 1 in [saved.part.done for saved in saved_parts(job.folder)]


def test_a_worker_that_owes_an_answer_is_not_asked_again(
    pretended: Any, job: Any, plan: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    wait, rounds = pretended.wait, []

    def silent(references: Any, num_returns: Any = 1, timeout: Any = None) -> Any:
        kinds = {pretended._tasks[reference][1] for reference in references}
        rounds.append(kinds)
        if kinds == {"answer"} or (kinds == {"scan"} and len(rounds) < 40):
            return [], references
        return wait(references, num_returns, timeout)

    monkeypatch.setattr(engine, "_COUNT_EVERY", 0)
    monkeypatch.setattr(pretended, "wait", silent)
    scan_all(job, plan)
    assert pretended.submitted["answer"] == 3


def test_a_lost_worker_loses_no_more_than_it_scanned_since_it_was_last_asked(
    pretended: Any, job: Any, plan: Any, expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_COUNT_EVERY", 0)
    monkeypatch.setattr(engine, "_PART_EVERY", 0)
    get, wait, begun = pretended.get, pretended.wait, []

    def one_batch_and_no_end(references: Any, num_returns: Any = 1, timeout: Any = None) -> Any:
        """Shard 2 finishes its first batch, and is not ready before its worker was asked."""
        for reference, (handle, method, arguments) in [*pretended._tasks.items()]:
            if method == "scan" and arguments[1].index == 1 and not begun:
                begun.append(reference)
                handle._worker.scan_pass = StoppingPass(pretended.scan_pass)
                with pytest.raises(Stop):
                    handle._worker.scan(*arguments)
        asked = pretended.submitted["answer"] > 10
        others = [reference for reference in references if asked or reference not in begun]
        return wait(others, num_returns, timeout) if others else ([], references)

    def lost(reference: Any) -> Any:
        if reference in begun:
            del pretended._tasks[reference]
            raise RayError("its node has died")
        return get(reference)

    monkeypatch.setattr(pretended, "wait", one_batch_and_no_end)
    monkeypatch.setattr(pretended, "get", lost)
    part, times = scan_all(job, plan)
    assert in_bytes(part) == expected
    assert times.images == 19, "the first image of shard 2 is not scanned again"


def test_a_worker_that_sees_another_network_or_other_data_says_so(job: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.compiled.devices.prepare_devices", lambda threads: None)
    engine.Worker().open(job.spec, job.digests, 1)
    for table in ("model", "data"):
        with pytest.raises(WrongSpec, match=rf"what \[{table}\] names is not the same on .* as where the job was started"):
            engine.Worker().open(job.spec, {**job.digests, table: "another"}, 1)


def test_without_ray_the_engine_names_the_extra(job: Any, plan: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(WrongSpec, match="needs Ray, .*the extra 'cluster'") as caught:
        scan_all(job, plan)
    assert "\n" not in str(caught.value) and caught.value.exit_code == 2


@pytest.mark.parametrize("address", ["127.0.0.1:9", "ray://127.0.0.1:9"])
def test_an_address_where_no_cluster_answers_is_one_line_and_worth_another_try(
    job: Any, plan: Any, monkeypatch: pytest.MonkeyPatch, address: Any
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(Unreachable, match=f"no Ray cluster answers at RAY_ADDRESS = '{address}'") as caught:
        scan_all(job, plan)
    assert "\n" not in str(caught.value)


def test_the_address_of_the_dashboard_is_refused_by_name(job: Any, plan: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "http://head:8265")
    with pytest.raises(WrongSpec, match="is where jobs are submitted"):
        scan_all(job, plan)


def test_a_signal_while_the_cluster_is_joined_ends_the_run_as_ever(job: Any, plan: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**settings: Any) -> None:
        assert settings["address"] == "local" and settings["num_cpus"] == 3
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(15))  # as Ray does
        signal.raise_signal(signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(engine, "require", lambda: SimpleNamespace(init=init, is_initialized=lambda: False))
    with pytest.raises(KeyboardInterrupt):
        scan_all(job, plan)
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.parametrize(("engine_name", "workers", "error"), [("rya", None, "nearest: ray"), ("local", 2, "no workers")])
def test_an_engine_is_checked_before_anything_is_opened(
    spec: Any, tmp_path: Path, reporter: Any, engine_name: Any, workers: Any, error: Any
) -> None:
    with pytest.raises(WrongSpec, match=error):
        run(spec, tmp_path, reporter=reporter, options=RunOptions(engine_name, workers))
    assert not (tmp_path / "tiny" / "run.json").exists()
