"""What Keras need not import at every start."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from jobs.quick_start import UNUSED, LeftOutOfKeras

ASK_THE_COLLECTOR = """
import gc
from pipeline import own_process
from pipeline.run import start_tensorflow
own_process.is_ours = {ours}
start_tensorflow()
print(gc.isenabled(), gc.get_freeze_count())
"""


def test_what_is_left_out_is_missing_for_keras_and_there_for_everybody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "meta_path", [LeftOutOfKeras(("colorsys",)), *sys.meta_path])
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    with pytest.raises(ImportError, match="for Keras"):
        exec("import colorsys", {"__name__": "keras.src.visualization.plot"})
    exec("import colorsys", {"__name__": "pipeline.directions.fitting"})
    assert "colorsys" in sys.modules and {"sklearn", "pandas"} < set(UNUSED)


@pytest.mark.parametrize("ours", [True, False])
def test_the_collector_passes_over_tensorflow_in_a_process_of_our_own(process: Any, ours: bool) -> None:
    child = process("-c", ASK_THE_COLLECTOR.format(ours=ours))
    out, error = child.communicate(timeout=120)
    is_on, frozen = out.split()
    assert is_on == "True" and (int(frozen) > 50_000) is ours, error
