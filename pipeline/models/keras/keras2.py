"""Descriptions of models as Keras 2 wrote them, and Keras 3 writes them to .h5, in the form that Keras 3 reads.

Nothing is run: JSON becomes other JSON. What initializes, regularizes or constrains weights is left out, because the weights
themselves are in the file. Where a legacy setting means something that Keras 3 does not have, the file is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

import keras

from pipeline.errors import UnusableModel
from pipeline.models.keras.allowed import APPLICATIONS, LAYERS, OPERATIONS, is_operation
from pipeline.models.keras.keras2_calls import ADVICE, is_keras2_graph, modern_calls
from pipeline.models.keras.model_file import clipped

_NESTED = ("layer", "backward_layer", "cell")
_RECURRENT = ("RNN", "LSTM", "GRU", "SimpleRNN", "ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D", "Bidirectional")
_RANDOM = ("RandomBrightness", "RandomContrast", "RandomFlip", "RandomRotation", "RandomTranslation", "RandomZoom")


@dataclass(frozen=True)
class Spelling:
    """One way in which Keras 2 spelled what Keras 3 spells otherwise.

    layers: the classes that have it; empty for every class.
    key: of the layer's configuration.
    becomes: the new key; None where the key is left out.
    only: the values for which leaving it out changes nothing; None where no value matters.
    convert: the new value, where the key stays or changes its name.
    """

    layers: tuple[str, ...]
    key: str
    becomes: str | None = None
    only: tuple[Any, ...] | None = None
    convert: Callable[[Any], Any] = lambda value: value


SPELLINGS = (
    Spelling(("InputLayer",), "batch_input_shape", "batch_shape"),
    Spelling(("InputLayer",), "ragged", only=(False, None)),
    Spelling(("InputLayer",), "type_spec", only=(None,)),
    Spelling(("DepthwiseConv2D", "DepthwiseConv1D", "SeparableConv2D", "SeparableConv1D"), "groups", only=(1,)),
    Spelling(("Conv2DTranspose", "Conv1DTranspose", "Conv3DTranspose"), "groups", only=(1,)),
    Spelling(_RECURRENT, "time_major", only=(False,)),
    Spelling(_RECURRENT, "implementation"),
    Spelling(("LeakyReLU",), "alpha", "negative_slope"),
    Spelling(_RANDOM, "rng_type"),
    Spelling(("MultiHeadAttention",), "query_shape"),
    Spelling(("MultiHeadAttention",), "key_shape"),
    Spelling(("MultiHeadAttention",), "value_shape"),
    Spelling(("MultiHeadAttention",), "softmax_robust_masking", only=(False,)),
    Spelling(("Attention", "AdditiveAttention"), "causal", only=(False,)),
    Spelling(
        ("BatchNormalization",),
        "axis",
        "axis",
        convert=lambda axis: axis[0] if isinstance(axis, list) and len(axis) == 1 else axis,
    ),
    Spelling(("BatchNormalization",), "renorm", only=(False,)),
    Spelling(("BatchNormalization",), "renorm_clipping", only=(None,)),
    Spelling(("BatchNormalization",), "renorm_momentum"),
    Spelling(("BatchNormalization",), "virtual_batch_size", only=(None,)),
    Spelling(("BatchNormalization",), "adjustment", only=(None,)),
    Spelling(("BatchNormalization",), "fused"),
    Spelling((), "batch_input_shape"),  # the input of a Sequential, which becomes a layer of its own
    Spelling((), "input_dtype"),
)

# Classes under another name, and those that do nothing once a network is trained.
CLASSES = {
    "Model": "Functional",
    "SyncBatchNormalization": "BatchNormalization",
    "BatchNormalizationV1": "BatchNormalization",
    "BatchNormalizationV2": "BatchNormalization",
    "RandomHeight": "Identity",
    "RandomWidth": "Identity",
    "RandomCrop": "Resizing",  # Keras 3 cuts out the middle in its place
}

# TensorFlow's functions, as activations, under the names that they have inside of it.
ACTIVATIONS = {"softmax_v2": "softmax", "log_softmax_v2": "log_softmax", "relu_v2": "relu", "hard_sigmoid": "keras2_hard_sigmoid"}


def hard_sigmoid(x: Any) -> Any:
    """Keras 2's: clip(0.2 x + 0.5, 0, 1). Keras 3 gave the name to another function, relu6(x + 3) / 6."""
    return keras.ops.clip(0.2 * x + 0.5, 0.0, 1.0)


class ThresholdedReLU(keras.layers.Layer):  # type: ignore[misc]
    """Keras 2's layer of that name, which Keras 3 lacks: x where it is above `theta`, else 0."""

    def __init__(self, theta: float = 1.0, **options: Any) -> None:
        super().__init__(**options)
        self.theta = theta

    def call(self, inputs: Any) -> Any:
        return keras.ops.threshold(inputs, self.theta, 0.0)


# What stands for parts of Keras 2 that Keras 3 lacks or computes otherwise; Keras finds them by these names.
STAND_INS: dict[str, Any] = {
    "keras2_hard_sigmoid": hard_sigmoid,
    "ThresholdedReLU": ThresholdedReLU,
}


@dataclass(frozen=True)
class Keras2Form:
    """How one description is read: its file, whether Keras 2 wrote it, and the classes that the user's own code defines."""

    path: str
    keras2: bool
    custom: Collection[str]

    def model(self, config: Any) -> Any:
        """A model's description in Keras 3's form. Raises: UnusableModel."""
        config = without_compilation(config)
        return self._entry(_without_slashes(config) if self.keras2 else config)

    def _entry(self, entry: Any) -> Any:
        """A layer or model, and what is inside of it."""
        if not isinstance(entry, dict) or not isinstance(entry.get("class_name"), str):
            raise UnusableModel(f"{self.path} describes a layer as {clipped(entry)}. Save the model again.")
        name, inner = str(entry["class_name"]), entry.get("config")
        if entry["class_name"] in self.custom or entry.get("registered_name") in self.custom:
            registration = {"module": None, "registered_name": entry.get("registered_name") or entry["class_name"]}
            if isinstance(inner, dict) and "layers" in inner:
                as_model = self._functional if "input_layers" in inner else self._sequential
                return {**entry, **registration, "config": {**inner, **as_model(entry, dict(inner))["config"]}}
            return {**entry, **registration}
        name = CLASSES.get(name, name) if self.keras2 or name == "Model" else name
        if name == "Sequential":
            return self._sequential(entry, {"layers": inner} if isinstance(inner, list) else inner)
        if not isinstance(inner, dict):
            raise UnusableModel(f"{self.path} says nothing of its {clipped(name)}. Save the model again.")
        if name == "Functional":
            return self._functional(entry, dict(inner))
        if self.keras2 and name in STAND_INS:
            return {**entry, "module": None, "registered_name": name}
        if name in APPLICATIONS:
            return {**entry, "module": APPLICATIONS[name], "registered_name": None}
        known = name in LAYERS or name == "Lambda"
        translated: dict[str, Any] = {**entry, "class_name": name}
        if not known and not is_operation(translated):
            return translated
        translated |= {
            "module": "keras.layers" if known and not is_operation(translated) else OPERATIONS[name],
            "registered_name": None
            if translated.get("registered_name") in (None, name, entry["class_name"])
            else translated["registered_name"],
        }
        translated["config"] = self._settings(entry["class_name"], name, inner) if known else inner
        if self.keras2:
            translated.pop("build_config", None)
        return translated

    def _settings(self, spelled: str, name: str, inner: dict[str, Any]) -> dict[str, Any]:
        """A layer's configuration."""
        config = {key: value for key, value in inner.items() if not key.endswith(("_initializer", "_regularizer", "_constraint"))}
        for key in _NESTED:
            if isinstance(config.get(key), dict) and "class_name" in config[key]:
                config[key] = self._entry(config[key])
        cells = config.get("cells" if name == "StackedRNNCells" else "cell")
        if isinstance(cells, list):
            config["cells" if name == "StackedRNNCells" else "cell"] = [self._entry(cell) for cell in cells]
        if not self.keras2:
            return config
        if name == "Lambda":
            return _lambda(config)
        if name == "Identity" and spelled != name:
            return {"name": config.get("name")}
        if spelled == "RandomCrop":
            return {key: config.get(key) for key in ("name", "height", "width")} | {"crop_to_aspect_ratio": True}
        for spelling in SPELLINGS:
            if spelling.key in config and (name in spelling.layers or not spelling.layers):
                value = config.pop(spelling.key)
                if spelling.becomes:
                    config.setdefault(spelling.becomes, spelling.convert(value))
                elif spelling.only is not None and value not in spelling.only:
                    raise UnusableModel(
                        f"{self.path} sets {spelling.key} = {clipped(value)} in its layer {clipped(inner.get('name'))}, "
                        f"which Keras 3 does not have: {ADVICE}."
                    )
        if name == "InputLayer":
            config.setdefault("batch_shape", None)
        if "dtype" in config:
            config["dtype"] = _dtype(config["dtype"])
        for key in ("activation", "recurrent_activation"):
            if isinstance(config.get(key), str):
                config[key] = _activation(config[key])
        return config

    def _sequential(self, entry: dict[str, Any], inner: Any) -> dict[str, Any]:
        layers = inner.get("layers") if isinstance(inner, dict) else None
        if not isinstance(layers, list) or not layers:
            raise UnusableModel(f"{self.path} has a Sequential without layers. Save the model again.")
        entries = [self._entry(layer) for layer in layers]
        shape = _input_shape(layers[0])
        if self.keras2 and shape and entries[0]["class_name"] != "InputLayer":
            entries.insert(
                0,
                {"module": "keras.layers", "class_name": "InputLayer", "config": {"batch_shape": shape}, "registered_name": None},
            )
        config: dict[str, Any] = {"name": inner.get("name", "sequential"), "layers": entries}
        if "build_input_shape" in inner and not shape and entries[0]["class_name"] != "InputLayer":
            config["build_input_shape"] = inner["build_input_shape"]
        return _model(entry, "keras", "Sequential", config)

    def _functional(self, entry: dict[str, Any], inner: dict[str, Any]) -> dict[str, Any]:
        for key in ("input_layers", "output_layers"):
            if self.keras2 and isinstance(inner.get(key), dict):  # they have names, which those of their layers stand for
                inner[key] = list(inner[key].values())
        if not all(isinstance(inner.get(key), list) for key in ("layers", "input_layers", "output_layers")):
            raise UnusableModel(
                f"{self.path} holds a {clipped(entry['class_name'])} without layers: a class of its author's own. "
                'Name the Python file that defines it: model.custom = "FILE.py".'
            )
        layers = inner["layers"]
        try:
            if is_keras2_graph(layers):
                layers, inner["output_layers"] = modern_calls(self.path, layers, inner["output_layers"])
                for key in ("input_layers", "output_layers"):
                    # One in a list was the tensor itself.
                    inner[key] = inner[key][0] if len(inner[key]) == 1 else inner[key]
            entries = [{**self._entry(layer), "name": layer["name"], "inbound_nodes": layer["inbound_nodes"]} for layer in layers]
        except (KeyError, TypeError, IndexError, AttributeError, ValueError) as error:
            raise UnusableModel(
                f"{self.path} describes its layers in a form that is not Keras's ({clipped(error)}): {ADVICE}."
            ) from None
        config: dict[str, Any] = {key: inner[key] for key in ("name", "trainable", "input_layers") if key in inner}
        return _model(
            entry,
            "keras.src.models.functional",
            "Functional",
            {**config, "layers": entries, "output_layers": inner["output_layers"]},
        )


def plain_names(config: Any) -> dict[str, str]:
    """The names of layers in a description that hold "/", which Keras 3 refuses, and what they become: "_" for each."""
    names = dict.fromkeys(_layer_names(config))
    renamed: dict[str, str] = {}
    for name in names:
        if "/" in name:
            plain = name.replace("/", "_")
            while plain in names or plain in renamed.values():
                plain += "_"
            renamed[name] = plain
    return renamed


def _without_slashes(config: Any) -> Any:
    """A description with the names of `plain_names` wherever one stands."""
    renamed = plain_names(config)

    def rename(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: rename(item) for key, item in value.items()}
        if isinstance(value, list):
            return [rename(item) for item in value]
        return renamed.get(value, value) if isinstance(value, str) else value

    return rename(config) if renamed else config


def _layer_names(value: Any) -> Iterator[str]:
    """The names of the layers in a description, at any depth."""
    if isinstance(value, dict):
        named = (value.get("name"), value["config"].get("name") if isinstance(value.get("config"), dict) else None)
        yield from (name for name in named if "class_name" in value and isinstance(name, str))
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _layer_names(item)


def _model(entry: dict[str, Any], module: str, name: str, config: dict[str, Any]) -> dict[str, Any]:
    registration = {"module": module, "class_name": name, "registered_name": None}
    return {
        **registration,
        "config": config,
        **{key: entry[key] for key in ("build_config", "name", "shared_object_id") if key in entry},
    }


def _input_shape(layer: Any) -> Any:
    """The shape that the first layer of a Sequential asks for, the batch included; None where it does not say."""
    config = layer.get("config") if isinstance(layer, dict) else None
    inside = config if isinstance(config, list) else config.get("layers") if isinstance(config, dict) else None
    if isinstance(inside, list) and inside:
        return _input_shape(inside[0])
    return (config.get("batch_input_shape") or config.get("batch_shape")) if isinstance(config, dict) else None


def _lambda(config: dict[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {
        key: config[key] for key in ("name", "trainable", "function", "arguments", "output_shape", "mask") if key in config
    }
    for key in ("function", "output_shape", "mask"):
        value = kept.get(key)
        if config.get(f"{key}_type") == "lambda" and isinstance(value, list) and len(value) == 3:
            kept[key] = {"class_name": "__lambda__", "config": dict(zip(("code", "defaults", "closure"), value, strict=True))}
        elif key == "function" and isinstance(value, str):
            kept[key] = {"module": "builtins", "class_name": "function", "config": value, "registered_name": value}
    return kept


def _dtype(policy: Any) -> Any:
    """A policy of mixed precision is its name."""
    inner = policy.get("config") if isinstance(policy, dict) else None
    return inner["name"] if isinstance(inner, dict) and isinstance(inner.get("name"), str) else policy


def _activation(name: str) -> Any:
    name = ACTIVATIONS.get(name, name)
    return (
        {"module": "builtins", "class_name": "function", "config": name, "registered_name": name} if name in STAND_INS else name
    )


def without_compilation(value: Any) -> Any:
    """A description without losses and optimizers, with lists for the tuples and shapes that .h5 files mark as such, and with
    numbers for the arrays of NumPy that Keras 2.2 wrote for them."""
    if isinstance(value, list):
        return [without_compilation(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.get("class_name") in ("__tuple__", "TensorShape") and isinstance(value.get("items"), list):
        return [without_compilation(item) for item in value["items"]]
    if value.keys() == {"type", "value"} and value["type"] == "ndarray":
        return value["value"]
    return {key: without_compilation(item) for key, item in value.items() if key != "compile_config"}
