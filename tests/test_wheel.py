"""The wheel, installed into an environment that has nothing of this tree: what is in it, and that it works there."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("convscope-stubs", "jobs", "pipeline", "recfield")
FILES = ("LICENSE", "README.md", "convscope.py", "pyproject.toml", "setup.cfg")


def call(*command: str | Path, folder: Path) -> str:
    """Run a command outside the tree. Returns: what it printed."""
    usual = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    result = subprocess.run(list(map(str, command)), cwd=folder, env=usual, capture_output=True, text=True)
    assert result.returncode == 0, f"{result.stdout}\n{result.stderr}"
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy of the tree without going to a registry."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(ROOT / name, source)
    options = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet", "--wheel-dir", folder)
    call(sys.executable, "-m", "pip", "wheel", *options, source, folder=folder)
    (built,) = folder.glob("convscope-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of a new environment that holds the wheel; its dependencies are those of this one."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    call(sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", "--quiet", wheel, folder=folder)
    (packages,) = folder.glob("lib/*/site-packages")
    # A .pth file adds the folder alone: the editable convscope in it is not seen.
    (packages / "dependencies.pth").write_text(f"{sysconfig.get_path('purelib')}\n", encoding="utf-8")
    return python.parent


def test_every_file_of_the_packages_is_in_the_wheel_and_nothing_else(wheel: Path) -> None:
    expected = {"convscope.py"}
    for name in PACKAGES:
        expected |= {str(path.relative_to(ROOT)) for path in (ROOT / name).rglob("*") if path.is_file()}
    expected = {name for name in expected if "__pycache__" not in name}
    with zipfile.ZipFile(wheel) as archive:
        assert {name for name in archive.namelist() if ".dist-info/" not in name} == expected


def test_the_installed_modules_are_those_of_the_wheel(installed: Path, tmp_path: Path) -> None:
    code = "import convscope, jobs, pipeline, recfield; print(*(m.__file__ for m in (convscope, jobs, pipeline, recfield)))"
    assert all(path.startswith(str(installed.parent)) for path in call(installed / "python", "-c", code, folder=tmp_path).split())
    version = call(installed / "python", "-c", "import convscope; print(convscope.__version__)", folder=tmp_path)
    assert version.strip() == importlib.metadata.version("convscope")


def test_the_command_prints_its_help(installed: Path, tmp_path: Path) -> None:
    assert call(installed / "convscope", "--help", folder=tmp_path).startswith("usage: convscope")


def test_a_shipped_spec_runs_up_to_its_page(installed: Path, tmp_path: Path) -> None:
    settings = ("data.limit=32", "data.batch=32", "activations.channels=[0]", "activations.top_k=1")
    options = [word for setting in settings for word in ("--set", setting)]
    call(installed / "convscope", "run", "demo", "--out", tmp_path / "out", *options, folder=tmp_path)
    assert (tmp_path / "out" / "demo" / "report" / "index.html").is_file()


def test_type_checkers_see_the_types_of_the_installed_wheel(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "user.py").write_text("import convscope\nreveal_type(convscope.load_spec('job.toml').name)\n", encoding="utf-8")
    options = ("--python-executable", installed / "python", "--follow-imports", "silent", "--cache-dir", tmp_path / "cache")
    assert 'Revealed type is "str"' in call(sys.executable, "-m", "mypy", *options, "user.py", folder=tmp_path)
