"""`file:X.keras` and `file:X.h5`: whole models as Keras saved them, loaded without running code that they carry."""

from __future__ import annotations

import json
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import keras

from pipeline.compiled.keras_private import is_unsafe, is_weights_file, unknown_class
from pipeline.errors import MissingInput, UnusableModel, one_line
from pipeline.models.head import LOSSES, OutputSpec
from pipeline.models.image_network import ImageNetwork
from pipeline.models.keras.custom import custom_objects
from pipeline.models.keras.functional import FunctionalReader
from pipeline.models.keras.model import keras_reader
from pipeline.models.keras.stem import infer_preprocessing
from pipeline.models.network import Setting
from pipeline.spec.model import ModelSpec

_HDF5 = (".h5", ".hdf5")


def open_file(path: str, spec: ModelSpec) -> ImageNetwork:
    """Load a whole model; Python bytecode inside it (Lambda layers) is refused unless `spec.trusted`.

    Classes that are not Keras's own come from the Python file `spec.custom`, or from the process that calls.

    Raises: MissingInput, UnusableModel, WrongSpec.
    """
    where = Path(path)
    if not path or not where.is_file():
        raise MissingInput(
            f"the model {path!r} is {'a folder' if path and where.is_dir() else 'missing'}. Name a file in model.source."
        )
    config = _read_config(where)
    lambdas = list(dict.fromkeys(_bytecode(config, "?")))
    if lambdas and not spec.trusted:
        raise UnusableModel(
            f"{where} carries Python code in its layer {lambdas[0]!r}"
            + (f" and {len(lambdas) - 1} more" if len(lambdas) > 1 else "")
            + ", which loading would run. If you trust the file, set model.trusted = true."
        )
    model = _load(where, spec.trusted, {} if spec.custom is None else custom_objects(Path(spec.custom)))
    reader = keras_reader(model, where.stem, spec.size)
    mode: str | Setting = spec.preprocess
    if mode == "auto" and isinstance(reader, FunctionalReader):
        mode = infer_preprocessing(reader, str(where))
    return ImageNetwork(reader, where.stem, mode, OutputSpec.of(spec, loss=_saved_loss(where, config)), str(where))


def _read_config(path: Path) -> Any:
    """The architecture, as the file describes it; nothing in it has been run."""
    if path.suffix not in (".keras", *_HDF5):
        raise UnusableModel(f"{path} is of no known format. Name a .keras or .h5 file.")
    try:
        if path.suffix == ".keras":
            with zipfile.ZipFile(path) as archive:
                return json.loads(archive.read("config.json"))
        with h5py.File(path) as file:
            config = file.attrs.get("model_config")
            is_weights = is_weights_file(file)
    except (OSError, zipfile.BadZipFile, KeyError, ValueError, EOFError, zlib.error) as error:
        raise UnusableModel(
            f"{path} cannot be read as a {path.suffix} model ({one_line(error)}): the file is cut short or something else."
        ) from None
    if config is None:
        raise UnusableModel(
            f"{path} holds weights alone, not the network they belong to. Name the network, such as keras:VGG16, in model.source "
            "and this file in model.weights; or save the whole model."
            if is_weights
            else f"{path} is an HDF5 file, but holds no Keras model. Name a file that model.save wrote."
        )
    try:
        return json.loads(config)
    except ValueError as error:
        raise UnusableModel(f"the model in {path} is described by broken JSON ({one_line(error)}). Save it again.") from None


def _saved_loss(path: Path, config: Any) -> str | None:
    """The loss that a model was compiled with, where it is one that tells what the outputs are; nothing in the file is run."""
    compiled = config.get("compile_config") if isinstance(config, dict) else None
    if path.suffix in _HDF5:
        with h5py.File(path) as file:
            training = file.attrs.get("training_config")
        try:
            compiled = json.loads(training) if training else None
        except ValueError:
            compiled = None
    loss = compiled.get("loss") if isinstance(compiled, dict) else None
    while isinstance(loss, dict):  # Keras writes a class and its settings, or a function and its name
        settings = loss.get("config")
        loss = settings if loss.get("class_name") == "function" or not loss.get("class_name") else loss["class_name"]
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", loss).lower() if isinstance(loss, str) else ""
    return name if name in LOSSES else None


def _bytecode(config: Any, layer: str) -> Iterator[str]:
    """The names of the layers that carry marshalled Python functions, in Keras 2's or Keras 3's form."""
    if isinstance(config, list):
        for item in config:
            yield from _bytecode(item, layer)
    if not isinstance(config, dict):
        return
    inner = config.get("config")
    if isinstance(inner, dict):
        layer = inner.get("name", layer)
        functions = {key: inner.get(key) for key in ("function", "output_shape", "mask")}
        if config.get("class_name") == "Lambda" and (
            isinstance(functions["function"], list) or "lambda" in (inner.get(f"{key}_type") for key in functions)
        ):
            yield layer
    if config.get("class_name") == "__lambda__":
        yield layer
    for value in config.values():
        yield from _bytecode(value, layer)


def _load(path: Path, trusted: bool, custom: dict[str, Any]) -> keras.Model:
    try:
        return keras.models.load_model(path, custom_objects=custom, compile=False, safe_mode=not trusted)
    except Exception as error:
        # Keras says it in many ways and types; each means that this file gives no model here.
        unknown = unknown_class(error)
        if unknown:
            raise UnusableModel(
                f"{path} uses {unknown!r}, which is not part of Keras {keras.__version__}. "
                'If it is yours, name the Python file that defines it: model.custom = "FILE.py".'
            ) from None
        if is_unsafe(error):
            raise UnusableModel(
                f"{path} asks for more than Keras allows a file it does not trust ({one_line(error)}). "
                "If you trust the file, set model.trusted = true."
            ) from None
        raise UnusableModel(
            f"{path} cannot be loaded by Keras {keras.__version__} ({one_line(error)}). Save the model again with this Keras."
        ) from None
