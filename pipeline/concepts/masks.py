"""Masks: where in an image each concept is, as folders, Parquet files, ADE20K, Broden, or the pixels' own colours give it."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import PIL.Image
import pyarrow as pa

from pipeline.concepts.colours import COLOURS, name_colours
from pipeline.errors import MissingInput, UnusableData, WrongSpec, foreign_errors, one_line, quoted
from pipeline.sources.decode import MAX_PIXELS
from pipeline.sources.fit import Fit
from pipeline.sources.source import Image
from pipeline.store.remote import below
from pipeline.store.tables import read_table

BY_COLOUR = "colours"

Numbers = Callable[[np.ndarray], np.ndarray]  # pixels of a mask, (h, w, 3), to the numbers of concepts (h, w)


@dataclass(frozen=True)
class MaskSet:
    """Masks of a data set.

    names: of the concepts.
    read: an image's masks: int (h, w) each, in which 0 is no concept and n the concept `names[n - 1]`; (1, 1) says it of the
        whole image. None for an image without masks. Raises: UnusableData.
    """

    names: tuple[str, ...]
    read: Callable[[Image], list[np.ndarray] | None]


def open_masks(source: str, names: str | None) -> MaskSet:
    """The masks that a spec names: "colours", a Parquet file, or a folder, whose layout its files tell.

    Raises: MissingInput, UnusableData, WrongSpec.
    """
    with foreign_errors(UnusableData, f"the masks {source!r}", "Name a folder or a Parquet file as docs/spec.md has them."):
        return _open(source, names)


def open_objects(source: str) -> MaskSet:
    """Masks, a folder or a Parquet file, in which whatever is not zero is an object. Raises: MissingInput, UnusableData."""
    with foreign_errors(UnusableData, f"the masks {source!r}", "Name a folder or a Parquet file as docs/spec.md has them."):
        path = Path(source)
        make = _folder if path.is_dir() else _parquet
        return make(path, ("object",), lambda values: (values > 0).astype(np.int64))


def _open(source: str, names: str | None) -> MaskSet:
    if source == BY_COLOUR:
        return MaskSet(COLOURS, lambda image: [name_colours(image.pixels)])
    path = Path(source)
    if path.is_file():
        return _named(_parquet, path, _names(names, source))
    if not path.is_dir():
        raise MissingInput(f"the masks {source!r} are not there. Name a folder, a Parquet file, or {BY_COLOUR!r}.")
    if (path / "index.csv").is_file() and (path / "label.csv").is_file():
        return _broden(path)
    objects = path / "objectInfo150.txt"
    if objects.is_file():
        rows = (line.split("\t") for line in objects.read_text(encoding="utf-8").splitlines()[1:])
        return _named(_folder, path / "annotations", {int(row[0]): row[-1].strip() for row in rows if len(row) > 1})
    return _named(_folder, path, _names(names, source))


def _named(make: Callable[[Path, tuple[str, ...], Numbers], MaskSet], path: Path, named: Mapping[int, str]) -> MaskSet:
    return make(path, tuple(named.values()), _renumbered(named))


def _names(path: str | None, source: str) -> dict[int, str]:
    """{number: name}, from a text file of a number and a name in every line."""
    if path is None:
        raise WrongSpec(f"the masks {source!r} hold numbers, and nothing says what they mean. Name concepts.masks.names.")
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise MissingInput(f"{path!r} in concepts.masks.names cannot be read ({error.strerror}).") from None
    named = {}
    for line in filter(str.strip, lines):
        number, _, name = line.replace(",", " ", 1).replace("\t", " ", 1).strip().partition(" ")
        if not number.isdecimal() or not name.strip():
            raise WrongSpec(f"{path!r} in concepts.masks.names has the line {line!r}. Write a number and a name into each.")
        named[int(number)] = name.strip()
    return {number: name for number, name in named.items() if number > 0}


def _folder(folder: Path, names: tuple[str, ...], numbers: Numbers) -> MaskSet:
    """Index masks as PNGs of the images' names, below a folder in the same folders; or the only one of that name."""
    files = {path.relative_to(folder).with_suffix("").as_posix(): path for path in sorted(folder.rglob("*.png"))}
    if not files:
        raise MissingInput(f"the folder of masks {str(folder)!r} holds no PNG.")
    by_stem: dict[str, list[Path]] = {}
    for name, path in files.items():
        by_stem.setdefault(PurePosixPath(name).name, []).append(path)

    def read(image: Image) -> list[np.ndarray] | None:
        key = PurePosixPath(image.key).with_suffix("")
        alone = by_stem.get(key.name, [])
        path = files.get(key.as_posix()) or (alone[0] if len(alone) == 1 else None)
        return None if path is None else [numbers(_numbers_of(_read(str(path)), str(path)))]

    return MaskSet(names, read)


def _parquet(path: Path, names: tuple[str, ...], numbers: Numbers) -> MaskSet:
    """A table of `key` and `mask`, a PNG in bytes, or as Hugging Face `datasets` stores images."""
    try:
        table = read_table(path, ["key", "mask"])
    except (OSError, pa.ArrowException) as error:
        raise UnusableData(f"the masks {str(path)!r} are no Parquet file of key and mask ({one_line(error)}).") from None
    rows = dict(zip(table["key"].to_pylist(), table["mask"].to_pylist(), strict=True))

    def read(image: Image) -> list[np.ndarray] | None:
        value = rows.get(image.key)
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes | None):
            raise UnusableData(f"the mask of {quoted(image.key)} in {str(path)!r} is {quoted(data)}, not the bytes of a PNG.")
        return None if data is None else [numbers(_numbers_of(data, f"{path}, {image.key}"))]

    return MaskSet(names, read)


def _broden(folder: Path) -> MaskSet:
    """Broden's layout (Bau et al. 2017): index.csv says, for every image, the masks or the labels of each category."""
    with open(folder / "label.csv", encoding="utf-8", newline="") as file:
        named = {int(row["number"]): row["name"] for row in csv.DictReader(file)}
    with open(folder / "index.csv", encoding="utf-8", newline="") as file:
        rows = {row["image"]: row for row in csv.DictReader(file)}
    categories = ("color", "object", "part", "material", "scene", "texture")
    numbers = _renumbered(named)

    def read(image: Image) -> list[np.ndarray] | None:
        row = rows.get(image.key)
        return None if row is None else [numbers(mask) for mask in masks(row)]

    def masks(row: Mapping[str, str]) -> Iterator[np.ndarray]:
        for cell in ";".join(row.get(category) or "" for category in categories).split(";"):
            if cell.isdecimal():
                yield np.array([[int(cell)]], np.int64)
            elif cell:
                try:
                    path = below(str(folder / "images"), cell)
                except PermissionError as error:
                    raise UnusableData(f"the mask {quoted(cell)} in index.csv is refused: {error.strerror}.") from None
                yield _numbers_of(_read(path), cell)

    return MaskSet(tuple(named.values()), read)


def _renumbered(named: Mapping[int, str]) -> Numbers:
    """The function from numbers of a file to positions in its list of names, from 1; numbers without a name are no concept."""
    if not named:
        raise WrongSpec("the masks have no concepts: nothing names a number above 0.")
    known = np.array(list(named), np.int64)
    order = np.argsort(known)

    def renumber(numbers: np.ndarray) -> np.ndarray:
        rows = order[np.minimum(np.searchsorted(known, numbers, sorter=order), len(known) - 1)]
        return np.where(known[rows] == numbers, rows + 1, 0)

    return renumber


def _read(path: str) -> bytes:
    return Path(path).read_bytes() if Path(path).is_file() else b""


def _numbers_of(data: bytes, name: str) -> np.ndarray:
    """The numbers that a PNG holds, grey, of a palette, or red plus 256 times green: int32 (h, w). Raises: UnusableData."""
    try:
        with PIL.Image.open(io.BytesIO(data), formats=("PNG",)) as image:
            if image.width * image.height > MAX_PIXELS:
                raise UnusableData(f"the mask {name} has {image.height:,} x {image.width:,} pixels, more than {MAX_PIXELS:,}.")
            values = np.asarray(image).astype(np.int32)
    except (UnusableData, MemoryError):
        raise
    except Exception as error:  # of whatever kind damage makes Pillow raise
        reason = "" if isinstance(error, PIL.UnidentifiedImageError) else f" ({one_line(error)})"
        raise UnusableData(f"the mask {name} is no PNG that can be read{reason}.") from None
    return values if values.ndim == 2 else values[..., 0] + 256 * values[..., 1] * (values.shape[2] > 2)


def on_grid(mask: np.ndarray, image: Image, fit: Fit, step: int, size: tuple[int, int] | None = None) -> np.ndarray:
    """What a mask says at every `step`-th pixel of the network's input, at the middle of the squares between: int (h * w,).

    size: the image's height and width, where it has let go of its pixels.

    Raises: WrongSpec, for a mask that is not of the image's proportions.
    """
    sizes, shape = size or image.pixels.shape[:2], mask.shape
    if shape != (1, 1) and abs(shape[0] / sizes[0] - shape[1] / sizes[1]) > 1 / min(sizes):
        raise WrongSpec(
            f"the mask of {image.key!r} is of {shape[0]} x {shape[1]} pixels, and the image of {sizes[0]} x {sizes[1]}. "
            "A mask needs the size of its image, or its proportions."
        )
    scales, offsets = fit.scale_and_offset(image.region.height, image.region.width)
    firsts, lengths = (image.region.y1, image.region.x1), (image.region.height, image.region.width)
    pixels, inside = [], []
    for axis, side in enumerate((fit.height, fit.width)):
        seen = offsets[axis] + scales[axis] * grid_points(side, step)
        inside.append((seen >= 0) & (seen < lengths[axis]))
        position = (firsts[axis] + seen) * shape[axis] / sizes[axis]
        pixels.append(np.clip(position, 0, shape[axis] - 1).astype(np.int64))
    values: np.ndarray = np.where(np.logical_and.outer(*inside), mask[np.ix_(*pixels)], 0).reshape(-1)
    return values


def grid_points(side: int, step: int) -> np.ndarray:
    """The positions of a grid along a side of the network's input, in pixels: float64."""
    return (np.arange(max(side // step, 1)) + 0.5) * step
