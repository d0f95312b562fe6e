"""The ten questions of docs/queries.md: SQL and Python give the same answer, on a job where there is something to answer."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import cv2
import duckdb
import numpy as np
import pytest

from pipeline import run
from pipeline.load import parse_spec

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "queries.md").read_text(encoding="utf-8")
START = re.search(r"^```python\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL)[1]
QUESTIONS = {
    match[1]: (match[2], match[3])
    for match in re.finditer(r"^## ([^\n]+)\n\n```sql\n([^`]+)```\n\n```python\n([^`]+)```$", TEXT, re.MULTILINE)
}


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A job on labelled images, some of which cannot be read, through the shipped network and a layer with dead channels."""
    import keras

    folder: Path = tmp_path_factory.mktemp("queries")
    rng = np.random.default_rng(4)
    colours = {"cat": (40, 40, 220), "dog": (200, 60, 60)}
    for label, colour in colours.items():
        (folder / "photos" / label).mkdir(parents=True)
        for number in range(12):
            pixels = np.clip(rng.normal(colour, 30, (24, 24, 3)), 0, 255).astype(np.uint8)
            cv2.imwrite(str(folder / "photos" / label / f"{number}.png"), pixels)
    (folder / "photos" / "cat" / "broken.png").write_bytes(b"no image")
    images = keras.Input((24, 24, 3))
    maps = keras.layers.Conv2D(6, 5, activation="relu", name="conv", kernel_initializer=keras.initializers.RandomNormal(seed=3))(
        images
    )
    deep = keras.layers.Conv2D(2, 3, activation="relu", name="dead", kernel_initializer="zeros", padding="same")(maps)
    weights = np.zeros((1, 1, 3, 2), np.float32)
    weights[0, 0] = [[1, -1], [-1, 1], [-1, -1]]  # red against the rest, green against the rest
    colour = keras.layers.Conv2D(2, 1, activation="relu", name="colour", use_bias=False)
    _ = colour(images), colour.set_weights([weights])
    # Adding up darkness, it likes corners best, where padding takes the place of pixels.
    corner = keras.layers.Conv2D(1, 3, padding="same", name="corner", use_bias=False)
    _ = corner(images), corner.set_weights([np.full((3, 3, 3, 1), -1, np.float32)])
    model = keras.Model(images, [deep, colour(images), corner(images)])
    model.save(folder / "net.keras")
    tree = {
        "name": "job",
        "model": {"source": f"file:{folder / 'net.keras'}", "layers": "*", "preprocess": "unit"},
        "data": {"source": f"folder:{folder / 'photos'}", "batch": 8, "max_bad": 0.1},
        "activations": {"top_k": 4},
    }
    return run(parse_spec(tree), folder / "out")  # type: ignore[return-value]


def test_there_are_ten() -> None:
    assert len(QUESTIONS) == 10 == len(re.findall(r"^## ", TEXT, re.MULTILINE))


@pytest.mark.parametrize("question", QUESTIONS)
def test_both_ways_give_the_same_answer_and_there_is_one(job: Any, monkeypatch: pytest.MonkeyPatch, question: Any) -> None:
    monkeypatch.chdir(job)
    query, program = QUESTIONS[question]
    names: dict[str, object] = {}
    exec(START + program, names)
    from_pandas = names["answer"].values.tolist()  # type: ignore[attr-defined]
    from_sql = duckdb.sql(query.rstrip().rstrip(";")).fetchall()
    assert from_sql, question
    assert [list(row) for row in from_sql] == [pytest.approx(row) if _numbers(row) else row for row in from_pandas]


def _numbers(row: list[object]) -> bool:
    return all(isinstance(value, (int, float)) for value in row)
