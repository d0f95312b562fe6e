"""What tests of scans and parts share: responses written by hand, and parts as bytes."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.activations.member import Candidates, Member, Responses
from pipeline.activations.part import Part


def responses_of(maxima: Any, examples: Any = None, labels: Any = None, label_numbers: Any = None) -> Responses:
    """Responses float32 (n, channels), all of them candidates, in row 0."""
    maxima = np.asarray(maxima, np.float32)
    examples = np.arange(len(maxima)) if examples is None else np.asarray(examples, np.int64)
    labels = np.full(len(maxima), "") if labels is None else np.asarray(labels, str)
    numbers = np.full(len(maxima), -1) if label_numbers is None else np.asarray(label_numbers)
    images, channels = np.nonzero(~np.isnan(maxima))
    rows = np.zeros(len(images), np.int64)
    candidates = Candidates(images, channels, maxima[images, channels], examples[images], rows, examples[images] % 7)
    return Responses(maxima, examples, labels, numbers, candidates)


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
