"""Doors of what gives channels a meaning: embeddings, tables of masks, and the directions of another job."""

from __future__ import annotations

import io
import json
from pathlib import Path
from random import Random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from door import Commands, Door
from mutation import a_value, mutate_bytes, mutate_text, mutate_tree
from workshop import Workshop

from pipeline.store.direction_sets import DirectionSet

_BRODEN = b"number,name\n3,sky\n7,grass\n\nimage,color,object\na/0.png,3,x.png;7\n"
_ABOUT = "about"  # the description of directions among their arrays


def _table(rows: list[dict[str, object]]) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file.getvalue()


def _embeddings(shop: Workshop) -> list[bytes]:
    return [_table([{"text": text, "embedding": [0.5, float(number)]} for number, text in enumerate(("one", "two", "three"))])]


def _mutate_embeddings(random: Random, data: bytes) -> bytes:
    rows = pq.read_table(io.BytesIO(data)).to_pylist() if random.random() < 0.7 else []
    for _ in range(random.choice((1, 2))):
        if rows:
            random.choice(rows)[random.choice(("text", "embedding", "key"))] = random.choice(
                ([], [1.0], [[1.0]], a_value(random))
            )
    try:
        return _table(rows) if rows else mutate_bytes(random, data)
    except (pa.ArrowException, ValueError, TypeError, OverflowError, RecursionError, UnicodeError):
        return mutate_bytes(random, data)


def _check(shop: Workshop, folder: Path, rest: str, model: str = "") -> Commands:
    (folder / "job.toml").write_text(shop.spec(model=model, rest=rest).replace('"report"', '"concepts"'))
    return [["check", f"{folder}/job.toml", "--out", f"{folder}/out"]]


def _open_embeddings(shop: Workshop, folder: Path, data: bytes) -> Commands:
    (folder / "texts.parquet").write_bytes(data)
    return _check(shop, folder, f'[concepts.embeddings]\nlayer = "shapes"\ntexts = "{folder}/texts.parquet"')


def _open_broden(shop: Workshop, folder: Path, data: bytes) -> Commands:
    labels, _, images = data.partition(b"\n\n")
    (folder / "masks").mkdir()
    (folder / "masks" / "label.csv").write_bytes(labels)
    (folder / "masks" / "index.csv").write_bytes(images)
    return _check(shop, folder, f'[concepts.masks]\nsource = "{folder}/masks"')


def _open_names(shop: Workshop, folder: Path, data: bytes) -> Commands:
    (folder / "masks").mkdir()
    (folder / "masks" / "0.png").write_bytes(b"x")
    (folder / "names.txt").write_bytes(data)
    return _check(shop, folder, f'[concepts.masks]\nsource = "{folder}/masks"\nnames = "{folder}/names.txt"')


def _directions(shop: Workshop) -> list[bytes]:
    matrix = np.eye(4, 2, dtype=np.float32)
    zeros = np.zeros(2, np.float32)
    folder = shop.folder / "some-directions"
    given = DirectionSet("edges", "pca2", "pca", "linear", matrix, zeros, matrix.T, np.zeros(4, np.float32))
    return [(folder / given.save(folder)).read_bytes()]


def _mutate_directions(random: Random, data: bytes) -> bytes:
    if random.random() < 0.3:
        return mutate_bytes(random, data)
    with np.load(io.BytesIO(data)) as saved:
        arrays = {name: saved[name] for name in saved.files}
    name = random.choice([_ABOUT, _ABOUT, *arrays])
    try:
        if name == _ABOUT:
            arrays[name] = np.array(json.dumps(mutate_tree(random, json.loads(str(arrays[name])))))
        else:
            arrays[name] = random.choice(
                (np.zeros(0), np.array(None), np.full((4, 2), np.nan), arrays[name].T[:1], np.array("x"))
            )
        file = io.BytesIO()
        np.savez(file, allow_pickle=True, **arrays)
    except (ValueError, TypeError, RecursionError, UnicodeError):
        return mutate_bytes(random, data)
    return file.getvalue()


def _open_directions(shop: Workshop, folder: Path, data: bytes) -> Commands:
    (folder / "found" / "directions").mkdir(parents=True)
    (folder / "found" / "directions" / "a.npz").write_bytes(data)
    return _check(shop, folder, "", f'directions = "{folder}/found"')


DOORS: dict[str, Door] = {
    "embeddings": Door(_embeddings, _mutate_embeddings, _open_embeddings, share=1),
    "broden": Door(
        lambda shop: [b"number,name\n3,sky\n7,grass\n\nimage,color,object\na/0.png,3,x.png;7\n"],
        mutate_text,
        _open_broden,
        share=1,
    ),
    "masks": Door(lambda shop: [b"3 sky\n7 green grass\n"], mutate_text, _open_names, share=1),
    "directions": Door(_directions, _mutate_directions, _open_directions, share=1),
}
