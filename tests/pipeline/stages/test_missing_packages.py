"""Stages that need a package of the extra `meaning`: without it, they are refused before work starts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest


@pytest.mark.parametrize(
    ("module", "stage", "table", "need"),
    [
        ("sklearn", "directions", {"methods": ["pca2"]}, "directions need the package scikit-learn"),
        ("umap", "atlas", {}, "an atlas needs the package umap-learn"),
        ("sklearn", "gradcam", {"aggregate": ["clusters"]}, 'gradcam.aggregate = "clusters" needs scikit-learn'),
    ],
)
def test_a_stage_without_its_package_says_how_to_install_it(
    write_spec: Any, command: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, module: str, stage: str, table: Any, need: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    spec = write_spec(tmp_path / "job.toml", **{stage: table})
    status, _, error = command("check", spec, "--set", f'stages=["activations", "{stage}"]', "--out", tmp_path / "out")
    assert status == 2 and f'{need}: pip install "convscope[meaning]".' in error
