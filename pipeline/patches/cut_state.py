"""CutState: how far a run has come with cutting a job's winners, kept in its folder so that a later run goes on from there."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from pipeline.patches.pictures import LayerPictures, PatchOptions, SourceImage, WinnerPictures, tile_of
from pipeline.patches.winners import Winners
from pipeline.store.arrays import load, save
from pipeline.store.places import Place
from pipeline.store.spool import Spool

_FORMAT = 1  # raised when pictures are made otherwise
_ARRAYS = ("source", "effective", "effective_source", "region", "region_source", "crops", "tiles", "maps", "map_size")
_OF_WINNERS = ("channels", "scores", "examples", "rows", "cols", "boxes", "extents", "unclipped", "maps")
_SAVING_SHARE = 50  # at most one part in so many of the time goes into saving


class CutState:
    """The pictures of a job's winners while they are made, as a context.

    On a remote store nothing is kept. `complete` removes what was kept, and so does a failure before the first save.

    Attributes:
        pictures: what is made; of an earlier run, where that was cutting the same winners in the same way.
        done: how many of the examples with winners are cut, the lowest first.
    """

    def __init__(self, winners: Sequence[Winners], folder: Place, options: PatchOptions) -> None:
        """Raises: StoreFailed."""
        self._parts = folder / "parts"
        self._local, self._every = isinstance(folder, Path), options.save_every
        self._key = _key(winners, options)
        spool = Spool(self._parts, "patches.spool")
        layers = [LayerPictures.empty(layer, tile_of(layer, options)) for layer in winners]
        self.pictures, self.done = WinnerPictures(spool, layers), 0
        self._pages: set[str] = set()
        self._saved = False
        self._lock = threading.Lock()
        if self._local:
            try:
                self._load()
            except Exception:  # absent, of other winners, or damaged in whatever way
                spool.cut_off(0)
                self._journal.unlink(missing_ok=True)
        self._due = time.monotonic() + self._every

    @property
    def _journal(self) -> Place:
        return self._parts / "patches.pages"

    def advance(self, done: int) -> None:
        """So many examples are cut, and nothing else of the spool is being written; saved if it is time to."""
        self.done = done
        if self._local and time.monotonic() >= self._due:
            self._save()

    def save_before_pages(self) -> None:
        """Everything is cut: saved for the pages, where it took long enough to have been saved before. Raises: StoreFailed."""
        if self._local and (self._saved or not self._every):
            self._save()

    def _save(self) -> None:
        began, spool = time.monotonic(), self.pictures.spool
        spool.sync()
        images = [[example, asdict(image)] for example, image in self.pictures.images.items()]
        header = {"key": self._key, "done": self.done, "end": spool.end, "images": images}
        arrays = [getattr(layer, name) for layer in self.pictures.layers for name in _ARRAYS]
        save(self._parts / "patches.npz", [json.dumps(header), *arrays])
        ended, self._saved = time.monotonic(), True
        self._due = ended + (max(self._every, _SAVING_SHARE * (ended - began)) if self._every else 0)

    def has_page(self, path: Place) -> bool:
        """Whether an earlier run has drawn a page from these pictures."""
        return path.name in self._pages and path.exists()

    def add_page(self, path: Place) -> None:
        """A page is drawn and written."""
        if self._local:
            with self._lock, open(str(self._journal), "a", encoding="utf-8") as file:
                file.write(f"{path.name}\n")

    def complete(self) -> None:
        """Everything is written that was to be made of the pictures: remove them."""
        for name in ("patches.npz", "patches.spool", "patches.pages"):
            (self._parts / name).unlink(missing_ok=True)

    def _load(self) -> None:
        """Take over what an earlier run has saved. Raises: ValueError and others, where there is nothing of use."""
        saved = load(self._parts / "patches.npz")
        if saved is None:
            raise ValueError("there is nothing, or it is damaged")
        header: dict[str, Any] = json.loads(str(saved[0]))
        if header["key"] != self._key:
            raise ValueError("it is of other winners")
        begins = range(1, len(saved), len(_ARRAYS))
        stored = [dict(zip(_ARRAYS, saved[begin : begin + len(_ARRAYS)], strict=True)) for begin in begins]
        images = {int(example): _image(fields) for example, fields in header["images"]}
        for layer, arrays in zip(self.pictures.layers, stored, strict=True):
            if any(arrays[name].shape != getattr(layer, name).shape for name in _ARRAYS[:-1]):
                raise ValueError("it is damaged")
        self.pictures.spool.cut_off(int(header["end"]))
        for layer, arrays in zip(self.pictures.layers, stored, strict=True):
            for name in _ARRAYS[:-1]:
                getattr(layer, name)[:] = arrays[name]
            layer.map_size[:] = arrays["map_size"].tolist()
        self.pictures.images.update(images)
        self.done, self._saved = int(header["done"]), True
        if self._journal.exists():
            self._pages = set(self._journal.read_bytes().decode().splitlines())

    def __enter__(self) -> CutState:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            if isinstance(error, KeyboardInterrupt) and self._local:
                self._save()
        finally:
            self.pictures.spool.__exit__(kind, error, trace)
            if error is not None and not self._saved:
                self.complete()


def _image(fields: dict[str, Any]) -> SourceImage:
    y1, x1, y2, x2 = fields.pop("seen")
    begin, length = fields.pop("thumbnail")
    return SourceImage(**fields, seen=(y1, x1, y2, x2), thumbnail=(begin, length))


def _key(winners: Sequence[Winners], options: PatchOptions) -> str:
    """A digest of all that the pictures depend on."""
    regions = sorted(options.maps.layers) if options.maps else []
    how = [_FORMAT, str(options.fit), options.whole, options.crop_size, regions, options.network, options.data, options.images]
    how += [options.named]
    digest = hashlib.sha256(json.dumps(how).encode())
    for layer in winners:
        digest.update(f"{layer.layer}\n{layer.table}\n{layer.effective is not None}\n".encode())
        for name in _OF_WINNERS:
            values = getattr(layer, name)
            digest.update(b"-" if values is None else np.ascontiguousarray(values).tobytes())
    return digest.hexdigest()
