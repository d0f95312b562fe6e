"""The public Python API of convscope: what users import, from one module, loaded when first used."""

from __future__ import annotations

import sys
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.activations.channel_statistics import Statistics
    from pipeline.activations.heap import Activations
    from pipeline.errors import (
        ConvscopeError,
        Fault,
        FieldUnsolved,
        FolderHeld,
        Interrupted,
        MissingInput,
        PartsMissing,
        StoreFailed,
        TooManyBad,
        TryAgain,
        UnknownLayer,
        UnknownName,
        Unreachable,
        UnusableData,
        UnusableModel,
        WrongSpec,
    )
    from pipeline.live import explain, scan
    from pipeline.load import load_spec, parse_spec
    from pipeline.options import RunOptions
    from pipeline.progress import Reporter
    from pipeline.results import JobResults, open
    from pipeline.run import run
    from pipeline.shards import merge
    from pipeline.spec import DataSpec, JobSpec, ModelSpec
    from recfield import ReceptiveField

    __version__: str

__all__ = [
    "Activations",
    "ConvscopeError",
    "DataSpec",
    "Fault",
    "FieldUnsolved",
    "FolderHeld",
    "Interrupted",
    "JobResults",
    "JobSpec",
    "MissingInput",
    "ModelSpec",
    "PartsMissing",
    "ReceptiveField",
    "Reporter",
    "RunOptions",
    "Statistics",
    "StoreFailed",
    "TooManyBad",
    "TryAgain",
    "UnknownLayer",
    "UnknownName",
    "Unreachable",
    "UnusableData",
    "UnusableModel",
    "WrongSpec",
    "__version__",
    "explain",
    "load_spec",
    "merge",
    "open",
    "parse_spec",
    "run",
    "scan",
]

_PACKAGES = ("jobs", "pipeline", "recfield")
_MODULES = {
    "Activations": "pipeline.activations.heap",
    "DataSpec": "pipeline.spec",
    "JobResults": "pipeline.results",
    "JobSpec": "pipeline.spec",
    "ModelSpec": "pipeline.spec",
    "ReceptiveField": "recfield",
    "Reporter": "pipeline.progress",
    "RunOptions": "pipeline.options",
    "Statistics": "pipeline.activations.channel_statistics",
    "explain": "pipeline.live",
    "load_spec": "pipeline.load",
    "merge": "pipeline.shards",
    "open": "pipeline.results",
    "parse_spec": "pipeline.load",
    "run": "pipeline.run",
    "scan": "pipeline.live",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'convscope' has no attribute {name!r}")
    if name == "__version__":
        value: Any = metadata.version("convscope")
    else:
        _check_packages()
        value = getattr(import_module(_MODULES.get(name, "pipeline.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__


def command_line() -> int:
    """Run the command `convscope`. Returns: its exit status. Raises: ImportError, as any use of this module may."""
    _check_packages()
    from jobs.cli import command_line

    return command_line()


def _check_packages() -> None:
    # `jobs` and `pipeline` are common names. Another package of the same name that Python finds first
    # would fail later, with a message about a module that nobody has heard of.
    here = Path(__file__).resolve().parent
    for name in _PACKAGES:
        path = getattr(sys.modules[name], "__file__", None) if name in sys.modules else getattr(find_spec(name), "origin", None)
        if path is None:
            raise ImportError(f"convscope's package {name!r} is not beside {here / 'convscope.py'}. Install convscope again.")
        if Path(path).resolve() != here / name / "__init__.py":
            raise ImportError(
                f"convscope needs its own package {name!r}, but Python finds {path} first. "
                f"Rename that module, or run convscope from another folder or in an environment of its own."
            )
