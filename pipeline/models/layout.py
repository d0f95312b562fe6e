"""How a network lays its images out: which axis is which, what is left open, and whether the device can run it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import tensorflow as tf

from pipeline.errors import UnusableModel, WrongSpec, one_line
from pipeline.models.network import Network

CHANNELS = (1, 3)  # of most images: grey, RGB


@dataclass(frozen=True)
class Layout:
    """Channels last, (batch, h, w, c), as everywhere in convscope; or channels first, (batch, c, h, w)."""

    channels_first: bool = False

    @property
    def spatial(self) -> tuple[int, int]:
        """The axes of height and width in the network's own order."""
        return (2, 3) if self.channels_first else (1, 2)

    def shape(self, height: int | None, width: int | None, channels: int | None) -> tuple[int | None, int | None, int | None]:
        """The network's own order of an image's axes."""
        return (channels, height, width) if self.channels_first else (height, width, channels)

    def sizes(self, shape: Sequence[int | None]) -> tuple[int | None, int | None, int | None]:
        """Height, width and channels from the network's own order."""
        first, second, third = shape
        return (second, third, first) if self.channels_first else (first, second, third)

    def feed(self, images: tf.Tensor) -> tf.Tensor:
        """(batch, h, w, c) to the network's own order."""
        return tf.transpose(images, (0, 3, 1, 2)) if self.channels_first else images

    def maps(self, maps: tf.Tensor) -> tf.Tensor:
        """The network's own order to (batch, h, w, c)."""
        return tf.transpose(maps, (0, 2, 3, 1)) if self.channels_first else maps


def is_channels_first(shape: Sequence[int | None]) -> bool:
    """Whether (batch, c, h, w) is meant by four sizes.

    3 or 1 are channels, behind rather than in front; else what is beside a square is; else the fewer of the two.
    """
    front, middle, back = shape[1:]
    if back in CHANNELS or front in CHANNELS:
        return back not in CHANNELS
    if middle is not None and middle in (front, back):
        return middle != front
    return front is not None and (back is None or front < back)


def image_layout(shape: Sequence[int | None], where: str, size: tuple[int, int] | None) -> tuple[Layout, tuple[int, int, int]]:
    """What a network takes: its layout, and height, width and channels, open ends filled from `size`.

    Args:
        shape: of its input, the batch first; None where it is open.
        where: the network, for the errors.
        size: (height, width), as the spec has it.

    Raises: UnusableModel, for what is no batch of images; WrongSpec, where `size` is missing or contradicts the network.
    """
    layout = Layout(channels_first=len(shape) == 4 and is_channels_first(shape))
    *fixed, channels = layout.sizes(shape[1:]) if len(shape) == 4 else (None, None, None)
    if channels is None:
        volumes = " Volumes (3D) and films are not read." if len(shape) == 5 else ""
        raise UnusableModel(f"{where} takes inputs of shape {tuple(shape)}, not images: (batch, height, width, bands).{volumes}")
    if size is None and None in fixed:
        raise WrongSpec(f"{where} takes images of any size. Say which: model.size = [height, width].")
    height, width = (length or asked for length, asked in zip(fixed, size or fixed, strict=True))
    if size is not None and (height, width) != size:
        raise WrongSpec(
            f"model.size = {list(size)}, but {where} takes {' x '.join(str(length or 'any') for length in fixed)} pixels. "
            "Leave model.size out."
        )
    assert height is not None and width is not None
    return layout, (height, width, channels)


def check_device(network: Network, layers: Sequence[str], where: str) -> None:
    """Send one image through layers that are channels first, which not every device can run. Raises: UnusableModel."""
    if not layers:
        return

    @tf.function(autograph=False)
    def peaks(images: tf.Tensor) -> list[tf.Tensor]:
        return [tf.reduce_max(value) for value in network.trace(images, layers).values()]

    try:
        peaks(tf.zeros((1, *network.input_shape)))
    except (tf.errors.OpError, UnusableModel) as error:
        # `trace` has one error for all that fails in it, whose cause tf.function leaves in its context alone
        cause = error if isinstance(error, tf.errors.OpError) else error.__context__
        if not isinstance(cause, tf.errors.OpError):
            raise
        reason = one_line(Exception(cause.message.partition("[[")[0]))
        raise UnusableModel(
            f"{where} is laid out channels first, which this device cannot run ({reason}). "
            "Run it on a GPU, or save the network with channels last."
        ) from None
