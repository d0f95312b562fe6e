"""docs/extending.md, followed to the letter in a copy of the tree: each of the five doors gets what the page adds."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    """The fenced blocks of the page in one language, in order."""
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def named(block: str, mark: str) -> tuple[str, str]:
    """The file that the first line of a block names, and the rest of the block."""
    first, rest = block.split("\n", 1)
    assert first.startswith(f"{mark} "), f"a block begins with {first!r}, not with a file"
    return first.removeprefix(f"{mark} "), rest


def patched(text: str, block: str) -> str:
    """A file with the changes of a block; its hunks are separated by lines of @@."""
    for hunk in block.split("@@\n"):
        lines = [(line[:1], line[1:]) for line in hunk.splitlines()]
        old = "".join(f"{line}\n" for sign, line in lines if sign != "+")
        new = "".join(f"{line}\n" for sign, line in lines if sign != "-")
        assert text.count(old) == 1, f"the page changes lines that are in the file {text.count(old)} times:\n{old}"
        text = text.replace(old, new)
    return text


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the tree to which everything on the page was added."""
    folder = tmp_path_factory.mktemp("extended")
    for name in ("jobs", "pipeline", "recfield"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    for block in blocks("python"):
        file, text = named(block, "#")
        assert not (folder / file).exists(), f"the page adds {file}, which is there"
        (folder / file).write_text(text, encoding="utf-8")
    for block in blocks("diff"):
        file, changes = named(block, "+++")
        text = (folder / file).read_text(encoding="utf-8")
        (folder / file).write_text(patched(text, changes), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def out(tree: Path, write_pictures: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the command lines of the page left their results."""
    folder = tmp_path_factory.mktemp("doors")
    files = sorted(write_pictures(folder / "photos", count=6).rglob("*.png"))
    lines = [f"photos/{file.parent.name}/{file.name},{file.parent.name}\n" for file in files]
    (folder / "photos.csv").write_text("".join(lines), encoding="utf-8")
    shutil.copy(ROOT / "jobs" / "shipped" / "cifar10.keras", folder)
    (spec,) = blocks("toml")
    (folder / "doors.toml").write_text(spec, encoding="utf-8")
    (script,) = blocks("sh")
    for line in script.splitlines():
        command = [sys.executable, "-m", "jobs", *shlex.split(line)[1:]]
        environment = os.environ | {"PYTHONPATH": str(tree)}
        result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert result.returncode == 0, f"{line}\n{result.stderr}"
    return folder / "out"


def test_what_the_page_adds_is_in_the_style_of_the_house(tree: Path) -> None:
    files = [named(block, "#")[0] for block in blocks("python")] + [named(block, "+++")[0] for block in blocks("diff")]
    for command in (["check"], ["format", "--check"]):
        result = subprocess.run([sys.executable, "-m", "ruff", *command, *files], cwd=tree, capture_output=True, text=True)
        assert result.returncode == 0, result.stdout


@pytest.mark.parametrize("name", ["doors", "edges"])
def test_the_jobs_of_the_page_finish(out: Path, name: str) -> None:
    assert json.loads((out / name / "run.json").read_text(encoding="utf-8"))["state"] == "finished"


def test_the_source_gives_every_image_its_path_and_its_label(out: Path) -> None:
    winners = pd.read_parquet(out / "doors" / "index" / "activations.parquet")
    assert set(winners["label"]) == {"cat", "dog"}
    assert all(key.startswith(f"photos/{label}/") for key, label in zip(winners["key"], winners["label"], strict=True))


def test_the_model_family_is_scanned_like_any_other(out: Path) -> None:
    winners = pd.read_parquet(out / "edges" / "index" / "activations.parquet")
    fields = pd.read_parquet(out / "edges" / "index" / "fields.parquet")
    assert winners.groupby("channel").size().index.tolist() == list(range(6))
    assert fields[["layer", "height", "width"]].values.tolist() == [["edges", 3, 3]]


@pytest.mark.parametrize(("name", "layers"), [("doors", ["conv1", "conv2"]), ("edges", ["edges"])])
def test_the_stage_measures_every_layer(out: Path, name: str, layers: list[str]) -> None:
    shares = pd.read_parquet(out / name / "index" / "sparsity.parquet")
    assert shares["layer"].tolist() == layers
    assert shares["share_positive"].between(0.01, 0.99).all()


def test_the_attribution_method_has_maps_and_pictures_beside_those_that_were_there(out: Path) -> None:
    maps = pd.read_parquet(out / "doors" / "index" / "attributions.parquet")
    assert set(maps["method"]) == {"gradcam", "mean_activation"} and (maps["peak"] > 0).all()
    assert all((out / "doors" / picture).exists() for picture in maps["picture"])


def test_the_attribution_method_draws_its_maps(out: Path) -> None:
    maps = pd.read_parquet(out / "doors" / "index" / "attributions.parquet")
    assert set(maps["method"]) == {"gradcam", "mean_activation"}
    added = maps[maps["method"] == "mean_activation"]
    assert len(added) >= 4 and all((out / "doors" / picture).is_file() for picture in added["picture"])


def test_the_objective_is_raised(out: Path) -> None:
    (pattern,) = pd.read_parquet(out / "doors" / "index" / "patterns.parquet").to_dict("records")
    assert pattern["objective"] == 'peak("conv2", 7)'
    losses = pattern["losses"]
    assert losses[-1] > losses[0]
