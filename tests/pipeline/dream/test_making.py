"""Subjects and their making: sizes, first pixels, what a spec asks of the ascent, and what is found among the parts."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest

from pipeline.drawing.pixels import decode_png
from pipeline.dream import channel, layer, logit
from pipeline.dream.contact_sheet import Shown, draw_exhibition, small
from pipeline.dream.octaves import FromNothing, FromPicture, Octave
from pipeline.dream.plan import Subject, class_octaves, picture_objective, picture_octaves, subjects
from pipeline.dream.runner import Made, Studio, nearer
from pipeline.dream.tiles import TiledWay
from pipeline.models.network import LayerInfo
from pipeline.spec.dream import DreamSpec, VisualizationSpec
from pipeline.stages import dream as stage

PICTURE, CLASS = Subject("one", "one.png", layer("x")), Subject("class-0002", "2", logit(2), 2)
DRAWN = {"classes": [2, 0], "octaves": [{"scale": 1.5, "iter_n": 3, "start_sigma": 0.5, "end_sigma": 0.2}] * 2}


def job_of(folder=None, digest="a", **keys):
    """What a job of [dream] with these keys is to those who make its pictures, on a network of 20 x 30."""
    network = SimpleNamespace(input_shape=(20, 30, 3), digest=lambda: digest)
    spec = SimpleNamespace(dream=DreamSpec(**keys))
    layers = [LayerInfo(name, "", (5, 5, 2)) for name in ("x", "y")]
    return SimpleNamespace(folder=folder, network=network, spec=spec, layers=layers, class_names=lambda: None)


def drawn_classes(**keys):
    return {subject.number: pixels for subject, pixels in subjects(job_of(**keys))}


def test_octaves_grow_to_the_size_of_the_picture_and_keep_its_form():
    spec = DreamSpec(num_octave=3, octave_scale=2.0, iterations=7)
    assert picture_octaves(spec, 100, 60, (16, 16)) == [Octave(25, 15, 7), Octave(50, 30, 7), Octave(100, 60, 7)]
    assert picture_octaves(spec, 100, 60, (16, 46)) == [Octave(50, 30, 7), Octave(100, 60, 7)]  # a third of 46 is above 15
    assert class_octaves(VisualizationSpec(**DRAWN), 20, 30) == [Octave(30, 45, 3, 0.5, 0.2), Octave(45, 67, 3, 0.5, 0.2)]


def test_a_class_begins_with_its_background_and_a_noise_of_its_own():
    colour = (10.0, 90.0, 140.0)
    first = drawn_classes(visualization=DRAWN | {"background_color": colour})
    again = drawn_classes(visualization=DRAWN | {"background_color": colour, "classes": [0]})
    other = drawn_classes(visualization=DRAWN | {"background_color": colour}, seed=1)
    assert first[2].shape == (20, 30, 3) and first[2].dtype == np.uint8
    np.testing.assert_allclose(first[2].mean(axis=(0, 1)), colour, atol=2)
    np.testing.assert_allclose(first[2][..., 1:].std(axis=(0, 1)), 8, atol=1)
    np.testing.assert_array_equal(first[0], again[0])  # whatever else is drawn
    assert (first[0] != first[2]).mean() > 0.8 and (first[0] != other[0]).mean() > 0.8


def test_what_is_raised_is_the_layers_named_or_all_of_the_job_and_what_the_classes_look_at():
    assert picture_objective(job_of(layers={"y": 2.0, "x": -1.0})) == 2 * layer("y") - layer("x")
    assert picture_objective(job_of()) == layer("x") + layer("y")
    assert stage._layers(job_of(visualization={"classes": [1], "layer": "z"})) == ["z"]
    assert stage._layers(job_of(layers=["x"], files=["a"], visualization={"classes": [1], "layer": "z"})) == ["x", "z"]


def test_a_spec_says_how_pictures_climb():
    job = job_of(step=0.02, shift=0.5, levels=2, seed=7, max_loss=5.0, num_octave=1, zoom={"frames": 2})
    original = np.full((40, 50, 3), 51, np.uint8)
    course, way, limit = Studio(job, print, 1)._course(PICTURE, original)
    assert isinstance(course, FromPicture) and (way, limit) == (TiledWay(0.02, 0.5, 2, 0.0, 7), 5.0)
    np.testing.assert_allclose(course.original, 0.2)


@pytest.mark.parametrize(("bilateral", "bregman"), [(True, False), (False, True)])
def test_a_spec_says_how_classes_climb(bilateral, bregman):
    drawn = {"use_bilateral": bilateral, "use_tv_bregman": bregman, "step": 0.02, "shift": 0.5, "levels": 2}
    job = job_of(seed=7, max_loss=5.0, visualization=DRAWN | drawn)
    course, way, limit = Studio(job, print, 1)._course(CLASS, np.zeros((20, 30, 3), np.uint8))
    assert isinstance(course, FromNothing) and course.smooth is bregman and limit is None
    assert way == TiledWay(0.02, 0.5, 2, 0.5 if bilateral else 0.0, 7)


def test_no_more_tiles_go_through_the_network_at_once_than_a_picture_has():
    studio = Studio(job_of(batch=5), print, 1)
    assert [studio._batch(*size) for size in ((20, 30), (40, 30), (21, 31), (30, 20), (200, 300))] == [1, 2, 4, 2, 5]


def test_a_picture_is_found_among_the_parts_by_all_that_decides_it(tmp_path):
    class Counting(Studio):
        def _climbed(self, subject, original, saving):
            made.append(subject.name)
            return [original, np.zeros(3), 1, False, False, 0.0, 1.0, float("nan")]

    def make(subject=PICTURE, fill=0, **keys):
        list(Counting(job_of(tmp_path, **keys), print, 1).make(subject, np.full((40, 50, 3), fill, np.uint8)))
        return len(made)

    made = []
    assert [make(), make(), make(snapshot=5.0, files=["more.png"]), make(visualization=DRAWN)] == [1] * 4
    assert [make(fill=1), make(step=0.5), make(seed=1), make(digest="b")] == [2, 3, 4, 5]
    assert make(Subject("one", "one.png", layer("y"))) == 6
    assert [make(CLASS, visualization=DRAWN), make(CLASS, visualization=DRAWN | {"classes": [2]})] == [7, 7]
    assert make(CLASS, visualization=DRAWN | {"levels": 1}) == 8
    assert make(zoom={"frames": 3, "scale": 1.0}) == 11  # frames of one and the same picture


def test_every_frame_of_a_journey_begins_with_the_one_before_made_larger(tmp_path):
    class Brighter(Studio):
        def _climbed(self, subject, original, saving):
            return [original + 10, np.zeros(3), 1, False, False, 0.0, 1.0, float("nan")]

    random = np.random.default_rng(0).integers(0, 200, (40, 50, 3), np.uint8)
    studio = Brighter(job_of(tmp_path, zoom={"frames": 3, "scale": 1.5}, num_octave=2, iterations=6), print, 1)
    frames = list(studio.make(PICTURE, random))
    assert [made.frame for made in frames] == [0, 1, 2] and studio.done == 3 * 2 * 6
    for before, made in pairwise(frames):
        np.testing.assert_array_equal(made.original, nearer(before.picture, 1.5))
        np.testing.assert_array_equal(made.picture, made.original + 10)


def test_a_picture_comes_nearer_about_its_middle():
    picture = np.zeros((21, 41, 3), np.uint8)
    picture[9:12, 19:22] = 255
    picture[:, 28] = 255
    found = nearer(picture, 2.0)
    assert found.shape == picture.shape and found[10, 20].min() == 255
    np.testing.assert_array_equal(found, found[::-1])
    assert found[10, 36].min() == 255 and found[10, 28].max() < 60  # what was 8 from the middle is 16 from it


def shown(subject, dreamt, began, frame=0):
    pixels = [np.full((20, 30, 3), shade, np.uint8) for shade in (dreamt, began)]
    made = Made(subject, frame, pixels[0], pixels[1], 1, np.float32([1, 2]), "done", 0.0, 1.0, None)
    return Shown(made, "a.png", (20, 30), (pixels[0], pixels[1]))


def columns_of(path, shade):
    return np.flatnonzero((decode_png(path.read_bytes()) == shade).all(axis=-1).any(axis=0))


def test_a_dream_stands_beside_what_it_began_with_and_a_class_alone(tmp_path):
    some = [shown(PICTURE, 201, 77), shown(PICTURE, 123, 124, frame=1), shown(CLASS, 202, 78)]
    draw_exhibition(tmp_path, some)
    pictures, classes = tmp_path / "+pictures.png", tmp_path / "+classes.png"
    assert 0 < columns_of(pictures, 77).max() < columns_of(pictures, 201).min()
    assert len(columns_of(classes, 202)) and not len(columns_of(classes, 78))
    assert not len(columns_of(pictures, 123))  # of a journey, where it begins
    before = classes.read_bytes()
    draw_exhibition(tmp_path, [shown(Subject("class-0007", "7", channel("x", 7), 7), 202, 78)])
    assert classes.read_bytes() != before  # it bears another number
    assert {path.name for path in tmp_path.iterdir()} == {"+classes.png", "+classes-loss.png"}


def test_large_pictures_are_made_small_and_keep_their_form():
    assert small(np.zeros((100, 640, 3), np.uint8)).shape == (50, 320, 3)
    assert small(np.zeros((1, 6400, 3), np.uint8)).shape == (1, 320, 3)
    assert small(np.zeros((10, 20, 3), np.uint8)).shape == (10, 20, 3)
