"""The operators of ONNX that convscope translates, by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pipeline.models.onnx import (
    arrays,
    attention,
    elementwise,
    normalizations,
    quantized,
    reductions,
    resizing,
    sampling,
    windows,
)
from pipeline.models.onnx.values import NodeCall

_GROUPS = (arrays, attention, elementwise, normalizations, quantized, reductions, resizing, sampling, windows)

OPERATORS: dict[str, Callable[[NodeCall], Any]] = {name: run for group in _GROUPS for name, run in group.OPERATORS.items()}

FLOW = ("If", "Loop")  # written out by the translator, where their conditions are constant

# The operator sets of ONNX that the table was held against.
OLDEST, NEWEST = 7, 28


def supported() -> set[str]:
    """The names of the operators that convscope translates, such as "Conv"."""
    return {*OPERATORS, *FLOW}
