"""What tests of scans and parts share: networks of one step, responses written by hand, and parts as bytes."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from pipeline.activations.member import Candidates, Member, Responses
from pipeline.activations.part import Part
from pipeline.models.keras.model import keras_network


def responses_of(
    maxima: Any, examples: Any = None, labels: Any = None, label_numbers: Any = None, ceiling: Any = None, groups: Any = None
) -> Responses:
    """Responses float32 (n, channels), all of them candidates, in row 0.

    Args:
        ceiling: of a layer with an upper clamp, whose maxima are then those before it.
    """
    maxima = np.asarray(maxima, np.float32)
    examples = np.arange(len(maxima)) if examples is None else np.asarray(examples, np.int64)
    labels = np.full(len(maxima), "") if labels is None else np.asarray(labels, str)
    numbers = np.full(len(maxima), -1) if label_numbers is None else np.asarray(label_numbers)
    images, channels = np.nonzero(~np.isnan(maxima))
    rows = np.zeros(len(images), np.int64)
    unclipped, maxima = (None, maxima) if ceiling is None else (maxima, np.minimum(maxima, np.float32(ceiling)))
    scores = maxima[images, channels]
    candidates = Candidates(
        channels=channels,
        scores=scores,
        examples=examples[images],
        rows=rows,
        cols=examples[images] % 7,
        unclipped=np.full_like(scores, np.nan) if unclipped is None else unclipped[images, channels],
        groups=examples[images] if groups is None else np.asarray(groups)[images],
        # Maps of a response's own: whoever has the response must have its map.
        maps=np.stack([channels, examples[images]], axis=1).astype(np.uint8),
        images=images,
    )
    return Responses(maxima, examples, labels, numbers, candidates, unclipped=unclipped)


def bytes_of(member: Member) -> list:
    """All that a member holds, to the sign of a zero."""
    return [
        (name, array.dtype.kind, array.shape, array.tolist() if array.dtype.kind == "U" else array.tobytes())
        for name, array in member.arrays().items()
    ]


def in_bytes(part: Part) -> tuple:
    """All that a part holds."""
    members = {(layer, name): bytes_of(of) for layer, kinds in part.members.items() for name, of in kinds.items()}
    return part.channels, members, part.seen, part.skipped


def one_layer(build: Any, name: Any = "out", size: Any = 4) -> Any:
    """A network of one step on raw pixels."""
    inputs = keras.Input((size, size, 3))
    return keras_network(keras.Model(inputs, build(inputs)), name, None, "none")
