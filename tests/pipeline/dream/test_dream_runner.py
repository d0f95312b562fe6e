"""Subjects and the runner: sizes, first pixels, what a spec means for the ascent, and what is read from the parts."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from pipeline.ascent.objectives import layer, logit
from pipeline.dream.octaves import ClassPlan, PicturePlan
from pipeline.dream.plan import Octave, Subject, all_layers, class_octaves, picture_objective, picture_octaves, subjects
from pipeline.dream.runner import DreamRunner, plan_octaves, zoomed
from pipeline.dream.tiles import TileConfig
from pipeline.models.network import LayerInfo
from pipeline.spec.dream import DreamSpec, VisualizationSpec

PICTURE, CLASS = Subject("one", "one.png", layer("x")), Subject("class-0002", "2", logit(2), 2)
DRAWN = {"classes": [2, 0], "octaves": [{"scale": 1.5, "iter_n": 3, "start_sigma": 0.5, "end_sigma": 0.2}] * 2}


def job_of(folder: Any = None, digest: Any = "a", **keys: Any) -> Any:
    """A job with these keys of [dream], on a network of 20 x 30, as far as the runner knows it."""
    network = SimpleNamespace(input_shape=(20, 30, 3), digest=lambda: digest)
    spec = SimpleNamespace(dream=DreamSpec(**keys))
    layers = [LayerInfo(name, "", (5, 5, 2)) for name in ("x", "y")]
    return SimpleNamespace(
        folder=folder,
        network=network,
        spec=spec,
        layers=layers,
        class_names=lambda: None,
        head=lambda: SimpleNamespace(kind="softmax"),
    )


def drawn_classes(**keys: Any) -> Any:
    return {subject.number: pixels for subject, pixels in subjects(job_of(**keys))}


def test_octaves_grow_to_the_size_of_the_picture_and_keep_its_proportions() -> None:
    spec = DreamSpec(num_octave=3, octave_scale=2.0, iterations=7)
    assert picture_octaves(spec, 100, 60, (16, 16)) == [Octave(25, 15, 7), Octave(50, 30, 7), Octave(100, 60, 7)]
    assert picture_octaves(spec, 100, 60, (16, 46)) == [Octave(50, 30, 7), Octave(100, 60, 7)]  # a third of 46 is above 15
    assert class_octaves(VisualizationSpec(**DRAWN), 20, 30) == [Octave(30, 45, 3, 0.5, 0.2), Octave(45, 67, 3, 0.5, 0.2)]


def test_a_class_starts_from_its_background_with_noise_of_its_own() -> None:
    colour = (10.0, 90.0, 140.0)
    first = drawn_classes(visualization=DRAWN | {"background_color": colour})
    again = drawn_classes(visualization=DRAWN | {"background_color": colour, "classes": [0]})
    other = drawn_classes(visualization=DRAWN | {"background_color": colour}, seed=1)
    assert first[2].shape == (20, 30, 3) and first[2].dtype == np.uint8
    np.testing.assert_allclose(first[2].mean(axis=(0, 1)), colour, atol=2)
    np.testing.assert_allclose(first[2][..., 1:].std(axis=(0, 1)), 8, atol=1)
    np.testing.assert_array_equal(first[0], again[0])  # whatever else is drawn
    assert (first[0] != first[2]).mean() > 0.8 and (first[0] != other[0]).mean() > 0.8


def test_the_layers_raised_are_those_named_or_all_of_the_job_and_those_of_the_classes() -> None:
    assert picture_objective(job_of(layers={"y": 2.0, "x": -1.0})) == 2 * layer("y") - layer("x")
    assert picture_objective(job_of()) == layer("x") + layer("y")
    assert all_layers(job_of(visualization={"classes": [1], "layer": "z"})) == ["z"]
    assert all_layers(job_of(layers=["x"], files=["a"], visualization={"classes": [1], "layer": "z"})) == ["x", "z"]


def test_the_spec_of_pictures_becomes_a_plan_and_a_config() -> None:
    job = job_of(step=0.02, shift=0.5, levels=2, seed=7, max_loss=5.0, num_octave=1, zoom={"frames": 2})
    plan, config = plan_octaves(job, PICTURE, np.full((40, 50, 3), 51, np.uint8))
    assert isinstance(plan, PicturePlan) and (config, plan.max_loss) == (TileConfig(0.02, 0.5, 2, 0.0, 7), 5.0)
    np.testing.assert_allclose(plan.original, 0.2)
    assert plan_octaves(job_of(), PICTURE, np.zeros((40, 50, 3), np.uint8))[0].max_loss == float("inf")


@pytest.mark.parametrize(("bilateral", "bregman"), [(True, False), (False, True)])
def test_the_spec_of_classes_becomes_a_plan_and_a_config(bilateral: Any, bregman: Any) -> None:
    keys = {"use_bilateral": bilateral, "use_tv_bregman": bregman, "step": 0.02, "shift": 0.5, "levels": 2}
    job = job_of(seed=7, max_loss=5.0, visualization=DRAWN | keys)
    plan, config = plan_octaves(job, CLASS, np.zeros((20, 30, 3), np.uint8))
    assert isinstance(plan, ClassPlan) and plan.smooth is bregman and plan.max_loss == float("inf")
    assert config == TileConfig(0.02, 0.5, 2, 0.5 if bilateral else 0.0, 7)


def test_no_more_tiles_go_through_the_network_at_once_than_a_picture_has() -> None:
    runner = DreamRunner(job_of(batch=5), print, 1)
    assert [runner.batch(*size) for size in ((20, 30), (40, 30), (21, 31), (30, 20), (200, 300))] == [1, 2, 4, 2, 5]


def test_a_finished_picture_is_read_from_the_parts_unless_anything_it_depends_on_changed(tmp_path: Path) -> None:
    class Counting(DreamRunner):
        def _ascend(self, subject: Any, original: Any, checkpoint: Any) -> Any:
            made.append(subject.name)
            return [original, np.zeros(3), 1, False, False, 0.0, 1.0, float("nan")]

    def make(subject: Any = PICTURE, fill: Any = 0, **keys: Any) -> Any:
        list(Counting(job_of(tmp_path, **keys), print, 1).make(subject, np.full((40, 50, 3), fill, np.uint8)))
        return len(made)

    made = []
    assert [make(), make(), make(snapshot=5.0, files=["more.png"]), make(visualization=DRAWN)] == [1] * 4
    assert [make(fill=1), make(step=0.5), make(seed=1), make(digest="b")] == [2, 3, 4, 5]
    assert make(Subject("one", "one.png", layer("y"))) == 6
    assert [make(CLASS, visualization=DRAWN), make(CLASS, visualization=DRAWN | {"classes": [2]})] == [7, 7]
    assert make(CLASS, visualization=DRAWN | {"levels": 1}) == 8
    assert make(zoom={"frames": 3, "scale": 1.0}) == 11  # frames of one and the same picture


def test_every_frame_of_a_zoom_starts_from_the_one_before_enlarged(tmp_path: Path) -> None:
    class Brighter(DreamRunner):
        def _ascend(self, subject: Any, original: Any, checkpoint: Any) -> Any:
            return [original + 10, np.zeros(3), 1, False, False, 0.0, 1.0, float("nan")]

    random = np.random.default_rng(0).integers(0, 200, (40, 50, 3), np.uint8)
    runner = Brighter(job_of(tmp_path, zoom={"frames": 3, "scale": 1.5}, num_octave=2, iterations=6), print, 1)
    frames = list(runner.make(PICTURE, random))
    assert [result.frame for result in frames] == [0, 1, 2] and runner.done == 3 * 2 * 6
    for before, result in pairwise(frames):
        np.testing.assert_array_equal(result.original, zoomed(before.picture, 1.5))
        np.testing.assert_array_equal(result.picture, result.original + 10)


def test_a_picture_is_enlarged_about_its_centre() -> None:
    picture = np.zeros((21, 41, 3), np.uint8)
    picture[9:12, 19:22] = 255
    picture[:, 28] = 255
    enlarged = zoomed(picture, 2.0)
    assert enlarged.shape == picture.shape and enlarged[10, 20].min() == 255
    np.testing.assert_array_equal(enlarged, enlarged[::-1])
    assert enlarged[10, 36].min() == 255 and enlarged[10, 28].max() < 60  # what was 8 from the middle is 16 from it
