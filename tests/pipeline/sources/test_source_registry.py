"""The table of kinds, and the samples."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from pipeline.errors import MissingInput, UnknownName, WrongSpec
from pipeline.sources import sample
from pipeline.sources.fit import Fit
from pipeline.sources.registry import KINDS, SourceKind, open_source
from pipeline.sources.source import Shard
from pipeline.spec.data import DataSpec


@pytest.mark.parametrize("source", ["foldr:/x", "cifar10", "parquets:x", "", ":x"])
def test_an_unknown_kind_is_named_and_the_known_are_listed(source: Any) -> None:
    with pytest.raises(UnknownName, match="known: folder:, list:, parquet:, sample:, tar:, tfds:") as caught:
        open_source(DataSpec(source=source), Fit(8, 8))
    assert repr(source) in str(caught.value) and "\n" not in str(caught.value)


def test_a_near_kind_is_offered() -> None:
    with pytest.raises(UnknownName, match="nearest: folder:"):
        open_source(DataSpec(source="foldr:/x"), Fit(8, 8))


def test_a_kind_added_to_the_table_gets_limit_and_windows_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, "mine", SourceKind(open=sample.open_sample))
    source = open_source(DataSpec(source="mine:photos", limit=7, window={"size": 64, "stride": 64}), Fit(8, 8))
    assert len(source) == 7


@pytest.mark.parametrize(
    ("source", "key", "takers"),
    [
        ("folder:/images", "labels", "parquet: and tar: and list: sources"),
        ("list:/images.txt", "image", "parquet: and tar: sources"),
        ("sample:photos", "data_dir", "tfds: sources"),
    ],
)
def test_a_key_that_a_kind_has_no_use_for_is_refused_rather_than_passed_over(source: Any, key: Any, takers: Any) -> None:
    with pytest.raises(WrongSpec, match=f"data.{key} is for {takers}; data.source = '{source}' has no use for it") as caught:
        open_source(DataSpec(source=source, **{key: "x"}), Fit(8, 8))
    assert caught.value.exit_code == 2 and "\n" not in str(caught.value)


def test_importing_the_sources_brings_in_neither_tensorflow_nor_scikit_image() -> None:
    heavy = {"tensorflow", "tensorflow_datasets", "skimage", "s3fs"}
    code = f"import sys, pipeline.sources.registry as o; print({heavy} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


@pytest.mark.parametrize("window", [None, {"size": 64, "stride": 64}])
def test_streams_and_what_is_made_of_them_run_without_the_tuner_whose_end_takes_as_long_as_they_ran(window: Any) -> None:
    stream = open_source(DataSpec(source="sample:photos", window=window), Fit(8, 8)).stream(Shard())
    assert stream.batch(2).prefetch(2).options().autotune.enabled is False


def test_the_photographs_of_scikit_image_are_all_there_and_readable(listed: Any) -> None:
    source = open_source(DataSpec(source="sample:photos"), Fit(16, 16))
    elements = listed(source)
    assert [e[1] for e in elements] == list(sample.PHOTOS) and len(sample.PHOTOS) == 14
    assert {(e[2], e[4]) for e in elements} == {("", "")} and source.labels is None
    assert len({e[3] for e in elements}) == 14


def test_the_astronaut_is_in_the_sample() -> None:
    import skimage.data

    source = open_source(DataSpec(source="sample:photos"), Fit(16, 16))
    image = dict(source.fetch([0]))[0]
    assert image.key == "astronaut.png" and (image.pixels == skimage.data.astronaut()).all()


def test_an_unknown_sample_is_named_and_the_known_are_listed() -> None:
    with pytest.raises(UnknownName, match="'photo' is not a sample; nearest: photos; known: photos"):
        open_source(DataSpec(source="sample:photo"), Fit(8, 8))


def test_a_release_that_lacks_a_few_photographs_is_served_and_one_that_lacks_most_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sample.SAMPLES, "photos", ("skimage", "data", ("gone.png", *sample.PHOTOS[:2])))
    assert len(open_source(DataSpec(source="sample:photos"), Fit(8, 8))) == 2
    monkeypatch.setitem(sample.SAMPLES, "photos", ("skimage", "data", ("gone.png", "lost.png", "away.png", *sample.PHOTOS[:2])))
    with pytest.raises(MissingInput, match="2 of its 5 files"):
        open_source(DataSpec(source="sample:photos"), Fit(8, 8))
    monkeypatch.setitem(sample.SAMPLES, "photos", ("not_a_package", "data", ("gone.png",)))
    with pytest.raises(MissingInput, match="not_a_package is not installed"):
        open_source(DataSpec(source="sample:photos"), Fit(8, 8))
