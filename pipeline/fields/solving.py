"""The receptive fields of a network's layers: recfield's solver on the network's own trace."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from pipeline.errors import FieldUnsolved
from pipeline.fields.cache import FieldCache
from pipeline.models.network import LayerInfo, Network, in_groups
from recfield import ReceptiveField, UnsolvableField

_MOST_BYTES = 500_000_000  # of maps that one batch of probes may fill
_LEAST_BATCH, _MOST_BATCH = 8, 16  # probes in a batch; fewer only where a single layer is too large


def solve_fields(network: Network, layers: Sequence[LayerInfo], cache: FieldCache | None = None) -> dict[str, ReceptiveField]:
    """The fields of some layers, by name; as `solve_in_groups`. Raises: FieldUnsolved."""
    return {name: field for group in solve_in_groups(network, layers, cache) for name, field in group.items()}


def solve_in_groups(
    network: Network, layers: Sequence[LayerInfo], cache: FieldCache | None = None, unsolved: dict[str, str] | None = None
) -> Iterator[dict[str, ReceptiveField]]:
    """The fields of any number of layers, group by group; each group's layers come from one pass of probes.

    A solved field keeps its group's probes: memory stays bounded where a group is dropped before the next is asked for.

    Args:
        cache: what was solved before is read there, and what is solved now is kept there.
        unsolved: the layers whose field cannot be solved are left out of their group, and named there, each with the reason.

    Raises: FieldUnsolved, without `unsolved`.
    """
    for group in in_groups(layers, _MOST_BYTES // (4 * _LEAST_BATCH) - int(np.prod(network.input_shape))):
        known = {layer.name: _known(network, layer, cache) for layer in group}
        unknown = [layer for layer in group if known[layer.name] is None]
        solved = _solve_most(network, unknown, unsolved)
        if cache:
            for layer in unknown:
                if layer.name in solved:
                    cache.write(layer, solved[layer.name].boxes)
        fields = {layer.name: known[layer.name] or solved.get(layer.name) for layer in group}
        yield {name: field for name, field in fields.items() if field is not None}


def _known(network: Network, layer: LayerInfo, cache: FieldCache | None) -> ReceptiveField | None:
    boxes = cache.read(layer) if cache else None
    if boxes is None:
        return None
    height, width, _ = network.input_shape
    return ReceptiveField.of_boxes(boxes, (height, width), lambda: _solve(network, [layer])[layer.name])


def _solve_most(network: Network, layers: Sequence[LayerInfo], unsolved: dict[str, str] | None) -> dict[str, ReceptiveField]:
    """The fields of all layers but those at fault, which are named in `unsolved`. Raises: FieldUnsolved, without `unsolved`."""
    while layers:
        try:
            return _solve(network, layers)
        except FieldUnsolved as error:
            if unsolved is None:
                raise
            cause = error.__cause__
            names = cause.layers if isinstance(cause, UnsolvableField) else ()
            at_fault = [layer for layer in layers if layer.name in names] or layers
            unsolved |= dict.fromkeys((layer.name for layer in at_fault), str(cause or error.args[0]))
            layers = [layer for layer in layers if layer not in at_fault]
    return {}


def _solve(network: Network, layers: Sequence[LayerInfo]) -> dict[str, ReceptiveField]:
    import tensorflow as tf

    from pipeline.compiled.cpu_session import in_session
    from pipeline.compiled.devices import cpu_threads
    from pipeline.compiled.layer_graph import layer_graph
    from pipeline.compiled.microbatches import microbatch_size

    height, width, channels = network.input_shape
    floats = height * width * channels + sum(int(np.prod(layer.shape)) for layer in layers)
    most = int(np.clip(_MOST_BYTES // (4 * floats), 2, _MOST_BATCH))
    batch = microbatch_size(network, most)
    in_flight = most // batch
    images = tf.TensorSpec((batch, height, width, channels), tf.float32)
    graph = layer_graph(network, images, [layer.name for layer in layers])

    def read(images: tf.Tensor) -> dict[str, tf.Tensor]:
        # Before its clamps a layer shows what it depends on also where no random image takes it off them.
        return {name: layer.raw for name, layer in graph(images).items()}

    # On the CPU, where there is a GPU too: cuDNN's Winograd and FFT convolutions let rounding leak out of a unit's window,
    # which is no dependence, but repeats to the bit. A core runs a whole batch, while another evaluates the last one.
    threads = cpu_threads()
    run = in_session(read, [images], threads, -(-threads // in_flight), few_calls=True)

    try:
        return ReceptiveField.of_layers((batch, height, width, channels), run, in_flight)
    except tf.errors.OpError as error:
        reason = error.message.partition("[[")[0].strip()
        raise FieldUnsolved(f"{network.name}: fields are solved on the CPU, which cannot run this network: {reason}") from None
    except UnsolvableField as error:
        raise FieldUnsolved(f"{network.name}: {type(error).__name__}: {error}") from error


def as_ratio(stride: float) -> str:
    """A stride as people read it: a whole number, or a ratio such as 32/31."""
    return str(Fraction(stride).limit_denominator(1000))


def field_columns(layers: Sequence[LayerInfo], fields: Mapping[str, ReceptiveField]) -> dict[str, list[Any]]:
    """The columns of index/fields.parquet, for the fields of some layers by name."""
    solved = [fields[layer.name] for layer in layers]
    return {
        "layer": [layer.name for layer in layers],
        "height": [field.size[0] for field in solved],
        "width": [field.size[1] for field in solved],
        "stride_y": [field.stride[0] for field in solved],
        "stride_x": [field.stride[1] for field in solved],
        "map_height": [layer.shape[0] for layer in layers],
        "map_width": [layer.shape[1] for layer in layers],
        "global": [field.is_global for field in solved],
    }
