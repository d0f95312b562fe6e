"""What Keras would import at every start of the command line, though no command uses it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import ModuleType

# Keras's wrappers for scikit-learn, its plots, and what it looks at data frames, notebooks and servers with: a third of the time
# that importing TensorFlow takes. Keras goes without each that is not installed.
UNUSED = ("sklearn", "matplotlib", "pandas", "IPython", "requests")


class LeftOutOfKeras:
    """A finder of sys.meta_path by which modules are missing for Keras, and for nobody else."""

    def __init__(self, names: Sequence[str] = UNUSED) -> None:
        self._names = names

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None) -> None:
        """Raises: ModuleNotFoundError, where a module of Keras imports one of them for the first time."""
        if fullname not in self._names:
            return
        from inspect import currentframe  # which takes time, and `--help` needs none of it

        frame = currentframe()
        while frame is not None and frame.f_globals.get("__name__", "").startswith((__name__, "importlib", "_frozen_importlib")):
            frame = frame.f_back
        if frame is not None and frame.f_globals.get("__name__", "").startswith("keras."):
            raise ModuleNotFoundError(f"No module named {fullname!r}, for Keras", name=fullname)


def leave_out_of_keras() -> None:
    """Import TensorFlow quicker from here on; for a process of the command line alone, in which nobody calls Keras's plots."""
    sys.meta_path.insert(0, LeftOutOfKeras())
