"""Real Ray clusters on this machine: a job that is stopped, and a job that loses one of two nodes."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline import load_spec, run
from pipeline.engines import ray as engine
from pipeline.errors import Interrupted
from pipeline.options import RunOptions

RESULTS = ("index", "crops", "mosaics")
SMALL = 78 * 2**20  # bytes of object store; Ray takes no less
WINDOWS = "data.window={size=16, stride=1}"


def patiently(start: Callable[[], Any], tries: int = 4) -> Any:
    """What `start` returns. Ray gives a node 30 seconds to start, which a machine busy with other tests may exceed."""
    for left in reversed(range(tries)):
        try:
            return start()
        except Exception as error:
            if not left or "timed out during startup" not in str(error):
                raise


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster of one node, to which others are added."""
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 2, "object_store_memory": SMALL, "include_dashboard": False}
    made = patiently(lambda: Cluster(initialize_head=True, head_node_args=head))
    yield made
    made.shutdown()


@pytest.fixture(scope="module")
def many(write_spec: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A spec of a thousand small windows: enough to be caught in the middle."""
    return load_spec(write_spec(tmp_path_factory.mktemp("many") / "many.toml", "many"), [WINDOWS, "data.batch=2"])


def test_a_job_that_is_stopped_and_then_loses_a_node_leaves_the_bytes_of_a_local_run(
    cluster: Any, many: Any, tmp_path: Path, reporter: Any, quiet: Any, tree_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = patiently(lambda: cluster.add_node(num_cpus=2, object_store_memory=SMALL))
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)

    @contextmanager
    def stopped(title: Any, unit: Any) -> Iterator[Any]:
        def advance(done: Any, total: Any) -> None:
            if done > total / 4:
                raise KeyboardInterrupt

        yield advance

    with monkeypatch.context() as patched:
        patched.setattr(reporter, "step", stopped)
        with pytest.raises(Interrupted, match="examples are scanned and saved"):
            run(many, tmp_path / "ray", reporter=reporter, options=RunOptions("ray", workers=1))
    parts = list((tmp_path / "ray/many/parts").glob("*-of-64.part"))
    assert 64 / 8 < len(parts) < 64

    start, begun = engine._Crew._start, []

    def until_the_node_is_lost(crew: Any, worker: Any, shard: Any) -> None:
        start(crew, worker, shard)
        begun.append(worker)
        if len(set(begun)) == 2 and node in cluster.list_all_nodes():
            cluster.remove_node(node)

    monkeypatch.setattr(engine._Crew, "_start", until_the_node_is_lost)
    folder = run(many, tmp_path / "ray", reporter=reporter, options=RunOptions("ray", workers=2))
    assert any("continuing after" in line for line in reporter.lines)
    assert any(re.match(r"shard \d+-of-64 failed: .*node.*\. Trying again", line) for line in reporter.lines), reporter.lines
    assert node not in cluster.list_all_nodes() and not list(folder.glob("parts/*.part"))
    whole = run(many, tmp_path / "local", reporter=quiet)
    assert tree_of(folder, *RESULTS) == tree_of(whole, *RESULTS)


@pytest.mark.slow
def test_a_cluster_of_our_own_is_quiet_stops_on_a_signal_and_leaves_nothing_running(
    many: Any, write_spec: Any, tmp_path: Path, process: Any, finished: Any, tree_of: Any, quiet: Any
) -> None:
    path = write_spec(tmp_path / "many.toml", "many")
    command = ["-m", "jobs", "run", path, "--set", WINDOWS, "--set", "data.batch=2", "--out", tmp_path / "out"]
    command += ["--engine", "ray", "--workers", "2", "--save-every", "0"]
    child = process(*command)
    parts = tmp_path / "out/many/parts"
    while not list(parts.glob("*.part")):
        assert child.poll() is None, child.stderr.read()
        time.sleep(0.1)
    family = psutil.Process(child.pid).children(recursive=True)
    assert any("raylet" in one.name() for one in family)
    child.send_signal(signal.SIGTERM)
    _, errors = child.communicate(timeout=60)
    assert child.returncode == 75, errors
    assert all(" many: " in line for line in errors.splitlines()[:-1]), errors
    assert errors.splitlines()[-1].startswith("Interrupted: ")
    gone, left = psutil.wait_procs(family, timeout=10)
    assert gone and not left

    child = process(*command)
    _, errors = child.communicate(timeout=120)
    assert child.returncode == 0 and "continuing after" in errors
    assert all(" many: " in line for line in errors.splitlines()), errors
    whole = run(many, tmp_path / "local", reporter=quiet)
    assert tree_of(tmp_path / "out/many", *RESULTS) == tree_of(whole, *RESULTS)
