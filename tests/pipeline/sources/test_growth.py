"""The digest of their beginning tells data that only grew from data that changed."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.sources.fit import Fit
from pipeline.sources.registry import open_source
from pipeline.spec.data import DataSpec


def png(seed: Any) -> Any:
    return cv2.imencode(".png", np.random.default_rng(seed).integers(0, 256, (9, 12, 3), np.uint8))[1].tobytes()


def write_folder(folder: Any, batch: Any, seeds: Any) -> None:
    for seed in seeds:
        (folder / f"{batch}-{seed:02}.png").write_bytes(png(seed))


def write_list(folder: Any, batch: Any, seeds: Any) -> None:
    write_folder(folder, batch, seeds)
    with (folder / "list.txt").open("a") as file:
        file.writelines(f"{batch}-{seed:02}.png\tclass{seed}\n" for seed in seeds)


def write_parquet(folder: Any, batch: Any, seeds: Any) -> None:
    table = pa.table({"image": [png(seed) for seed in seeds], "label": [f"class{seed}" for seed in seeds]})
    pq.write_table(table, folder / f"{batch}.parquet", row_group_size=2)


def write_tar(folder: Any, batch: Any, seeds: Any) -> None:
    with tarfile.open(folder / f"{batch}.tar", "w") as archive:
        for seed in seeds:
            for name, data in ((f"{seed}.png", png(seed)), (f"{seed}.cls", f"class{seed}".encode())):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))


KINDS = {
    "folder:{}": write_folder,
    "list:{}/list.txt": write_list,
    "parquet:{}/*.parquet": write_parquet,
    "tar:{}/*.tar": write_tar,
}


@pytest.fixture(params=KINDS)
def data(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """Functions: write some more pictures, in files whose names begin with a word; open all of them as a source."""

    def write(batch: Any, seeds: Any) -> None:
        KINDS[request.param](tmp_path, batch, seeds)

    def opened(**spec: Any) -> Any:
        return open_source(DataSpec(source=request.param.format(tmp_path), **spec), Fit(6, 6))

    return write, opened


@pytest.mark.parametrize("options", [{}, {"window": {"size": 5, "stride": 3}}], ids=["images", "windows"])
def test_what_is_added_at_the_end_leaves_the_digest_of_the_beginning_as_it_was(data: Any, listed: Any, options: Any) -> None:
    write, opened = data
    write("a", range(5))
    old = opened(**options)
    digest, examples = old.digest(), listed(old)
    assert old.digest(len(old)) == digest
    write("b", range(5, 8))
    new = opened(**options)
    assert len(new) > len(old) and new.digest() != digest
    assert new.digest(len(old)) == digest and listed(new)[: len(old)] == examples


@pytest.mark.parametrize("options", [{}, {"window": {"size": 5, "stride": 3}}], ids=["images", "windows"])
def test_a_raised_limit_leaves_the_digest_of_the_beginning_as_it_was(data: Any, options: Any) -> None:
    write, opened = data
    write("a", range(5))
    for count in (1, 2, 3, 4):
        assert opened(**options).digest(count) == opened(**options, limit=count).digest()


def test_what_is_added_in_between_or_changed_is_another_beginning(data: Any) -> None:
    write, opened = data
    write("b", range(5))
    digest = opened().digest()
    write("c" if "list" in opened().records.name else "a", range(5, 6))
    listed_first = "list" in opened().records.name  # a list is in its own order
    assert (opened().digest(5) == digest) == listed_first
    write("b", range(6, 11))
    assert opened().digest(5) != digest or listed_first
