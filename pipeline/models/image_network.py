"""The shell around every family of networks: layout, preprocessing, logits, unknown layers and the digest, once for all."""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import tensorflow as tf

from pipeline.errors import UnusableModel, WrongSpec, foreign_errors
from pipeline.models.ceiling import on_map, without_ceiling
from pipeline.models.directions import with_layers
from pipeline.models.head import Head, OutputSpec
from pipeline.models.layout import CHANNELS, check_device
from pipeline.models.network import (
    ASKED,
    LOGITS,
    Feed,
    Kernel,
    LayerInfo,
    Setting,
    Unclipped,
    UnreadableLayer,
    nearest_layers,
    unknown_layer,
)
from pipeline.models.other_inputs import Given, Packing, Values, check_images
from pipeline.models.output import NetworkOutput
from pipeline.models.preprocessing import MODES, Ranges, check_mode, of_whole_numbers, prepare
from pipeline.models.reader import Reader
from pipeline.models.tokens.layers import TokenLayers, token_layers
from pipeline.spec.model import TokensSpec
from pipeline.store.direction_sets import DirectionSet

_MOST_NUMBERS = 2**32  # in a layer's output for one image: 16 GiB


@dataclass(frozen=True)
class _Samples:
    """What `ImageNetwork.sampled` gives, as a value that one process can hand to another; a bound method cannot be."""

    network: ImageNetwork

    def __call__(self, end: str) -> np.ndarray:
        return self.network.sampled(end)


class ImageNetwork:
    """A `Network` of any family: the reader knows the family, this class what all networks have in common."""

    def __init__(
        self, reader: Reader, name: str, preprocessing: str | Setting, output: OutputSpec = OutputSpec(), where: str = ""
    ) -> None:
        """Check what the job says about the network.

        Args:
            preprocessing: a key of `MODES`, and where convscope chose it, why.
            output: what is known of the network's output beside its graph.
            where: what errors call the network; its name where that is enough.

        Raises: WrongSpec, UnknownName; UnusableModel, for channels first on a device that cannot run it.
        """
        self.reader = reader
        self.name, self._where = name, where or name
        self.input_shape = reader.input_shape
        preprocessing = Setting(preprocessing, ASKED) if isinstance(preprocessing, str) else preprocessing
        if "int" in reader.takes:
            preprocessing = of_whole_numbers(preprocessing, reader.takes, self._where)
        check_mode(preprocessing.value, self.input_shape[2], self._where + reader.hint)
        self._preprocessing = preprocessing
        own = [layer for layer in reader.survey() if isinstance(layer, LayerInfo)]
        largest = max(own, key=lambda layer: math.prod(layer.shape), default=None)
        if largest is not None and math.prod(largest.shape) > _MOST_NUMBERS:
            raise UnusableModel(
                f"{self._where} makes {math.prod(largest.shape):,} numbers of one image at {largest.name!r}, more than "
                "machines have room for. Set a smaller model.size; if it has none, the file is broken or made to fill the memory."
            )
        self._output = NetworkOutput(reader, own, output, self._where, _Samples(self))
        self._asked_tokens: TokensSpec | None = None
        self._given = dict(getattr(reader, "given", {}))
        self._held: dict[str, np.ndarray] = {}
        self._ranges: Ranges | None = None
        self._of_samples = False
        self.directions: Mapping[str, DirectionSet] = {}
        check_images(self._given, self.reader.layout.shape(*self.input_shape), self._where)
        self.is_alone = not any(given.differs for given in self._given.values())
        self._views: tuple[ImageNetwork, dict[str | None, ImageNetwork]] | None = None
        check_device(self, reader.channels_first(), self._where)

    def layers(self) -> list[LayerInfo]:
        """The layers that give one map or one vector an image, in forward order; nested ones as `outer/inner`."""
        return list(self._layers.values())

    def every_layer(self) -> list[LayerInfo | UnreadableLayer]:
        """All layers in forward order; those that cannot be looked at say why."""
        return list(self._tokens.survey)

    def with_tokens(self, spec: TokensSpec) -> ImageNetwork:
        """The same network, whose tokens lie on the image as `model.tokens` says."""
        return self._relaid(_asked_tokens=spec)

    def with_directions(self, sets: Mapping[str, DirectionSet]) -> ImageNetwork:
        """The same network with further layers, by their names. Raises: WrongSpec, for sets that fit no layer."""
        other = self._relaid(directions=sets)
        other.layers()
        return other

    def _relaid(self, **changes: Any) -> ImageNetwork:
        """A copy whose layers are to be found anew."""
        other = copy.copy(self)
        other.__dict__ = {key: value for key, value in vars(self).items() if key not in ("_tokens", "_layers", "settings")}
        other.__dict__ |= changes
        return other

    @cached_property
    def _tokens(self) -> TokenLayers:
        layers = token_layers(self.reader, self._asked_tokens, self._where)
        return with_layers(layers, self.directions, self._map, self._where) if self.directions else layers

    @cached_property
    def _layers(self) -> dict[str, LayerInfo]:
        return {layer.name: layer for layer in self._tokens.survey if isinstance(layer, LayerInfo)}

    @cached_property
    def settings(self) -> Mapping[str, Setting]:
        """What was chosen for this network, and why: the preprocessing, and the head and the tokens where it has them."""
        tokens = {} if self._tokens.setting is None else {"tokens": self._tokens.setting}
        if self._output.are_all:
            heads = {name: network.head() for name, network in self.outputs().items()}
            why = [f"{name}: {head.why}" for name, head in heads.items()]
            left_out = [name for name in self._output.ends() if name not in heads]
            why += [f"{name}: left out: neither a vector nor a map of classes, or another's evidence" for name in left_out]
            kinds = Setting(", ".join(head.kind for head in heads.values()), "; ".join(why))
            return {"preprocess": self._preprocessing, "head": kinds, **tokens}
        try:
            head = self.head()
        except (WrongSpec, UnusableModel):  # the stages that need a head say why there is none
            if self._output.has_named_head:
                raise
            return {"preprocess": self._preprocessing, **tokens}
        return {"preprocess": self._preprocessing, "head": Setting(head.kind, head.why), **tokens}

    def outputs(self) -> dict[str | None, ImageNetwork]:
        """The network once for every output that is explained, by the output's name; by None where there is but one.

        Raises: UnusableModel.
        """
        if not self._output.are_all:
            return {None: self}
        if self._views is None or self._views[0] is not self:  # a copy has its own
            views: dict[str | None, ImageNetwork] = {}
            for name, output in self._output.each().items():
                view = copy.copy(self)
                view.__dict__.pop("settings", None)
                view._output = output
                try:
                    view.head()
                except UnusableModel:  # a map of which nothing says what it is
                    continue
                views[name] = view
            if not views:
                raise UnusableModel(f"{self._where} has no output that can be explained. Name one: model.logits and model.head.")
            self._views = self, views
        return self._views[1]

    def digest(self) -> str:
        """16 hexadecimal digits of the input, the preprocessing, the layers or operations, and the weights."""
        identity = [self.input_shape, self._preprocessing.value, *self.reader.identity(self._output.named)]
        identity += [self._ranges] if self._ranges else []
        identity += [given.identity() for given in self._given.values()]
        identity += [directions.digest() for directions in self.directions.values()]
        digest = hashlib.sha256(json.dumps(identity).encode())
        for name in sorted(self._held):
            digest.update(self._held[name].tobytes())
        for part in self.reader.contents():
            digest.update(part)
        return digest.hexdigest()[:16]

    def preprocess(self, images: tf.Tensor) -> tf.Tensor:
        """Pixels as `feed` says -> float32 (batch, h, w, channels), and behind them what is packed, as it is.

        Where nothing is packed behind the pixels, other inputs are held at what `holding` said.
        """
        bands = self.feed.bands
        if not self.feed.packed or images.shape[3] <= bands:
            return self._prepare(images)
        return tf.concat([self._prepare(images[..., :bands]), tf.cast(images[..., bands:], tf.float32)], axis=3)

    @tf.autograph.experimental.do_not_convert  # a caller's function may be converted, and this is Python throughout
    def trace(self, images: tf.Tensor, layers: Sequence[str]) -> dict[str, tf.Tensor]:
        """The layers' outputs for preprocessed images, in inference mode; only what they need is run.

        Gradients flow, and follow the overrides of the caller's graph (`gradient_override_map`).

        Returns: {layer: float32 (batch, h, w, c)}; a layer without a map as (batch, 1, 1, units); "logits" as
        (batch, classes), before the last nonlinearity, and (batch, h, w, classes) where the head is a map; for the head
        boxes see `pipeline.models.boxes.BoxOutput.evidence`.

        Raises: UnknownLayer; WrongSpec or UnusableModel, for logits that are not one tensor.
        """
        if tf.executing_eagerly():  # the last nonlinearity is found in a graph alone
            return dict(tf.function(lambda images: self.trace(images, layers), autograph=False)(images))
        known = {layer: self._known(layer) for layer in layers if layer != LOGITS}
        read = [(self._tokens.source(known[layer]),) if layer in known else self._output.names_to_read() for layer in layers]
        needed = dict.fromkeys(name for several in read for name in several)
        with foreign_errors(UnusableModel, f"the network {self.name}", "A layer cannot be called: save the network again."):
            outputs = self._read(images, list(needed))[1]
        return {
            layer: self._output.evidence(outputs, self.input_shape[:2])
            if layer == LOGITS
            else self._map(outputs[several[0]], known[layer])
            for layer, several in zip(layers, read, strict=True)
        }

    @tf.autograph.experimental.do_not_convert
    def unclipped(self, images: tf.Tensor, layers: Sequence[str]) -> dict[str, Unclipped]:
        """The layers' outputs as `trace` returns them, without upper clamps: see `pipeline.models.ceiling`.

        Raises: UnknownLayer.
        """
        known = {layer: self._known(layer) for layer in layers}
        names = {layer: self._tokens.source(name) for layer, name in known.items()}
        fed, outputs = self._read(images, list(dict.fromkeys(names.values())))
        clamped = [name for layer, name in names.items() if layer not in self.directions]
        read = {name: without_ceiling(outputs[name], fed) for name in clamped}
        maps = {layer: partial(self._map, name=name) for layer, name in known.items()}
        return {
            layer: Unclipped(maps[layer](outputs[name]))
            if layer in self.directions
            else on_map(read[name], outputs[name], maps[layer])
            for layer, name in names.items()
        }

    def head(self) -> Head:
        """What the output means, and why. Raises: WrongSpec or UnusableModel, for logits that are not one tensor."""
        self._output.names_to_read()  # which finds the head of a graph that is not traced but read
        if self._output.head is None:
            images = tf.TensorSpec((2, *self.input_shape), tf.float32)
            tf.function(lambda images: self.trace(images, [LOGITS]), autograph=False).get_concrete_function(images)
        assert self._output.head is not None
        return self._output.head

    def feeds(self, layer: str) -> tuple[str, ...]:
        """The layers that a layer is made from, the nearest on each way back; none where only the image is on the way.

        Raises: UnknownLayer; WrongSpec or UnusableModel, for logits that are not one tensor.
        """
        if layer in self.directions:
            return (self.directions[layer].base,)
        starts = self._output.evidence_names if layer == LOGITS else self.reader.sources(self._tokens.source(self._known(layer)))
        # What is no layer after all, such as tokens whose place is not known, is passed over.
        return nearest_layers(starts, self.reader.sources, lambda name: name if name in self._layers else None)

    def convolutions(self) -> list[str]:
        """The layers that have a learned kernel, Dense layers over maps among them, in forward order."""
        return [name for name in self.reader.convolutions() if name in self._layers]

    def kernels(self, layers: Sequence[str]) -> dict[str, tuple[Kernel, ...]]:
        """The learned kernels of those of the layers that are convolutions. Raises: UnknownLayer."""
        names = {layer: self._known(layer) for layer in layers if layer != LOGITS}
        kernels = self.reader.kernels(list(dict.fromkeys(names.values())))
        return {layer: kernels[name] for layer, name in names.items() if name in kernels}

    @property
    def feed(self) -> Feed:
        """The form of an image as a pass over the network takes it."""
        packed = 0 if self.is_alone else self.packing.bands
        return Feed(self._bands, packed, "float32" if self._takes_samples or packed else "uint8")

    @property
    def given(self) -> Mapping[str, Given]:
        """The values of the network's other inputs, by name."""
        return self._given

    @property
    def packing(self) -> Packing:
        """How the values that differ by example lie behind the image."""
        height, width, _ = self.input_shape
        return Packing({name: self._shape(given) for name, given in self._given.items() if given.differs}, height, width)

    def of_samples(self, ranges: Ranges | None) -> ImageNetwork:
        """The same network, given as many bands as it takes, of samples that became pixels by some ranges.

        Raises: WrongSpec, where its preprocessing was inferred, which counts in pixels from 0 to 255.
        """
        if ranges and set(ranges) != {(0, 255)} and self._preprocessing.reason != ASKED:
            raise WrongSpec(
                f'with data.range, model.preprocess cannot be "auto" for {self._where}, which was looked at with pixels of 0 to '
                f"255: {self._preprocessing}. Name what follows the range: {', '.join(MODES)}."
            )
        other = copy.copy(self)
        other._of_samples, other._ranges = True, ranges
        return other

    def holding(self, values: Values) -> ImageNetwork:
        """The same network with the images of files, and with what holds for other inputs where a pass is given an image alone.

        Args:
            values: by input, of the shape of one example; images as pixels, 0 to 255.
        """
        other = copy.copy(self)
        other._held = {**self._held, **{name: np.asarray(value, np.float32) for name, value in values.items()}}
        return other

    def alone(self) -> ImageNetwork:
        """The same network as a function of the image alone, its other inputs held."""
        other = copy.copy(self)
        other.is_alone = True
        return other

    @property
    def _takes_samples(self) -> bool:
        return self._of_samples or self.input_shape[2] not in CHANNELS

    @property
    def _bands(self) -> int:
        return self.input_shape[2] if self._takes_samples else 3

    def _shape(self, given: Given) -> tuple[int, ...]:
        """The shape of what an input is given for one example, images as pixels."""
        is_image = given.kind in ("file", "source")
        return (*self.input_shape[:2], self._bands) if is_image else tuple(size or 0 for size in given.input.shape)

    def sampled(self, end: str) -> np.ndarray:
        """The outputs of an end for noise and plain colours: float32 (images, outputs), or (images, h, w, outputs) of a map."""

        def read(images: tf.Tensor) -> tf.Tensor:
            return tf.cast(self._read(self.preprocess(images), [end])[1][end], tf.float32)

        def run() -> np.ndarray:
            random = np.random.default_rng(0)
            noise = random.integers(0, 256, (4, *self.input_shape)) * np.reshape([1.0, 0.5, 0.25, 0.0], (4, 1, 1, 1))
            plain = np.broadcast_to(random.integers(0, 256, (4, 1, 1, self.input_shape[2])), (4, *self.input_shape))
            images = np.concatenate([noise, plain]).astype(np.float32)
            output = tf.function(read, autograph=False)(tf.constant(images))
            maps = output.shape.rank == 4 and output.shape[1:3] != (1, 1)
            return np.asarray(self.reader.layout.maps(output) if maps else tf.reshape(output, (len(images), -1)))

        # A thread of its own is outside of whatever graph the caller traces.
        with ThreadPoolExecutor(max_workers=1) as thread:
            return thread.submit(run).result()

    def _prepare(self, images: tf.Tensor) -> tf.Tensor:
        return prepare(images, self._preprocessing.value, self.input_shape[2], self._ranges)

    def _read(self, images: tf.Tensor, names: list[str]) -> tuple[tf.Tensor, Mapping[str, tf.Tensor]]:
        """The images in the network's own order of axes, and the outputs of some layers and ends."""
        channels, layout = self.input_shape[2], self.reader.layout
        packed = None
        if self.packing.bands and images.shape[3] == channels + self.packing.bands:
            images, packed = images[..., :channels], images[..., channels:]
        fed = layout.feed(images)
        if not self._given:
            return fed, self.reader.read(fed, names)
        batch = fed.shape[0] or tf.shape(fed)[0]
        values = self.packing.unpack(packed) if packed is not None else {}
        others = {}
        for name, given in self._given.items():
            if given.kind == "same":
                others[name] = fed
                continue
            value = values.get(name)
            if value is None:
                held = self._held.get(name, np.zeros(self._shape(given), np.float32)) if given.value is None else given.value
                value = tf.broadcast_to(tf.constant(held), (batch, *held.shape))
            others[name] = layout.feed(self._prepare(value)) if given.kind in ("file", "source") else value
        return fed, self.reader.read(fed, names, others)

    def _known(self, layer: str) -> str:
        """The name of a layer as `layers` has it; the first output of an operation may be asked for as `op:0`."""
        for name in (layer, layer.removesuffix(":0")):
            if name in self._layers:
                return name
        raise unknown_layer(self, layer)

    def _map(self, output: tf.Tensor, name: str) -> tf.Tensor:
        output, layer = tf.cast(output, tf.float32), self._layers[name]
        if name in self._tokens.views:
            return self._tokens.views[name].make(output)
        output = self.reader.layout.maps(output) if output.shape.rank == 4 else output[:, tf.newaxis, tf.newaxis, :]
        return output if output.shape[1:].is_fully_defined() else tf.ensure_shape(output, (None, *layer.shape))
