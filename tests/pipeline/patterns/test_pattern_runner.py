"""What becomes of a batch of patterns: how it is made and measured, its rows, its summary, its sheets."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from pipeline.ascent.objectives import channel, layer
from pipeline.ascent.optimizer import MAX_FAILURES, AscentConfig
from pipeline.ascent.parametrization import fourier, pixels
from pipeline.ascent.transforms import Transforms
from pipeline.drawing.pixels import decode_png, encode_png
from pipeline.models.network import LayerInfo
from pipeline.patterns.contact_sheet import draw_sheet
from pipeline.patterns.plan import Pattern, PatternSheet, chosen_layers, plan_batches, plan_sheets
from pipeline.patterns.results import PatternResult, StrongestPatches, index_columns, summarise
from pipeline.patterns.runner import PatternRunner, config_of, parametrization_of
from pipeline.spec.patterns import PatternsSpec

RAISED, LOWERED = Pattern(channel("x", 1), 1, 0, "x", 1), Pattern(channel("x", 1), -1, 1, "x", 1)
NAMED = Pattern(layer("x"), -1, 0, name="calm")
TABLE = {
    "name": "a class",
    "terms": [{"kind": "logit", "number": 2}, {"kind": "channel", "layer": "shapes", "channel": 1, "weight": -0.5}],
}


def flat(shade: Any, height: Any = 20, width: Any = 40) -> Any:
    return np.full((height, width, 3), (shade, 7, 90), np.uint8)  # no colour of the sheet's own


def finished(pattern: Any = RAISED, shade: Any = 9, state: Any = "done", reached: Any = 3.0, strongest: Any = None) -> Any:
    return PatternResult(pattern, flat(shade), np.float32([1, 2]), 1, state, reached, strongest)


class Steps:
    """An ascent whose losses are the number of the step times 1, 10, 100, ...; it remembers its objectives."""

    parametrization = pixels(4, 5)

    def __init__(self) -> None:
        self.objectives = []

    def run(self, state: Any, objectives: Any, steps: Any) -> Any:
        self.objectives.append(objectives)
        first, scale = int(state.step), 10.0 ** np.arange(len(objectives))
        inactive = state.inactive + steps * np.int32([number == 2 for number in range(len(objectives))]) * (first > 0)
        failures = np.int32([MAX_FAILURES * (number == 1) for number in range(len(objectives))])
        losses = np.float32([number * scale for number in range(first + 1, first + steps + 1)])
        return state._replace(step=first + steps, inactive=inactive, failures=failures), losses

    def pictures(self, values: Any) -> Any:
        return np.stack([flat(number + 1) for number in range(len(values))])


def test_a_batch_is_made_reported_and_measured_by_its_objectives(tmp_path: Path) -> None:
    batch, reports, measured, steps = [RAISED, LOWERED, NAMED], [], [], Steps()

    def measure(pictures: Any, objectives: Any) -> Any:
        measured.extend(objectives)
        return np.float32([0.1, 0.2, 0.3]), np.float32([5, 6, 7]), np.float32([-5, -6, -7])

    class Fake(PatternRunner):
        def _compile(self, objectives: Any) -> Any:
            return steps, measure

    network = SimpleNamespace(digest=lambda: "a")
    runner = Fake(network, PatternsSpec(steps=2), tmp_path, lambda *report: reports.append(report), 10, done=3)
    results = runner.make(batch)
    assert steps.objectives[-1] == [channel("x", 1), -1 * channel("x", 1), -1 * layer("x")]
    assert measured == [channel("x", 1), channel("x", 1), layer("x")]
    assert reports[-1] == (3 * 2 + 2 * 3, 20, "loss 74") and runner.done == 6
    assert [result.losses.tolist() for result in results] == [[1, 2], [-10, -20], [-100, -200]]
    assert [result.state for result in results][:2] == ["done", "stopped"] and [result.starts for result in results] == [1] * 3
    assert [result.reached for result in results] == pytest.approx([5, -6, 0.3])
    assert [result.picture[0, 0, 0] for result in results] == [1, 2, 3]


def test_only_raised_channels_are_compared_with_the_strongest_patch() -> None:
    patches = StrongestPatches({1: [2.5, 2.0]})
    assert [finished(pattern).compared(patches).strongest for pattern in (RAISED, LOWERED, NAMED)] == [2.5, None, None]
    assert finished().compared(patches).exceeds is True and finished(reached=2.5).compared(patches).exceeds is False
    assert finished().exceeds is None and finished().compared(StrongestPatches()).exceeds is None


def test_the_row_of_an_oblong_picture_has_its_height_and_width_and_its_seed() -> None:
    network = SimpleNamespace(input_shape=(20, 40, 3))
    columns = index_columns(PatternsSpec(seed=5), network, [finished(), finished(LOWERED, strongest=1.0)])
    assert (columns["height"], columns["width"], columns["seed"]) == ([20] * 2, [40] * 2, [5] * 2)
    assert columns["loss"] == [2, 2] and columns["exceeds"] == [None, True] and columns["sign"] == ["positive", "negative"]


def test_dead_and_stopped_patterns_are_named_and_counted(reporter: Any) -> None:
    results = [finished(state="dead"), finished(LOWERED, state="stopped"), finished(NAMED, state="stopped")]
    results.append(finished(Pattern(channel("x", 0), 1, 0, "x", 0), strongest=1.0))
    entry = summarise(reporter, results)
    assert entry["summary"] == "4 patterns, 1 of 1 above the strongest patch, 1 dead, 2 stopped"
    assert (entry["dead"], entry["stopped"], entry["compared"], entry["exceeding"]) == (1, 2, 1, 1)
    assert "no gradient from any start: x 1-positive-0. See" in reporter.lines[0]
    assert "stopped at NaN or infinity: x 1-negative-1, objective calm-negative-0. See" in reporter.lines[1]


def test_a_sheet_has_a_row_for_each_channel_its_pictures_first_then_its_own_patches(tmp_path: Path) -> None:
    variants = [Pattern(channel("x", number), 1, variant, "x", number) for number in (3, 8) for variant in (0, 1)]
    results = [finished(pattern, 101 + 10 * number) for number, pattern in enumerate(variants)]
    images = {3: [encode_png(flat(201, 9, 9))], 8: [encode_png(flat(211, 9, 9)), encode_png(flat(221, 9, 5))]}
    patches = StrongestPatches({3: [2.0], 8: [4.0, 3.0]}, images)
    draw_sheet(tmp_path, PatternSheet("x", tuple(variants)), results, patches)
    drawn = decode_png((tmp_path / "x-found.png").read_bytes())

    def box(shade: Any) -> Any:
        rows, cols = np.nonzero((drawn == (shade, 7, 90)).all(axis=-1))
        return rows.min(), cols.min(), rows.max() + 1 - rows.min(), cols.max() + 1 - cols.min()

    corners = {shade: box(shade) for shade in (101, 111, 121, 131, 201, 211, 221)}
    assert [corners[shade][2:] for shade in (101, 111, 121, 131)] == [(60, 120)] * 4  # three times 20 x 40
    assert corners[101][0] == corners[111][0] < corners[121][0] == corners[131][0]
    assert corners[101][1] == corners[121][1] < corners[111][1] == corners[131][1] < corners[201][1] == corners[211][1]
    assert corners[211][0] - corners[201][0] == corners[121][0] - corners[101][0]
    tall = corners[221]
    assert tall[2] == 96 and 50 <= tall[3] <= 56 and tall[1] > corners[211][1] + 96  # in its form, in the middle of its tile
    alone = decode_png((tmp_path / "x.png").read_bytes())
    assert not (alone == (201, 7, 90)).all(axis=-1).any() and (alone == (131, 7, 90)).all(axis=-1).sum() == 60 * 120
    draw_sheet(tmp_path, PatternSheet("x", tuple(variants)), results, StrongestPatches())
    assert {path.name for path in tmp_path.iterdir()} == {"x.png", "x-loss.png"}


def test_layers_come_in_the_order_of_the_network_each_once() -> None:
    layers = [LayerInfo(name, "", (5, 5, 4)) for name in ("a", "b1", "b2", "c")]
    names = [layer.name for layer in chosen_layers(PatternsSpec(layers=["b*", "a", "b2"]), layers)]
    assert names == ["a", "b1", "b2"]


def test_batches_have_one_form_keep_variants_together_and_are_nearly_equal() -> None:
    spec = PatternsSpec(variants=3, batch=8, sign="both", objectives=[TABLE])
    layers = [LayerInfo("edges", "", (14, 14, 5)), LayerInfo("shapes", "", (6, 6, 1))]
    batches = [list(plan_batches(sheet.patterns, spec)) for sheet in plan_sheets(spec, layers)]
    assert [[len(batch) for batch in of_sheet] for of_sheet in batches] == [[6] * 5, [6], [6]]
    nine = plan_sheets(PatternsSpec(batch=4), [LayerInfo("edges", "", (14, 14, 9))])[0].patterns
    assert [len(batch) for batch in plan_batches(nine, PatternsSpec(batch=4))] == [3, 3, 3]
    for batch in (batch for of_sheet in batches for batch in of_sheet):
        assert len({pattern.raised.form for pattern in batch}) == 1
        for first in range(0, len(batch), 3):
            group = batch[first : first + 3]
            assert [pattern.variant for pattern in group] == [0, 1, 2]
            assert len({(pattern.objective, pattern.sign) for pattern in group}) == 1


def test_the_spec_becomes_a_config_and_a_parametrization() -> None:
    keys = {"optimiser": "sgd", "rate": 0.3, "tv": 1.5, "l2": 2.5, "variants": 3, "diversity": 4.5, "seed": 5}
    spec = PatternsSpec(**keys, shake={"pad": 0.05, "jitter": 0.2, "scale": 0.3, "rotate": 7}, decay=0.5, decorrelated=False)
    config = config_of(spec)
    assert config == AscentConfig("sgd", 0.3, Transforms(0.05, 0.2, 0.3, 7.0), tv=1.5, l2=2.5, group=3, diversity=4.5, seed=5)
    parametrization = parametrization_of(spec, SimpleNamespace(input_shape=(20, 40, 3)), config.transforms)
    assert (parametrization.height, parametrization.width) == (24, 48)  # 22 and 44, enlarged for a fast Fourier transform
    noise = parametrization.noise((0, 1), 0.5)[tf.newaxis]
    np.testing.assert_array_equal(parametrization.render(noise), fourier(24, 48, decorrelated=False, decay=0.5).render(noise))


def test_a_finished_batch_is_read_from_the_parts_unless_anything_it_depends_on_changed(tmp_path: Path) -> None:
    class Counting(PatternRunner):
        def _make(self, batch: Any, checkpoint: Any) -> Any:
            made.append(checkpoint.path.name)
            count = len(batch)
            return [np.zeros((count, 2, 2, 3), np.uint8), np.zeros((count, 1)), *[np.zeros(count)] * 4]

    def make(digest: Any = "a", pattern: Any = Pattern(channel("x", 1), 1, 0), **keys: Any) -> Any:
        network = SimpleNamespace(digest=lambda: digest)
        Counting(network, PatternsSpec(**keys), tmp_path, lambda *_: None, 1).make([pattern])
        return len(set(made))

    made = []
    assert [make(), make(), make(snapshot=5.0)] == [1, 1, 1] and len(made) == 1
    others = [Pattern(channel("x", 2), 1, 0), Pattern(channel("x", 1), -1, 0), Pattern(channel("x", 1), 1, 1)]
    assert [make("b"), make(steps=3), make(seed=1), *(make(pattern=other) for other in others)] == [2, 3, 4, 5, 6, 7]


def test_channels_that_never_fire_get_no_pattern_and_a_layer_of_none_but_these_no_sheet() -> None:
    layers = [LayerInfo("edges", "", (14, 14, 3)), LayerInfo("shapes", "", (6, 6, 2))]
    sheets = plan_sheets(PatternsSpec(), layers, {"edges": {1}, "shapes": {0, 1}})
    assert [(sheet.name, [pattern.channel for pattern in sheet.patterns]) for sheet in sheets] == [("edges", [0, 2])]
