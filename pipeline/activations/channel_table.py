"""The columns of index/channels.parquet: what a part holds of every channel, and the labels of its winners."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.activations.channel_statistics import Statistics
from pipeline.activations.heap_members import Strongest
from pipeline.activations.part import Part

Labels = Sequence[str | None]  # of one channel's winners, strongest first


def channel_columns(
    part: Part, channels: Mapping[str, np.ndarray], labels: Mapping[str, Sequence[Labels]]
) -> dict[str, list[Any]]:
    """The columns of index/channels.parquet, layer by layer.

    Args:
        channels: the numbers of the channels, by layer.
        labels: for each of these channels the labels of its winners, by layer.
    """
    columns: dict[str, list[Any]] = {}
    for layer, numbers in channels.items():
        tops = [top_label(of_channel) for of_channel in labels[layer]]
        values: dict[str, Sequence[Any] | np.ndarray] = {
            "layer": [layer] * len(numbers),
            "channel": numbers,
            "top_label": [label for label, _ in tops],
            "label_purity": [purity for _, purity in tops],
        }
        ties = part.of(Strongest)[layer].ties(part.of(Statistics)[layer].low)
        values["ties"] = [None] * len(numbers) if ties is None else ties
        for member in part.members[layer].values():
            values |= member.columns(numbers)
        for name, column in values.items():
            columns.setdefault(name, []).extend(column)
    return columns


def top_label(labels: Labels) -> tuple[str | None, float | None]:
    """The most frequent label of a channel's winners, the first in the alphabet among equals, and its share."""
    counts = Counter(label for label in labels if label is not None)
    if not counts:
        return None, None
    label, count = min(counts.items(), key=lambda item: (-item[1], item[0]))
    return label, count / len(labels)
