"""Which channels carry each class: the mean of gradient times activation over all images, for each channel of each layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline import exact_sums
from pipeline.attribution.aggregates.subjects import AggregateSubject, Subjects
from pipeline.attribution.explainer import Explained
from pipeline.attribution.methods.method import AtLayer
from pipeline.store.columns import append_row
from pipeline.store.tables import INDEX

if TYPE_CHECKING:
    import tensorflow as tf


def gradient_x_activation(maps: tf.Tensor, gradients: tf.Tensor) -> tf.Tensor:
    """Each channel's first-order contribution to the score: float32 (batch, channels), summed over positions."""
    import tensorflow as tf

    return tf.reduce_sum(maps * gradients, axis=(1, 2))


def evidence_at(layer: str) -> AtLayer:
    """The question for the evidence of a layer's channels."""
    return AtLayer(layer, gradient_x_activation)


class ChannelEvidence:
    """Sums the evidence of channels, class by class; sums are exact, so that order and batches do not matter."""

    def __init__(self, subjects: Subjects) -> None:
        self._subjects = subjects
        self._sums: dict[tuple[str, AggregateSubject], np.ndarray] = {}
        # For each channel the images in which it speaks for the subject, then all images.
        self._counts: dict[tuple[str, AggregateSubject], np.ndarray] = {}

    def add(self, explained: Explained) -> None:
        """Take the evidence of a batch."""
        for _, index, slot, subject in self._subjects.of(explained):
            for layer, channels in explained.channels.items():
                values = channels[index, slot].astype(np.float64)
                if not np.isfinite(values).all():
                    continue  # such images are not among those counted
                key, count = (layer, subject), np.append(values > 0, True).astype(np.int64)
                before = self._sums.get(key)
                before = np.zeros((exact_sums.PIECES, len(values))) if before is None else before
                self._sums[key] = exact_sums.add(before, values[np.newaxis])
                self._counts[key] = self._counts.get(key, 0) + count

    def columns(self) -> dict[str, list[Any]]:
        """The columns of index/evidence.parquet: layer by layer and class by class, the strongest channel first."""
        columns: dict[str, list[Any]] = {field.name: [] for field in INDEX["evidence"]}
        for (layer, subject), pieces in sorted(self._sums.items(), key=lambda item: (item[0][0], *item[0][1].order)):
            *positive, images = self._counts[layer, subject].tolist()
            means = np.array([float(total / images) for total in exact_sums.total(pieces)])
            largest = np.maximum(means, 0).sum()
            for rank, channel in enumerate(np.argsort(-means, kind="stable").tolist()):
                share = max(means[channel], 0.0) / largest if largest else 0.0
                about = (layer, subject.logits, subject.number, subject.target, channel, rank)
                row = (*about, images, means[channel], share, positive[channel] / images)
                append_row(columns, row)
        return columns
