"""The names of a network's classes."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from pipeline.errors import MissingInput, WrongSpec
from pipeline.models.head import BOX_COLUMNS
from pipeline.models.network import LOGITS, Network
from pipeline.store.text import decoded, lines

IMAGENET_CLASSES = 1000
_BACKGROUND = "background"  # the class that TensorFlow 1's ImageNet networks have before the thousand


def count_classes(network: Network) -> int:
    """The number of classes or outputs of a network. Raises: UnusableModel, for a network without logits."""
    shape = logits_shape(network)
    return int(shape[-1]) - (BOX_COLUMNS if len(shape) == 3 else 0)


def logits_shape(network: Network) -> tuple[int, ...]:
    """The shape of the logits of one image, the batch first. Raises: UnusableModel, for a network without logits."""
    import tensorflow as tf

    height, width, channels = network.input_shape
    images = tf.TensorSpec((1, height, width, channels), tf.float32)
    traced = tf.function(lambda images: network.trace(images, [LOGITS]), autograph=False).get_concrete_function(images)
    return tuple(traced.structured_outputs[LOGITS].shape)


def class_names(
    named: str | None, network: str, count: int, of_data: Sequence[str] | None, fits: bool = True
) -> tuple[str, ...] | None:
    """The name of each logit.

    Args:
        named: `model.labels`: "imagenet", or the path of a text file with one name a line.
        network: the network's name, for the error. count: how many logits there are, as `count_classes` says.
        of_data: the data set's labels, which name the logits where nothing else does and there are as many.
        fits: whether a file of another length is an error; else it names nothing.

    Returns: None where nothing names them.
    Raises: MissingInput; WrongSpec, for a file of another length.
    """
    if named is None:
        return tuple(of_data) if of_data and len(of_data) == count else None
    names = _imagenet() if named == "imagenet" else _read(Path(named))
    if named == "imagenet" and count == len(names) + 1:
        names = [_BACKGROUND, *names]
    if len(names) != count and not fits:
        return None
    if len(names) != count:
        raise WrongSpec(
            f"model.labels = {named!r} has {len(names)} names, but {network} has {count} classes. "
            "Name a file with one line a class."
        )
    return tuple(names)


def _read(path: Path) -> list[str]:
    try:
        text = decoded(path.read_bytes())
    except OSError as error:
        raise MissingInput(f"model.labels = {str(path)!r} cannot be read ({error.strerror}). Name a text file.") from None
    except UnicodeDecodeError:
        raise WrongSpec(
            f"model.labels = {str(path)!r} is not text in UTF-8 or marked UTF-16. Name a file with one name a line."
        ) from None
    return [line.strip() for line in lines(text.rstrip("\r\n"))]


def _imagenet() -> list[str]:
    """The thousand names, which come with convscope; the file's first line says from where."""
    stored = resources.files("pipeline.models").joinpath("imagenet_classes.txt").read_text(encoding="utf-8")
    return [line for line in stored.splitlines() if not line.startswith("#")]
