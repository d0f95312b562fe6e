"""Doors of what jobs leave: receipts, parts and tables."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from random import Random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from door import Commands, Door, file_of
from mutation import NASTY, mutate_bytes, mutate_text, mutate_tree
from workshop import Workshop

from pipeline.store.tables import INDEX, write_index


def _mutate_json(random: Random, data: bytes) -> bytes:
    if random.random() < 0.2:
        return mutate_text(random, data)
    try:
        return json.dumps(mutate_tree(random, json.loads(data))).encode("utf-8", "surrogatepass")
    except (ValueError, RecursionError):
        return mutate_text(random, data)


def _after(shop: Workshop, folder: Path, *commands: str) -> Commands:
    """Commands on the job in FOLDER/tiny."""
    words: Mapping[str, list[str]] = {
        "show": ["show", f"{folder}/tiny"],
        "report": ["report", f"{folder}/tiny"],
        "merge": ["merge", f"{folder}/tiny"],
        "search": ["search", f"{folder}/tiny", "a"],
        "update": ["run", f"{shop.folder}/base.toml", "--out", str(folder), "--update"],
        "compare": ["compare", f"{folder}/tiny", str(shop.job), "--out", f"{folder}/comparison"],
    }
    return [words[name] for name in commands]


def _open_receipt(shop: Workshop, folder: Path, data: bytes) -> Commands:
    (shop.copy_of_job(folder) / "run.json").write_bytes(data)
    return _after(shop, folder, "show", "report", "search", "compare", "update", "merge")


def _mutate_part(random: Random, data: bytes) -> bytes:
    if random.random() < 0.2:
        return mutate_bytes(random, data)
    try:
        with np.load(io.BytesIO(data)) as archive:
            arrays = {name: archive[name] for name in archive.files}
        if random.random() < 0.6:
            header = mutate_tree(random, json.loads(bytes(arrays["header"])))
            arrays["header"] = np.frombuffer(json.dumps(header).encode("utf-8", "surrogatepass"), np.uint8)
        else:
            name = random.choice(sorted(arrays))
            array = arrays[name]
            match random.randrange(6):
                case 0:
                    arrays[name] = array[:-1] if array.ndim else array[np.newaxis]
                case 1:
                    arrays[name] = array.astype(random.choice(("int8", "float64", "bool", "U3")))
                case 2:
                    arrays[name] = np.full(
                        array.shape, random.choice((-1, 2**31 - 1)), array.dtype if array.dtype.kind != "b" else "i8"
                    )
                case 3:
                    del arrays[name]
                case 4:
                    arrays[random.choice(("9.strongest.scores", "0.x.scores", "x", "0.strongest.x.y"))] = arrays.pop(name)
                case _:
                    arrays[name] = np.broadcast_to(array, (2, *array.shape))
        file = io.BytesIO()
        np.savez(file, **arrays)
        return file.getvalue()
    except Exception:
        return mutate_bytes(random, data)


def _open_scan(shop: Workshop, folder: Path, data: bytes) -> Commands:
    job = shop.copy_of_job(folder)
    (job / "scan.part").write_bytes(data)
    receipt = json.loads((job / "run.json").read_text())
    receipt["stages"], receipt["state"] = {}, "running"  # the stage runs once more, from its part
    (job / "run.json").write_text(json.dumps(receipt))
    return _after(shop, folder, "show", "update")


def _open_shard(shop: Workshop, folder: Path, data: bytes) -> Commands:
    job = shutil.copytree(shop.folder / "shards" / "tiny", folder / "tiny")
    (job / "parts" / "1-of-2.part").write_bytes(data)
    return _after(shop, folder, "show", "merge")


def _indexes(shop: Workshop) -> list[bytes]:
    """Each table, behind its name."""
    return [path.stem.encode() + b"\n" + path.read_bytes() for path in sorted((shop.job / "index").glob("*.parquet"))]


def _mutate_index(random: Random, data: bytes) -> bytes:
    name, _, content = data.partition(b"\n")
    if random.random() < 0.3:
        return name + b"\n" + mutate_bytes(random, content)
    try:
        table = pq.read_table(io.BytesIO(content))
        column = random.choice(table.column_names)
        at = table.column_names.index(column)
        match random.randrange(5):
            case 0:
                table = table.drop_columns([column])
            case 1:
                table = table.set_column(at, column, pa.nulls(len(table), table[column].type))
            case 2:
                value = random.choice([value for value in NASTY if isinstance(value, (int, float, str)) and value != "\ud800"])
                table = table.set_column(at, column, pa.array([value] * len(table)))
            case 3:
                table = table.slice(0, random.randrange(len(table) + 1))
            case _:
                values = table[column].to_pylist()
                values[random.randrange(len(values))] = random.choice([-1, 10**9, "</script>", "", None, float("nan"), "../x"])
                table = table.set_column(at, column, pa.array(values, table[column].type))
        file = io.BytesIO()
        pq.write_table(table, file)
        return name + b"\n" + file.getvalue()
    except Exception:
        return name + b"\n" + mutate_bytes(random, content)


def _open_index(shop: Workshop, folder: Path, data: bytes) -> Commands:
    name, _, content = data.partition(b"\n")
    job = shop.copy_of_job(folder)
    (job / "index" / f"{name.decode('ascii', 'replace').rpartition('/')[2][:40]}.parquet").write_bytes(content)
    return _after(shop, folder, "show", "report", "search", "compare")


def _points(shop: Workshop) -> list[bytes]:
    """The points of an atlas, behind the name of their table as in `_indexes`."""
    rows = [{"example": number, "key": "a", "label": "b", "row": 0, "col": 0, "x": number / 9, "y": 0.5} for number in range(9)]
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file)
    return [b"edges\n" + file.getvalue()]


def _open_points(shop: Workshop, folder: Path, data: bytes) -> Commands:
    job = shop.copy_of_job(folder)
    cell = {"layer": "edges", "grid": 4, "row": 0, "col": 0, "vectors": 3, "label": "b", "picture": "mosaics/atlas/edges-4.png"}
    columns = {field.name: [cell.get(field.name)] for field in INDEX["atlas"]}
    write_index(job, "atlas", columns)
    (job / "atlas").mkdir()
    (job / "atlas" / "edges.parquet").write_bytes(data.partition(b"\n")[2])
    return _after(shop, folder, "report")


DOORS: dict[str, Door] = {
    "receipt": Door(lambda shop: [(shop.job / "run.json").read_bytes()], _mutate_json, _open_receipt, share=3),
    "scan": Door(lambda shop: [(shop.job / "scan.part").read_bytes()], _mutate_part, _open_scan),
    "shard": Door(file_of("shards/tiny/parts/1-of-2.part"), _mutate_part, _open_shard),
    "index": Door(_indexes, _mutate_index, _open_index, share=3),
    "atlas": Door(_points, _mutate_index, _open_points),
}
