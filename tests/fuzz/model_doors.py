"""Doors of networks."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from door import Commands, Door, file_of
from mutation import mutate_bytes, mutate_message, mutate_text, mutate_tree
from workshop import Workshop


def _mutate_keras(random: Random, data: bytes) -> bytes:
    kind = random.random()
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            stored = {name: archive.read(name) for name in archive.namelist()}
    except Exception:  # a broken one from the corpus
        return mutate_bytes(random, data)
    if kind < 0.2:
        return mutate_bytes(random, data)
    name = "config.json" if kind < 0.75 else random.choice(sorted(stored))
    if name.endswith(".json") and random.random() < 0.85:
        try:
            stored[name] = json.dumps(mutate_tree(random, json.loads(stored[name]))).encode("utf-8", "surrogatepass")
        except (ValueError, RecursionError):
            stored[name] = mutate_bytes(random, stored[name])
    else:
        stored[name] = mutate_bytes(random, stored[name])
    if random.random() < 0.1:
        stored[random.choice(("../x", "config.json/", "x" * 300, "model.weights.npz"))] = stored.pop(
            random.choice(sorted(stored))
        )
    file = io.BytesIO()
    method = random.choice((zipfile.ZIP_STORED,) * 8 + (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, member in stored.items():
            archive.writestr(name, member)
    return file.getvalue()


def _mutate_h5(random: Random, data: bytes) -> bytes:
    import h5py

    if random.random() < 0.4:
        return mutate_bytes(random, data)
    file = io.BytesIO(data)
    try:
        with h5py.File(file, "r+") as opened:
            if random.random() < 0.7:
                config = mutate_tree(random, json.loads(opened.attrs["model_config"]))
                opened.attrs["model_config"] = json.dumps(config)
            else:
                names: list[str] = []
                opened.visit(names.append)
                name = random.choice(names)
                if random.random() < 0.5:
                    del opened[name]
                if random.random() < 0.7:
                    opened.require_group("/".join(name.split("/")[:-1]) or "/").attrs["weight_names"] = [b"x", b"\xff"]
                    opened[f"{name}_"] = random.choice((0, "x", [1.5] * 7, b"\xff", np.zeros((3, 3, 3, 9), np.int8)))
    except Exception:
        return mutate_bytes(random, data)
    return file.getvalue()


def _messages(make: Callable[[], Any]) -> Callable[[Random, bytes], bytes]:
    def mutate(random: Random, data: bytes) -> bytes:
        message = make()
        if random.random() < 0.2:
            return mutate_bytes(random, data)
        try:
            message.ParseFromString(data)
            mutate_message(random, message)
            return message.SerializeToString()
        except Exception:
            return mutate_bytes(random, data)

    return mutate


def _graph() -> Any:
    from tensorflow.core.framework import graph_pb2

    return graph_pb2.GraphDef()


def _saved() -> Any:
    from tensorflow.core.protobuf import saved_model_pb2

    return saved_model_pb2.SavedModel()


def _onnx() -> Any:
    import onnx

    return onnx.ModelProto()


def _open_onnx(shop: Workshop, folder: Path, data: bytes) -> Commands:
    (folder / "net.onnx").write_bytes(data)
    (folder / "bias.bin").write_bytes(bytes(12))
    return _check_model(shop, folder, f"onnx:{folder}/net.onnx")


def _check_model(shop: Workshop, folder: Path, source: str, *more: str) -> Commands:
    lines = "\n".join([f'source = "{source}"', *more])
    (folder / "job.toml").write_text(shop.spec(model=lines).replace('["edges", "shapes"]', '["*"]'))
    return [["check", f"{folder}/job.toml", "--out", f"{folder}/out"]]


def _open_model(suffix: str, kind: str) -> Callable[[Workshop, Path, bytes], Commands]:
    def put(shop: Workshop, folder: Path, data: bytes) -> Commands:
        (folder / f"net{suffix}").write_bytes(data)
        return _check_model(shop, folder, f"{kind}:{folder}/net{suffix}")

    return put


def _open_saved(shop: Workshop, folder: Path, data: bytes) -> Commands:
    shutil.copytree(shop.folder / "saved", folder / "saved")
    (folder / "saved" / "saved_model.pb").write_bytes(data)
    return _check_model(shop, folder, f"savedmodel:{folder}/saved")


def _open_saved_index(shop: Workshop, folder: Path, data: bytes) -> Commands:
    shutil.copytree(shop.folder / "saved", folder / "saved")
    (folder / "saved" / "variables" / "variables.index").write_bytes(data)
    return _check_model(shop, folder, f"savedmodel:{folder}/saved")


def _open_classes(shop: Workshop, folder: Path, data: bytes) -> Commands:
    (folder / "classes.txt").write_bytes(data)
    return _check_model(shop, folder, f"file:{shop.folder}/tiny.keras", f'labels = "{folder}/classes.txt"')


DOORS: dict[str, Door] = {
    "keras": Door(file_of("tiny.keras"), _mutate_keras, _open_model(".keras", "file"), alone=True, share=5),
    "h5": Door(file_of("tiny.h5"), _mutate_h5, _open_model(".h5", "file"), alone=True, share=4),
    "frozen": Door(file_of("tiny.pb", "old.pb"), _messages(_graph), _open_model(".pb", "frozen"), alone=True, share=4),
    "savedmodel": Door(file_of("saved/saved_model.pb"), _messages(_saved), _open_saved, alone=True, share=3),
    "checkpoint": Door(file_of("saved/variables/variables.index"), mutate_bytes, _open_saved_index, alone=True, share=1),
    "onnx": Door(file_of("tiny.onnx"), _messages(_onnx), _open_onnx, alone=True, share=4),
    "classes": Door(file_of("classes.txt"), mutate_text, _open_classes, share=1),
}
