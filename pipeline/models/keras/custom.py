"""`model.custom`: a Python file with the classes and functions of its user that a saved model asks for."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import keras

from pipeline.errors import MissingInput, UnusableModel, one_line


def custom_objects(path: Path) -> dict[str, Any]:
    """Run a Python file. Returns: the layers, models and functions that it defines, by name; Keras is given them.

    What it registers with Keras is known to Keras anyway. The file may import what lies beside it.

    Raises: MissingInput; UnusableModel, for a file that fails.
    """
    if not path.is_file():
        raise MissingInput(f"model.custom = {str(path)!r} is {'a folder' if path.is_dir() else 'missing'}. Name a Python file.")
    module = _run(path)
    kept = (keras.Operation, keras.initializers.Initializer, keras.regularizers.Regularizer)
    return {
        name: value
        for name, value in vars(module).items()
        if getattr(value, "__module__", None) == module.__name__
        and (issubclass(value, kept) if isinstance(value, type) else callable(value))
    }


def _run(path: Path) -> ModuleType:
    module_spec = importlib.util.spec_from_file_location(path.stem, path)
    if module_spec is None or module_spec.loader is None:
        raise UnusableModel(f"model.custom = {str(path)!r} is no Python file. Name one that ends in .py.")
    module = importlib.util.module_from_spec(module_spec)
    before = sys.modules.get(path.stem)
    sys.modules[path.stem] = module  # dataclasses and the like look their own module up
    sys.path.insert(0, str(path.parent))
    try:
        module_spec.loader.exec_module(module)
    except Exception as error:  # whatever the user's code raises
        line = f"{type(error).__name__}: {one_line(error)}"
        raise UnusableModel(f"model.custom = {str(path)!r} cannot be run ({line}). Mend it, or name another file.") from None
    finally:
        sys.path.remove(str(path.parent))
        if before is not None:
            sys.modules[path.stem] = before
    return module
