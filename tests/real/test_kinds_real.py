"""Kinds of data sets written by the libraries that people write them with: Hugging Face `datasets`, tar, lists."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline import run
from pipeline.load import parse_spec
from pipeline.sources.fit import Fit
from pipeline.sources.registry import open_source
from pipeline.sources.source import Shard
from pipeline.spec.data import DataSpec

REAL, SHARED = os.environ.get("CONVSCOPE_REAL"), os.environ.get("CONVSCOPE_SHARED")
needs_real = pytest.mark.skipif(not REAL, reason="CONVSCOPE_REAL names no folder of real inputs")
needs_shared = pytest.mark.skipif(not SHARED, reason="CONVSCOPE_SHARED names no folder of shared inputs")


def job(source: str) -> Any:
    return parse_spec(
        {
            "name": "kind",
            "model": {
                "source": "keras:MobileNetV2",
                "weights": f"{REAL}/mobilenet_v2.h5",
                "layers": ["block_3_expand_relu", "block_13_expand_relu"],
            },
            "data": {"source": source, "batch": 8},
            "activations": {"top_k": 3, "channels": [0, 5, 11, 40]},
        }
    )


@needs_real
@pytest.mark.parametrize("stored", ["bytes", "paths"])
def test_a_data_set_of_hugging_face_gives_the_winners_of_its_folder_with_its_class_names(tmp_path: Path, stored: Any) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed: pip install convscope[dev]")
    # Beside the table: paths in data do not lead out of their folder.
    shutil.copytree(Path(str(REAL)) / "imagenet20", tmp_path / "photos")
    photos = sorted((tmp_path / "photos").glob("*.jpg"))
    classes = [f"class {photo.stem.rpartition('_')[2]}" for photo in photos]
    names = sorted(set(classes))
    images = [str(photo) if stored == "paths" else {"bytes": photo.read_bytes(), "path": photo.name} for photo in photos]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=names)})
    whole = datasets.Dataset.from_dict({"image": images, "label": [names.index(name) for name in classes]}, features=features)
    for index in range(2):
        whole.shard(2, index, contiguous=True).to_parquet(tmp_path / f"test-{index:05}-of-00002.parquet")
    folder = run(job(f"parquet:{tmp_path}/test-*.parquet"), tmp_path / "parquet")
    same = run(job(f"folder:{REAL}/imagenet20"), tmp_path / "folder")
    table, expected = (pd.read_parquet(one / "index" / "activations.parquet") for one in (folder, same))
    told_by_the_kind = ["key", "label"]
    pd.testing.assert_frame_equal(table.drop(columns=told_by_the_kind), expected.drop(columns=told_by_the_kind))
    assert len(photos) == 20 and table["label"].tolist() == [classes[example] for example in table["example"]]
    assert table["key"].tolist() == [f"test-0000{e // 10}-of-00002.parquet__{e % 10}" for e in table["example"]]
    tops = pd.read_parquet(folder / "index" / "channels.parquet")["top_label"]
    assert set(tops) <= set(names)


@needs_shared
@pytest.mark.parametrize("ending", ["tar", "tar.gz"])
def test_faces_in_archives_are_those_of_the_folder(tmp_path: Path, ending: Any) -> None:
    root = Path(str(SHARED)) / "lfw"
    faces = sorted(islice(sorted(root.rglob("*.jpg")), 50), key=os.fsencode)
    for number in range(2):
        with tarfile.open(tmp_path / f"faces-{number}.{ending}", "w:gz" if ending == "tar.gz" else "w") as archive:
            for face in faces[25 * number : 25 * number + 25]:
                archive.add(face, face.relative_to(root))
                text = face.stem.rpartition("_")[0].replace("_", " ").encode()
                member = tarfile.TarInfo(str(face.relative_to(root).with_suffix(".txt")))
                member.size = len(text)
                archive.addfile(member, io.BytesIO(text))
    (tmp_path / "faces.txt").write_text("".join(f"{face}\n" for face in faces))
    fit = Fit(64, 64)
    source = open_source(DataSpec(source=f"tar:{tmp_path}/faces-?.{ending}"), fit)
    twin = open_source(DataSpec(source=f"list:{tmp_path}/faces.txt"), fit)
    ours, theirs = (list(one.stream(Shard()).as_numpy_iterator()) for one in (source, twin))
    assert len(faces) == len(ours) == len(theirs) == 50 and not any(one["error"] for one in ours)
    for face, one, other in zip(faces, ours, theirs, strict=True):
        assert np.array_equal(one["image"], other["image"]) and one["example"] == other["example"]
        assert one["label"].decode() == face.stem.rpartition("_")[0].replace("_", " ")
    assert [image.key.partition("/")[0] for _, image in source.fetch([3, 40])] == [f"faces-0.{ending}", f"faces-1.{ending}"]


@needs_real
def test_the_class_names_of_tensorflow_datasets_stand_in_the_index(tmp_path: Path) -> None:
    spec = job("tfds:cifar10/test[50%:51%]").model_dump()
    spec["data"] |= {"data_dir": f"{REAL}/tfds"}
    folder = run(parse_spec(spec), tmp_path)
    index = pd.read_parquet(folder / "index" / "activations.parquet")
    classes = {"airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"}
    assert set(index["label"]) <= classes and len(set(index["label"])) > 3
    whole = open_source(DataSpec(source="tfds:cifar10/test", data_dir=f"{REAL}/tfds"), Fit(32, 32))
    wanted = dict(whole.fetch(5000 + index["example"]))
    assert all(
        wanted[5000 + row.example].label == row.label and wanted[5000 + row.example].key == row.key for row in index.itertuples()
    )
