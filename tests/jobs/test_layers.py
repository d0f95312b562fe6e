"""`convscope layers`: the table of a network's layers, with their receptive fields or without."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def spec_file(write_spec: Any, tmp_path: Path) -> Any:
    """The spec file of the tiny network on the 20 pictures."""
    return write_spec(tmp_path / "tiny.toml")


def test_layers_lists_every_layer_with_its_receptive_field(command: Any, spec_file: Any) -> None:
    status, out, _ = command("layers", spec_file)
    assert status == 0
    rows = [line.split("  ") for line in out.splitlines()]
    table = [[cell.strip() for cell in row if cell.strip()] for row in rows]
    assert table[0] == ["preprocess: none (as asked)"]
    assert table[1][0].startswith("head: softmax (assumed: the network ends in 3 numbers")
    assert table[2] == ["layer", "kind", "map", "channels", "field", "stride", "cannot be looked at"]
    assert table[3][1:] == ["InputLayer", "the input"]
    assert table[4] == ["edges", "Conv2D", "14 x 14", "4", "3 x 3", "1 x 1"]
    assert table[5] == ["shapes", "Conv2D", "6 x 6", "5", "5 x 5", "2 x 2"]
    assert [row[0] for row in table[6:]] == ["flat", "classes"]


def test_layers_fast_leaves_the_fields_out(command: Any, spec_file: Any) -> None:
    status, out, _ = command("layers", spec_file, "--fast")
    assert status == 0 and out.splitlines()[2].split()[:4] == ["layer", "kind", "map", "channels"]
    assert out.splitlines()[4].split() == ["edges", "Conv2D", "14", "x", "14", "4"]
