"""Kills: whatever a command was doing, no reader sees half a file, and the same command then ends as if undisturbed."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pyarrow.parquet as pq
import pytest
from zygote import Zygote

from pipeline.stages import STAGES as EVERY_STAGE

KILLS = int(os.environ.get("CONVSCOPE_KILLS", "60"))  # of the slow test, over all scenarios
SEED = int(os.environ.get("CONVSCOPE_KILLS_SEED", "0"))
NAMES = os.environ.get("CONVSCOPE_KILLS_OF", "")  # scenarios, with commas between them; empty: all
IN_A_ROW = 5  # kills before the command is left to end
# Times of day and durations, which differ between runs, and the digests of pages that show them.
_TIMES = re.compile(
    rb"(?<=\?)[0-9a-f]{8}|(?<=version=\")[0-9a-f]{8}|\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\dZ?|[\d.,]+ images/s|[\d.]+ s\b"
)

Command = Callable[[Path], list[Any]]  # its words, in a folder


@dataclass(frozen=True)
class Scenario:
    """A command, and what was done before it."""

    before: tuple[Command, ...]
    command: Command
    changed: Callable[[Path], None] = lambda folder: None  # between the two


def run_of(spec: str, *options: Any) -> Command:
    return lambda folder: ["run", folder / f"{spec}.toml", "--out", folder / "out", *options]


def more_pictures(folder: Path) -> None:
    shutil.copytree(folder / "more", folder / "pictures", dirs_exist_ok=True)


SCAN = run_of("scan", "--save-every", 0)
STAGES = ("filters", "featuremaps", "gradcam", "aggregates", "patterns", "dream", "directions", "atlas")
SCENARIOS: dict[str, Scenario] = {
    "scan": Scenario((), SCAN),
    **{stage: Scenario((), run_of(stage)) for stage in STAGES},
    "concepts": Scenario((SCAN,), run_of("concepts")),
    "circuits": Scenario((SCAN,), run_of("circuits")),
    "report stage": Scenario((SCAN,), run_of("report")),
    "page of meanings": Scenario(
        (SCAN, run_of("concepts"), run_of("directions")), lambda folder: ["report", folder / "out" / "directions"]
    ),
    "picture": Scenario(
        (run_of("aggregates"),),
        lambda folder: ["picture", folder / "out" / "aggregates", "--image", "dog/003.png", "--method", "gradcam"],
    ),
    "search": Scenario((SCAN, run_of("concepts")), lambda folder: ["search", folder / "out" / "scan", "cat"]),
    "update": Scenario((SCAN,), run_of("scan", "--save-every", 0, "--update"), more_pictures),
    "shard": Scenario((), run_of("scan", "--save-every", 0, "--shard", "2/3")),
    "merge": Scenario(
        tuple(run_of("scan", "--shard", f"{number}/3") for number in (1, 2, 3)), lambda folder: ["merge", folder / "out" / "scan"]
    ),
    "report": Scenario((SCAN,), lambda folder: ["report", folder / "out" / "scan"]),
    "compare": Scenario(
        (SCAN, run_of("other")),
        lambda folder: ["compare", folder / "out" / "scan", folder / "out" / "other", "--out", folder / "out" / "compared"],
    ),
    "fields": Scenario((), lambda folder: ["fields", folder / "scan.toml", "--out", folder / "out"]),
}


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    with Zygote() as started:
        yield started


@pytest.fixture(scope="module")
def begun(tiny_file: Any, write_pictures: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with specs, pictures and more pictures, before any command."""
    folder = tmp_path_factory.mktemp("begun")
    write_pictures(folder / "pictures", 8)
    write_pictures(folder / "every", 4, seed=1)
    (folder / "more").mkdir()
    (folder / "every" / "cat").rename(folder / "more" / "zebra")  # after all others
    for name, stages, more in [
        ("scan", ["activations"], ""),
        ("other", ["activations"], "[activations]\ntop_k = 2\n"),
        ("report", ["activations", "report"], ""),
        ("circuits", ["activations", "circuits"], ""),
        ("filters", ["filters"], ""),
        ("featuremaps", ["featuremaps"], "[featuremaps]\nfirst = 2\n"),
        ("gradcam", ["gradcam"], "[gradcam]\nfirst = 2\nmethods = ['gradcam', 'integrated_gradients']\nsteps = 8\n"),
        (
            "aggregates",
            ["gradcam"],
            "[gradcam]\nfirst = 6\nbatch = 2\nmethods = ['gradcam']\narrays = true\npictures = 1\n"
            "aggregate = ['channels', 'places', 'clusters']\n",
        ),
        (
            "concepts",
            ["activations", "concepts"],
            "[concepts]\nquality = true\nmasks = { source = 'colours' }\nembeddings = { layer = 'shapes' }\n",
        ),
        (
            "directions",
            ["directions"],
            "[directions]\nlayers = ['edges']\nmethods = ['pca2', 'nmf2', 'topk4']\nper_image = 20\n"
            "sparsity = 2\nsteps = 30\ncheckpoint = 0.001\n",
        ),
        (
            "atlas",
            ["atlas"],
            "[atlas]\nlayers = ['edges']\nper_image = 12\nneighbours = 5\ngrids = [2]\nsteps = 2\ncheckpoint = 0.001\n",
        ),
        ("patterns", ["patterns"], "[patterns]\nlayers = 'edges'\nsteps = 6\nbatch = 2\nsnapshot = 0.001\n"),
        ("dream", ["dream"], "[dream]\nfirst = 2\nlayers = 'edges'\niterations = 3\nsnapshot = 0.001\nnum_octave = 2\n"),
    ]:
        job = "scan" if name in ("report", "circuits", "concepts") else name
        (folder / f"{name}.toml").write_text(
            f'name = "{job}"\nstages = {json.dumps(stages)}\n[model]\nsource = "file:{tiny_file}"\nlayers = ["edges", "shapes"]\n'
            f'preprocess = "none"\nhead = "linear"\n[data]\nsource = "folder:pictures"\nbatch = 4\n{more}'
        )
    return folder


@dataclass
class Trial:
    """A scenario, ready for its command, and what the command leaves undisturbed."""

    zygote: Zygote
    ready: Path
    command: Command
    whole: dict[str, bytes]
    seconds: float
    changes: int

    @classmethod
    def of(cls, zygote: Zygote, scenario: Scenario, begun: Path, folder: Path) -> Trial:
        ready, ended = shutil.copytree(begun, folder / "ready"), folder / "trial"
        for command in scenario.before:
            done = zygote.run(*command(ready))
            assert done.status == 0, done.err
        scenario.changed(ready)
        for _ in range(2):  # the second time, what is imported on use is in the system's cache
            shutil.rmtree(ended, ignore_errors=True)
            shutil.copytree(ready, ended)
            began = time.monotonic()
            done = zygote.run(*scenario.command(ended), watched=str(ended / "out"))
            assert done.status == 0, done.err
        trial = cls(zygote, ready, scenario.command, left(ended), time.monotonic() - began, done.changes)
        shutil.rmtree(ended)
        return trial

    def disturbed(self, random: Random, kills: int) -> int:
        """Kill the command so many times, let it end, and compare. Returns: how many kills met it at work."""
        folder = self.ready.parent / "trial"  # where the undisturbed one was: paths are part of what is left
        shutil.copytree(self.ready, folder)
        met = 0
        for number in range(kills):
            when = (
                {"kill_at": random.randint(1, max(1, self.changes // 2))}
                if number % 2 == 0 and self.changes  # the first always meets a command at work that writes anything
                else {"kill_after": random.uniform(0, self.seconds)}
            )
            done = self.zygote.run(*self.command(folder), watched=str(folder / "out"), **when)
            assert done.status in (0, -9), f"after {when}: {done.err}"
            met += done.status == -9
            assert_whole(folder / "out")
            if done.status == 0:
                break
        done = self.zygote.run(*self.command(folder))
        assert done.status == 0, done.err
        assert_same(left(folder), self.whole)
        shutil.rmtree(folder)
        return met


def left(folder: Path) -> dict[str, bytes]:
    """What a command leaves: every file, without times; and of the receipt, which has them all over, the stages."""
    files = {}
    for path in sorted((folder / "out").rglob("*")):
        name = str(path.relative_to(folder))
        if path.name == "run.json":
            receipt = json.loads(path.read_text())
            files[name] = json.dumps([receipt["state"], receipt["digests"], [*receipt["stages"]]]).encode()
        elif path.is_file() and not path.name.endswith(".lock"):
            data = path.read_bytes()
            files[name] = _TIMES.sub(b"T", data) if path.suffix in (".html", ".js", ".json", ".md") else data
    return files


def assert_same(actual: dict[str, bytes], expected: dict[str, bytes]) -> None:
    assert [*actual] == [*expected]
    for name, data in actual.items():
        at = next((at for at, (one, other) in enumerate(zip(data, expected[name], strict=False)) if one != other), 0)
        assert data == expected[name], (name, data[at - 60 : at + 100], expected[name][at - 60 : at + 100])


def assert_whole(folder: Path) -> None:
    """No reader sees half a file: what is not hidden can be read."""
    for path in folder.rglob("*"):
        if path.is_file() and not path.name.startswith("."):
            if path.suffix == ".parquet":
                pq.read_table(path)
            elif path.suffix == ".json":
                json.loads(path.read_text())
            elif path.suffix == ".png":
                assert path.read_bytes()[-8:-4] == b"IEND", path


def test_no_stage_is_left_out_here() -> None:
    assert EVERY_STAGE.keys() - SCENARIOS.keys() == {"activations"}  # which is the scan


def test_a_killed_command_ends_as_if_undisturbed_when_it_is_run_again(zygote: Zygote, begun: Path, tmp_path: Path) -> None:
    trial = Trial.of(zygote, SCENARIOS["compare"], begun, tmp_path)
    assert trial.disturbed(Random(0), 2) >= 1


@pytest.mark.slow
def test_any_number_of_kills_at_any_moment_of_any_stage_changes_nothing(zygote: Zygote, begun: Path, tmp_path: Path) -> None:
    """CONVSCOPE_KILLS says how many, CONVSCOPE_KILLS_OF in which scenarios.

    Half of them are at random moments, half just before a file is made or renamed.
    """
    names = NAMES.split(",") if NAMES else SCENARIOS
    trials = {name: Trial.of(zygote, SCENARIOS[name], begun, tmp_path / name) for name in names}
    random, met, turns = Random(SEED), Counter[str](), 0
    while met.total() < KILLS:
        name = list(trials)[turns % len(trials)]
        met[name] += trials[name].disturbed(random, IN_A_ROW)
        turns += 1
        print(f"{met.total():,} kills: {dict(met)}", flush=True)
    assert met.total() >= KILLS and min(met.values()) > 0
