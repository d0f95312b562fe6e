"""A real Ray cluster of two nodes on this machine: what becomes of a job when it is stopped, and when a node is lost."""

from __future__ import annotations

import dataclasses
import sys
import time

import pytest

from pipeline import load_spec, run
from pipeline.dispatch import Dispatch
from pipeline.engines import ray as engine

RESULTS = ("index", "crops", "mosaics")
SMALL = 78 * 2**20  # bytes of object store; Ray takes no less


@pytest.fixture(scope="module")
def cluster():
    """Two nodes, each with room for workers."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "object_store_memory": SMALL, "include_dashboard": False})
    yield made
    made.shutdown()


@pytest.fixture(scope="module")
def many(write_spec, tmp_path_factory):
    """A spec of a thousand small windows, one a batch: enough to be caught in the middle."""
    path = write_spec(tmp_path_factory.mktemp("many") / "many.toml", "many", data={"batch": 2})
    return load_spec(path, ["data.window={size=16, stride=1}"])


def test_x(cluster, many, tmp_path, told, tree_of, monkeypatch):
    node = cluster.add_node(num_cpus=2, object_store_memory=SMALL)
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    started, killed = set(), []
    start = engine._Crew._start

    def watched(crew, worker, shard):
        started.add(worker)
        start(crew, worker, shard)
        if len(started) == 2 and not killed:
            killed.append(shard)
            cluster.remove_node(node)

    monkeypatch.setattr(engine._Crew, "_start", watched)
    module = sys.modules["pipeline.run"]
    opened = module.open_job
    monkeypatch.setattr(module, "open_job", lambda *a, **k: dataclasses.replace(opened(*a, **k), dispatch=Dispatch("ray", 2)))
    t = time.time()
    folder = run(many, tmp_path / "ray", reporter=told)
    print("ray", time.time() - t)
    t = time.time()
    print(told.lines)
    monkeypatch.undo()
    whole = run(many, tmp_path / "local", reporter=told)
    print("local", time.time() - t)
    t = time.time()
    assert tree_of(folder, *RESULTS) == tree_of(whole, *RESULTS)
