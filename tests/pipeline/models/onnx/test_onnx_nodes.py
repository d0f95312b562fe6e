"""ONNX's own tests of its operators, which nobody here wrote: every operator of the table passes its cases."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from left_out import LEFT_OUT

from pipeline.errors import UnusableModel
from pipeline.models.onnx import run, supported

DOCS = Path(__file__).parents[4] / "docs" / "onnx.md"
EXCLUDED = {f"test_{name}" for names in LEFT_OUT.values() for name in names}


def _array(value: Any) -> Any:
    value = onnx.numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else value
    return np.asarray(value) if isinstance(value, (np.ndarray, np.generic, float, int, bool)) else value


def _difference(case: Any) -> str | None:
    """What of a case's outputs is wrong; None where all is right."""
    for inputs, expected in case.data_sets:
        try:
            results = run(case.model, [_array(value) for value in inputs])
        except UnusableModel as error:
            return str(error)[:200]
        for result, value in zip(results, map(_array, expected), strict=False):
            if not isinstance(value, np.ndarray):
                return "a sequence, or nothing"
            if result.shape != value.shape or result.dtype != value.dtype:
                return f"{result.dtype} {result.shape}, not {value.dtype} {value.shape}"
            # Half the digits of a half, where sums are taken in another order than the reference does.
            coarse = {"float16": 2e-3, "bfloat16": 2e-2}.get(value.dtype.name, 0.0)
            one, other = (part.astype(np.float64) if part.dtype.kind in "fV" else part for part in (result, value))
            if not np.allclose(one, other, rtol=max(case.rtol, coarse), atol=max(1e-6, coarse), equal_nan=True):
                return "other numbers"
    return None


@pytest.mark.slow  # 20 s: 1,700 small models
def test_every_operator_of_the_table_passes_the_cases_of_onnx() -> None:
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = collect_testcases(None)
    wrong: dict[str, str] = {}
    passed: set[str] = set()
    run_cases = 0
    for case in cases:
        kinds = {node.op_type for node in case.model.graph.node}
        if not kinds <= supported():
            continue
        run_cases += 1
        problem = _difference(case)
        passed |= kinds if problem is None else set()
        wrong |= {case.name: problem} if problem else {}
    assert wrong.keys() == EXCLUDED, {name: wrong.get(name, "passes, though left out") for name in wrong.keys() ^ EXCLUDED}
    assert len(passed) >= 150
    text = " ".join(DOCS.read_text(encoding="utf-8").split())
    assert f"{len(cases):,} cases, of which {run_cases:,} need" in text and f"; {run_cases - len(wrong):,} of them pass" in text
    assert f"The other {len(wrong)} are left out" in text


def test_the_documentation_says_what_is_left_out_and_how_often() -> None:
    text = " ".join(DOCS.read_text(encoding="utf-8").split())
    for reason, names in LEFT_OUT.items():
        assert f"- {reason}: {len(names)} case{'s' if len(names) > 1 else ''}" in text


def test_the_documentation_lists_the_operators_of_the_table() -> None:
    text = DOCS.read_text(encoding="utf-8")
    listed = text.partition("## Operators")[2].partition("The cases")[0]
    assert set(re.findall(r"`(\w+)`", listed)) == supported()
    assert f"translates {len(supported())} operators" in listed
