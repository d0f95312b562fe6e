"""A job with directions of two layers of the tiny network, and one that takes them as layers."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline import run
from pipeline.load import load_spec

METHODS = ["pca2", "ica2", "nmf3", "kmeans3", "lda3", "topk6", "jumprelu6"]


@pytest.fixture(scope="session")
def directed(write_spec: Any, quiet: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The folder of a job with seven sets of directions of `edges`, which is rectified, from the 20 pictures."""
    folder = tmp_path_factory.mktemp("directed")
    table = {"layers": ["edges"], "methods": METHODS, "per_image": 20, "sparsity": 2, "steps": 40}
    spec = load_spec(write_spec(folder / "spec.toml", directions=table), ['stages=["directions", "report"]'])
    return run(spec, folder, reporter=quiet)


@pytest.fixture(scope="session")
def layered(directed: Any, write_spec: Any, quiet: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The folder of a job over `edges` and all its directions."""
    folder = tmp_path_factory.mktemp("layered")
    model = {"directions": str(directed), "layers": ["edges", "edges@*"]}
    spec = load_spec(write_spec(folder / "spec.toml", model=model), ['stages=["activations"]'])
    return run(spec, folder, reporter=quiet)
