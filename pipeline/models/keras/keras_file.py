"""`file:X.keras` and `file:X.h5`: whole models as Keras saved them, loaded without running code that they carry."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import keras

from pipeline.compiled.keras_private import error_inside, shared_objects, unknown_class, weights_limited
from pipeline.errors import MissingInput, UnusableModel, one_line
from pipeline.models.head import LOSSES, OutputSpec
from pipeline.models.image_network import ImageNetwork
from pipeline.models.keras.allowed import judge
from pipeline.models.keras.custom import custom_objects
from pipeline.models.keras.functional import FunctionalReader
from pipeline.models.keras.keras2 import STAND_INS, Keras2Form, without_compilation
from pipeline.models.keras.keras2_calls import ADVICE
from pipeline.models.keras.model import keras_reader
from pipeline.models.keras.model_file import ModelFile, clipped, opened_model_file
from pipeline.models.keras.stem import infer_preprocessing
from pipeline.models.keras.weights import layers_within, restore_weights
from pipeline.models.network import Setting
from pipeline.spec.model import ModelSpec

# What TensorFlow takes as a name scope, which is where it runs each layer.
_SCOPE = re.compile(r"[A-Za-z0-9.][A-Za-z0-9_.\\/>-]*")


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
    custom = {} if spec.custom is None else custom_objects(Path(spec.custom))
    with opened_model_file(where) as file:
        model = _model(file, custom, spec.trusted)
    return network_of(model, where.stem, str(where), spec, _saved_loss(file.compiled))


def open_live(model: keras.Model, spec: ModelSpec) -> ImageNetwork:
    """A model in memory, by the same rules as one in a file. Raises: UnusableModel, WrongSpec."""
    loss = getattr(model, "loss", None)
    loss = loss if isinstance(loss, str) else getattr(loss, "name", None)
    return network_of(model, model.name, model.name, spec, loss if loss in LOSSES else None)


def network_of(model: keras.Model, name: str, where: str, spec: ModelSpec, loss: str | None) -> ImageNetwork:
    """The network of a model.

    Args:
        where: as errors call it.
        loss: that it was compiled with, where it tells what the outputs are.
    """
    reader = keras_reader(model, name, spec.size, spec.inputs)
    mode: str | Setting = spec.preprocess
    if mode == "auto" and isinstance(reader, FunctionalReader) and "int" not in reader.takes:
        mode = infer_preprocessing(reader, where)
    return ImageNetwork(reader, name, mode, OutputSpec.of(spec, loss=loss))


def load_model(path: Path, custom: dict[str, Any], *, trusted: bool = False) -> keras.Model:
    """The model that a file of Keras 2 or 3 holds, with its weights; nothing that the file carries is run unless `trusted`.

    Keras gets the description once every name in it is on the list of what computes, in its own present form, and
    never the file's own layers of other descriptions: compiled losses, optimizers, assets.

    Args:
        custom: the user's own classes and functions by name; those that the process has registered with Keras are added.

    Raises: UnusableModel.
    """
    with opened_model_file(path) as file:
        return _model(file, custom, trusted)


def _saved_loss(compiled: Any) -> str | None:
    """The loss that a model was compiled with, where it is one that tells what the outputs are; nothing in the file is run."""
    loss = compiled.get("loss") if isinstance(compiled, dict) else None
    while isinstance(loss, dict):  # Keras writes a class and its settings, or a function and its name
        settings = loss.get("config")
        loss = settings if loss.get("class_name") == "function" or not loss.get("class_name") else loss["class_name"]
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", loss).lower() if isinstance(loss, str) else ""
    return name if name in LOSSES else None


def _missing_name(error: BaseException | None) -> str | None:
    """The name that code in the file looked up in vain, where that is what went wrong."""
    while error is not None and not isinstance(error, NameError):
        error = error.__context__
    return None if error is None else error.name


def _model(file: ModelFile, custom: dict[str, Any], trusted: bool) -> keras.Model:
    path = file.path
    known = {**keras.saving.get_custom_objects(), **custom}
    if path.suffix != ".keras" or file.keras == 2:
        config = Keras2Form(str(path), file.keras == 2, known.keys()).model(file.config)
        known |= STAND_INS if file.keras == 2 else {}
    else:
        config = without_compilation(file.config)
    if not trusted:
        judge(config, str(path), known.keys(), ADVICE if file.keras == 2 else "")
    try:
        with shared_objects(), weights_limited(file.numbers):
            model = keras.saving.deserialize_keras_object(config, custom_objects=known, safe_mode=not trusted)
        if not isinstance(model, keras.Model):
            raise ValueError(f"it describes a {type(model).__name__}, not a model")
        restore_weights(model, file)
    except Exception as error:
        # Keras says it in many ways and types; each means that this file gives no model here.
        unknown = unknown_class(error)
        if unknown:
            raise UnusableModel(
                f"{path} uses {clipped(unknown)}, which is not part of Keras {keras.__version__}. "
                'If it is yours, name the Python file that defines it: model.custom = "FILE.py".'
            ) from None
        missing = _missing_name(error)
        if missing is not None:
            raise UnusableModel(
                f"{path} has a Lambda that uses {clipped(missing)}, which the file does not hold. In the program that made "
                'the model, write model.export("FOLDER"), and name "savedmodel:FOLDER" in model.source.'
            ) from None
        advice = ADVICE if file.keras == 2 else "save it again with the Keras that wrote it, in its newest version"
        raise UnusableModel(
            f"{path} cannot be loaded by Keras {keras.__version__} ({one_line(error_inside(error))}): {advice}."
        ) from None
    wrong = next((layer.name for layer in layers_within(model) if not _SCOPE.fullmatch(layer.name)), None)
    if wrong is not None:
        raise UnusableModel(
            f"{path} has a layer named {clipped(wrong)}, which TensorFlow refuses. Give it a name of letters, digits and _ . - / "
            "and save the model again."
        )
    return model
