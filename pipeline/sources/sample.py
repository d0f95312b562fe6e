"""`sample:NAME`: images that come with an installed package, for trying things out offline."""

from __future__ import annotations

import importlib.util
import os

from pipeline.errors import MissingInput, UnknownName
from pipeline.sources.files import Files
from pipeline.spec.data import DataSpec

# What scikit-image's wheel itself holds, less text, drawings, test patterns and the motorcycle's other stereo half.
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
    found = importlib.util.find_spec(package)
    places = list(found.submodule_search_locations or ()) if found else []
    root = os.path.join(places[0], folder) if places else ""
    present = tuple(file for file in files if os.path.isfile(os.path.join(root, file)))
    if 2 * len(present) < len(files):
        where = f"{root!r} holds {len(present)} of its {len(files)} files" if root else f"{package} is not installed"
        raise MissingInput(f"sample:{name} is incomplete: {where}. Install {package} anew, or use folder:DIR.")
    return Files(f"sample:{name}", root, present, ("",) * len(present), None)
