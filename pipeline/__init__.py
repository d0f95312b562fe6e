"""How a job runs: sources and networks in, heaps, fields, patches and indexes out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.load import load_spec
from pipeline.run import run

if TYPE_CHECKING:
    from pipeline.activations.heap import Activations

__all__ = ["Activations", "load_spec", "run"]


def __getattr__(name: str) -> Any:
    # Looked up on first use, so that a command line that only prints its help does not import NumPy.
    if name == "Activations":
        from pipeline.activations.heap import Activations

        return Activations
    raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
