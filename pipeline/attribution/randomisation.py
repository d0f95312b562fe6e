"""The sanity check of Adebayo et al., 2018: weights made random layer by layer from the top; does the map notice?

A map that stays the same shows something of the image, not what the network has learned. What is made random is
a copy of the network: constants of a frozen graph, which are fed instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from skimage.metrics import structural_similarity
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from pipeline.attribution import heat, plots
from pipeline.attribution.passes import Drawing, Explained, Key
from pipeline.attribution.wiring import Way, calls_functions, layers_of, upstream
from pipeline.errors import UnusableModel
from pipeline.models.network import LOGITS, Network
from pipeline.sources.picking import Picked
from pipeline.store.tables import INDEX

_MOST_STEPS = 12  # networks are made random in as many steps at most
_WEIGHTED = {"Conv2D", "DepthwiseConv2dNative", "Conv2DBackpropInput", "Conv", "MatMul", "BatchMatMul", "BatchMatMulV2", "Einsum"}
_PASSES_ON = ("Identity", "Cast", "ReadVariableOp")
_LEAST_SIDE = 7  # of the window in which structure is compared


@dataclass(frozen=True)
class Kernel:
    """The weights of one operation: the constant's name in the graph, its values, and the layer they belong to.

    layer: "logits" where a layer gives them and goes on to something else, such as a softmax.
    """

    constant: str
    values: np.ndarray
    layer: str


class Cascade:
    """A compiled pass whose weights are given to it: those of the network, or random ones from the top down to a layer.

    kernels: from the logits back to the images.
    """

    def __init__(self, run: Callable, keys: tuple[Key, ...], kernels: Sequence[Kernel]) -> None:
        self._run, self._keys, self.kernels = run, keys, kernels
        random = np.random.default_rng(0)
        # The same for every image: deviations stay, so that signals neither die nor explode.
        self._noise = [
            random.normal(0, float(kernel.values.std()), kernel.values.shape).astype(kernel.values.dtype) for kernel in kernels
        ]

    @classmethod
    def of(cls, network: Network, keys: Sequence[Key], batch: int, slots: int) -> Cascade:
        """Compile. Raises: UnusableModel, for a network whose weights cannot be made constants."""
        if calls_functions(network):
            raise UnusableModel(
                f"{network.name} keeps weights inside functions (grouped convolutions), which cannot be made random. "
                "Leave randomisation out of gradcam.trust."
            )
        drawing, owners = Drawing(network, tuple(keys)), dict[str, str]()

        def named(images: tf.Tensor, classes: tf.Tensor) -> list[tf.Tensor]:
            logits, shown, values = drawing(images, classes)
            layers = network.trace(network.preprocess(tf.cast(images, tf.float32)), [layer.name for layer in network.layers()])
            found = layers_of(network, Way(logits), layers)
            owners.update({operation.name: layer for operation, layer in found.items()})
            return [logits, shown, *values]

        height, width, _ = network.input_shape
        specs = (tf.TensorSpec((batch, height, width, 3), tf.uint8), tf.TensorSpec((batch, slots), tf.int32))
        frozen = convert_variables_to_constants_v2(tf.function(named, autograph=False).get_concrete_function(*specs))
        kernels = _kernels(frozen.outputs[0], owners)
        graph, ends = frozen.graph.as_graph_def(), [tensor.name for tensor in frozen.outputs]
        fed = [tensor.name for tensor in frozen.inputs]

        def body(*given: tf.Tensor) -> list[tf.Tensor]:
            mapped = dict(zip([*fed, *(f"{kernel.constant}:0" for kernel in kernels)], given, strict=True))
            return tf.graph_util.import_graph_def(graph, mapped, ends, name="")

        shapes = [tf.TensorSpec(kernel.values.shape, kernel.values.dtype) for kernel in kernels]
        return cls(tf.compat.v1.wrap_function(body, [*specs, *shapes]), drawing.keys, kernels)

    def steps(self, images: np.ndarray, classes: np.ndarray) -> Iterator[tuple[int, str, Explained]]:
        """What the pass says as more and more layers are random, for fixed classes: none first, all last.

        Yields: how many layers are random, the last of them ("" at first), and what is said.
        """
        count = len(self.kernels)
        for step in sorted({0, 1, *(round(at) for at in np.linspace(0, count, min(count, _MOST_STEPS) + 1))}):
            given = [*self._noise[:step], *(kernel.values for kernel in self.kernels[step:])]
            logits, shown, *values = self._run(tf.constant(images), tf.constant(classes, tf.int32), *map(tf.constant, given))
            maps = {key: value.numpy() for key, value in zip(self._keys, values, strict=True)}
            yield step, self.kernels[step - 1].layer if step else "", Explained(logits.numpy(), shown.numpy(), maps)


class Similarities:
    """Collects how like the first one the maps of random networks are, batch by batch."""

    def __init__(self, cascade: Cascade) -> None:
        self._cascade = cascade
        self.columns: dict[str, list] = {field.name: [] for field in INDEX["randomisation"]}

    def add(
        self,
        several: Sequence[Picked],
        images: np.ndarray,
        explained: Explained,
        maps: Mapping[Key, np.ndarray],
        chosen: Sequence[Sequence[int]],
        map_of: Callable[[Key, Explained], np.ndarray],
    ) -> None:
        """Randomise, and compare with the maps of the network as it is; arguments as for `Curves.add`."""
        for step, layer, now in self._cascade.steps(images, explained.classes):
            for key, first in maps.items():
                values = map_of(key, now)
                for place, one in enumerate(several):
                    for slot in chosen[place]:
                        before, after = heat.energy(first[place, slot]), heat.energy(values[place, slot])
                        row = (one.example, one.image.key, *key, int(explained.classes[place, slot]), step, layer)
                        likeness = (rank_correlation(before, after), structure(before, after))
                        for name, value in zip(self.columns, (*row, *likeness), strict=True):
                            self.columns[name].append(value)

    def plot(self) -> bytes:
        """The mean rank correlation of each method as a PNG."""
        return plots.similarities(self.columns)


def rank_correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's: 1 for the same order of places, 0 for none in common; 0 where a map is the same everywhere."""
    first, second = _ranks(one), _ranks(other)
    if first.std() == 0 or second.std() == 0:
        return 0.0
    return float(np.corrcoef(first, second)[0, 1])


def structure(one: np.ndarray, other: np.ndarray) -> float:
    """Structural similarity (Wang et al., 2004) of two maps, each scaled to its peak."""
    scaled = [values / (float(values.max()) or 1.0) for values in (one, other)]
    if min(one.shape) < _LEAST_SIDE:
        factor = -(-_LEAST_SIDE // min(one.shape))
        scaled = [values.repeat(factor, axis=0).repeat(factor, axis=1) for values in scaled]
    return float(structural_similarity(*scaled, data_range=1.0))


def _ranks(values: np.ndarray) -> np.ndarray:
    """The place of each value among all, the mean place among equals."""
    _, inverse, counts = np.unique(values.ravel(), return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts - 1) / 2)[inverse]


def _kernels(logits: tf.Tensor, owners: Mapping[str, str]) -> list[Kernel]:
    """The weights of the forward pass of a frozen graph, those nearest the logits first."""
    found: dict[str, Kernel] = {}
    for operation in reversed(upstream(logits)):
        if operation.type not in _WEIGHTED:
            continue
        for source in operation.inputs:
            while source.op.type in _PASSES_ON:
                source = source.op.inputs[0]
            values = tf.get_static_value(source) if source.op.type == "Const" else None
            if values is not None and values.ndim >= 2 and values.dtype.kind == "f":
                found.setdefault(source.op.name, Kernel(source.op.name, values, owners.get(operation.name, LOGITS)))
    return list(found.values())
