"""`sample:NAME`: images that come with an installed package, for trying things out offline."""

from __future__ import annotations

import importlib.util
import os

from pipeline.errors import MissingInput, UnknownName
from pipeline.sources.files import Files
from pipeline.spec.data import DataSpec

# The photographs in scikit-image's wheel: no text, drawings or test patterns, and one half of the stereo pair.
PHOTOS = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "chelsea.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "ihc.png",
    "moon.png",
    "motorcycle_left.png",
    "retina.jpg",
    "rocket.jpg",
)
SAMPLES = {"photos": ("skimage", "data", PHOTOS)}


def open_sample(name: str, spec: DataSpec, fetch: bool) -> Files:
    """A sample by its name. A release of the package that lacks a few of its files is served without them.

    Raises: UnknownName; MissingInput where the package, or more than half of the files, is missing.
    """
    if name not in SAMPLES:
        raise UnknownName.among(name, SAMPLES, where="a sample")
    package, folder, files = SAMPLES[name]
    installed = importlib.util.find_spec(package)
    folders = list(installed.submodule_search_locations or ()) if installed else []
    root = os.path.join(folders[0], folder) if folders else ""
    present = tuple(file for file in files if os.path.isfile(os.path.join(root, file)))
    if 2 * len(present) < len(files):
        where = f"{root!r} holds {len(present)} of its {len(files)} files" if root else f"{package} is not installed"
        raise MissingInput(f"sample:{name} is incomplete: {where}. Reinstall {package}, or use folder:DIR.")
    return Files(f"sample:{name}", root, present, ("",) * len(present), None)
