"""Which layers a list of names and globs means, which are chosen where none is named, and the table of all layers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from pipeline.errors import UnknownLayer, UnusableModel
from pipeline.models.network import LayerInfo, Network, UnreadableLayer, own_layers, unknown_layer
from pipeline.store.files import share_files

RULE = "one a stage of the network: the last before each change of resolution, before its activation function"
_SPREAD = 4  # layers of a network whose maps are all of one size
_CHANGE = 1.5  # by what factor a side differs where a new stage begins; unpadded convolutions change it by less
_UNLIKE_A_LAYER = ("pad", "crop", "dropout", "identity", "noise")  # what kinds are called that show what the layer before shows
_NOTHING_LEARNED = ("pool", "resize", "upsampl", "reshape", "transpose")
_ACTIVATIONS = {
    "activation",
    "clip",
    "clipbyvalue",
    "elu",
    "gelu",
    "hardsigmoid",
    "hardswish",
    "hardtanh",
    "leakyrelu",
    "maximum",
} | {
    *("minimum", "prelu", "relu", "relu6", "selu", "sigmoid", "silu", "softplus", "softsign", "swish", "tanh", "thresholdedrelu")
}


def choose_layers(network: Network) -> list[str]:
    """The layers that a job looks at where its spec names none: one a stage of the network, as `RULE` says.

    Only layers with a map count, from the first convolution on, and where there are any, those through which all of the network
    passes: not one of several branches. At a resolution that has none of these, it is the last layer where branches meet. If all
    maps have one size, as in many transformers, four layers evenly spread are chosen; in a network without maps, the last before
    its output.
    """
    layers = own_layers(network)
    order = {layer.name: number for number, layer in enumerate(layers)}
    passed = _passed_over(network, order)
    start = min((order[name] for name in network.convolutions() if name in order), default=0)
    maps = [layer for layer in layers[start:] if _is_map(layer, network) and not _kind_has(layer, _UNLIKE_A_LAYER)]
    stages = _stages([layer for layer in maps if order[layer.name] not in passed])
    if len(stages) < 2:
        stages = max(stages, _stages(maps), key=len)
    if len(stages) == 1:
        (stage,) = stages
        chosen = [stage[round((number + 1) * len(stage) / _SPREAD) - 1] for number in range(min(_SPREAD, len(stage)))]
    else:
        chosen = [stage[-1] for stage in stages if not all(_kind_has(layer, _NOTHING_LEARNED) for layer in stage)]
        for stage in _stages(sorted(maps, key=lambda layer: (-layer.shape[0] * layer.shape[1], order[layer.name]))):
            meeting = [layer for layer in stage if len(network.feeds(layer.name)) > 1]
            if meeting and all(_differ(stage[0], layer) for layer in chosen):
                chosen.append(meeting[-1])
        chosen = sorted(chosen, key=lambda layer: order[layer.name]) or layers[-2:-1] or layers
    by_name = {layer.name: layer for layer in layers}
    return list(dict.fromkeys(_before_activation(network, layer, by_name) for layer in chosen))


def _passed_over(network: Network, order: Mapping[str, int]) -> set[int]:
    """The layers, by number, that some connection leads past: all that do not lie on every way through the network."""
    furthest = [0] * (len(order) + 1)  # of the connections from a layer, where the longest ends
    for name, number in order.items():
        for source in network.feeds(name):
            if source in order:
                furthest[order[source]] = max(furthest[order[source]], number)
    passed, end = set(), 0
    for number in order.values():
        if number < end:
            passed.add(number)
        end = max(end, furthest[number])
    return passed


def _stages(layers: Sequence[LayerInfo]) -> list[list[LayerInfo]]:
    """Consecutive layers whose maps are about as large."""
    stages: list[list[LayerInfo]] = []
    for layer in layers:
        if not stages or _differ(layer, stages[-1][-1]):
            stages.append([])
        stages[-1].append(layer)
    return stages


def _differ(first: LayerInfo, second: LayerInfo) -> bool:
    """Whether the resolution of two layers' maps is not about the same."""
    sides = zip(first.shape[:2], second.shape[:2], strict=True)
    return any(max(pair) >= _CHANGE * min(pair) for pair in sides)


def _is_map(layer: LayerInfo, network: Network) -> bool:
    """Whether a layer has a map of about the input's aspect ratio; matrices of tokens and heads have axes of other meanings."""
    (height, width), (of_input_y, of_input_x) = layer.shape[:2], network.input_shape[:2]
    ratio = height * of_input_x / (width * of_input_y)
    return height * width > 1 and 1 / _CHANGE < ratio < _CHANGE


def _kind_has(layer: LayerInfo, parts: Sequence[str]) -> bool:
    return any(part in layer.kind.lower() for part in parts)


def _before_activation(network: Network, layer: LayerInfo, by_name: Mapping[str, LayerInfo]) -> str:
    """The layer that an activation function is applied to; the layer itself, where it is no activation function."""
    while layer.kind.lower().replace("_", "") in _ACTIVATIONS or _kind_has(layer, _UNLIKE_A_LAYER):
        sources = [by_name[name] for name in network.feeds(layer.name) if name in by_name]
        if len(sources) != 1 or sources[0].shape != layer.shape:
            break
        layer = sources[0]
    return layer.name


def select_layers(network: Network, patterns: Sequence[str]) -> list[LayerInfo]:
    """The layers that any of the names or globs (case counts) match: each once, in the network's order.

    The first output of an operation may be written `op:0`, as TensorFlow does.

    Raises: UnknownLayer, for a name or glob that matches nothing; UnusableModel, where two layers' files would be one.
    """
    layers = network.layers()
    names = [layer.name for layer in layers]
    shared = share_files(names)
    if shared is not None:  # by chance one network in millions, or on purpose
        raise UnusableModel(f"the files of the layers {shared[0]!r} and {shared[1]!r} would have one name. Rename one of them.")
    chosen: set[str] = set()
    for pattern in patterns:
        matches = _matches(pattern, names) or _matches(pattern.removesuffix(":0"), names)
        if not matches:
            raise unknown_layer(network, pattern)
        chosen |= matches
    return [layer for layer in layers if layer.name in chosen]


def select_among(layers: Sequence[LayerInfo], patterns: Sequence[str] | None, key: str) -> list[LayerInfo]:
    """The job's layers that any of the names and globs matches; all of them where none is given.

    Args:
        key: of the spec, for the error.

    Raises: UnknownLayer, for a name or glob that matches nothing.
    """
    names = [layer.name for layer in layers]
    matches = {pattern: {name for name in names if name == pattern or fnmatchcase(name, pattern)} for pattern in patterns or ()}
    for pattern, matched in matches.items():
        if not matched:
            raise UnknownLayer.among(pattern, names, where=f"one of the job's layers ({key})", hint="See model.layers.")
    return [layer for layer in layers if patterns is None or any(layer.name in matched for matched in matches.values())]


def layer_columns(network: Network, chosen: Collection[str]) -> dict[str, list[Any]]:
    """The columns of index/layers.parquet: all layers of a network, what they are made from, whether the job looks at them,
    and why not if it cannot."""
    every = network.every_layer()
    shapes = [layer.shape if isinstance(layer, LayerInfo) else (None, None, None) for layer in every]
    return {
        "layer": [layer.name for layer in every],
        "kind": [layer.kind for layer in every],
        "map_height": [shape[0] for shape in shapes],
        "map_width": [shape[1] for shape in shapes],
        "channels": [shape[2] for shape in shapes],
        "chosen": [isinstance(layer, LayerInfo) and layer.name in chosen for layer in every],
        "feeds": [list(network.feeds(layer.name)) if isinstance(layer, LayerInfo) else None for layer in every],
        "reason": [layer.reason if isinstance(layer, UnreadableLayer) else None for layer in every],
    }


def _matches(pattern: str, names: Sequence[str]) -> set[str]:
    return {pattern} & set(names) or {name for name in names if fnmatchcase(name, pattern)}
