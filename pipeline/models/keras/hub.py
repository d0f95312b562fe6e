"""`hub:PRESET_OR_DIR`: image classifiers, backbones and vision towers of keras-hub, with the preprocessing they bring along."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np

from pipeline.errors import MissingInput, UnusableModel, WrongSpec, one_line
from pipeline.models.head import OutputSpec
from pipeline.models.image_network import ImageNetwork
from pipeline.models.keras.allowed import judge
from pipeline.models.keras.keras_file import load_model
from pipeline.models.keras.model import keras_reader
from pipeline.models.keras.model_file import opened_weights, read_description
from pipeline.models.network import Setting
from pipeline.models.preprocessing import MODES
from pipeline.spec.model import ModelSpec

_TOWERS = ("vision_encoder", "image_encoder", "vision_tower")  # of networks that take texts too
_DESCRIPTIONS = ("task.json", "config.json", "preprocessor.json", "image_converter.json", "tokenizer.json")


def open_hub(name: str, spec: ModelSpec) -> ImageNetwork:
    """A network of keras-hub: a preset's folder, a task saved as a .keras file, or a preset's name, which is downloaded.

    Of a network that takes texts too, such as CLIP, the part that takes images is read.

    Raises: MissingInput, UnusableModel, WrongSpec.
    """
    import keras_hub

    path = Path(name)
    model = load_model(path, {}, trusted=spec.trusted) if path.suffix == ".keras" else _preset(keras_hub, name, spec.trusted)
    converter = getattr(getattr(model, "preprocessor", None), "image_converter", None)
    if not spec.top:
        model = getattr(model, "backbone", model)
    tower = next((getattr(model, part) for part in _TOWERS if getattr(model, part, None) is not None), None)
    model = model if tower is None else tower
    short = path.stem if path.exists() else name.rstrip("/").rpartition("/")[2]
    size = spec.size
    converter_size = getattr(converter, "image_size", None)
    if size is None and converter_size and None in tuple(model.input_shape[1:3]):
        size = (int(converter_size[0]), int(converter_size[1]))
    mode: str | Setting = spec.preprocess if spec.preprocess != "auto" else _preprocessing(converter, name)
    return ImageNetwork(keras_reader(model, short, size), short, mode, OutputSpec.of(spec), name)


def _preset(hub: Any, name: str, trusted: bool) -> keras.Model:
    """The classifier that a preset is, else its backbone."""
    path = Path(name)
    if path.is_dir():
        judge_preset(path, trusted)
    elif path.is_file():
        raise MissingInput(f"{name} is a file, but neither a .keras task nor a preset's folder. Name one of these.")
    is_task = not path.is_dir() or (path / "task.json").is_file()
    reasons = []
    for kind in ((hub.models.ImageClassifier,) if is_task else ()) + (hub.models.Backbone,):
        try:
            model: keras.Model = kind.from_preset(name)
            return model
        except Exception as error:  # keras-hub and what it downloads by fail in many types
            reasons.append(one_line(error))
    kind_of_error = UnusableModel if path.is_dir() else MissingInput
    raise kind_of_error(f"keras-hub cannot open the preset {name!r} ({reasons[-1]}). Name a preset, or the folder of one.")


def judge_preset(path: Path, trusted: bool) -> None:
    """Refuse a preset's folder whose descriptions ask for more than keras-hub's own classes, and one without any.

    Descriptions and weights are held against the bounds of model files first.

    Raises: MissingInput, UnusableModel.
    """
    for file in _DESCRIPTIONS:
        if (path / file).is_file():
            config = read_description(path / file)
            if not trusted:
                judge(config, str(path / file), {*keras.saving.get_custom_objects(), "Task", "Preprocessor"})
    for weights in sorted(path.glob("*.h5")):
        with opened_weights(weights):
            pass
    if not (path / "config.json").is_file():
        raise MissingInput(f"{path} holds no config.json, so it is no preset of keras-hub. Name what save_to_preset wrote.")


def _preprocessing(converter: Any, where: str) -> Setting:
    """The mode that does what the network's own image converter does to the values of pixels. Raises: WrongSpec."""
    asked = f"Name it in model.preprocess: {', '.join(MODES)}."
    if converter is None:
        raise WrongSpec(f"{where} brings no preprocessor, so what it wants done to its pixels is not known. {asked}")
    scale, offset = (_vector(getattr(converter, key, None), default) for key, default in (("scale", 1.0), ("offset", 0.0)))
    pixels = np.random.default_rng(0).uniform(0, 255, (1, 8, 8, 3)).astype(np.float32)
    expected = pixels * scale + offset
    for mode, prepare in MODES.items():
        prepared = np.asarray(prepare(keras.ops.convert_to_tensor(pixels)))
        if np.allclose(prepared, expected, rtol=1e-3, atol=1e-2 * np.abs(scale).max()):
            return Setting(mode, "as the network's own preprocessor does")
    raise WrongSpec(
        f"the preprocessor of {where} scales pixels by {scale.ravel().tolist()} and adds {offset.ravel().tolist()}, "
        f"which no mode does. {asked}"
    )


def _vector(value: Any, default: float) -> np.ndarray:
    return np.asarray(default if value is None else value, np.float32).reshape(-1)
