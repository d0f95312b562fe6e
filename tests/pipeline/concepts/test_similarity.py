"""The measures of CLIP-Dissect, against their formulas written out image by image, channel by channel."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from pipeline.concepts.similarity import cosine, rank_reorder, similarity, soft_wpmi, strongest_of, wpmi

IMAGES, CONCEPTS, CHANNELS = 60, 7, 5


@pytest.fixture(scope="module")
def matrices() -> tuple[Any, Any]:
    """Cosines of images and concepts, and responses; channel 0 responds to concept 3."""
    random = np.random.default_rng(3)
    concepts = random.uniform(-0.3, 0.6, (IMAGES, CONCEPTS))
    responses = random.normal(size=(IMAGES, CHANNELS))
    responses[:, 0] = concepts[:, 3] + 0.05 * responses[:, 0]
    return concepts, responses


def softmax(values: Any) -> Any:
    return [math.exp(value) / sum(map(math.exp, values)) for value in values]


def log_mean(values: Any) -> float:
    return math.log(sum(map(math.exp, values)) / len(values))


def strongest(responses: Any, channel: int, count: int) -> list[int]:
    return sorted(range(IMAGES), key=lambda image: -responses[image, channel])[:count]


def test_wpmi_is_the_formula_of_the_paper(matrices: Any) -> None:
    concepts, responses = matrices
    log_given = [
        [
            sum(math.log(softmax(2 * concepts[image])[concept] + 1e-7) for image in strongest(responses, channel, 28))
            for channel in range(CHANNELS)
        ]
        for concept in range(CONCEPTS)
    ]
    expected = [[value - 0.6 * log_mean(row) for value in row] for row in log_given]
    assert np.allclose(wpmi(concepts, responses), expected, rtol=0, atol=1e-6)


def test_soft_wpmi_is_the_formula_of_the_paper(matrices: Any) -> None:
    concepts, responses = matrices
    count = 40
    log_given = [
        [
            sum(
                math.log(1 + (0.998 - place / count * 0.028) * (softmax(10 * concepts[image])[concept] - 1) + 1e-7)
                for place, image in enumerate(strongest(responses, channel, count))
            )
            for channel in range(CHANNELS)
        ]
        for concept in range(CONCEPTS)
    ]
    expected = [[value - log_mean(row) for value in row] for row in log_given]
    assert np.allclose(soft_wpmi(concepts, responses, count), expected, rtol=0, atol=1e-6)


def test_rank_reorder_is_the_formula_of_the_paper(matrices: Any) -> None:
    concepts, responses = matrices
    for concept in range(CONCEPTS):
        for channel in range(CHANNELS):
            column, ascending = responses[:, channel], sorted(responses[:, channel])
            by_concept = sorted(range(IMAGES), key=lambda image: concepts[image, concept])
            reordered = {image: ascending[rank] for rank, image in enumerate(by_concept)}
            distance = sum(abs(reordered[image] - column[image]) ** 3 for image in range(IMAGES)) ** (1 / 3)
            assert rank_reorder(concepts, responses)[concept, channel] == pytest.approx(-distance, abs=1e-6)


def test_cosine_is_that_of_the_columns(matrices: Any) -> None:
    concepts, responses = matrices
    for concept in range(CONCEPTS):
        for channel in range(CHANNELS):
            a, b = concepts[:, concept], responses[:, channel]
            expected = (a * b).sum() / math.sqrt((a**2).sum() * (b**2).sum())
            assert cosine(concepts, responses)[concept, channel] == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("measure", ["cosine", "rank_reorder", "wpmi", "soft_wpmi"])
def test_a_channel_that_follows_a_concept_is_most_similar_to_it_and_one_that_never_varies_to_none(
    matrices: Any, measure: Any
) -> None:
    concepts, responses = matrices
    responses = np.concatenate([responses, np.zeros((IMAGES, 1))], axis=1)
    values = similarity(measure, concepts, responses)
    assert values[:, 0].argmax() == 3 and np.isnan(values[:, -1]).all()
    scaled = similarity(measure, concepts, responses * [1, 5, 0.1, 1, 1, 1])
    assert np.allclose(values[:, :-1], scaled[:, :-1])  # how large a channel's responses are does not matter
    assert np.isnan(similarity(measure, concepts, np.zeros((IMAGES, 2)))).all()
    alone = similarity(measure, concepts, responses[:, :1])
    assert np.isfinite(alone).all() and alone.shape == (CONCEPTS, 1)


@pytest.mark.parametrize("measure", ["wpmi", "soft_wpmi"])
def test_the_prior_may_be_that_of_other_channels(matrices: Any, measure: Any) -> None:
    concepts, responses = matrices
    together = similarity(measure, concepts, responses)
    assert np.allclose(similarity(measure, concepts, responses[:, :2], responses), together[:, :2])
    assert not np.allclose(similarity(measure, concepts, responses[:, :2]), together[:, :2])


def test_as_many_strongest_images_as_in_the_paper_but_a_tenth_at_most() -> None:
    assert strongest_of("soft_wpmi", 50_000) == 100 and strongest_of("wpmi", 50_000) == 28
    assert strongest_of("soft_wpmi", 400) == 40 and strongest_of("wpmi", 5) == 1 and strongest_of("cosine", 400) is None
    with pytest.raises(ValueError, match="no measure"):
        similarity("dot", np.ones((2, 2)), np.ones((2, 2)))
