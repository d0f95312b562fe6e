"""What Keras need not import at every start."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from jobs.quick_start import UNUSED, LeftOutOfKeras


def test_what_is_left_out_is_missing_for_keras_and_there_for_everybody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "meta_path", [LeftOutOfKeras(("colorsys",)), *sys.meta_path])
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    with pytest.raises(ImportError, match="for Keras"):
        exec("import colorsys", {"__name__": "keras.src.visualization.plot"})
    exec("import colorsys", {"__name__": "pipeline.directions.fitting"})
    assert "colorsys" in sys.modules and {"sklearn", "pandas"} < set(UNUSED)


def test_the_collector_passes_over_tensorflow_and_is_on_afterwards(process: Any) -> None:
    child = process(
        "-c", "import gc; from pipeline.run import start_tensorflow as f; f(); print(gc.isenabled(), gc.get_freeze_count())"
    )
    out, error = child.communicate(timeout=120)
    is_on, frozen = out.split()
    assert is_on == "True" and int(frozen) > 50_000, error
