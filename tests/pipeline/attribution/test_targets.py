"""Classes by number, by name and by label."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import keras
import numpy as np
import pytest
from pydantic import ValidationError
from stirring import stir

from pipeline.attribution.asked_targets import check_targets, targets_of
from pipeline.attribution.explainer import Explainer, ImageBatch
from pipeline.attribution.methods import METHODS
from pipeline.attribution.plan import ExplainPlan
from pipeline.attribution.targets import PREDICTED, Classes, ClassTarget, top
from pipeline.errors import UnknownName, WrongSpec
from pipeline.models.head import softmax
from pipeline.spec.gradcam import TargetSpec

NAMED = Classes(4, ("tabby cat", "red fox", "crane", "crane"))
NUMBERED = Classes(4, None)


def test_probabilities_are_those_of_the_logits_and_never_overflow() -> None:
    logits = np.array([[1.0, 2.0, 3.0], [1000.0, 0.0, -1000.0]], np.float32)
    powers = np.exp([1.0, 2.0, 3.0])
    np.testing.assert_allclose(softmax(logits)[0], powers / powers.sum())
    np.testing.assert_allclose(softmax(logits)[1], [1, 0, 0], atol=1e-12)


def test_the_likeliest_come_first_and_the_lower_number_among_equals() -> None:
    assert top(np.array([0.5, 2, -1, 2, 7]), 4).tolist() == [4, 1, 3, 0]
    assert top(np.array([1.0, 2.0]), 5).tolist() == [1, 0]


def test_classes_are_found_by_number_and_by_name_however_written() -> None:
    assert [NAMED.find(name) for name in (1, "red fox", "Red_Fox", "tabby-cat")] == [1, 1, 1, 0]
    assert NUMBERED.find(3) == 3 and NUMBERED.name(3) == "3" and NAMED.name(0) == "tabby cat"


@pytest.mark.parametrize(
    ("classes", "named", "kind", "words"),
    [
        (NAMED, 4, WrongSpec, "there is no class 4; they run from 0 to 3"),
        (NAMED, "red fix", UnknownName, "nearest: red fox"),
        (NAMED, "crane", WrongSpec, "is the name of classes 2, 3"),
        (NUMBERED, "red fox", UnknownName, "have no names"),
    ],
)
def test_classes_that_are_not_there_are_named_before_work_starts(classes: Any, named: Any, kind: Any, words: Any) -> None:
    with pytest.raises(kind, match=words):
        classes.check([named], None)


def test_labels_mean_classes_by_name_or_else_by_number() -> None:
    assert [NAMED.of_label(label) for label in ("red_fox", "crane", "wolf", "1", None)] == [1, None, None, None, None]
    assert [NUMBERED.of_label(label) for label in ("2", "4", "wolf", None)] == [2, None, None, None]
    assert [ClassTarget(NAMED, asked).number("red fox") for asked in ("label", "predicted", 2)] == [1, PREDICTED, 2]
    assert ClassTarget(NAMED, "label").number("wolf") is None


def test_labels_of_which_none_is_a_class_are_an_error() -> None:
    NAMED.check(["label"], ["wolf", "red fox"])
    NAMED.check(["label"], None)
    with pytest.raises(WrongSpec, match="no label of the data"):
        NAMED.check(["label"], ["wolf", "hyena"])


def test_a_difference_is_explained_by_the_difference_of_the_gradients(opened: Any, photos: Any) -> None:
    inputs = keras.Input((4, 4, 3))
    network = opened(stir(keras.Model(inputs, keras.layers.Dense(4)(keras.layers.Flatten()(inputs)))), head="softmax")
    asked = [1, 2, TargetSpec(output=1, minus="crow")]
    classes = Classes(4, ("ant", "bee", "crow", "dog"), network.head())
    check_targets(classes, asked, None)
    targets = targets_of(classes, asked, lambda spec: np.zeros(4), (1, 1))
    explainer = Explainer.of(network, ExplainPlan.of([METHODS["gradient"], METHODS["lrp_epsilon"]], [], targets, 1))
    explained = explainer.explain(ImageBatch([], photos(1, 4, 4), [[1, 2, 1]]))
    bee, crow, difference = explained.maps["gradient", None][0]
    np.testing.assert_allclose(difference, bee - crow, atol=1e-6)
    assert np.abs(difference).max() > 1e-4
    reading = targets[2].reading(explained.logits, 1)
    assert reading.probability is None
    np.testing.assert_allclose(reading.output, explained.logits[:, 1] - explained.logits[:, 2], rtol=1e-6)
    np.testing.assert_allclose(explained.maps["lrp_epsilon", None][0, 2].sum(), reading.output[0], rtol=1e-3)
    assert (targets[2].title(1), targets[2].key(1)) == ("bee rather than crow", "1-rather-than-2")
    with pytest.raises(UnknownName, match="'cow' is not"):
        check_targets(classes, [TargetSpec(output=1, minus="cow")], None)
    with pytest.raises(WrongSpec, match="'minus' is not for a network whose head is 'embedding'"):
        check_targets(Classes(4, None, replace(network.head(), kind="embedding")), [TargetSpec(minus=1)], None)


def test_a_difference_takes_no_sign_of_its_own() -> None:
    with pytest.raises(ValidationError, match="swap output and minus"):
        TargetSpec(output=1, minus=2, sign=-1)
