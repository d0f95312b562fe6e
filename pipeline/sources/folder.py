"""`folder:DIR`: the image files below a folder, each labelled by the folder that holds it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import PurePosixPath

from pipeline.errors import MissingInput
from pipeline.sources.files import Files, as_text
from pipeline.spec import DataSpec

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


def open_folder(path: str, spec: DataSpec, fetch: bool) -> Files:
    """The images below a folder, hidden ones left out, in the byte-wise order of their paths.

    Raises: MissingInput for a folder that is not there, cannot be listed or holds no images.
    """
    root = os.path.expanduser(path)
    if not path or not os.path.isdir(root):
        what = "is not a folder" if path and os.path.exists(root) else "does not exist"
        raise MissingInput(f"the folder {path!r} in data.source {what}. Name a folder of images: folder:DIR.")
    try:
        found = sorted(_image_paths(root, "", ()), key=os.fsencode)
    except OSError as error:
        raise MissingInput(f"the folder {error.filename!r} cannot be listed ({error.strerror}). Make it readable.") from None
    if not found:
        raise MissingInput(f"the folder {path!r} holds no images ({', '.join(EXTENSIONS)}). Name one that does.")
    file_labels = tuple(PurePosixPath(file).parent.name for file in found)
    labels = sorted({as_text(label) for label in file_labels if label})
    return Files(f"folder:{path}", root, tuple(found), file_labels, labels or None)


def _image_paths(folder: str, prefix: str, above: tuple[str, ...]) -> Iterator[str]:
    """Paths of image files, relative to the root. Links to folders are followed, but never back up."""
    here = os.path.realpath(folder)
    if here in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            path, linked = entry.path, entry.is_symlink()
            if os.path.isdir(path) if linked else entry.is_dir():
                yield from _image_paths(path, f"{prefix}{entry.name}/", (*above, here))
            elif entry.name.lower().endswith(EXTENSIONS) and (entry.is_file() if not linked else _is_file_or_dead(path)):
                yield prefix + entry.name


def _is_file_or_dead(link: str) -> bool:
    # An image that is not there must be told, not passed over.
    return os.path.isfile(link) or not os.path.exists(link)
