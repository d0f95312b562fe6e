"""What an attribution method declares, and what it may ask about a batch of images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

if TYPE_CHECKING:
    import tensorflow as tf


Baseline = Literal["black", "blur", "mean"]  # what is left of an image in which nothing is to be seen
Side = Literal["for", "against", "both"]  # of a map: what speaks for the target, or against it


@dataclass(frozen=True)
class AtLayer:
    """What a pass makes of one layer's maps and of the gradients by them, inside the compiled graph.

    combine: the layer's maps A and the gradients G of a target's score by them, float32 (batch, h, w, c) each,
        to float32 (batch, h, w, ...). It is a function of a module, so that equal questions are asked once.
    by_gradients: False where `combine` uses the maps alone; it is then given the maps twice, and no gradient is taken.
    """

    layer: str
    combine: Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
    by_gradients: bool = True


@dataclass(frozen=True)
class AtPixels:
    """The gradient of a target's score by the pixels, float32 (batch, height, width, 3), in units of score per grey level.

    relus: what ReLUs let back: what their own gradient lets ("plain"), nothing negative of that ("guided"), or all that is
        positive from above, whatever they were given ("deconvnet").
    """

    relus: Literal["plain", "guided", "deconvnet"] = "plain"


@dataclass(frozen=True)
class AtAttention:
    """How much each token of the image was looked at through all blocks, float32 (batch, rows, columns) of their grid.

    by_gradients: whether attention is weighed by the gradient of a target's score; else it is the same for all targets.
    """

    by_gradients: bool = False


@dataclass(frozen=True)
class LayerOutput:
    """A layer's output as the network computes it, float32 (batch, ...), in the network's own order of axes."""

    layer: str


@dataclass(frozen=True)
class Relevance:
    """Layer-wise relevance of a target's score, float32: that of the pixels, summed over the bands, (batch, height, width).

    composite: a name of `pipeline.compiled.relevance.COMPOSITES`.
    layer: whose relevance it is instead, (batch, h, w, channels).
    channel: of the layer: then it is the pixels' again, of what goes through this channel alone.
    """

    composite: str
    layer: str | None = None
    channel: int | None = None


Quantity = AtLayer | AtPixels | LayerOutput | Relevance | AtAttention


@dataclass(frozen=True)
class MethodSettings:
    """What people may set for methods that run the network many times.

    steps: the most points of a path from the baseline to the image.
    baseline: what paths start from, and what stands where pixels are taken away; see `baselines.baseline`.
    samples: noisy images, references or masks; 0 for as many as each method takes by itself.
    noise: standard deviation of SmoothGrad's noise, as a share of the image's range.
    patch: side of the square that occlusion moves over the image, as a share of the image's.
    segments: superpixels of an image, about.
    channels: the most that Score-CAM and Ablation-CAM try, those that vary most; 0 for all.
    references: float32 (n, height, width, bands): other images of the data set, for expected gradients.
    """

    steps: int = 256
    baseline: Baseline = "black"
    samples: int = 0
    noise: float = 0.15
    patch: float = 0.125
    segments: int = 50
    channels: int = 0
    references: np.ndarray | None = field(default=None, compare=False)


class Evidence(Protocol):
    """What a method may ask about one batch, from the graph that was compiled for the job.

    images: float32 (count, height, width, bands) in 0 to 255, as the network is given them.
    asked: int (count, targets, 1 + cells): what is explained of each image, to be asked again of the image once it is changed.
    score: float32 (count, targets): the numbers that are explained.
    bands: those of the image; behind them lie the network's other inputs, which are no pixels.
    gaps: by the name of a method, float64 (count, targets): what the method says of the share of the score for which its
        maps do not account.
    """

    images: np.ndarray
    asked: np.ndarray
    score: np.ndarray
    bands: int
    settings: MethodSettings
    gaps: dict[str, np.ndarray]

    def of(self, quantity: Quantity) -> np.ndarray:
        """A quantity for the images as they are: float32 (count, targets, …), without targets for a `LayerOutput`."""

    def at(self, quantity: Quantity, images: np.ndarray, asked: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The targets' scores and a quantity for other images; one pass for as many of them as are in a batch.

        Args:
            images: float32 (n, height, width, bands) in 0 to 255, any number.
            asked: what is explained of each, rows of `asked`.

        Returns: float32 (n, targets) and float32 (n, targets, …).
        """

    def scores(self, images: np.ndarray, asked: np.ndarray) -> np.ndarray:
        """The targets' scores alone, float32 (n, targets), for which no gradient is taken."""

    def behind(self, numbers: np.ndarray, masks: np.ndarray) -> np.ndarray:
        """The targets' scores, float32 (n, targets), of the batch's own images behind masks, put together in the compiled graph.

        Args:
            numbers: int (n,): which image of the batch each mask lies on.
            masks: float32 (n, height, width): 1 where the image is left, 0 where the baseline stands in its place.
        """

    def without_channels(self, layer: str, number: int, channels: np.ndarray) -> np.ndarray:
        """The scores of one image, float32 (channels, targets), with each of a layer's channels set to zero in turn.

        The method needs `LayerOutput(layer)`.
        """

    def with_images(self, images: np.ndarray, quantities: tuple[Quantity, ...]) -> Evidence:
        """The same batch with other images in the place of its own, to be asked the same; it answers these quantities."""


@dataclass(frozen=True)
class Method:
    """One way to show what speaks for a target.

    name: as the spec and the index name it.
    title: for pictures and the page.
    paper: where it was published.
    looks_at: "layer", for a map of the size of each layer that is named; "pixels", for one map of the input's size.
    draws: "heat", (h, w) from zero up, in the colours of a scale; "colours", (h, w, 3) with a sign, grey at zero;
        "signed", (h, w) with a sign, one colour for and another against. `explain` gives "heat" with its sign too; what
        speaks against the target is taken off afterwards, unless `gradcam.evidence` says otherwise.
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
    def changes_relus(self) -> bool:
        """Whether it needs ReLUs whose gradients are not their own."""
        needs = self.needs("" if self.looks_at == "layer" else None)
        return any(isinstance(quantity, AtPixels) and quantity.relus != "plain" for quantity in needs)
