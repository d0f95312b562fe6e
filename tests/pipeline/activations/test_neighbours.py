"""The channels nearest to each channel, and the channels of two scans that respond alike."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.activations.distribution import Distribution
from pipeline.activations.matching import match_channels
from pipeline.activations.neighbours import NEAREST, neighbour_columns
from pipeline.activations.part import Part
from pipeline.activations.part_file import WHOLE, Provenance, SavedPart, write_part
from pipeline.sources.source import Shard

COUNTS = {"conv": 9, "dense": 7}


def part_of(samples: dict[str, Any], order: Any = None) -> Part:
    """A part whose sample is given: {layer: (images, channels)}."""
    members = {}
    for layer, sample in samples.items():
        numbers = np.arange(len(sample), dtype=np.uint64) if order is None else np.asarray(order, np.uint64)
        empty = Distribution.empty(sample.shape[1])
        members[layer] = {"distribution": replace(empty, order=numbers, sample=np.asarray(sample, np.float32))}
    return Part({layer: sample.shape[1] for layer, sample in samples.items()}, members)


@pytest.fixture
def samples() -> Any:
    values = np.random.default_rng(3).normal(size=(40, sum(COUNTS.values()))).astype(np.float32)
    values[:, 2] = 2 * values[:, 12] + 1  # channel 2 of conv is channel 3 of dense, scaled
    values[:, 5] = 1  # never varies
    return {"conv": values[:, :9], "dense": values[:, 9:]}


def test_neighbours_are_the_channels_that_correlate_most_in_the_own_layer_and_in_the_others(samples: Any) -> None:
    numbers = {"conv": np.arange(9) * 10, "dense": np.arange(7)}  # the spec may choose channels
    columns = neighbour_columns(part_of(samples), numbers)
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    with np.errstate(invalid="ignore"):  # a channel that is constant has none
        correlations = np.corrcoef(np.concatenate([samples["conv"], samples["dense"]], axis=1), rowvar=False)
    assert not any(50 in (row["channel"], row["other_channel"]) for row in rows)
    own = [row for row in rows if (row["layer"], row["channel"], row["other_layer"]) == ("conv", 0, "conv")]
    expected = sorted((number for number in range(9) if number not in (0, 5)), key=lambda number: -correlations[0, number])
    assert [row["other_channel"] for row in own] == [10 * number for number in expected[:NEAREST]]
    assert [row["rank"] for row in own] == list(range(NEAREST))
    assert own[0]["correlation"] == pytest.approx(correlations[0, expected[0]], abs=1e-6)
    other = next(row for row in rows if (row["layer"], row["channel"], row["other_layer"]) == ("conv", 20, "dense"))
    assert (other["other_channel"], other["correlation"]) == (3, pytest.approx(1))


def test_among_equals_the_earlier_channel_is_nearest(samples: Any) -> None:
    samples["dense"] = np.repeat(samples["conv"][:, :1], 7, axis=1)
    columns = neighbour_columns(part_of(samples), {"conv": np.arange(9), "dense": np.arange(7)})
    actual = [other for layer, other in zip(columns["layer"], columns["other_channel"], strict=True) if layer == "dense"]
    assert actual[:NEAREST] == [1, 2, 3, 4, 5]


def saved(folder: Path, part: Part, data: str = "d") -> Path:
    folder.mkdir()
    write_part(folder / WHOLE, SavedPart(Provenance("m", data, 40, {}, {}), Shard(), part))
    return folder


def test_channels_that_a_network_permuted_are_matched_again_over_the_images_of_both(samples: Any, tmp_path: Path) -> None:
    order = np.random.default_rng(0).permutation(9)
    first = saved(tmp_path / "a", part_of(samples))
    permuted = {"conv": samples["conv"][5:, order]}  # the second job did not see five of the images
    matching = match_channels(first, saved(tmp_path / "b", part_of(permuted, range(5, 40))))
    inverse = {int(number): at for at, number in enumerate(order)}
    assert {a: b for a, (b, _) in matching.pairs["conv"].items()} == {a: inverse[a] for a in range(9) if a != 5}
    assert all(correlation == pytest.approx(1) for _, correlation in matching.pairs["conv"].values())
    assert "35 images" in matching.how and "dense" not in matching.pairs


def test_jobs_on_other_data_and_jobs_without_a_scan_are_matched_by_number(samples: Any, tmp_path: Path) -> None:
    first, other = saved(tmp_path / "a", part_of(samples)), saved(tmp_path / "b", part_of(samples), data="other")
    assert match_channels(first, other).pairs == {} and "different data" in match_channels(first, other).how
    (other / WHOLE).unlink()
    assert match_channels(first, other).pairs == {} and "scan.part" in match_channels(first, other).how


def test_correlations_are_those_of_numpy_over_the_images_to_which_both_channels_have_finite_responses(samples: Any) -> None:
    samples["conv"][3:9, 1] += 1000  # what is not finite must not count as zero
    samples["conv"][[0, 4, 9], 1], samples["dense"][[4, 7], 2], samples["dense"][:, 6] = np.nan, np.inf, np.nan
    samples["dense"][2:, 5] = np.nan  # two images are too few
    columns = neighbour_columns(part_of(samples), {"conv": np.arange(9), "dense": np.arange(7)})
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    assert {(row["layer"], row["channel"]) for row in rows} == {
        (layer, channel) for layer, count in COUNTS.items() for channel in range(count)
    } - {("conv", 5), ("dense", 5), ("dense", 6)}
    for row in rows:
        first = samples[row["layer"]][:, row["channel"]].astype(float)
        second = samples[row["other_layer"]][:, row["other_channel"]].astype(float)
        both = np.isfinite(first) & np.isfinite(second)
        assert row["correlation"] == pytest.approx(np.corrcoef(first[both], second[both])[0, 1], abs=2e-6)
