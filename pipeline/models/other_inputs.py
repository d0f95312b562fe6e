"""The inputs of a network beside its image: what a job gives each of them, and how values that differ by example travel.

A pass over a network takes one tensor of images. What other inputs are given for each example lies in bands behind those
of the image, as many as it takes: so batches, shards, micro-batches and engines need not know that a network has several
inputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import numpy as np
import tensorflow as tf

from pipeline.errors import UnknownName, WrongSpec, one_line
from pipeline.models.layout import CHANNELS
from pipeline.spec.model import InputSpec

IMAGE = "image"  # the key of model.inputs that names the input of the images; all others name other inputs

Values = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class OtherInput:
    """An input of a network beside its image, of numbers or truth values.

    shape: of one example, without the batch; None where it is open.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str

    def __str__(self) -> str:
        return f"{self.name} ({self.dtype}, ({', '.join('?' if size is None else str(size) for size in ('batch', *self.shape))}))"

    @property
    def may_be_image(self) -> bool:
        return len(self.shape) == 3


@dataclass(frozen=True, eq=False)
class Given:
    """The value of an input, or where it comes from.

    kind: "constant", the same value for every example; "same", the job's image; "file", an image file; "column", the value of
        a column of the data set; "source", the image of the same number in another source.
    value: of a constant, of the shape of one example. name: of the column, the file or the source.
    """

    input: OtherInput
    kind: Literal["constant", "same", "file", "column", "source"]
    value: np.ndarray | None = None
    name: str = ""

    @property
    def differs(self) -> bool:
        """Whether each example has its own value."""
        return self.kind in ("column", "source")

    def identity(self) -> list[Any]:
        """The values that identify it, of JSON's types."""
        return [self.input.name, self.kind, self.name, None if self.value is None else self.value.tolist()]


def bind(others: Sequence[OtherInput], given: Mapping[str, Any], where: str) -> dict[str, Given]:
    """The values of a network's other inputs, by name.

    Args:
        given: `model.inputs`, without the image.
        where: the network, for the errors.

    Raises: UnknownName, for an input that is not there; WrongSpec, for one that is given nothing, or what does not fit it.
    """
    names = {other.name: other for other in others}
    values = {key if key in names else key.removesuffix(":0"): (key, value) for key, value in given.items()}
    check_named(others, values, where)
    return {name: bound(names[name], value, f"model.inputs.{key}", where) for name, (key, value) in values.items()}


def check_named(others: Sequence[OtherInput], given: Mapping[str, Any], where: str) -> None:
    """Raises: UnknownName, for what is given to an input that is not there; WrongSpec, for an input that is given nothing."""
    names = [other.name for other in others]
    for name in given:
        if name not in names:
            raise UnknownName.among(name, names, where=f"an input of {where} beside its image (model.inputs)")
    missing = [other for other in others if other.name not in given]
    if missing:
        example = f"{missing[0].name} = " + ('{ image = "same" }' if missing[0].may_be_image else "0.0")
        raise WrongSpec(
            f"{where} has inputs that are given nothing: {', '.join(map(str, missing))}. Give each a value, a column of the data "
            f"or an image, such as model.inputs = {{ {example} }}."
        )


def bound(other: OtherInput, value: Any, key: str, where: str) -> Given:
    """The value of one input. Raises: WrongSpec, for one that does not fit it."""
    if not isinstance(value, InputSpec):
        return Given(other, "constant", constant_of(other, value, f"{key} = {value!r}", where))
    if np.dtype(other.dtype if other.dtype != "bfloat16" else "float32").kind not in "biuf":
        raise WrongSpec(f"{key} takes {other.dtype} in {where}, which only a constant can be.")
    if value.column is not None:
        if None in other.shape:
            raise WrongSpec(f"{key} takes values of an open shape in {where}: {other}. Save the network with a fixed one.")
        return Given(other, "column", name=value.column)
    if not other.may_be_image:
        raise WrongSpec(f"{key} names an image, but {where} takes no image there: {other}. Give it a value or a column.")
    if value.image is not None:
        return Given(other, "same")
    return Given(other, "file", name=value.file) if value.file is not None else Given(other, "source", name=value.source or "")


def constant_of(other: OtherInput, value: Any, words: str, where: str) -> np.ndarray:
    """A constant as an array of the shape of one example: a number stands for all of them. Raises: WrongSpec."""
    array = as_array(value, other.dtype, words, where)
    if array.ndim == len(other.shape) + 1 and array.shape[0] == 1:
        array = array[0]
    if array.ndim == 0 and None not in other.shape:
        return np.full([size or 0 for size in other.shape], array)
    if not tf.TensorShape(other.shape).is_compatible_with(array.shape):
        raise WrongSpec(
            f"{words} has the shape {array.shape}, but {where} takes {other}. Write a list of that shape for one example."
        )
    return array


def as_array(value: Any, dtype: str, words: str, where: str) -> np.ndarray:
    """A value of the spec as an array of a type. Raises: WrongSpec, for one that is of another kind."""
    try:
        if isinstance(value, bool) != (dtype == "bool") and not isinstance(value, list):
            raise TypeError(f"a {type(value).__name__} is no {dtype}")
        return np.asarray(tf.constant(value, dtype))
    except (TypeError, ValueError) as error:
        raise WrongSpec(f"{words} does not fit {where}, which takes a {dtype} there: {one_line(error)}.") from None


@dataclass(frozen=True)
class Packing:
    """How values of several inputs lie in bands behind an image: float32, one input after the other, in reading order.

    shapes: by input. height, width: of the bands.
    """

    shapes: Mapping[str, tuple[int, ...]]
    height: int
    width: int

    @property
    def bands(self) -> int:
        return -(-sum(map(prod, self.shapes.values())) // (self.height * self.width))

    def pack(self, values: Values) -> np.ndarray:
        """The values of one example -> float32 (height, width, bands)."""
        flat = np.zeros(self.height * self.width * self.bands, np.float32)
        given = [np.ravel(values[name]).astype(np.float32) for name in self.shapes]
        joined = np.concatenate(given) if given else flat[:0]
        flat[: len(joined)] = joined
        return flat.reshape(self.height, self.width, self.bands)

    def unpack(self, bands: tf.Tensor) -> dict[str, tf.Tensor]:
        """float32 (batch, height, width, bands) -> the values of each input, (batch, …)."""
        sizes = [prod(shape) for shape in self.shapes.values()]
        flat = tf.reshape(bands, (-1, self.height * self.width * self.bands))
        parts = tf.split(flat[:, : sum(sizes)], sizes, axis=1)
        return {name: tf.reshape(part, (-1, *shape)) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}


def image_of(inputs: Sequence[OtherInput], given: Mapping[str, Any], where: str) -> str:
    """Which of a network's inputs takes the images: the one that `model.inputs.image` names, or the only one that can.

    Args:
        inputs: all of them.
        given: `model.inputs`.

    Raises: UnknownName, WrongSpec.
    """
    names = [value.name for value in inputs]
    if IMAGE in given and not (IMAGE in names and isinstance(given[IMAGE], InputSpec)):
        named = given[IMAGE]
        if not isinstance(named, str):
            raise WrongSpec(f'model.inputs.image = {named!r} is not the name of an input. Write it as "{names[0]}".')
        if named not in names:
            raise UnknownName.among(named, names, where=f"an input of {where} (model.inputs.image)")
        return named
    open_ = [value for value in inputs if value.name not in given and value.may_be_image] if len(inputs) > 1 else list(inputs)
    usual = [value for value in open_ if value.may_be_image and {value.shape[0], value.shape[-1]} & set(CHANNELS)]
    candidates = usual or open_
    if len(candidates) == 1:
        return candidates[0].name
    if not candidates:
        raise WrongSpec(f"{where} has no input for images, but: {', '.join(map(str, inputs))}.")
    first, second = candidates[0].name, candidates[1].name
    raise WrongSpec(
        f"{where} has several inputs that may take the images: {', '.join(map(str, candidates))}. Name one, and say what the "
        f'others are given: model.inputs = {{ image = "{first}", {second} = {{ image = "same" }} }}.'
    )


def without_image(given: Mapping[str, Any], image: str) -> dict[str, Any]:
    """`model.inputs` without the input of the images, which it may name too."""
    return {key: value for key, value in given.items() if not (key == IMAGE and isinstance(value, str)) and key != image}


def check_images(given: Mapping[str, Given], own: tuple[int | None, ...], where: str) -> None:
    """Raises: WrongSpec, for an input that is to be given images and takes none such as the image's own input does.

    Args:
        own: the shape of the image's own input, without the batch. where: the network, for the error.
    """
    for name, of_input in given.items():
        shape = of_input.input.shape
        if of_input.kind in ("same", "file", "source") and any(
            size not in (None, of) for size, of in zip(shape, own, strict=True)
        ):
            raise WrongSpec(
                f"model.inputs.{name} takes images of {shape} in {where}, and the image is {own}. "
                "Only images of the same size and bands can be given to both."
            )
