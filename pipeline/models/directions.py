"""Directions as layers: what a network gains by direction sets, compiled into its graph behind the layer that they are of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import tensorflow as tf

from pipeline.errors import UnusableModel, WrongSpec
from pipeline.models.network import LayerInfo, Network
from pipeline.models.tokens.layers import HEADS, TokenLayers, TokenView
from pipeline.store.direction_sets import DirectionSet, load_sets, projected
from pipeline.store.places import place

KIND = "Directions"  # of their layers


def respond(directions: DirectionSet, maps: tf.Tensor) -> tf.Tensor:
    """The responses at every position of a map, as `DirectionSet.respond` defines them: float32 (batch, h, w, directions)."""
    product = _product(maps, directions.encoder)
    if directions.form == "cosine":
        return tf.math.divide_no_nan(product, tf.norm(maps, axis=3, keepdims=True))
    z = product + directions.offset
    if directions.form == "linear":
        return z
    if directions.form == "nonnegative":
        return projected(product, directions.gram(), _product, tf.nn.relu, _uphill)
    if directions.form == "jumprelu":
        return tf.where(z > directions.threshold, z, 0.0)
    z = tf.nn.relu(z)
    if directions.form == "topk":
        floor = tf.reduce_min(tf.math.top_k(z, directions.keep, sorted=False)[0], axis=3, keepdims=True)
        return tf.where(z >= floor, z, 0.0)
    return z


def _product(maps: tf.Tensor, matrix: np.ndarray) -> tf.Tensor:
    # An operation stands between constant and product: it is no weight of the network, which checks of explanations replace.
    return tf.nn.conv2d(maps, tf.ensure_shape(matrix[np.newaxis, np.newaxis], (1, 1, *matrix.shape)), 1, "VALID")


def _uphill(terms: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.reduce_sum(terms, axis=-1, keepdims=True) > 0, tf.float32)


def with_directions(network: Network, folders: Sequence[str]) -> Network:
    """A network with the directions of some jobs' folders as further layers.

    Raises: MissingInput; WrongSpec, for directions of another network, or two sets of one name; UnusableModel.
    """
    sets: dict[str, DirectionSet] = {}
    digest = network.digest()
    for folder in folders:
        for directions in load_sets(place(folder)):
            if directions.network != digest:
                raise WrongSpec(
                    f"the directions {directions.layer!r} of {folder} were fitted to another network, other weights or another "
                    "preprocessing. Run the stage `directions` on this one, or leave the folder out of model.directions."
                )
            if directions.layer in sets:
                raise WrongSpec(f"model.directions names two sets {directions.layer!r}. Leave one of the folders out.")
            sets[directions.layer] = directions
    add = getattr(network, "with_directions", None)
    if add is None:
        raise UnusableModel(f"{network.name} takes no directions. Leave model.directions out.")
    more: Network = add(sets)
    return more


def with_layers(
    layers: TokenLayers, sets: Mapping[str, DirectionSet], as_map: Callable[[tf.Tensor, str], tf.Tensor], where: str
) -> TokenLayers:
    """A network's layers with those of some directions, each behind the layer that it is of.

    Args:
        as_map: makes a layer's map of the tensor that the reader reads for it.

    Raises: WrongSpec, for directions of a layer that the network does not have, or has of another width.
    """
    known = {layer.name: layer for layer in layers.survey if isinstance(layer, LayerInfo)}
    survey, views = list(layers.survey), dict(layers.views)
    for directions in sets.values():
        base, width = known.get(directions.base), directions.encoder.shape[0]
        if base is None or base.channels != width or base.name.endswith(HEADS):
            raise WrongSpec(f"{where} has no layer {directions.base!r} of {width} channels to take directions of.")
        behind = max(index for index, layer in enumerate(survey) if base.name in (layer.name, getattr(layer, "base", None)))
        shape = (*base.shape[:2], directions.count)
        survey.insert(behind + 1, LayerInfo(directions.layer, KIND, shape, base.of_tokens, base.name))
        views[directions.layer] = TokenView(layers.source(base.name), partial(_respond_to, directions, as_map))
    return replace(layers, survey=survey, views=views)


def _respond_to(directions: DirectionSet, as_map: Callable[[tf.Tensor, str], tf.Tensor], tensor: tf.Tensor) -> tf.Tensor:
    return respond(directions, as_map(tensor, directions.base))
