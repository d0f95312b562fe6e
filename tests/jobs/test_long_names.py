"""Names that no file system takes, wherever the command line is given one: a line, and never a traceback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import MissingInput, WrongSpec
from pipeline.spec.job_spec import validate
from pipeline.store.places import place

LONG = "x" * 300


@pytest.mark.parametrize(
    "words",
    [
        *(["show", LONG], ["open", LONG], ["report", LONG], ["search", LONG, "x"], ["compare", LONG, LONG], ["merge", LONG]),
        *(["check", LONG], ["check", f"{LONG}.toml"], ["run", LONG], ["layers", f"{LONG}.keras"], ["params", LONG]),
        *(["check", "demo", "--out", LONG], ["run", "demo", "--out", LONG], ["fields", "demo", "--out", f"a/{LONG}/b"]),
        *(["check", "keras:MobileNet", LONG], ["init", LONG, "x"], ["show", "ä" * 200], ["show", "a/" * 2000]),
    ],
    ids=lambda words: " ".join(words)[:40],
)
def test_a_name_that_is_too_long_is_one_line_at_every_command(
    words: list[str], command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    status, out, error = command(*words)
    assert status == 2 and out == "" and len(error.splitlines()[-1]) <= 500, error
    assert not list(tmp_path.iterdir())


def test_a_job_may_have_the_longest_name_that_a_folder_has_and_no_longer(command: Any, write_spec: Any, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    longest = command("check", str(write_spec(tmp_path / "a.toml", name="n" * 255)), "--out", str(tmp_path / "out"))
    assert longest[0] == 0, longest
    status, _, error = command("check", str(write_spec(tmp_path / "a.toml", name="n" * 256)), "--out", str(tmp_path / "out"))
    assert status == 2 and "at most 255 letters" in error


def test_paths_that_no_file_system_takes_are_refused_from_python_too() -> None:
    for path, reason in ((LONG, "longer than 255 bytes"), ("a/" * 2000, "longer than 3,072 bytes"), ("a\0b", "a zero byte")):
        with pytest.raises(MissingInput, match=reason):
            place(path)
    assert place("x" * 255) == Path("x" * 255) and place(f"memory://{LONG}")
    with pytest.raises(WrongSpec, match="at most 255 letters"):
        validate({"name": LONG, "model": {"source": "keras:VGG16"}, "data": {"source": "sample:photos"}}, "job.toml")
