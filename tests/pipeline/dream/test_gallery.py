"""What becomes of a batch of patterns: how it is made and measured, its rows, its words, its sheets."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.ascent.loop import Climb, Climbed
from pipeline.drawing.pixels import decode_png, encode_png
from pipeline.dream import channel, layer
from pipeline.models.network import LayerInfo
from pipeline.patterns.contact_sheet import Found, Made, draw_sheet
from pipeline.patterns.plan import Pattern, Sheet, chosen_layers
from pipeline.spec.patterns import PatternsSpec
from pipeline.stages import patterns

RAISED, LOWERED = Pattern(channel("x", 1), 1, 0, "x", 1), Pattern(channel("x", 1), -1, 1, "x", 1)
NAMED = Pattern(layer("x"), -1, 0, name="calm")


def flat(shade, height=20, width=40):
    return np.full((height, width, 3), (shade, 7, 90), np.uint8)  # no colour of the sheet's own


def made(pattern=RAISED, shade=9, state="done", reached=3.0, strongest=None):
    return Made(pattern, flat(shade), np.float32([1, 2]), 1, state, reached, strongest)


def test_a_batch_begins_from_noises_of_its_own_and_is_measured_by_what_is_asked(monkeypatch, tmp_path):
    wanted, told, seen = [RAISED, LOWERED, NAMED], [], {}
    ascent = SimpleNamespace(pictures=lambda state: np.stack([flat(shade) for shade in (1, 2, 3)]))

    def climb(ascent, climbs, keys, plan, snapshot, tell):
        seen.update(climbs=climbs, keys=keys, plan=plan)
        tell(2, 0.5)
        losses = np.float32([[1, 10, 100], [2, 20, 200]])
        return Climbed(None, losses, np.int32([1, 2, 5]), np.bool_([0, 0, 1]), np.bool_([0, 1, 0]))

    def measure(pictures, objectives):
        seen.update(objectives=objectives)
        return np.float32([0.1, 0.2, 0.3]), np.float32([5, 6, 7]), np.float32([-5, -6, -7])

    class Fake(patterns.Studio):
        def _compiled(self, climbs):
            return ascent, measure

    monkeypatch.setattr(patterns, "climb", climb)
    spec = PatternsSpec(steps=4, seed=6, contrast=0.2, snapshot=7.0)
    network = SimpleNamespace(digest=lambda: "a")
    studio = Fake(network, spec, tmp_path, lambda *words: told.append(words), 10, done=3)
    found = studio.make(wanted)
    assert seen["climbs"] == [channel("x", 1), -1 * channel("x", 1), -1 * layer("x")]
    assert seen["objectives"] == [channel("x", 1), channel("x", 1), layer("x")]
    assert len(set(seen["keys"])) == 3 and seen["plan"] == Climb(4, 6, 0.2, 7.0)
    monkeypatch.setattr(patterns, "climb", lambda ascent, climbs, keys, *_: seen.update(keys=keys) or 1 / 0)
    with pytest.raises(ZeroDivisionError):
        studio.make([RAISED, Pattern(channel("x", 1), 1, 1, "x", 1)])
    assert len(set(seen["keys"])) == 2  # of two variants
    assert told == [(3 * 4 + 2 * 3, 40, "loss 0.5")] and studio.done == 6
    assert [one.losses.tolist() for one in found] == [[1, 2], [-10, -20], [-100, -200]]
    assert [one.state for one in found] == ["done", "stopped", "dead"] and [one.starts for one in found] == [1, 2, 5]
    assert [one.reached for one in found] == pytest.approx([5, -6, 0.3])
    assert [one.picture[0, 0, 0] for one in found] == [1, 2, 3]


def test_only_raised_channels_are_held_against_the_strongest_patch():
    found = Found({1: [2.5, 2.0]})
    assert [made(pattern).beside(found).strongest for pattern in (RAISED, LOWERED, NAMED)] == [2.5, None, None]
    assert made().beside(found).exceeds is True and made(reached=2.5).beside(found).exceeds is False
    assert made().exceeds is None and made().beside(Found()).exceeds is None


def test_the_row_of_an_oblong_picture_has_its_height_and_width_and_its_seed():
    network = SimpleNamespace(input_shape=(20, 40, 3))
    columns = patterns._columns(PatternsSpec(seed=5), network, [made(), made(LOWERED, strongest=1.0)])
    assert (columns["height"], columns["width"], columns["seed"]) == ([20] * 2, [40] * 2, [5] * 2)
    assert columns["loss"] == [2, 2] and columns["exceeds"] == [None, True] and columns["sign"] == ["positive", "negative"]


def test_what_is_dead_or_stopped_is_said_and_counted(told):
    some = [made(state="dead"), made(LOWERED, state="stopped"), made(NAMED, state="stopped")]
    some.append(made(Pattern(channel("x", 0), 1, 0, "x", 0), strongest=1.0))
    receipt = patterns._told(SimpleNamespace(reporter=told), some)
    assert receipt["told"] == "4 patterns, 1 of 1 above the strongest patch, 1 dead, 2 stopped"
    assert (receipt["dead"], receipt["stopped"], receipt["compared"], receipt["exceeding"]) == (1, 2, 1, 1)
    assert "no gradient, whatever the start: x 1-positive-0. See" in told.lines[0]
    assert "stopped at NaN or infinity: x 1-negative-1, objective calm-negative-0. See" in told.lines[1]


def test_a_sheet_has_a_row_for_each_channel_its_pictures_first_and_its_own_patches_behind(tmp_path):
    variants = [Pattern(channel("x", number), 1, variant, "x", number) for number in (3, 8) for variant in (0, 1)]
    some = [made(pattern, 101 + 10 * place) for place, pattern in enumerate(variants)]
    patches = {3: [encode_png(flat(201, 9, 9))], 8: [encode_png(flat(211, 9, 9)), encode_png(flat(221, 9, 5))]}
    found = Found({3: [2.0], 8: [4.0, 3.0]}, patches)
    draw_sheet(tmp_path, Sheet("x", tuple(variants)), some, found)
    drawn = decode_png((tmp_path / "x-found.png").read_bytes())

    def box(shade):
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
    draw_sheet(tmp_path, Sheet("x", tuple(variants)), some, Found())
    assert {path.name for path in tmp_path.iterdir()} == {"x.png", "x-loss.png"}


def test_layers_are_dreamed_of_in_the_order_of_the_network_each_once():
    layers = [LayerInfo(name, "", (5, 5, 4)) for name in ("a", "b1", "b2", "c")]
    names = [layer.name for layer in chosen_layers(PatternsSpec(layers=["b*", "a", "b2"]), layers)]
    assert names == ["a", "b1", "b2"]
