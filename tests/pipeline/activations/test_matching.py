"""Channels of two networks that respond alike: each the other's nearest, over all layers."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipeline.activations import matching
from pipeline.activations.correlation import Standardized
from pipeline.activations.matching import match_across
from pipeline.activations.part_file import WHOLE
from pipeline.errors import WrongSpec


class Sampled:
    """A member of a scan that has these responses to the images of these numbers."""

    def __init__(self, order: Any, sample: Any) -> None:
        self.order, self.sample = np.asarray(order), np.asarray(sample, np.float64)

    def standardized(self) -> Standardized:
        return Standardized.of(self.sample)


def matched(monkeypatch: Any, first: Any, second: Any, data: Any = ("d", "d")) -> Any:
    """The pairs of two jobs, of responses by layer."""
    parts = iter(
        SimpleNamespace(
            provenance=SimpleNamespace(data=of),
            part=SimpleNamespace(of=lambda kind, own=own: own),
        )
        for own, of in zip((first, second), data, strict=True)
    )
    monkeypatch.setattr(matching, "read_part", lambda path: next(parts))
    monkeypatch.setattr(matching, "_shared", lambda a, b: (a.standardized(), b.standardized()))
    return match_across(Path("a"), Path("b")).across


def test_channels_are_matched_where_each_is_the_others_nearest_in_whatever_layer(monkeypatch: Any) -> None:
    random = np.random.default_rng(0)
    base = random.normal(size=(40, 3))
    noise = random.normal(size=(40, 6))
    first = {"a1": Sampled(range(40), base[:, :2]), "a2": Sampled(range(40), np.stack([base[:, 2], np.ones(40)], axis=1))}
    second = {
        "b1": Sampled(range(40), np.stack([noise[:, 0], base[:, 2] + 0.1 * noise[:, 1]], axis=1)),
        "b2": Sampled(range(40), np.stack([base[:, 0] + 0.1 * noise[:, 2], base[:, 0] + 0.5 * noise[:, 3], base[:, 1]], axis=1)),
    }
    pairs = {(a, i): (b, j) for a, i, b, j, value in matched(monkeypatch, first, second) if value > 0.6}
    assert pairs == {("a1", 0): ("b2", 0), ("a1", 1): ("b2", 2), ("a2", 0): ("b1", 1)}


def test_other_data_and_too_few_images_are_refused(monkeypatch: Any) -> None:
    one = {"a": Sampled(range(2), np.eye(2))}
    with pytest.raises(WrongSpec, match="over the same data"):
        matched(monkeypatch, one, one, ("d", "e"))
    with pytest.raises(WrongSpec, match="2 in common"):
        matched(monkeypatch, one, one)


def test_a_folder_of_another_version_is_to_be_made_again(tmp_path: Path) -> None:
    with pytest.raises(WrongSpec, match=r"lacks .*\. Run its job again"):
        match_across(tmp_path, tmp_path)
    (tmp_path / WHOLE).parent.mkdir(parents=True, exist_ok=True)
    with (tmp_path / WHOLE).open("wb") as file:
        np.savez(file, header=np.frombuffer(json.dumps({"format": 1}).encode(), np.uint8))
    with pytest.raises(WrongSpec, match=r"another version of convscope wrote .*run --anew"):
        match_across(tmp_path, tmp_path)
