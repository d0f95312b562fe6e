"""The calls inside functional models of Keras 2, in the form that Keras 3 reads, TensorFlow's functions included."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pipeline.errors import UnusableModel
from pipeline.models.keras.keras2_functions import FUNCTIONS, Call, UntranslatedCall
from pipeline.models.keras.model_file import clipped

ADVICE = 'load it with tf-keras, write model.export("FOLDER"), and name "savedmodel:FOLDER" in model.source'

_MODELS = ("Functional", "Model", "Sequential")
_AWAKE = ("BatchNormalization", "SyncBatchNormalization", "Gaussian", "Random")  # how the names begin of what training changes
_AWAKE_ENDS = ("Dropout", "Dropout1D", "Dropout2D", "Dropout3D")
_FUNCTION_LAYERS = ("TFOpLambda", "SlicingOpLambda", "ClassMethod", "InstanceMethod", "InstanceProperty")


def is_keras2_graph(layers: list[dict[str, Any]]) -> bool:
    """Whether the layers of a functional model say what they are called with as Keras 2 did: in lists."""
    return any(isinstance(node, list) for layer in layers for node in layer.get("inbound_nodes", []))


def modern_calls(path: str, layers: list[dict[str, Any]], outputs: list[Any]) -> tuple[list[dict[str, Any]], list[Any]]:
    """The layers of a functional model and its outputs, with calls as Keras 3 writes them.

    Args:
        path: the file, for the errors.
        layers: each with `inbound_nodes`: calls, each of which lists tensors as [layer, call, output, other arguments].
        outputs: tensors as [layer, call, output].

    Raises: UnusableModel, for functions without a translation; KeyError, TypeError or IndexError, for what is no graph.
    """
    names = {layer["name"] for layer in layers}
    calls = {name: {call for other, call in _references([*layers, outputs], names) if other == name} for name in names}
    # A nested model of Keras 2 has been called once before: when it was made.
    nested = {layer["name"]: layer["class_name"].split(">")[-1] for layer in layers if "layers" in (layer.get("config") or {})}
    graph = _Graph(path, names, frozenset(name for name in nested if 0 not in calls[name]))
    # Keras 3 counts the outputs of nested functional models, and nothing else, from 1.
    named = [
        [name, graph.call(name, call) + (name in nested and nested[name] != "Sequential"), index]
        for name, call, index in _tensors(outputs)
    ]
    return [graph.modern(layer) for layer in layers], named


@dataclass(frozen=True)
class _Graph:
    """names: of all layers; called_before: the nested models whose calls are counted from 1."""

    path: str
    names: set[str]
    called_before: frozenset[str]

    def call(self, name: str, index: int) -> int:
        return index - (name in self.called_before)

    def modern(self, layer: dict[str, Any]) -> dict[str, Any]:
        if layer["class_name"] in _FUNCTION_LAYERS:
            return self._operation(layer)
        if any(_options(node).get("training") for node in layer["inbound_nodes"]) and _is_awake(layer):
            raise UnusableModel(
                f"{self.path} calls its layer {clipped(layer['name'])} with training=True, so that answers are random or depend "
                "on the other images of the batch. Build the network with training=False, load these weights, and save that."
            )
        return {**layer, "inbound_nodes": [self._node(node) for node in layer["inbound_nodes"]]}

    def _node(self, node: Any) -> Any:
        """A call of a layer: its tensors are one argument, alone or in a list."""
        tensors = [self._tensor(reference) for reference in _tensors(node)]
        return {"args": [tensors[0] if len(tensors) == 1 else tensors], "kwargs": self._revived(_options(node))}

    def _operation(self, layer: dict[str, Any]) -> dict[str, Any]:
        """A call of a function of TensorFlow: the operation of Keras that computes the same."""
        name, function = layer["name"], layer["config"].get("function") or layer["config"].get("cls_symbol")
        where = f"{self.path} calls {clipped(f'tf.{function}')} in its layer {clipped(name)}"
        translate = FUNCTIONS.get(function) if layer["class_name"] in ("TFOpLambda", "SlicingOpLambda") else None
        if translate is None or len(layer["inbound_nodes"]) != 1:
            raise UnusableModel(f"{where}, which convscope does not know from Keras 2: {ADVICE}.")
        node = layer["inbound_nodes"][0]
        is_list = not isinstance(node[0], str)
        tensors = [self._tensor(reference) for reference in _tensors(node)]
        dtype = layer["config"].get("dtype", "float32")
        dtype = dtype["config"]["name"] if isinstance(dtype, dict) else dtype
        options = {key: self._revived(value) for key, value in _options(node).items() if value is not None and key != "name"}
        try:
            translated = translate(Call(tensors if is_list else tensors[0], options, str(dtype).removeprefix("mixed_")))
        except UntranslatedCall as error:
            raise UnusableModel(f"{where} {error}, which convscope does not know from Keras 2: {ADVICE}.") from None
        return {
            "module": translated.module,
            "class_name": translated.name,
            "config": {"name": name, **translated.settings},
            "registered_name": None,
            "name": name,
            "inbound_nodes": [{"args": translated.arguments, "kwargs": {}}],
        }

    def _tensor(self, reference: Any) -> Any:
        if reference[0] == "_CONSTANT_VALUE":
            return reference[2]
        name, call, index = reference[:3]
        history = [name, self.call(name, call), index]
        # Keras looks the tensor up by its history; shape and dtype are only to be there.
        return {"class_name": "__keras_tensor__", "config": {"shape": [None], "dtype": "float32", "keras_history": history}}

    def _revived(self, value: Any) -> Any:
        """Arguments with the tensors among them."""
        if isinstance(value, dict):
            return {key: self._revived(item) for key, item in value.items()}
        if not isinstance(value, list):
            return value
        return self._tensor(value) if _is_reference(value, self.names) else [self._revived(item) for item in value]


def _is_awake(layer: dict[str, Any]) -> bool:
    """Whether a layer, or one inside of it, computes otherwise in training."""
    if layer["class_name"].startswith(_AWAKE) or layer["class_name"].endswith(_AWAKE_ENDS):
        return True
    config = layer.get("config")
    inside = config.get("layers", [config.get("layer")]) if isinstance(config, dict) else config
    return any(_is_awake(inner) for inner in inside or [] if isinstance(inner, dict) and "class_name" in inner)


def _tensors(node: Any) -> list[Any]:
    """The tensors of a call: itself, where it is only one, or each of its items."""
    return [node] if isinstance(node[0], str) else list(node)


def _options(node: Any) -> dict[str, Any]:
    first = _tensors(node)[0]
    return first[3] if len(first) > 3 else {}


def _is_reference(value: list[Any], names: set[str]) -> bool:
    # `all`, with the class: True is an integer as well.
    return (
        len(value) in (3, 4)
        and value[0].__class__ is str
        and value[0] in names
        and all(type(index) is int for index in value[1:3])
    )


def _references(value: Any, names: set[str]) -> Iterator[tuple[str, int]]:
    """Every tensor that the layers of a graph and its outputs name, as (layer, call)."""
    if isinstance(value, list):
        if _is_reference(value, names):
            yield value[0], value[1]
        for item in value:
            yield from _references(item, names)
    elif isinstance(value, dict):
        for key, item in value.items():
            if key != "config":  # a nested model has names of its own
                yield from _references(item, names)
