"""NetworkOutput: which of a network's ends is explained, what it means, and the evidence before its last nonlinearity."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Literal, Protocol

import numpy as np
import tensorflow as tf

from pipeline.errors import UnknownName, UnusableModel, WrongSpec
from pipeline.models.boxes import find_boxes
from pipeline.models.ending import Ending, Step, ending_of
from pipeline.models.head import Activation, Head, OutputEnd, OutputSpec, decide
from pipeline.models.layout import Layout
from pipeline.models.network import LayerInfo
from pipeline.spec.model import ALL

_SLACK = 3e-4  # of sums and bounds of probabilities
_LEAST = 1e-6  # that a probability counts as, so that its logarithm is finite, and 1 less this is not 1


@dataclass(frozen=True)
class End:
    """A tensor that a network ends in.

    name: as the family's reader takes it.
    outputs: how many numbers it holds for an image, or for each position of a map; None where it is neither vector nor map.
    rows: of a tensor with a row for every box of a detector, how many rows and columns; None for any other.
    size: height and width of a map, each None where it is open; None for any other.
    """

    name: str
    outputs: int | None
    is_map: bool = False
    rows: tuple[int, int] | None = None
    size: tuple[int | None, int | None] | None = None

    @classmethod
    def of(cls, name: str, shape: Sequence[int | None], layout: Layout) -> End:
        """An end by its shape, the batch first, in the network's own order of axes: (batch, outputs), or a map."""
        if len(shape) == 4:
            height, width, channels = layout.sizes(shape[1:])
            is_map = (height, width) != (1, 1)
            return cls(name, channels, is_map, size=(height, width) if is_map else None)
        if len(shape) == 3 and shape[1] is not None and shape[2] is not None:
            return cls(name, None, rows=(shape[1], shape[2]))
        return cls(name, shape[1] if len(shape) == 2 else None)


class EndReader(Protocol):
    """What the output needs of how a family of networks is read; see `pipeline.models.reader.Reader`."""

    layout: Layout
    input_shape: tuple[int, int, int]

    def ends(self) -> Sequence[End]:
        """The tensors that the network ends in."""

    def ending(self, layer: str) -> Ending[str] | None:
        """How a layer or an end is made, its evidence as a layer's name; None where that shows only in what is read."""


class NetworkOutput:
    """The one output of a network that stages look at as its logits."""

    def __init__(
        self, reader: EndReader, layers: Sequence[LayerInfo], spec: OutputSpec, where: str, sample: Callable[[str], np.ndarray]
    ) -> None:
        """Look up the layer that the job names.

        Args:
            sample: what an end gives for a few images: (images, outputs), or (images, h, w, outputs) of a map.

        Raises: UnknownName.
        """
        self._reader, self._layers, self._spec, self._where, self._sample = reader, layers, spec, where, sample
        self._end = None if spec.logits in (None, ALL) else self._named(str(spec.logits))
        rows = {end.name: end.rows for end in reader.ends() if end.rows is not None} if spec.boxes else {}
        self._boxes = find_boxes(rows, spec.boxes, where) if spec.boxes else None
        self.head: Head | None = None  # once it is known

    @property
    def has_named_head(self) -> bool:
        """Whether the job says what the output means."""
        return self._spec.head != "auto"

    @property
    def named(self) -> str | None:
        """The layer of the evidence, where the job names one."""
        return None if self._spec.logits in (None, ALL) else self.evidence_names[0]

    @property
    def are_all(self) -> bool:
        """Whether the job asks for every output in turn."""
        return self._spec.logits == ALL

    def each(self) -> dict[str, NetworkOutput]:
        """Every output that can be explained, by its name."""
        outputs = {}
        for name in self._candidates():
            output = NetworkOutput(self._reader, self._layers, replace(self._spec, logits=None), self._where, self._sample)
            output._end = next(end for end in self._reader.ends() if end.name == name)
            outputs[name] = output
        return outputs

    def ends(self) -> list[str]:
        """Everything that the network ends in, by name."""
        return [end.name for end in self._reader.ends()]

    @property
    def end(self) -> End:
        """The end that was named, or the only one that can be. Raises: WrongSpec, UnusableModel."""
        if self.are_all:
            raise WrongSpec(
                'model.logits = "all" is for the stage gradcam, which explains every output in turn; this needs one. Name it: '
                f"model.logits: {', '.join(self._candidates())}."
            )
        if self._end is None:
            self._end = self._only()
        return self._end

    @property
    def evidence_names(self) -> tuple[str, ...]:
        """The layer or the end before the last nonlinearity; the end itself where that shows only in what is read of it."""
        if self._boxes:
            return self._boxes.names
        ending = self._reader.ending(self.end.name)
        return (self.end.name if ending is None or self._spec.head == "embedding" else ending.evidence,)

    def names_to_read(self) -> tuple[str, ...]:
        """The layers or ends that `evidence` is made from. Raises: WrongSpec, UnusableModel."""
        if self._boxes:
            return self._boxes.names
        ending = self._reader.ending(self.end.name)
        if ending is None:
            return (self.end.name,)
        return (self.end.name if self._decided(ending).is_output else ending.evidence,)

    def evidence(self, outputs: Mapping[str, tf.Tensor], size: tuple[int, int]) -> tf.Tensor:
        """The evidence for each class or output: float32 (batch, classes), or (batch, h, w, classes) of a map.

        Of boxes: (batch, boxes, 5 + classes), as `pipeline.models.boxes.BoxOutput` has them.

        Args:
            outputs: what was read by `names_to_read`, in the network's own order of axes.
            size: height and width of the network's input.

        Raises: WrongSpec, UnusableModel.
        """
        if self._boxes:
            boxes, scores = outputs[self._boxes.boxes], outputs[self._boxes.scores]
            value, self.head = self._boxes.evidence(boxes, scores, size, ending_of_tensor)
            return value
        output = value = outputs[self.names_to_read()[0]]
        if self._reader.ending(self.end.name) is None:
            ending = ending_of_tensor(output)
            if not self._decided(ending).is_output:
                value = output.graph.get_tensor_by_name(ending.evidence)
        head = self.head
        assert head is not None
        if self.end.is_map:
            value = self._reader.layout.maps(tf.reshape(value, tf.shape(output)))
            value = tf.ensure_shape(value, (None, None, None, self.end.outputs))
            value = tf.reduce_mean(value, axis=[1, 2]) if head.kind == "embedding" else value
        else:
            value = tf.reshape(value, (-1, prod(output.shape[1:])))
        value = tf.cast(value, tf.float32)
        if head.of_probabilities:
            value = tf.clip_by_value(value, _LEAST, 1 - _LEAST)
            value = tf.math.log(value) - (0.0 if head.activation.name == "softmax" else tf.math.log1p(-value))
        value = -value if head.activation.falls else value
        return tf.concat([-value, value], axis=-1) if head.is_binary else value

    def _decided(self, ending: Ending[str]) -> Head:
        if self.head is None:
            end = self._measured(ending)
            if end.is_map and self._spec.head == "auto" and not end.tells_classes and not end.gives_probabilities:
                raise self._without_logits()
            self.head = decide(end, self._spec, self._where)
        return self.head

    def _measured(self, ending: Ending[str]) -> OutputEnd:
        """The output's end; by what it gives for some images, where its graph does not tell whether that is probabilities."""
        end = OutputEnd(
            ending.activation,
            ending.last,
            ending.weighted,
            int(self.end.outputs or 0),
            self.end.is_map,
            ending.squashed,
            is_picture=self.end.size is not None and (*self.end.size, self.end.outputs) == self._reader.input_shape,
        )
        if ending.certain and not self._is_to_measure(ending):
            return end
        values = (self._sample(self.end.name) - ending.activation.offset) / ending.activation.scale
        values = np.exp(values) if ending.activation.name == "log_softmax" else values
        gives: Literal["", "classes", "each"] = ""
        if values.min(initial=0) > -_SLACK and values.max(initial=1) < 1 + _SLACK:
            gives = "classes" if values.shape[-1] > 1 and np.allclose(values.sum(axis=-1), 1, atol=_SLACK) else "each"
        if not ending.activation.name:
            return replace(end, gives=gives)
        if gives == "classes":
            return end
        last = f"a {ending.activation.name} over another axis than the classes'"
        return replace(end, activation=Activation(), last=last, weighted=False, squashed="Softmax", gives=gives)

    def _is_to_measure(self, ending: Ending[str]) -> bool:
        """Whether numbers without a last nonlinearity may be probabilities: by what makes them, or by what the job says."""
        if ending.activation.name or ending.weighted:
            return False
        says_classes = self._spec.head in ("softmax", "sigmoid", "map") or self._spec.classes_named or self._spec.loss is not None
        return bool(ending.squashed) or ending.last in ("RealDiv", "Div", "DivNoNan") or (says_classes and not self.end.is_map)

    def _only(self) -> End:
        """The only end that can be the output."""
        candidates = self._candidates()
        if len(candidates) == 1:
            return next(iter(candidates.values()))
        if candidates:
            names = list(candidates)
            raise WrongSpec(
                f"{self._where} has several outputs that may be the logits: {', '.join(names)}. "
                f'Name one, model.logits = {names[0]!r}, or explain each in turn: "all".'
            )
        raise self._without_logits()

    def _candidates(self) -> dict[str, End]:
        """The ends that can be the output, by name; of several that have one evidence, one."""
        ends = self._reader.ends()
        vectors: dict[str, End] = {}
        for end in ends:
            if end.outputs is not None and not end.is_map:
                ending = self._reader.ending(end.name)
                vectors[end.name if ending is None else ending.evidence] = end
        maps = {end.name: end for end in ends if end.is_map}
        if self.are_all:
            several = [*vectors.values(), *maps.values()]
        elif self._spec.head == "map":
            several = list(maps.values())
        else:
            several = list(vectors.values()) or (list(maps.values()) if self._spec.head in ("auto", "embedding") else [])
        return {end.name: end for end in several}

    def _without_logits(self) -> UnusableModel:
        ends, others = self._reader.ends(), self._vectors()[-3:]
        advice = [f"the layer that gives the logits: model.logits, such as {', '.join(others)}"] if others else []
        if any(end.is_map for end in ends):
            advice.append('what its map is: model.head = "map" for classes at every position, "embedding" for features')
        if sum(end.rows is not None for end in ends):
            advice.append('for a detector, how it gives its boxes: model.head = "boxes" and model.boxes')
        return UnusableModel(
            f"{self._where} has no logits: it ends in {', '.join(end.name for end in ends) or 'nothing'}, not in one number a "
            f"class. Name a network with its classifier (model.top = true){''.join(f', or {words}' for words in advice)}."
        )

    def _named(self, logits: str) -> End:
        vectors = self._vectors()
        maps = {end.name: end for end in self._reader.ends() if end.is_map}
        layers = {layer.name: layer for layer in self._layers}
        for name in (logits, logits.removesuffix(":0"), f"{logits}:0"):
            if name in vectors:
                return End(name, layers[name].channels)
            if name in maps or (name in layers and self._spec.head in ("map", "embedding")):
                return maps.get(name) or End(name, layers[name].channels, True)
        raise UnknownName.among(logits, vectors, where=f"a layer of {self._where} with one number a class (model.logits)")

    def _vectors(self) -> list[str]:
        return [layer.name for layer in self._layers if layer.shape[:2] == (1, 1)]


def ending_of_tensor(output: tf.Tensor) -> Ending[str]:
    """The ending of a network that was traced into a graph; values are tensors by their names."""

    def step_of(name: str) -> Step[str]:
        tensor = output.graph.get_tensor_by_name(name)
        constant = tf.get_static_value(tensor) if tensor.op.type == "Const" else None
        scalar = None if constant is None or constant.size != 1 or constant.dtype.kind not in "fiu" else float(constant.item())
        return Step(tensor.op.type, [source.name for source in tensor.op.inputs], scalar)

    return ending_of(output.name, step_of)
