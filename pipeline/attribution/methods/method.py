"""What an attribution method declares, and what it may ask about a batch of images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

if TYPE_CHECKING:
    import tensorflow as tf


@dataclass(frozen=True)
class AtLayer:
    """What a pass makes of one layer's maps and of the gradients by them, inside the compiled graph.

    combine: the layer's maps A and the gradients G of a target's score by them, float32 (batch, h, w, c) each,
        to float32 (batch, h, w). It is a function of a module, so that equal questions are asked once.
    """

    layer: str
    combine: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


@dataclass(frozen=True)
class AtPixels:
    """The gradient of a target's score by the pixels, float32 (batch, height, width, 3), in units of score per grey level.

    guided: whether ReLUs let nothing negative back.
    """

    guided: bool = False


@dataclass(frozen=True)
class AtAttention:
    """How much each token of the image was looked at through all blocks, float32 (batch, rows, columns) of their grid.

    by_gradients: whether attention is weighed by the gradient of a target's score; else it is the same for all targets.
    """

    by_gradients: bool = False


Quantity = AtLayer | AtPixels | AtAttention


@dataclass(frozen=True)
class MethodSettings:
    """What people may set for methods that run the network many times.

    steps: the most points of a path from the baseline to the image.
    """

    steps: int = 256


class Evidence(Protocol):
    """What a method may ask about one batch, from the graph that was compiled for the job.

    images: float32 (count, height, width, 3) in 0 to 255, as the network is given them.
    classes: int (count, targets): what is explained of each image.
    gaps: by the name of a method, float64 (count, targets): what the method says of the share of the score for which its
        maps do not account.
    """

    images: np.ndarray
    classes: np.ndarray
    settings: MethodSettings
    gaps: dict[str, np.ndarray]

    def of(self, quantity: Quantity) -> np.ndarray:
        """A quantity for the images as they are: float32 (count, targets, …)."""

    def at(self, quantity: Quantity, images: np.ndarray, classes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The targets' scores and a quantity for other images; one pass for as many of them as are in a batch.

        Args:
            images: float32 (n, height, width, 3) in 0 to 255, any number.
            classes: int (n, targets): what is explained of each.

        Returns: float32 (n, targets) and float32 (n, targets, …).
        """


@dataclass(frozen=True)
class Method:
    """One way to show what speaks for a target.

    name: as the spec and the index name it.
    title: for pictures and the page.
    paper: where it was published.
    looks_at: "layer", for a map of the size of each layer that is named; "pixels", for one map of the input's size.
    draws: "heat", (h, w) from zero up, in the colours of a scale; "colours", (h, w, 3) with a sign, grey at zero;
        "signed", (h, w) with a sign, one colour for and another against.
    needs: what a pass has to give, for a layer's name or None; empty for a method that only runs the network.
    explain: makes the maps of a batch, float32 (count, targets, …), for a layer's name or None.
    """

    name: str
    title: str
    paper: str
    looks_at: Literal["layer", "pixels"]
    draws: Literal["heat", "colours", "signed"]
    needs: Callable[[str | None], tuple[Quantity, ...]]
    explain: Callable[[Evidence, str | None], np.ndarray]

    @property
    def follows_attention(self) -> bool:
        """Whether it needs attention between all tokens."""
        return any(isinstance(quantity, AtAttention) for quantity in self.needs("" if self.looks_at == "layer" else None))

    @property
    def is_guided(self) -> bool:
        """Whether it needs ReLUs that let nothing negative back."""
        return AtPixels(guided=True) in self.needs("" if self.looks_at == "layer" else None)
