"""`folder:DIR`: the image files below a folder, each labelled by the folder that holds it."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import PurePosixPath

from pipeline.errors import MissingInput, UnusableData
from pipeline.sources.files import Files, as_text
from pipeline.spec.data import DataSpec
from pipeline.store.remote import below, is_remote, listing, local_path, relative

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".heic", ".heif")
ARRAYS = (".npy",)  # may hold anything: images where data.bands is set, or where there is nothing else


_MOST_VISITS = 100  # of one folder, through links


def open_folder(path: str, spec: DataSpec, fetch: bool) -> Files:
    """The images below a folder or an address, hidden ones left out, in the byte-wise order of their paths.

    Raises: MissingInput for a folder that is not there, cannot be listed or holds no images.
    """
    if is_remote(path):
        return _open_remote(path, spec)
    root = local_path(path)
    if not path or not os.path.isdir(root):
        problem = "is not a folder" if path and os.path.exists(root) else "does not exist"
        raise MissingInput(f"the folder {path!r} in data.source {problem}. Name a folder of images: folder:DIR.")
    try:
        paths = sorted(_image_paths(root, "", (), Counter()), key=os.fsencode)
    except OSError as error:
        raise MissingInput(f"the folder {error.filename!r} cannot be listed ({error.strerror}). Make it readable.") from None
    chosen = _images_among(paths, spec)
    return _labelled(path, root, [paths[number] for number in chosen], None)


def _open_remote(address: str, spec: DataSpec) -> Files:
    listed = [(relative(file, address), length) for file, length in listing(f"{address.rstrip('/')}/")]
    images = [
        (path, length)
        for path, length in listed
        if path.lower().endswith(EXTENSIONS + ARRAYS) and not any(part.startswith(".") for part in path.split("/"))
    ]
    images.sort(key=lambda image: os.fsencode(image[0]))
    images = [images[number] for number in _images_among([path for path, _ in images], spec)]
    return _labelled(address, address, [path for path, _ in images], tuple(length for _, length in images))


def _images_among(paths: list[str], spec: DataSpec) -> list[int]:
    """The numbers of the paths that are taken: images and, where they must be meant, arrays."""
    images = [number for number, path in enumerate(paths) if not path.lower().endswith(ARRAYS)]
    return list(range(len(paths))) if spec.bands is not None or not images else images


def _labelled(name: str, root: str, paths: list[str], lengths: tuple[int, ...] | None) -> Files:
    if not paths:
        raise MissingInput(f"the folder {name!r} holds no images ({', '.join(EXTENSIONS)}). Name one that does.")
    file_labels = tuple(PurePosixPath(path).parent.name for path in paths)
    labels = sorted({as_text(label) for label in file_labels if label})
    # Paths that this machine listed are files of the folder, whatever they are called; a store may call a key anything.
    locate = below if is_remote(root) else os.path.join
    return Files(f"folder:{name}", root, tuple(paths), file_labels, labels or None, lengths, locate)


def _image_paths(folder: str, prefix: str, above: tuple[str, ...], visits: Counter[str]) -> Iterator[str]:
    """Paths of image files, relative to the root. Links to folders are followed, but not to a folder above.

    Raises: UnusableData, where links lead to one folder over and over: thirty folders of two links have a billion paths.
    """
    resolved = os.path.realpath(folder)
    if resolved in above:
        return
    visits[resolved] += 1
    if visits[resolved] > _MOST_VISITS:
        raise UnusableData(f"links in data.source lead to {resolved!r} more than {_MOST_VISITS} times. Take them out.")
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            path, linked = entry.path, entry.is_symlink()
            if os.path.isdir(path) if linked else entry.is_dir():
                yield from _image_paths(path, f"{prefix}{entry.name}/", (*above, resolved), visits)
            elif entry.name.lower().endswith(EXTENSIONS + ARRAYS) and (entry.is_file() if not linked else _is_file_or_dead(path)):
                yield prefix + entry.name


def _is_file_or_dead(link: str) -> bool:
    # A dead link is kept: a missing image must be reported, not passed over.
    return os.path.isfile(link) or not os.path.exists(link)
