"""FieldCache: solved fields as small files, by network, input size and layer, so that nothing is solved twice."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import shutil
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import recfield
from pipeline.errors import ConvscopeError
from pipeline.job import Job
from pipeline.models.network import LayerInfo, Network
from pipeline.store.files import file_name, write_bytes
from pipeline.store.places import Place
from pipeline.store.user_cache import user_cache

_FORMAT = 2
_NETWORKS = 64  # whose fields the user's cache keeps: those used last


@dataclass(frozen=True)
class FieldCache:
    """The fields of one network's layers, in one or more folders: read from the first that has them, written to all.

    What a file holds counts only if it was written whole, by this version of the solver, for this layer of this network
    at this size; anything else is as good as no file. A file is written aside and renamed, so that processes may share a
    folder: they write the same.

    digest: of the network, as `Network.digest` gives it.
    size: height and width of its input.
    """

    digest: str
    size: tuple[int, int]
    folders: tuple[Place, ...]

    @classmethod
    def of(cls, network: Network, digest: str, *folders: Place) -> FieldCache | None:
        """The user's cache and, after it, some folders more; None where the user has switched it off."""
        shared = user_cache()
        height, width, _ = network.input_shape
        if shared is None:
            return None
        return cls(digest, (height, width), (shared / "fields" / f"{digest}-{height}x{width}", *folders))

    @classmethod
    def of_job(cls, job: Job) -> FieldCache | None:
        """The user's cache and the job's own folder, which another machine may go on with; None where they are not to be used."""
        return cls.of(job.network, job.digests["model"], job.folder / "parts" / "fields") if job.options.cache else None

    def read(self, layer: LayerInfo) -> np.ndarray | None:
        """The boxes of a layer's units, int32 (h, w, 4) as `ReceptiveField.boxes`; None where no file has them."""
        for folder in self.folders:
            with contextlib.suppress(OSError, ValueError, TypeError, KeyError, zlib.error, ConvscopeError):
                boxes = self._boxes(layer, json.loads((folder / _name(layer)).read_bytes()))
                if isinstance(folder, Path):
                    os.utime(folder)
                return boxes
        return None

    def write(self, layer: LayerInfo, boxes: np.ndarray) -> None:
        """Keep the boxes of a layer; a folder that cannot be written is passed over."""
        entry = {**self._about(layer), **_packed(boxes)}
        data = json.dumps({**entry, "check": _check(entry)}, separators=(",", ":")).encode()
        for folder in self.folders:
            with contextlib.suppress(OSError, ConvscopeError):
                write_bytes(folder / _name(layer), data, durable=False)
                if folder is self.folders[0]:
                    _forget_oldest(folder)

    def _about(self, layer: LayerInfo) -> dict[str, Any]:
        """What a file must say to be about this layer."""
        about = {"format": _FORMAT, "solver": _solver(), "network": self.digest, "input": list(self.size)}
        return {**about, "layer": layer.name, "map": list(layer.shape)}

    def _boxes(self, layer: LayerInfo, entry: dict[str, Any]) -> np.ndarray:
        """What a file holds. Raises: ValueError and others, for one that does not hold the boxes of this layer."""
        check = entry.pop("check")
        about = self._about(layer)
        if check != _check(entry) or {name: entry[name] for name in about} != about:
            raise ValueError("it is about something else, or damaged")
        boxes = _unpacked(entry, layer.shape[:2])
        first, last, ends = boxes[..., :2], boxes[..., 2:], np.array(self.size)
        if (first < 0).any() or (last > ends).any() or ((first >= last) & boxes.any(axis=2, keepdims=True)).any():
            raise ValueError("its boxes do not lie in the image")
        return boxes


def _name(layer: LayerInfo) -> str:
    return f"{file_name(layer.name)}.json"


def _packed(boxes: np.ndarray) -> dict[str, Any]:
    """Boxes as JSON: of most layers, which rows a unit sees depends on its own row alone, and which columns on its column."""
    rows, cols = boxes[:, 0, ::2], boxes[0, :, 1::2]
    if (_joined(rows, cols) == boxes).all():
        return {"rows": rows.tolist(), "cols": cols.tolist()}
    return {"boxes": base64.b64encode(zlib.compress(np.ascontiguousarray(boxes, "<i4").tobytes())).decode()}


def _unpacked(entry: dict[str, Any], shape: tuple[int, int]) -> np.ndarray:
    """int32 (h, w, 4). Raises: ValueError and others, for another shape."""
    if "boxes" in entry:
        data = zlib.decompress(base64.b64decode(entry["boxes"]))
        return np.frombuffer(data, "<i4").astype(np.int32).reshape(*shape, 4)
    rows, cols = (
        np.array(entry[name], np.int32).reshape(length, 2) for name, length in zip(("rows", "cols"), shape, strict=True)
    )
    return _joined(rows, cols)


def _joined(rows: np.ndarray, cols: np.ndarray) -> np.ndarray:
    """The boxes of units by first and last of their rows, (h, 2), and columns, (w, 2)."""
    boxes = np.empty((len(rows), len(cols), 4), np.int32)
    boxes[..., ::2], boxes[..., 1::2] = rows[:, None], cols[None]
    return boxes


def _check(entry: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(entry, sort_keys=True).encode()).hexdigest()[:16]


@cache
def _solver() -> str:
    """The digest of the solver's own code: boxes that another solver found are not trusted."""
    code = b"".join(path.read_bytes() for path in sorted(Path(recfield.__file__).parent.glob("*.py")))
    return hashlib.sha256(code).hexdigest()[:16]


def _forget_oldest(folder: Place) -> None:
    """Keep the fields of those networks alone that were used last."""
    assert isinstance(folder, Path)
    networks = sorted(folder.parent.iterdir(), key=lambda path: path.stat().st_mtime)
    for path in networks[:-_NETWORKS]:
        shutil.rmtree(path, ignore_errors=True)
