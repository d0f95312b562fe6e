"""The public Python API: what it offers, how fast it is imported, and what it says of a package that is not its own."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import convscope
from pipeline import errors

ROOT = Path(__file__).resolve().parents[1]


def python(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a line of Python in a folder, which comes first on its path, as `python -c` has it."""
    code = f"import sys; sys.path.insert(1, {str(ROOT)!r}); {code}"
    return subprocess.run([sys.executable, "-c", code], cwd=folder, env={}, capture_output=True, text=True)


@pytest.mark.parametrize("name", convscope.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(convscope, name) is getattr(convscope, name)
    assert name in dir(convscope)


def test_every_error_is_public() -> None:
    kinds = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, errors.ConvscopeError)}
    assert kinds - set(convscope.__all__) == set()


def test_type_checkers_see_the_names_that_python_sees() -> None:
    source = (ROOT / "convscope.py").read_text(encoding="utf-8")
    (block,) = (node for node in ast.parse(source).body if isinstance(node, ast.If))
    imported = {alias.name: node.module for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert imported.keys() | {"__version__"} == set(convscope.__all__)
    for name, module in imported.items():
        assert getattr(convscope, name) is getattr(sys.modules[str(module)], name)
    assert (ROOT / "convscope-stubs" / "__init__.pyi").read_text(encoding="utf-8") == source


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'scna'"):
        convscope.scna  # noqa: B018


def test_importing_convscope_imports_nothing_heavy(tmp_path: Path) -> None:
    result = python("import convscope; print(*sys.modules)", tmp_path)
    heavy = {"cv2", "keras", "numpy", "pandas", "pipeline", "pyarrow", "pydantic", "recfield", "tensorflow"}
    assert result.returncode == 0, result.stderr
    assert heavy & set(result.stdout.split()) == set()


def test_reading_a_spec_does_not_import_tensorflow(tmp_path: Path) -> None:
    result = python("import convscope; convscope.load_spec, convscope.JobSpec; print(*sys.modules)", tmp_path)
    assert "pipeline.spec" in result.stdout.split() and "tensorflow" not in result.stdout.split(), result.stderr


@pytest.mark.parametrize("name", ["jobs", "pipeline", "recfield"])
@pytest.mark.parametrize("imported_before", [False, True])
def test_a_foreign_package_of_the_same_name_is_named_in_the_error(name: str, imported_before: bool, tmp_path: Path) -> None:
    (tmp_path / f"{name}.py").write_text("", encoding="utf-8")
    before = f"import {name}; " if imported_before else ""
    result = python(f"{before}import convscope; convscope.ReceptiveField", tmp_path)
    message = result.stderr.splitlines()[-1]
    assert message.startswith(f"ImportError: convscope needs its own package '{name}'"), result.stderr
    assert f"{name}.py" in message
