"""ScanPlan: what a scan reads and keeps, and how it reports its progress."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.models.network import LayerInfo

if TYPE_CHECKING:
    from pipeline.job import Job

Progress = Callable[[int, int], None]  # called with the examples done, and the examples in all


@dataclass(frozen=True)
class ScanPlan:
    """What a scan reads and keeps.

    channels: the channels to look at, by number; None: all channels of every layer.
    top_k, bottom_k, label_k: how many of a channel's strongest responses are kept, of its weakest, and of its strongest
    for each label; 0 for none.
    labels: the data set's labels in their order; only label_k needs them.
    per_image: how many responses to examples of one source image a channel's heap takes; None: any number.
    batch: images in a batch.
    rank: whether heaps order images by the "response" or by its "relevance" for the predicted class.
    on_bad, max_bad: whether an unreadable image stops the scan, and which share of unreadable images does.
    precision, xla: how the network is run; see `pipeline.compiled.compile.Arithmetic`.
    """

    layers: tuple[LayerInfo, ...]
    channels: tuple[int, ...] | None
    top_k: int
    batch: int
    on_bad: str = "skip"
    max_bad: float = 1.0
    precision: str = "float32"
    xla: bool = False
    bottom_k: int = 0
    label_k: int = 0
    labels: tuple[str, ...] = ()
    per_image: int | None = None
    rank: str = "response"

    @classmethod
    def of(cls, job: Job) -> ScanPlan:
        """The plan of a job."""
        spec, data, model = job.spec.activations, job.spec.data, job.spec.model
        return cls(
            layers=job.layers,
            channels=None if spec.channels == "all" else tuple(spec.channels),
            top_k=spec.top_k,
            batch=data.batch,
            on_bad=data.on_bad,
            max_bad=data.max_bad,
            precision=model.precision,
            xla=model.xla,
            bottom_k=spec.bottom_k,
            label_k=spec.label_k,
            labels=tuple(job.source.labels or ()) if spec.label_k else (),
            per_image=spec.per_image or (1 if data.window else None),
            rank=spec.rank,
        )

    def channels_of(self, layer: LayerInfo) -> np.ndarray:
        """The numbers of a layer's channels that are looked at: int64."""
        return np.arange(layer.channels) if self.channels is None else np.array(self.channels, np.int64)
