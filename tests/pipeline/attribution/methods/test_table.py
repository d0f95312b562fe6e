"""The table of methods: what is added there is in the spec, the pictures, the page and the docs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from explaining import compile_explanations

from pipeline.attribution.methods import METHODS, method_named
from pipeline.attribution.methods.class_activation import class_activation_map
from pipeline.errors import WrongSpec
from pipeline.load import parse_spec
from pipeline.spec.gradcam import GradcamSpec

LEAST = {"name": "x", "model": {"source": "keras:VGG16", "layers": ["*"]}, "data": {"source": "folder:pictures"}}


def test_the_spec_knows_the_methods_of_the_table_and_no_others() -> None:
    choices = GradcamSpec.model_json_schema(by_alias=False)["properties"]["methods"]["anyOf"][0]["anyOf"][0]["enum"]
    assert choices == list(METHODS)
    assert parse_spec(LEAST | {"gradcam": {"methods": "vargrad-gradcam"}}).gradcam.methods == ["vargrad-gradcam"]
    assert method_named("vargrad-gradcam").title == "VarGrad of GradCAM"
    for wrong in ("smoothgrad-", "smoothgrad-gradcm", "gradcam-smoothgrad"):
        with pytest.raises(WrongSpec, match="gradcam.methods"):
            parse_spec(LEAST | {"gradcam": {"methods": wrong}})
    assert parse_spec(LEAST | {"gradcam": {"methods": list(METHODS)}}).gradcam.methods == list(METHODS)
    with pytest.raises(WrongSpec, match="gradcam.methods"):
        parse_spec(LEAST | {"gradcam": {"methods": "gradcm"}})


def test_the_old_name_of_the_sanity_checks_still_works() -> None:
    assert parse_spec(LEAST | {"gradcam": {"trust": "curves"}}).gradcam.sanity == ["curves"]
    assert parse_spec(LEAST | {"gradcam": {"sanity": ["curves"]}}).gradcam.sanity == ["curves"]


def test_the_docs_have_every_method_with_its_paper() -> None:
    text = (
        (Path(__file__).parents[4] / "docs" / "gradcam.md")
        .read_text(encoding="utf-8")
        .partition("\n## Methods\n")[2]
        .partition("\n### ")[0]
    )
    rows = dict(re.findall(r"^\| `([^`]+)` \| .* \| ([^|]+) \|$", text, re.MULTILINE))
    assert rows == {name: method.paper for name, method in METHODS.items()}


def _every_map_alike(maps: Any, gradients: Any) -> Any:
    return maps[..., 0]


def test_a_method_of_one_formula_needs_only_its_line_in_the_table(
    rectified: Any, opened: Any, photos: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = class_activation_map("first", "First channel", "Nobody, 2026", _every_map_alike)
    monkeypatch.setitem(METHODS, "first", method)
    images = photos(2, 16, 16)
    maps = compile_explanations(opened(rectified), [("first", "last")], 2, 1)(images, np.zeros((2, 1), np.int32)).maps
    assert maps["first", "last"].shape[:2] == (2, 1) and maps["first", "last"].any()
