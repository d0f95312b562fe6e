"""Images that a stage looks at by itself and that cannot be read: every stage names them, or stops at the first."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline import run
from pipeline.errors import TooManyBad, WrongSpec
from pipeline.load import load_spec
from pipeline.receipt import read_receipt

BELOW = ("concepts.cats",)  # tables of their own
TABLES = {
    "featuremaps": {"layers": ["edges"], "first": 2},
    "dream": {"first": 2, "iterations": 1, "num_octave": 1},
    "gradcam": {"examples": [5], "methods": ["expected_gradients"], "references": 39},
    "directions": {"layers": ["edges"], "methods": ["pca2"], "per_image": 4},
    "atlas": {"layers": ["edges"], "per_image": 4, "neighbours": 5, "icons": False},
}
TCAV = {"layers": ["edges"], "methods": [], "targets": ["predicted"], "images": 10, "runs": 20}
CASES = [*TABLES.items(), ("directions", {**TCAV, "concepts.cats": 'label = "cat"'})]


@pytest.fixture
def torn(write_pictures: Any, tmp_path: Path) -> Path:
    """Forty pictures, of which the first is torn."""
    folder: Path = write_pictures(tmp_path / "torn", 40)
    first = folder / "cat" / "000.png"
    first.write_bytes(first.read_bytes()[:100])
    return folder


def job(write_spec: Any, torn: Path, tmp_path: Path, stage: str, table: Any, on_bad: str) -> Any:
    own = {key: value for key, value in table.items() if key not in BELOW}
    path = write_spec(tmp_path / "job.toml", data={"source": f"folder:{torn}", "on_bad": on_bad}, **{stage: own})
    below = [f"[{stage}.{key}]\n{lines}" for key, lines in table.items() if key in BELOW]
    path.write_text("\n".join([path.read_text(), *below]))
    return load_spec(path, [f'stages=["{stage}"]'])


@pytest.mark.parametrize(("stage", "table"), CASES)
def test_every_stage_names_the_images_that_it_passes_over(
    write_spec: Any, torn: Path, reporter: Any, tmp_path: Path, stage: str, table: Any
) -> None:
    folder = run(job(write_spec, torn, tmp_path, stage, table, "skip"), tmp_path / "out", reporter=reporter)
    said = [line for line in reporter.lines if line.startswith("1 image passed over, such as ")]
    assert len(said) == 1 and "000.png', which cannot be read: " in said[0], reporter.lines
    ((key, reason),) = read_receipt(folder).stages[stage].model_dump()["passed_over"].items()
    assert key.endswith("cat/000.png") and reason


@pytest.mark.parametrize(("stage", "table"), CASES)
def test_every_stage_stops_at_the_first_where_the_spec_says_so(
    write_spec: Any, torn: Path, quiet: Any, tmp_path: Path, stage: str, table: Any
) -> None:
    with pytest.raises(TooManyBad, match="000.png' cannot be read: .* data.on_bad"):
        run(job(write_spec, torn, tmp_path, stage, table, "fail"), tmp_path / "out", reporter=quiet)


def test_the_survey_of_fields_does_the_same(write_spec: Any, torn: Path, command: Any, tmp_path: Path) -> None:
    for on_bad, ends in (("skip", 0), ("fail", 3)):
        path = write_spec(tmp_path / "job.toml", data={"source": f"folder:{torn}", "on_bad": on_bad})
        status, _, error = command("fields", path, "--out", tmp_path / on_bad)
        assert status == ends and "cat/000.png'" in error and "cannot be read: " in error


def test_a_stage_that_is_left_with_too_few_images_says_which_it_passed_over(
    write_spec: Any, torn: Path, reporter: Any, tmp_path: Path
) -> None:
    for path in torn.rglob("*.png"):
        path.write_bytes(b"no picture")
    with pytest.raises(WrongSpec, match="the sample has 0"):
        run(job(write_spec, torn, tmp_path, "directions", TABLES["directions"], "skip"), tmp_path / "out", reporter=reporter)
    assert any(line.startswith("40 images passed over, such as ") for line in reporter.lines)
