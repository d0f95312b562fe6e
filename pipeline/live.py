"""Networks and images in memory, looked at from Python: `scan` for what channels respond to, `explain` for one decision."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import UnknownName, UnusableModel
from pipeline.load import spec_of
from pipeline.options import RunOptions
from pipeline.progress import Reporter
from pipeline.results import Explanation, JobResults
from pipeline.run import check_job, finish, layers_of, start_tensorflow
from pipeline.sources import registry as sources
from pipeline.spec.job_spec import keys
from pipeline.spec.kinds import guess_source
from pipeline.store.locks import hold
from pipeline.store.places import place

if TYPE_CHECKING:
    import keras

_TABLES = ("activations", "data", "model", "gradcam")  # in which keys are looked for that name no table


def scan(
    model: keras.Model,
    images: Any,
    layers: str | Sequence[str] | None = None,
    out: str | os.PathLike[str] | None = None,
    **settings: Any,
) -> JobResults:
    """What the channels of a Keras model in memory respond to most, in images of any kind.

    Args:
        model: functional, sequential, or subclassed and called before; it is not changed.
        images: a folder or another source as a spec names it ("tfds:cifar10/test"); an array (images, height, width, bands); a
            `tf.data.Dataset` of images, or of images and labels, batched or not; or any iterable of arrays. Images are uint8 from
            0 to 255; for others, `range=[low, high]` says what is black and white. They need not have the model's input size.
        layers: names or globs; absent: one layer a stage of the network, chosen by the rule of `docs/spec.md`.
        out: keep the results in this folder; absent: in a temporary one, which lasts as long as the results.
        settings: keys of the spec, such as `top_k=25`, `preprocess="unit"`, `limit=1000` or, with their table,
            `**{"gradcam.first": 2}`; `stages` too.

    Raises: any ConvscopeError.

    Example:
        >>> import keras, numpy as np
        >>> model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(2, 3, name="conv")])
        >>> images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), np.uint8)
        >>> results = scan(model, images, preprocess="unit", top_k=3)
        >>> results.layers
        ['conv']
        >>> results.channel("conv", 0).winners["rank"].tolist()
        [0, 1, 2]
    """
    tree = _tree(settings, {"stages": ["activations"]})
    if layers is not None:
        tree["model"]["layers"] = [layers] if isinstance(layers, str) else list(layers)
    return _run(model, images, tree, out)


def explain(model: keras.Model, image: Any, target: Any = "predicted", method: str = "gradcam", **settings: Any) -> Explanation:
    """Why a Keras model in memory decides as it does for one image.

    Args:
        image: a file, or an array (height, width, bands), as of `scan`.
        target: a class by number or name, "predicted", or a table, as in `gradcam.targets`.
        method: as in `gradcam.methods`.
        settings: as of `scan`.

    Returns: the map, and its picture over the image.
    Raises: any ConvscopeError.

    Example:
        >>> import keras, numpy as np
        >>> layers = [keras.Input((8, 8, 3)), keras.layers.Conv2D(2, 3, activation="relu"), keras.layers.Flatten()]
        >>> model = keras.Sequential([*layers, keras.layers.Dense(3, activation="softmax")])
        >>> explain(model, np.zeros((8, 8, 3), np.uint8), target=1, preprocess="unit").map.shape
        (6, 6)
    """
    settings_of_call = {"methods": [method], "targets": [target], "arrays": True, "first": 1}
    tree = _tree(settings, {"stages": ["gradcam"], "gradcam": settings_of_call})
    if isinstance(image, str | os.PathLike):
        path = Path(image)
        with tempfile.TemporaryDirectory() as folder:
            listed = Path(folder) / "image.txt"
            listed.write_text(f"{path.resolve()}\n", encoding="utf-8")
            return Explanation(_run(model, f"list:{listed}", tree, None), method)
    return Explanation(_run(model, np.asarray(image)[None], tree, None), method)


def _tree(settings: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """The tables of a spec: what a function sets itself, and what its caller sets by key."""
    tree: dict[str, Any] = {"model": {}, "data": {}, **changes}
    known = set(keys())
    for name, value in settings.items():
        key = next((key for key in (name, *(f"{table}.{name}" for table in _TABLES)) if key in known), None)
        if key is None:
            raise UnknownName.among(name, [path.rpartition(".")[2] for path in known], where="a key of the spec")
        *tables, last = key.split(".")
        inside = tree
        for table in tables:
            inside = inside.setdefault(table, {})
        inside[last] = value
    return tree


def _run(model: Any, images: Any, tree: dict[str, Any], out: str | os.PathLike[str] | None) -> JobResults:
    """Run the stages of a spec whose network, and maybe whose images, are in memory."""
    start_tensorflow()
    from pipeline.inputs import open_inputs
    from pipeline.job import Job
    from pipeline.models.keras.keras_file import open_live
    from pipeline.sources.live import hold_images

    if not hasattr(model, "layers"):
        raise UnusableModel(f"{type(model).__name__} is no Keras model. For a file: convscope.run(convscope.load_spec(SPEC)).")
    is_named = isinstance(images, str | os.PathLike)
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", model.name).strip("-._") or "model"
    tree["data"]["source"] = _source(os.fspath(images)) if is_named else "memory:images"
    spec = spec_of({"name": name, **tree, "model": {"source": f"memory:{name}", **tree["model"]}}, Path.cwd())
    network = open_live(model, spec.model)
    records = None if is_named else hold_images(images, spec.data.range is not None)
    temporary = tempfile.TemporaryDirectory(prefix="convscope-") if out is None else None
    folder = place(temporary.name if temporary else os.fspath(out or "")) / name
    reporter = Reporter(name)
    spec, layers = layers_of(spec, network, reporter)
    inputs = open_inputs(spec, True, network, records)
    job = Job(spec, inputs.network, layers, inputs.source, inputs.fit, folder, reporter, RunOptions(cache=False))
    check_job(job)
    with hold(folder, reporter.say):
        finish(job)
    return JobResults(folder, temporary)


def _source(text: str) -> str:
    """A source as a spec names it, or a path by whose ending the kind is known; other paths are folders."""
    kind, colon, _ = text.partition(":")
    return text if colon and kind in sources.KINDS else guess_source(text, sources.KINDS) or f"folder:{text}"
