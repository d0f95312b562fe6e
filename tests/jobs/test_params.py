"""Old parameters: read without being run, and turned into a table that a spec accepts."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from jobs.params import convert
from pipeline.errors import MissingInput, WrongSpec
from pipeline.load import parse_spec
from pipeline.spec.dream import VisualizationSpec

# As the old program's own page has it.
OLD = """
# params.py
import numpy as np
octaves = [{
    'scale': 1.4,
    'iter_n': 190,
    'start_sigma': .44,
    'end_sigma': 0.304,
    }, {
    'scale': 1.4,
    'iter_n': 150,
    'start_sigma': 0.44,
    'end_sigma': 0.304,
    }, {
    'scale': 1.4,
    'iter_n': 150,
    'start_sigma': 0.44,
    'end_sigma': 0.304,
    }, {
    'scale': 1.4,
    'iter_n': 10,
    'start_sigma': 0.44,
    'end_sigma': 0.304,
    }]
background_color = np.float32([10, 90, 140])
classes = [1,2,3,4,5]

# flags
model="tensorflow_inception_graph.pb"
layer="import/softmax2_pre_activation"
params_path="."
use_bilateral=True
use_tv_bregman=True
"""


@pytest.fixture
def old(tmp_path: Path) -> Any:
    """A function: text -> a file of it."""

    def write(text: Any) -> Any:
        path = tmp_path / "params.py"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def spec_of(text: Any) -> Any:
    return parse_spec(
        {"name": "a", "model": {"source": "keras:VGG16", "layers": "*"}, "data": {"source": "folder:a"}, **tomllib.loads(text)}
    ).dream.visualization


def test_the_old_parameters_become_the_defaults_of_a_spec(old: Any) -> None:
    assert spec_of(convert(old(OLD))) == VisualizationSpec()
    spec = VisualizationSpec()
    assert [(one.scale, one.iter_n, one.start_sigma, one.end_sigma) for one in spec.octaves] == [
        (1.4, steps, 0.44, 0.304) for steps in (190, 150, 150, 10)
    ]
    assert (spec.background_color, spec.classes) == ((10, 90, 140), [1, 2, 3, 4, 5])
    assert spec.use_bilateral and spec.use_tv_bregman


def test_values_that_are_changed_arrive_changed(old: Any) -> None:
    text = OLD.replace("190", "7").replace("[10, 90, 140]", "(1.5, 2, 3)").replace("[1,2,3,4,5]", "[11, 76]")
    spec = spec_of(convert(old(text.replace("use_bilateral=True", "use_bilateral=False"))))
    assert spec.octaves[0].iter_n == 7 and spec.background_color == (1.5, 2, 3) and spec.classes == [11, 76]
    assert not spec.use_bilateral


def test_names_that_a_spec_does_not_have_become_comments(old: Any) -> None:
    printed = convert(old(OLD + "spped = 3\n"))
    assert '# model = "tensorflow_inception_graph.pb": now model.source, as frozen:PATH' in printed
    assert '# layer = "import/softmax2_pre_activation": now model.logits' in printed
    assert "# spped = 3: now nothing" in printed


def test_nothing_in_the_file_is_run(old: Any, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    convert(old(f"open({str(trace)!r}, 'w')\nother = open({str(trace)!r}, 'w')\n{OLD}"))
    assert not trace.exists()
    with pytest.raises(WrongSpec, match="classes in .* line 1, is not a literal"):
        convert(old(f"classes = [1, open({str(trace)!r}, 'w')]\n"))
    assert not trace.exists()


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("octaves = [{'scale': 1.4, 'iter_n': 3, 'layer': 'x'}]", r"octaves.0.layer.*known: scale, iter_n"),
        ("background_color = [1, 2, 300]", r"background_color.2 = 300"),
        ("classes = [-1]", r"classes.0 = -1"),
        ("classes = [1", "is not Python"),
        ("a = 3", "sets none of octaves"),
    ],
)
def test_what_cannot_be_right_is_one_line(old: Any, text: Any, match: Any) -> None:
    with pytest.raises(WrongSpec, match=match) as caught:
        convert(old(text))
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match="params.py"):
        convert(tmp_path / "params.py")


def test_the_command_prints_the_table(command: Any, old: Any) -> None:
    status, printed, _ = command("params", old(OLD))
    assert status == 0 and spec_of(printed) == VisualizationSpec()
