"""Part files, and scans that are interrupted or sharded: the same bytes as one scan."""

from __future__ import annotations

import random
import zipfile
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scanned import in_bytes

from pipeline.activations import Statistics, part_file
from pipeline.activations.heap_members import Strongest
from pipeline.activations.member import Member
from pipeline.activations.part import MEMBERS, Part, Skipped, merge
from pipeline.activations.part_file import PartSaver, Provenance, SavedPart, read_part, saved_parts, shard_path, write_part
from pipeline.activations.plan import ScanPlan
from pipeline.activations.scan import ScanSession, scan
from pipeline.activations.scan_pass import ScanPass
from pipeline.errors import Fault, WrongSpec
from pipeline.models.keras.model import keras_network
from pipeline.models.network import LayerInfo
from pipeline.sources.source import Shard

PROVENANCE = Provenance("m", "d", 23, {"data.batch": 5, "activations.channels": "all"}, {"name": "x"})


@pytest.fixture(scope="module")
def network() -> Any:
    """A network of real numbers: the order of its sums shows in their last bits."""
    chance = np.random.default_rng(5)
    x = inputs = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(8, 3, activation="relu", name="one")(x)
    x = keras.layers.Flatten()(x)
    model = keras.Model(inputs, keras.layers.Dense(6, name="two")(x))
    for variable in model.weights:
        variable.assign(chance.normal(size=variable.shape))
    return keras_network(model, "real", None, "none")


@pytest.fixture(scope="module")
def source(in_memory: Any) -> Any:
    return in_memory(np.random.default_rng(3).integers(0, 256, (23, 16, 16, 3)), broken=[4, 11])


@pytest.fixture(scope="module")
def plan(network: Any) -> Any:
    return ScanPlan(tuple(layer for layer in network.layers() if layer.name in ("one", "two")), None, 4, 5)


@pytest.fixture(scope="module")
def session(network: Any, plan: Any) -> ScanSession:
    """A session for all scans of the plan, compiled once."""
    return ScanSession(scan_pass=ScanPass(network, plan))


@pytest.fixture(scope="module")
def steps(network: Any, source: Any, plan: Any, session: Any) -> Any:
    """The parts of a full scan after each of its batches."""
    kept = []
    scan(network, source, plan, session=replace(session, keep=kept.append))
    return kept


def test_after_every_batch_the_scan_keeps_a_part_of_exactly_the_examples_done(
    network: Any, source: Any, plan: Any, steps: Any
) -> None:
    assert [part.done for part in steps] == [5, 10, 15, 20, 23]
    for part in steps:  # seen again after the scan has ended: nothing changed them
        assert all((member.heap.examples < part.done).all() for member in part.of(Strongest).values())
        assert all((statistics.seen == part.seen).all() for statistics in part.of(Statistics).values())
    assert steps[0].skipped == (Skipped(4, "image4", "torn"),) and len(steps[-1].skipped) == 2


def test_a_scan_continued_from_any_part_ends_with_the_same_bytes(
    network: Any, source: Any, plan: Any, session: Any, steps: Any
) -> None:
    for begun in steps:
        part, times = scan(network, source, plan, session=replace(session, begun=begun))
        assert in_bytes(part) == in_bytes(steps[-1]) and times.images == steps[-1].seen - begun.seen


@pytest.mark.parametrize(("count", "unit"), [(1, 1), (2, 5), (3, 1), (3, 5), (7, 5), (7, 1)])
def test_any_sharding_gives_the_same_bytes_even_where_kernels_round_by_position(
    network: Any, source: Any, plan: Any, session: Any, steps: Any, count: Any, unit: Any
) -> None:
    parts = [scan(network, source, plan, Shard(index, count, unit), session)[0] for index in range(count)]
    random.Random(1).shuffle(parts)
    assert in_bytes(merge(parts)) == in_bytes(steps[-1])


@pytest.mark.parametrize("begin", [1, 5, 12, 23])
def test_added_examples_are_scanned_in_the_batches_of_a_full_scan(
    network: Any, source: Any, in_memory: Any, plan: Any, session: Any, steps: Any, begin: Any
) -> None:
    old, _ = scan(network, in_memory(source.images[:begin], broken=[4, 11]), plan, session=session)
    new, times = scan(network, source, plan, Shard(0, 1, 5, begin), session)
    assert new.done == 23 - begin and times.images == new.seen and in_bytes(merge([new, old])) == in_bytes(steps[-1])


@given(st.integers(0, 200), st.integers(1, 12), st.integers(1, 9), st.integers(0, 220))
def test_shards_cover_every_example_once_and_end_at_whole_units(total: Any, count: Any, unit: Any, begin: Any) -> None:
    bounds = [Shard(index, count, unit, begin).bounds(total) for index in range(count)]
    assert bounds[0][0] == min(begin, total) and bounds[-1][1] == total
    assert all(one[1] == other[0] for one, other in pairwise(bounds))
    assert all(first <= last and (last % unit == 0 or last in (total, min(begin, total))) for first, last in bounds)


@pytest.mark.parametrize("shard", [Shard(1, 3), Shard(0, 1, 5, 12), Shard(6, 7)])
def test_an_image_has_the_same_position_in_its_batch_in_any_shard(
    network: Any, source: Any, plan: Any, session: Any, shard: Any
) -> None:
    batches = []

    def run(images: Any, thresholds: Any) -> Any:
        batches.append(np.array(images))
        return session.scan_pass.run(images, thresholds)

    scan(network, source, plan, shard, session=ScanSession(scan_pass=SimpleNamespace(run=run)))
    first, last = shard.bounds(23)
    fill = first % 5
    expected = np.array(source.images)
    expected[[4, 11]] = 0  # broken
    expected = expected[first - fill : last]
    for start in range(0, len(expected), 5):
        images = expected[start : start + 5]
        # Two threads call `run`, in either order.
        assert sum(np.array_equal(batch[: len(images)], images) for batch in batches) == 1
    assert all(len(batch) == 5 for batch in batches) and len(batches) == -(-len(expected) // 5)


# Part files.


def test_a_part_file_returns_every_byte_and_is_the_same_each_time(steps: Any, tmp_path: Path) -> None:
    part = replace(steps[2], skipped=(Skipped(4, "caf\u00e9\n\u65e5.png", 'of "no"\tuse'),))
    for path in (tmp_path / "a.part", tmp_path / "b.part"):
        write_part(path, SavedPart(PROVENANCE, Shard(1, 3, 5, 2), part))
        loaded = read_part(path)
        assert in_bytes(loaded.part) == in_bytes(part) and loaded.provenance == PROVENANCE and loaded.shard == Shard(1, 3, 5, 2)
        assert list(loaded.part.members) == list(part.members)
    assert (tmp_path / "a.part").read_bytes() == (tmp_path / "b.part").read_bytes()
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_part_of_nothing_and_odd_layer_names_can_be_saved(tmp_path: Path) -> None:
    layers = tuple(LayerInfo(name, "Conv2D", (1, 1, count)) for name, count in (("a/b:0", 2), ("../c\u00e9 d", 1), ("x.y", 1)))
    part = Part.empty(ScanPlan(layers, None, 3, 5))
    write_part(tmp_path / "x.part", SavedPart(PROVENANCE, Shard(), part))
    loaded = read_part(tmp_path / "x.part")
    assert in_bytes(loaded.part) == in_bytes(part) and list(loaded.part.members) == list(part.members) and not loaded.complete


@dataclass(frozen=True, eq=False)
class Above(Member):
    """How many responses of each channel are above 1."""

    NAME = "above"

    counts: np.ndarray

    @classmethod
    def empty(cls, channels: Any, plan: Any) -> Any:
        return cls(np.zeros(channels, np.int64))

    def update(self, responses: Any) -> Any:
        return Above(self.counts + (responses.maxima > 1).sum(axis=0))

    def merge(self, other: Any) -> Any:
        return Above(self.counts + other.counts)


def test_a_new_statistic_is_one_class_which_the_scan_the_merge_and_the_part_files_take(
    network: Any, source: Any, plan: Any, session: Any, steps: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_part(tmp_path / "old.part", SavedPart(PROVENANCE, Shard(), steps[-1]))
    monkeypatch.setattr("pipeline.activations.part.MEMBERS", (*MEMBERS, Above))
    whole, _ = scan(network, source, plan, session=session)
    halves = [scan(network, source, plan, Shard(index, 2, 5), session)[0] for index in (1, 0)]
    for index, half in enumerate(halves):
        write_part(tmp_path / f"{index}.part", SavedPart(PROVENANCE, Shard(), half))
    assert in_bytes(merge([read_part(tmp_path / f"{index}.part").part for index in (0, 1)])) == in_bytes(whole)
    assert {name: of.counts.shape for name, of in whole.of(Above).items()} == {"one": (8,), "two": (6,)}
    assert whole.of(Above)["one"].counts.max() > 0
    with pytest.raises(WrongSpec, match=r"old.part holds strongest, .* of each layer, this version keeps .*, above\..*--anew"):
        read_part(tmp_path / "old.part")


def test_a_part_file_of_the_first_format_is_named_and_not_called_damaged(tmp_path: Path) -> None:
    header = np.frombuffer(b'{"format": 1}', np.uint8)
    np.savez(tmp_path / "old.npz", told=header)
    with pytest.raises(WrongSpec, match=r"old.npz is of format 1, this version reads 4. .*--anew"):
        read_part(tmp_path / "old.npz")


def test_a_part_file_holds_no_pickles_and_runs_none(steps: Any, tmp_path: Path) -> None:
    write_part(tmp_path / "x.part", SavedPart(PROVENANCE, Shard(), steps[0]))
    with zipfile.ZipFile(tmp_path / "x.part") as archive:
        assert all(b"'descr': '|O" not in archive.read(name)[:200] for name in archive.namelist())
    np.savez(tmp_path / "y.part.npz", header=np.array([{"format": 1}], object))
    (tmp_path / "y.part.npz").rename(tmp_path / "y.part")
    with pytest.raises(Fault, match=r"y.part is damaged"):
        read_part(tmp_path / "y.part")


def test_parts_are_read_in_order_and_other_files_are_passed_over(steps: Any, tmp_path: Path) -> None:
    for index in (2, 0, 10):
        write_part(shard_path(tmp_path, Shard(index, 12)), SavedPart(PROVENANCE, Shard(index, 12), steps[0]))
    (tmp_path / "parts" / ".aside-01234567-4-of-12.part").write_bytes(b"half")
    (tmp_path / "parts" / "notes.part").write_bytes(b"mine")
    assert [actual.shard.index for actual in saved_parts(tmp_path)] == [0, 2, 10]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model": "n"}, "the network has changed: its digest is n, and was m"),
        ({"data": "e"}, "the data set has changed: its digest is e, and was d"),
        ({"examples": 22}, "the data set has changed: it has 22 examples, and had 23"),
        ({"settings": {"data.batch": 6, "activations.channels": "all"}}, "the spec has changed: data.batch"),
        ({"spec": {"name": "y"}}, None),
    ],
)
def test_a_change_of_provenance_is_named(change: Any, words: Any) -> None:
    assert PROVENANCE.difference(replace(PROVENANCE, **change)) == words


def changed(spec: Any, **tables: Any) -> Any:
    return spec.model_copy(update={table: getattr(spec, table).model_copy(update=values) for table, values in tables.items()})


class Labelled(list):
    """As much of a source as an provenance asks for."""

    @property
    def labels(self) -> Any:
        return [*self]


def provenance_of(spec: Any, layers: Any = (("edges", (14, 14, 4)),), labels: Any = ("cat", "dog")) -> Any:
    """The provenance of what a job of this spec finds."""
    named = [SimpleNamespace(name=name, shape=shape) for name, shape in layers]
    return Provenance.of(SimpleNamespace(spec=spec, layers=named, digests={"model": "m", "data": "d"}, source=Labelled(labels)))


@pytest.mark.parametrize(
    "change",
    [
        {"data": {"batch": 5}},
        {"data": {"resize": "stretch"}},
        {"model": {"preprocess": "unit"}},
        {"model": {"precision": "bfloat16"}},
        {"model": {"xla": True}},
        {"activations": {"top_k": 4}},
        {"activations": {"channels": [1]}},
        {"activations": {"bottom_k": 1}},
    ],
)
def test_every_key_that_changes_responses_is_part_of_their_provenance(spec: Any, change: Any) -> None:
    ((table, key),) = [(table, key) for table, keys in change.items() for key in keys]
    assert provenance_of(spec).difference(provenance_of(changed(spec, **change))) == f"the spec has changed: {table}.{key}"


@pytest.mark.parametrize("change", [{"data": {"max_bad": 0.5}}, {"data": {"on_bad": "fail"}}, {"activations": {"crop": "image"}}])
def test_no_key_that_leaves_responses_unchanged_is_part_of_their_provenance(spec: Any, change: Any) -> None:
    assert provenance_of(spec).difference(provenance_of(changed(spec, **change))) is None


def test_layers_belong_to_the_provenance_and_labels_where_they_matter(spec: Any) -> None:
    one = provenance_of(spec)
    for layers in ((("shapes", (14, 14, 4)),), (("edges", (14, 14, 5)),), (("edges", (14, 14, 4)), ("shapes", (6, 6, 5)))):
        assert one.difference(provenance_of(spec, layers)) == "the spec has changed: model.layers"
    assert one.difference(provenance_of(spec, labels=("ant", "bee"))) is None
    asking = changed(spec, activations={"label_k": 1})
    assert "data.labels" in provenance_of(asking).difference(provenance_of(asking, labels=("ant", "bee")))


# Saving every so often.


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The time as `part_file` sees it; the test moves it, and each file written takes `cost` seconds."""
    now = SimpleNamespace(seconds=1000.0, cost=0.0, written=[], moments=[])

    def write(path: Any, actual: Any) -> None:
        now.moments.append(now.seconds)
        now.seconds += now.cost
        now.written.append((path.name, actual.part.done))

    monkeypatch.setattr(part_file, "time", SimpleNamespace(monotonic=lambda: now.seconds))
    monkeypatch.setattr(part_file, "write_part", write)
    return now


def test_a_part_is_saved_when_it_is_time_and_at_the_end(clock: Any, steps: Any, tmp_path: Path) -> None:
    saver = PartSaver(tmp_path, PROVENANCE, Shard(1, 3), 60)
    saver.save()  # nothing yet
    for part in steps:
        saver.keep(part)
        clock.seconds += 25
    assert clock.written == [("2-of-3.part", 20)] and saver.done == 23
    saver.save()
    assert clock.written[1:] == [("2-of-3.part", 23)]


def test_a_store_that_is_slow_to_write_to_is_written_to_less_often(clock: Any, steps: Any, tmp_path: Path) -> None:
    clock.cost = 10.0
    saver = PartSaver(tmp_path, PROVENANCE, Shard(), 60)
    for _ in range(1200):
        saver.keep(steps[0])
        clock.seconds += 1
    assert clock.moments == [1060, 1570, 2080]  # a fiftieth of the time


def test_nothing_between_two_saves_means_after_every_batch(clock: Any, steps: Any, tmp_path: Path) -> None:
    clock.cost = 10.0
    saver = PartSaver(tmp_path, PROVENANCE, Shard(), 0)
    for part in steps:
        saver.keep(part)
    assert [done for _, done in clock.written] == [5, 10, 15, 20, 23]


def test_damage_of_any_kind_is_one_line(steps: Any, tmp_path: Path) -> None:
    path = tmp_path / "x.part"
    write_part(path, SavedPart(PROVENANCE, Shard(), steps[0]))
    data = path.read_bytes()
    chance = random.Random(7)
    for _ in range(60):
        place = chance.randrange(len(data))
        path.write_bytes(chance.choice([data[:place], data[:place] + bytes([data[place] ^ 255]) + data[place + 1 :]]))
        try:
            assert in_bytes(read_part(path).part) == in_bytes(steps[0])  # what is not looked at, such as a date
        except (Fault, WrongSpec) as error:
            assert "\n" not in str(error)
