"""The size and the names of things: short files, functions of few parameters, one name for each class."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PRODUCT = [ROOT / "convscope.py", *(path for name in ("jobs", "pipeline", "recfield") for path in (ROOT / name).rglob("*.py"))]
MOST_LINES, MOST_PARAMETERS = 400, 5

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(node: ast.AST) -> Iterator[tuple[Function, bool]]:
    """Every function in a tree, and whether it is a method that is given an object or a class."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function):
            static = any(isinstance(name, ast.Name) and name.id == "staticmethod" for name in child.decorator_list)
            yield child, isinstance(node, ast.ClassDef) and not static
        yield from functions(child)


def too_many_parameters(source: str) -> list[str]:
    """The functions of a source that take more than `MOST_PARAMETERS`, `self` and `cls` aside."""
    names = []
    for function, is_method in functions(ast.parse(source)):
        given = function.args
        if len([*given.posonlyargs, *given.args, *given.kwonlyargs]) - is_method > MOST_PARAMETERS:
            names.append(function.name)
    return names


def test_every_kind_of_parameter_counts_but_the_object_of_a_method() -> None:
    source = """
def few(a, b, c, d, e, *rest, **others): ...
def many(a, /, b, c, *, d, e, f=1): ...
class C:
    def method(self, a, b, c, d, e): ...
    def large(self, a, b, c, d, e, f): ...
    @staticmethod
    def static(a, b, c, d, e, f): ...
    def outer(self):
        async def inner(a, b, c, d, e, f): ...
"""
    assert too_many_parameters(source) == ["many", "large", "static", "inner"]


def test_no_function_of_the_product_has_more_than_five_parameters() -> None:
    large = {path.relative_to(ROOT).as_posix(): too_many_parameters(path.read_text(encoding="utf-8")) for path in PRODUCT}
    assert len(large) > 200 and {path: names for path, names in large.items() if names} == {}


@pytest.mark.parametrize("folder", ["bench", "jobs", "pipeline", "recfield", "tests"])
def test_no_file_has_more_than_400_lines(folder: str) -> None:
    lines = {path.relative_to(ROOT).as_posix(): path.read_bytes().count(b"\n") for path in (ROOT / folder).rglob("*.py")}
    assert lines and {path: count for path, count in lines.items() if count > MOST_LINES} == {}


def test_no_two_classes_have_one_name() -> None:
    classes = Counter(
        node.name
        for path in PRODUCT
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert len(classes) > 100 and {name: count for name, count in classes.items() if count > 1} == {}


def test_gradients_are_asked_for_where_none_is_left_to_chance() -> None:
    asking = [path.relative_to(ROOT).as_posix() for path in PRODUCT if "tf.gradients(" in path.read_text()]
    assert asking == ["pipeline/compiled/gradients.py"], "TensorFlow's own may be other bits on each GPU: deterministic_gradients"
