"""Whole models as they lie on disk: read within bounds, nothing outside of the file, and nothing run."""

from __future__ import annotations

import errno
import json
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py

from pipeline.compiled.keras_private import is_weights_file
from pipeline.errors import Fault, UnusableModel, one_line
from pipeline.models.trial import try_in_child

HDF5 = (".h5", ".hdf5")
CONFIG, METADATA, WEIGHTS = "config.json", "metadata.json", "model.weights.h5"

# Descriptions of the largest networks of keras.applications take 1 MB and 20 levels.
_LARGEST_JSON = 1 << 26
_DEEPEST_JSON = 200
_MOST_MEMBERS = 10_000
_MOST_OBJECTS = 1_000_000
# Weights hardly compress; what unpacks to far more than it takes is made to fill the memory.
_EXPANSION, _ALLOWANCE = 20, 1 << 26
_CHUNK = 1 << 22
_HDF5_SECONDS = 2  # of a processor; what a whole file says of its objects takes milliseconds to read

_CUT_SHORT = "the file is cut short or something else"


@dataclass(frozen=True)
class ModelFile:
    """A model's description, and its weights, not read yet.

    keras: the major version of Keras that wrote the file; 2 for all before 3.
    weights: an HDF5 file: the file itself, or what a .keras file holds as such.
    numbers: how many numbers are stored as weights.
    compiled: what the model was compiled with, as the file describes it; None where it does not.
    """

    path: Path
    config: Any
    keras: int
    weights: Path
    numbers: int
    compiled: Any = None


@contextmanager
def opened_model_file(path: Path) -> Iterator[ModelFile]:
    """Read the description of a whole model, and hold the file against bounds.

    Refused are: members of an archive that are encrypted, named twice, or unpack to far more than they take; JSON that is too
    long or too deep; HDF5 that refers to other files, or declares arrays that it does not hold.

    Raises: UnusableModel.
    """
    if path.suffix not in (".keras", *HDF5):
        raise UnusableModel(f"{path} is of no known format. Name a .keras or .h5 file.")
    with tempfile.TemporaryDirectory() as folder:
        with _one_line_errors(path):
            file = _read_archive(path, Path(folder)) if path.suffix == ".keras" else _read_hdf5(path)
        yield file


@contextmanager
def opened_weights(path: Path) -> Iterator[Path]:
    """The HDF5 file of weights in a file of weights or a whole model, held against the same bounds. Raises: UnusableModel."""
    with tempfile.TemporaryDirectory() as folder:
        with _one_line_errors(path):
            if path.suffix == ".keras":
                path = _read_archive(path, Path(folder)).weights
            else:
                _try_hdf5(path, path)
                with h5py.File(path) as file:
                    _check_hdf5(file, path, path.stat().st_size)
        yield path


def read_description(path: Path) -> Any:
    """A description that is a file of its own, held against the same bounds. Raises: UnusableModel."""
    with _one_line_errors(path), path.open("rb") as file:
        return _json(file.read(_LARGEST_JSON + 1), path)


@contextmanager
def _one_line_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except UnusableModel:
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise Fault(
                f"{path} cannot be unpacked: {error.strerror} in {tempfile.gettempdir()}. Free some space, or set TMPDIR."
            ) from None
        raise UnusableModel(f"{path} cannot be read as a {path.suffix} model ({one_line(error)}): {_CUT_SHORT}.") from None
    except (zipfile.BadZipFile, zlib.error, KeyError, ValueError, EOFError, RuntimeError, TypeError) as error:
        raise UnusableModel(f"{path} cannot be read as a {path.suffix} model ({one_line(error)}): {_CUT_SHORT}.") from None


def clipped(value: Any) -> str:
    """A value from a file as an error quotes it: in one line of at most 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:76]}...{text[0] if isinstance(value, str) else ''}"


def _read_archive(path: Path, folder: Path) -> ModelFile:
    with zipfile.ZipFile(path) as archive:
        members = _members(archive, path)
        config = _json(_read(archive, members[CONFIG], path), path)
        metadata = _json(_read(archive, members[METADATA], path), path) if METADATA in members else {}
        if WEIGHTS not in members:
            raise UnusableModel(
                f"{path} holds no {WEIGHTS}. Save the model with its weights in that form, which is what model.save does."
            )
        if any(name.startswith("assets/") and not name.endswith("/") for name in members):
            raise UnusableModel(
                f"{path} holds files of its layers' own (assets/), such as vocabularies, which convscope does not open. "
                "Save the part of the model that takes images."
            )
        _check_size(members[WEIGHTS].file_size, path.stat().st_size, f"{WEIGHTS} in {path}")
        with archive.open(members[WEIGHTS]) as member, (folder / WEIGHTS).open("wb") as copy:
            # What the header says need not be true, so no more than that is read.
            for _ in range(0, members[WEIGHTS].file_size, _CHUNK):
                copy.write(member.read(_CHUNK))
    _try_hdf5(folder / WEIGHTS, path)
    with h5py.File(folder / WEIGHTS) as file:
        numbers = _check_hdf5(file, path, path.stat().st_size)
    version = metadata.get("keras_version") if isinstance(metadata, dict) else None
    return ModelFile(
        path,
        config,
        _major(version, 3),
        folder / WEIGHTS,
        numbers,
        config.get("compile_config") if isinstance(config, dict) else None,
    )


def _members(archive: zipfile.ZipFile, path: Path) -> dict[str, zipfile.ZipInfo]:
    """The members of an archive by name, once each of them is an ordinary one."""
    members: dict[str, zipfile.ZipInfo] = {}
    if len(archive.infolist()) > _MOST_MEMBERS:
        raise UnusableModel(
            f"{path} is an archive of {len(archive.infolist()):,} members, which no model has. Name another file."
        )
    for info in archive.infolist():
        name = info.filename
        reasons = {
            "is encrypted": info.flag_bits & 1,
            "is packed in a form that Keras does not write": info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED),
            "has a name that hides another": info.orig_filename.replace("\\", "/") != name,
            "is there twice": name in members,
            "lies outside of the archive": name.startswith("/") or ".." in Path(name).parts,
        }
        for reason, holds in reasons.items():
            if holds:
                raise UnusableModel(f"{clipped(name)} in {path} {reason}. Save the model again, or name another file.")
        members[name] = info
    return members


def _read(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path) -> bytes:
    with archive.open(info) as member:
        # What the header says need not be true.
        data = b"" if info.file_size > _LARGEST_JSON else member.read(_LARGEST_JSON + 1)
    if info.file_size > _LARGEST_JSON or len(data) > _LARGEST_JSON:
        raise UnusableModel(
            f"{info.filename} in {path} unpacks to more than {_LARGEST_JSON >> 20} MB ({info.file_size:,} bytes), "
            "which no description of a model needs. Name another file."
        )
    return data


def _try_hdf5(file: Path, path: Path) -> None:
    """Let a child process read all that an HDF5 file says of its objects: on some broken files the library never ends."""

    def read() -> None:
        with h5py.File(file) as opened:
            dict(opened.attrs)
            opened.visititems(lambda name, item: dict(item.attrs) and None)

    try_in_child(read, str(path), cpu=_HDF5_SECONDS, runs_tensorflow=False)


def _read_hdf5(path: Path) -> ModelFile:
    _try_hdf5(path, path)
    with h5py.File(path) as file:
        if "model_config" not in file.attrs:
            raise UnusableModel(
                f"{path} holds weights alone, not the network they belong to. Name the network, such as keras:VGG16, in "
                "model.source and this file in model.weights; or save the whole model."
                if is_weights_file(file)
                else f"{path} is an HDF5 file, but holds no Keras model. Name a file that model.save wrote."
            )
        text = _scalar(file, "model_config", path)
        numbers = _check_hdf5(file, path, path.stat().st_size)
        version = _scalar(file, "keras_version", path) if "keras_version" in file.attrs else None
        compiled = _json(_scalar(file, "training_config", path), path) if "training_config" in file.attrs else None
    return ModelFile(path, _json(text, path), _major(version, 2), path, numbers, compiled)


def _scalar(file: h5py.File, name: str, path: Path) -> Any:
    attribute = file.attrs.get_id(name)
    if attribute.shape != ():
        raise UnusableModel(f"{name} in {path} is not one text. Name a file that model.save wrote.")
    return file.attrs[name]


def _json(text: Any, path: Path) -> Any:
    if not isinstance(text, str | bytes) or len(text) > _LARGEST_JSON:
        raise UnusableModel(f"the model in {path} is described by no text, or by too long a one. Save it again.")
    try:
        config = json.loads(text)
        too_deep = _is_deeper(config, _DEEPEST_JSON)
    except RecursionError:
        too_deep = True
    except ValueError as error:
        raise UnusableModel(f"the model in {path} is described by broken JSON ({one_line(error)}). Save it again.") from None
    if too_deep:
        raise UnusableModel(
            f"the description of the model in {path} is nested more than {_DEEPEST_JSON} deep. Name another file."
        )
    return config


def _is_deeper(config: Any, depth: int) -> bool:
    level = [config]
    for _ in range(depth):
        level = [
            child
            for item in level
            if isinstance(item, dict | list)
            for child in (item.values() if isinstance(item, dict) else item)
        ]
        if not level:
            return False
    return True


def _major(version: Any, default: int) -> int:
    text = version.decode(errors="replace") if isinstance(version, bytes) else str(version)
    first = text.split(".")[0]
    return max(2, int(first)) if first.isdecimal() and len(first) < 4 else default


def _check_hdf5(file: h5py.File, path: Path, held: int) -> int:
    """Refuse an HDF5 file that refers to others, or declares more than it holds. Returns: how many numbers it holds."""
    sizes = [0, 0]
    objects = 0
    seen: set[Any] = set()
    groups = [file["/"]]
    while groups:
        group = groups.pop()
        for name in group:
            objects += 1
            where = f"{clipped(f'{group.name}/{name}')} in {path}"
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise UnusableModel(f"{where} is a link to something else, which a model's weights never are. Name another file.")
            item = group[name]
            address = h5py.h5o.get_info(item.id).addr
            if address in seen or objects > _MOST_OBJECTS:
                raise UnusableModel(f"{where} is there under another name too. Save the model again, or name another file.")
            seen.add(address)
            if isinstance(item, h5py.Group):
                groups.append(item)
            elif isinstance(item, h5py.Dataset):
                if item.is_virtual or item.external:
                    raise UnusableModel(f"{where} keeps its numbers in another file, which is not read. Name another file.")
                sizes[0] += item.nbytes
                sizes[1] += item.size
                _check_size(sizes[0], held, where)
    return sizes[1]


def _check_size(size: int, held: int, where: str) -> None:
    if size > _EXPANSION * held + _ALLOWANCE:
        raise UnusableModel(f"{where} declares {size:,} bytes, where the file has {held:,}. Name another file.")
