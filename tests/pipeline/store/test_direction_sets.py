"""Files of directions: what was saved is read again, and what strangers made of them is refused in one line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.errors import WrongSpec
from pipeline.store.direction_sets import DirectionSet, load_sets

random = np.random.default_rng(0)
ENCODER = random.normal(size=(5, 3)).astype(np.float32)
SET = DirectionSet(
    "conv", "pca3", "pca", "linear", ENCODER, np.ones(3, np.float32), ENCODER.T, np.zeros(5, np.float32), labels=("a", "b", "c")
)


def test_a_set_that_was_saved_responds_the_same(tmp_path: Path) -> None:
    SET.save(tmp_path)
    replace(SET, name="kept", form="topk", keep=2).save(tmp_path)
    kept, again = load_sets(tmp_path)
    vectors = random.normal(size=(4, 5)).astype(np.float32)
    assert (again.layer, again.digest(), [*again.labels]) == ("conv@pca3", SET.digest(), ["a", "b", "c"])
    np.testing.assert_array_equal(again.respond(vectors), SET.respond(vectors))
    assert (np.count_nonzero(kept.respond(vectors), axis=1) <= 2).all()


@pytest.mark.parametrize(
    "changes",
    [{"base": 5}, {"labels": [1]}, {"labels": 7}, {"keep": "2"}, {"keep": 9}, {"form": "exec"}, {"more": 1}, {"network": None}],
    ids=str,
)
def test_a_file_whose_description_is_wrong_is_refused(tmp_path: Path, changes: dict[str, Any]) -> None:
    path = tmp_path / SET.save(tmp_path)
    with np.load(path) as saved:
        arrays = {name: saved[name] for name in saved.files}
    arrays["about"] = np.array(json.dumps(json.loads(str(arrays["about"])) | changes))
    np.savez(path, **arrays)
    with pytest.raises(WrongSpec, match="holds no directions"):
        load_sets(tmp_path)


def test_arrays_that_are_compressed_are_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / SET.save(tmp_path)
    np.savez_compressed(path, encoder=np.zeros((4000, 4000), np.float32))
    with pytest.raises(WrongSpec, match="are compressed"):
        load_sets(tmp_path)
