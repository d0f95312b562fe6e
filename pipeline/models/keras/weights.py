"""The weights of Keras models: loaded from a file into a model that is already built, and read for digests."""

from __future__ import annotations

import hashlib
import os
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import h5py
import keras
import numpy as np
import tensorflow as tf

from pipeline.errors import MissingInput, UnusableModel, one_line
from pipeline.models.keras.keras2 import plain_names
from pipeline.models.keras.model_file import ModelFile, opened_weights

SUFFIXES = (".weights.h5", ".h5", ".hdf5", ".keras")


def load_weights(model: keras.Model, path: Path, name: str, *, top: bool, build_other: Callable[[], keras.Model]) -> None:
    """Load the weights of a file: Keras 3 or Keras 2, weights alone or a whole model's.

    Args:
        path: .weights.h5, .h5 or .keras.
        name: the network, for the errors.
        top: whether the model has its classifier.
        build_other: gives the same network with `top` the other way round; called only to explain a misfit.

    Raises: MissingInput, UnusableModel.
    """
    check_readable(path)
    with opened_weights(path) as file:
        try:
            _load(model, file)
        except Exception as error:
            raise UnusableModel(f"the weights {path} do not fit {name}: {_advice(file, error, top, build_other)}") from None


def restore_weights(model: keras.Model, file: ModelFile) -> None:
    """Give a model that was made from a whole model's file the weights in it.

    In .h5 files they are found by name, where layer and weight have the names that they were saved under, else by their order.

    Raises: ValueError, for weights that do not fit.
    """
    if file.path.suffix == ".keras":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model.load_weights(file.weights)
        return
    with h5py.File(file.weights) as stored:
        _restore(model, stored["model_weights"], plain_names(file.config) if file.keras == 2 else {})
    for layer in layers_within(model):
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()  # it works with what it made of its weights when it was built


def weight_bytes(weights: Iterable[keras.Variable]) -> Iterator[bytes]:
    """SHA-256 digests of all weights, in order, 16 MB at a time."""
    with ThreadPoolExecutor() as threads:
        yield from threads.map(lambda chunk: hashlib.sha256(chunk).digest(), _chunks(weights))


def check_readable(path: Path) -> None:
    """Refuse what is no file of weights, before a network is built for it. Raises: MissingInput, UnusableModel."""
    if not path.is_file():
        raise MissingInput(f"the weights {path} are {'a folder' if path.is_dir() else 'missing'}. Name a file in model.weights.")
    if not str(path).endswith(SUFFIXES):
        raise UnusableModel(f"the weights {path} are of no known format. Name a file ending in {', '.join(SUFFIXES)}.")
    if not (zipfile.is_zipfile(path) if path.suffix == ".keras" else h5py.is_hdf5(path)):
        raise UnusableModel(f"the weights {path} cannot be read as {path.suffix}: the file is cut short or something else.")


def _advice(path: Path, error: Exception, top: bool, build_other: Callable[[], keras.Model]) -> str:
    """Why a file did not fit, and whether it would with `top` the other way round."""
    try:
        _load(build_other(), path)
    except Exception:
        return f'{one_line(error)}. Name the file that was saved from this network, or set model.weights = "none".'
    if top:
        return "it holds no classifier. Set model.top = false."
    return "it holds the classifier too. Set model.top = true."


def _load(model: keras.Model, path: Path) -> None:
    with _rightly_named(path) as named, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a misfit is an error of our own, so Keras's pages about it are noise
        model.load_weights(named)
    stored = _stored_numbers(path)
    needed = sum(int(np.prod(variable.shape)) for variable in model.weights if "float" in variable.dtype)
    # Keras 3 passes over arrays that no layer asks for, so a larger network's file could seem to fit.
    if stored is not None and stored != needed:
        raise ValueError(f"it holds {stored:,} numbers, the network {needed:,}")


@contextmanager
def _rightly_named(path: Path) -> Iterator[str]:
    """The file under a name that tells Keras its format: Keras 2 is .h5, Keras 3 .weights.h5, whatever it was called."""
    with h5py.File(path) as file:
        suffix = ".h5" if "layer_names" in file.attrs or "model_weights" in file else ".weights.h5"
    if str(path).endswith(".weights.h5") == (suffix == ".weights.h5"):
        yield str(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        alias = os.path.join(folder, f"alias{suffix}")
        os.symlink(path.resolve(), alias)
        yield alias


def _stored_numbers(path: Path) -> int | None:
    """The number of weights in a Keras 3 file; None for Keras 2, which counts layers itself."""
    with h5py.File(path) as file:
        return None if "layer_names" in file.attrs or "model_weights" in file else _floats(file)


def _restore(model: keras.Model, group: h5py.Group, renamed: Mapping[str, str]) -> None:
    """Give a model its weights. renamed: by the name of a layer in the file its name in the model, where they differ."""
    in_file = {plain: name for name, plain in renamed.items()}
    stored = {name: _names(group[name], "weight_names") for name in _names(group, "layer_names")}
    for layer in model.layers:
        variables = [*layer.trainable_weights, *layer.non_trainable_weights]
        stored_name = in_file.get(layer.name, layer.name)
        names = stored.pop(stored_name, [])
        if len(names) != len(variables):
            raise ValueError(f"the layer {layer.name!r} has {len(variables)} weights, {len(names)} are stored")
        for variable, name in zip(variables, _in_order(variables, names, renamed), strict=True):
            data = group[stored_name][name]
            if data.shape != tuple(variable.shape):
                raise ValueError(f"the weight {name!r} has the shape {data.shape}, the layer's is {tuple(variable.shape)}")
            variable.assign(data[()])
    rest = [*(name for name, names in stored.items() if names), *_names(group.get("top_level_model_weights"), "weight_names")]
    if rest:
        raise ValueError(f"the weights {rest[0]!r} belong to no layer")


def _names(group: h5py.Group | None, attribute: str) -> list[str]:
    """A list of names, which Keras splits where it is long: weight_names, or weight_names0, weight_names1 and so on."""
    if group is None:
        return []
    parts = [attribute] if attribute in group.attrs else []
    while attribute not in group.attrs and f"{attribute}{len(parts)}" in group.attrs:
        parts.append(f"{attribute}{len(parts)}")
    return [name.decode() if isinstance(name, bytes) else str(name) for part in parts for name in group.attrs[part]]


def _in_order(variables: list[keras.Variable], names: list[str], renamed: Mapping[str, str]) -> list[str]:
    """The stored names in the order of the variables: a nested model's may be stored in another one than Keras 3's."""

    def path_of(name: str) -> str:
        above, _, weight = name.split(":")[0].rpartition("/")
        known = max((long for long in renamed if f"/{above}".endswith(f"/{long}")), key=len, default=None)
        return f"{above.rpartition('/')[2] if known is None else renamed[known]}/{weight}"

    by_path = {path_of(name): name for name in names}
    paths = ["/".join(variable.path.split("/")[-2:]) for variable in variables]
    return [by_path[path] for path in paths] if len(by_path) == len(names) and by_path.keys() == set(paths) else names


def layers_within(layer: keras.Layer) -> Iterator[keras.Layer]:
    """A layer and all inside of it that are models, or wrapped."""
    yield layer
    inner = getattr(layer, "layers", [getattr(layer, "layer", None)])
    for child in inner if isinstance(inner, list) else []:
        if isinstance(child, keras.Layer):
            yield from layers_within(child)


def _floats(file: h5py.File) -> int:
    total = 0

    def add(name: str, item: h5py.Group | h5py.Dataset) -> None:
        nonlocal total
        if isinstance(item, h5py.Dataset) and item.dtype.kind == "f" and not name.startswith("optimizer/"):
            total += item.size

    file.visititems(add)
    return total


def _chunks(variables: Iterable[keras.Variable], size: int = 1 << 24) -> Iterator[memoryview]:
    """The bytes of variables in chunks that threads can share: one layer often holds most of them."""
    for variable in variables:
        data = np.ascontiguousarray(tf.convert_to_tensor(variable)).reshape(-1).view(np.uint8).data
        yield from (data[first : first + size] for first in range(0, len(data), size))
