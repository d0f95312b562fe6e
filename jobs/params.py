"""Old parameters: a `params.py` of class visualisation by octaves, read without being run, and written as TOML."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline.errors import MissingInput, WrongSpec, one_line, quoted, shortened
from pipeline.spec.dream import OctaveSpec, VisualizationSpec

# The names that keep their meaning in a spec, and what replaces the others.
_KEPT = ("octaves", "background_color", "classes", "use_bilateral", "use_tv_bregman")
_ELSEWHERE = {
    "model": "model.source, as frozen:PATH",
    "layer": "model.logits, or dream.visualization.layer",
    "params_path": "nothing: the parameters are in the spec",
    "logdir_path": "--out",
    "outdir_path": "--out",
}
_WRAPPERS = ("float32", "float64", "int32", "int64", "array", "asarray", "list", "tuple")  # of a literal: np.float32([...])


def convert(path: Path) -> str:
    """The TOML of an old file of parameters, for a spec.

    Nothing in the file is run: only assignments of literals, and of NumPy arrays of literals, are read. Names that a spec
    does not have become comments that say what replaces them.

    Raises: MissingInput; WrongSpec, for a file that is not Python, a value that is not a literal, or one that is invalid.
    """
    assignments = _assignments(path)
    values = {name: value for name, value in assignments.items() if name in _KEPT}
    if not values:
        raise WrongSpec(f"{path} sets none of {', '.join(_KEPT)}. Name the params.py of a class visualisation.")
    try:
        VisualizationSpec.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        known = f" (known: {', '.join(OctaveSpec.model_fields)})" if first["type"] == "extra_forbidden" else ""
        raise WrongSpec(
            f"{shortened(key)} = {quoted(first['input'])} in {path}: {first['msg']}{known}. Change it, or take it out."
        ) from None
    lines = [
        f"# {name} = {shortened(_comment(value))}: now {_elsewhere(name)}"
        for name, value in assignments.items()
        if name not in _KEPT
    ]
    lines.append("[dream.visualization]")
    lines += [f"{name} = {_toml(value)}" for name, value in values.items() if name != "octaves"]
    for octave in values.get("octaves", []):
        lines += ["", "[[dream.visualization.octaves]]", *(f"{key} = {_toml(value)}" for key, value in octave.items())]
    return "\n".join(lines) + "\n"


def _comment(value: Any) -> str:
    """A value that a spec has no use for, on one line."""
    try:
        return json.dumps(value)
    except (TypeError, ValueError, RecursionError):  # sets, complex numbers, integers of thousands of digits
        return json.dumps(quoted(value))


def _elsewhere(name: str) -> str:
    return _ELSEWHERE.get(name, "nothing: no parameter of this name is known")


def _assignments(path: Path) -> dict[str, Any]:
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MissingInput(f"the parameters {str(path)!r} cannot be read ({error.strerror}). Name a Python file.") from None
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:  # also of bytes that are no text, and of endless sums
        raise WrongSpec(f"{path} is not Python ({one_line(error)}). Name the params.py of a class visualisation.") from None
    assignments: dict[str, Any] = {}
    for statement in tree.body:
        targets = statement.targets if isinstance(statement, ast.Assign) else []
        if isinstance(statement, ast.AnnAssign) and statement.value is not None:
            targets = [statement.target]
        for target in targets:
            if isinstance(target, ast.Name):
                assignments[target.id] = _literal(statement.value, target.id, path)  # type: ignore[attr-defined]
    return assignments


def _literal(node: ast.expr, name: str, path: Path) -> Any:
    if isinstance(node, ast.Call) and len(node.args) == 1:
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if called in _WRAPPERS:
            node = node.args[0]
    try:
        value = ast.literal_eval(node)
    except (ValueError, TypeError, MemoryError, RecursionError):
        if name in _KEPT:
            raise WrongSpec(
                f"{name} in {path}, line {node.lineno}, is not a literal, and "
                "convscope runs no code. Write the values themselves."
            ) from None
        try:
            return ast.unparse(node)
        except (ValueError, RecursionError):
            return f"line {node.lineno}"
    return list(value) if isinstance(value, (tuple, set)) else value


def _toml(value: Any) -> str:
    return json.dumps(value)  # numbers, booleans, texts and lists of them look the same in TOML
