"""How a job runs: sources and networks in, heaps, fields, patches and indexes out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.activations.heap import Activations
    from pipeline.run import run
    from pipeline.spec import load_spec

__all__ = ["Activations", "load_spec", "run"]

_HOMES = {"Activations": "pipeline.activations.heap", "load_spec": "pipeline.spec", "run": "pipeline.run"}


def __getattr__(name: str) -> Any:
    # Names are looked up on first use, so that `--help` and `import pipeline` need neither TensorFlow nor pandas.
    if name not in _HOMES:
        raise AttributeError(f"module 'pipeline' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)
