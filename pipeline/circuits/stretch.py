"""Stretch: what lies between a layer and the nearest earlier ones, ready to be expanded into weights and to be run on images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.models.network import LayerInfo, Network, feed_of, nearest_layers, read_unclipped

if TYPE_CHECKING:
    import tensorflow as tf

    from pipeline.compiled.expansion import Expansion
    from pipeline.compiled.freezing import FrozenGraph, Pass

_MOST_FLOATS = 2**24  # of the largest map of a batch
_MOST_BATCH = 64


@dataclass(frozen=True)
class Between:
    """The operations on the paths of a stretch.

    passed: operations that were taken for an identity or a mean, and how often each. ended: those at which paths end: the layer
    that computes them, and what they are.
    """

    passed: tuple[tuple[str, int], ...] = ()
    ended: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Stretch:
    """What lies between a layer and the nearest earlier ones, `sources`, on every way back."""

    network: Network
    target: LayerInfo
    sources: Sequence[LayerInfo]

    @property
    def batch(self) -> int:
        """The number of units that are expanded together."""
        largest = max(prod(layer.shape) for layer in (self.target, *self.sources))
        return int(np.clip(_MOST_FLOATS // largest, 1, _MOST_BATCH))

    @property
    def middle(self) -> tuple[int, int]:
        """Row and column of the unit whose weights are expanded."""
        return self.target.shape[0] // 2, self.target.shape[1] // 2

    @property
    def between(self) -> Between:
        """The operations on the paths."""
        return self._expand[2]

    def weights(self, channels: np.ndarray) -> list[np.ndarray]:
        """The expanded weights of the unit in the middle of the map, for up to `batch` channels.

        They are the Jacobian of the unit by the sources, where activations are identities and maxima are means.

        Returns: float32 (channels, h, w, source channels) for each source.
        """
        run, pixels, _ = self._expand
        padded = np.pad(channels.astype(np.int32), (0, self.batch - len(channels)), mode="edge")
        return [np.asarray(values)[: len(channels)] for values in run(pixels, padded)]

    def maps(self, images: np.ndarray) -> list[np.ndarray]:
        """What `contributions` needs of up to `batch` images, as the network is given them: prepared pixels, then the sources."""
        missing = self.batch - len(images)
        padded = np.pad(images, [(0, missing), *[(0, 0)] * 3])
        return [np.asarray(values)[: len(images)] for values in self._forward(padded)]

    def contributions(self, maps: Sequence[np.ndarray], units: np.ndarray) -> list[np.ndarray]:
        """Gradient times activation of some units, in the network as it is: what each earlier channel adds to them, nearly.

        An upper clamp of the target itself is looked through, as heaps do: behind it the strongest have no gradient.

        Args:
            maps: as `maps` returned, of one image for each unit. units: int (n, 3): row, column and channel, n up to `batch`.

        Returns: float32 (n, source channels) for each source, summed over its map.
        """
        missing = self.batch - len(units)
        padded = [np.pad(value, [(0, missing), *[(0, 0)] * (value.ndim - 1)]) for value in maps]
        rows = np.pad(units.astype(np.int32), ((0, missing), (0, 0)))
        return [np.asarray(values)[: len(units)] for values in self._products(*padded, rows)]

    @cached_property
    def _graph(self) -> FrozenGraph:
        """The network as far as the target: its value, and for each source its tensor and its map."""
        import tensorflow as tf

        from pipeline.compiled.freezing import FrozenGraph
        from pipeline.compiled.graph_walk import LogitsGraph

        names = [source.name for source in self.sources]

        def read(images: tf.Tensor) -> dict[str, Any]:
            layers = read_unclipped(self.network, images, [self.target.name, *names])
            value, traced = layers[self.target.name].value, {name: layers[name].given for name in names}
            graph = LogitsGraph(value)
            located = {name: graph.locate(traced[name]) for name in names}
            tensors = {name: traced[name] if at is None else at.tensor for name, at in located.items()}
            return {"value": value, "maps": [traced[name] for name in names], "tensors": [tensors[name] for name in names]}

        height, width, _ = self.network.input_shape
        shape = (self.batch, height, width, feed_of(self.network).depth)
        return FrozenGraph.of(read, tf.TensorSpec(shape, tf.float32))

    @cached_property
    def _names(self) -> tuple[str, list[str], list[str]]:
        """The tensors of the graph: the target's value, the sources' maps, and the sources as later operations use them."""
        import tensorflow as tf

        from pipeline.compiled.graph_parts import source_behind

        names = tf.nest.pack_sequence_as(self._graph.structure, list(self._graph.outputs))
        return names["value"], names["maps"], [source_behind(self._graph.graph, name) for name in names["tensors"]]

    def _added(self, ends: Sequence[str], weights: dict[str, Any]) -> list[tf.Tensor]:
        """The part of the graph that gives some tensors, added to the current graph."""
        import tensorflow as tf

        from pipeline.compiled.graph_parts import part_of, those_in

        part = part_of(self._graph.graph, ends)
        return list(tf.graph_util.import_graph_def(part, those_in(part, weights), list(ends), name="stretch"))

    @cached_property
    def _expand(self) -> tuple[Pass, np.ndarray, Between]:
        import tensorflow as tf

        from pipeline.compiled.expansion import Expansion
        from pipeline.compiled.freezing import freeze
        from pipeline.compiled.graph_walk import LogitsGraph

        value, maps, tensors = self._names
        image = self._graph.inputs[0]
        shape = (self.batch, *self._spec.shape[1:])
        described: list[Between] = []

        def expand(pixels: tf.Tensor, channels: tf.Tensor) -> list[tf.Tensor]:
            end, *rest = self._added([value, *maps, *tensors], {image: pixels})
            of_maps, of_tensors = rest[: len(maps)], rest[len(maps) :]
            expansion = Expansion(LogitsGraph(end), pixels, of_tensors)
            height, width, depth = self.target.shape
            at = tf.one_hot([self.middle[0] * width + self.middle[1]], height * width)
            unit = tf.reshape(at, (1, height, width, 1)) * tf.one_hot(channels, depth)[:, tf.newaxis, tf.newaxis]
            weights = expansion.back(end, tf.cast(unit, end.dtype))
            described[:] = [self._described(expansion)]
            together = zip(of_tensors, of_maps, weights, strict=True)
            return [_as_map(tensor, of_map, weight) for tensor, of_map, weight in together]

        specs = tf.TensorSpec(shape, tf.float32), tf.TensorSpec((self.batch,), tf.int32)
        run = freeze(expand, *specs)
        return run, np.zeros(shape, np.float32), described[0]

    def _described(self, expansion: Expansion) -> Between:
        passed = tuple(sorted(expansion.passed.items()))
        ended = tuple(dict.fromkeys(f"{kind} ({name.removeprefix('stretch/')})" for name, kind in expansion.ended.items()))
        return Between(passed, ended)

    @cached_property
    def _spec(self) -> tf.TensorSpec:
        from pipeline.compiled.compile import network_input

        return network_input(self.network, self.batch)

    @cached_property
    def _forward(self) -> Pass:
        from pipeline.compiled.freezing import freeze

        image, (_, _, tensors) = self._graph.inputs[0], self._names

        def forward(images: tf.Tensor) -> list[tf.Tensor]:
            pixels = self.network.preprocess(images)
            return [pixels, *self._added(tensors, {image: pixels})]

        return freeze(forward, self._spec)

    @cached_property
    def _products(self) -> Pass:
        import tensorflow as tf

        from pipeline.compiled.freezing import freeze
        from pipeline.compiled.gradients import deterministic_gradients

        value, maps, tensors = self._names
        image = self._graph.inputs[0]

        def products(pixels: tf.Tensor, *rest: tf.Tensor) -> list[tf.Tensor]:
            *sources, units = (tf.identity(tensor) for tensor in rest)
            (end,) = self._added([value], {image: pixels, **dict(zip(tensors, sources, strict=True))})
            whole = self._added([*maps, *tensors], {image: pixels})  # a map may be computed a second time, beside its tensor
            chosen = tf.gather_nd(end, units, batch_dims=1)
            options = {"unconnected_gradients": tf.UnconnectedGradients.ZERO}
            gradients = deterministic_gradients(chosen, sources, stop_gradients=sources, **options)
            together = zip(whole[len(maps) :], whole[: len(maps)], sources, gradients, strict=True)
            return [
                tf.reduce_sum(_as_map(tensor, of_map, source * gradient), axis=[1, 2])
                for tensor, of_map, source, gradient in together
            ]

        specs = [tf.TensorSpec(value.shape, value.dtype) for value in self.maps(np.zeros(self._spec.shape.as_list(), np.uint8))]
        return freeze(products, *specs, tf.TensorSpec((self.batch, 3), tf.int32))


def _as_map(tensor: tf.Tensor, of_map: tf.Tensor, value: tf.Tensor) -> tf.Tensor:
    """Something of a tensor's shape as the map that `Network.trace` makes of the tensor: float32 (batch, h, w, channels)."""
    import tensorflow as tf

    from pipeline.compiled.graph_walk import LogitsGraph

    located = LogitsGraph(tensor).locate(of_map)
    assert located is not None
    return tf.cast(located.as_map(value), tf.float32)


def nearest_sources(network: Network, target: str, layers: Sequence[LayerInfo]) -> list[LayerInfo]:
    """The layers that a layer is computed from: on every path back from it the nearest of `layers`, in the network's order."""
    known = {layer.name: layer for layer in layers}
    names = nearest_layers(network.feeds(target), network.feeds, lambda name: name if name in known else None)
    return [layer for layer in layers if layer.name in names]
