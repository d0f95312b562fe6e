"""Names are claims: their order, their margin, what chance gives, and when there is none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from pipeline.concepts.claims import (
    Agreement,
    ClaimRule,
    best_of,
    claim_columns,
    decide_names,
    nearest_concepts,
    permutations_of,
    share_that_fits,
    strongest_images,
)


def claims(values: Any, by_chance: Any, top_k: int = 5, chance: float = 0.05, fits: float = 1.0) -> Any:
    """The rows of a job of one layer, whose channels are numbered from 7, for the concepts a, b and c."""
    values = np.asarray(values, float)
    rule = ClaimRule(top_k, chance, 0.5)
    agreement = Agreement("labels", "auc", ["a", "b", "c"], values, np.asarray(by_chance, float), np.full(values.shape, fits))
    columns = claim_columns("conv", np.arange(7, 7 + values.shape[1]), [agreement], rule)
    decide_names(columns, rule)
    return pd.DataFrame(columns)


def test_concepts_are_listed_best_first_with_the_margin_of_the_first() -> None:
    rows = claims([[0.2, 0.1], [0.9, np.nan], [0.5, 0.4]], np.linspace(0, 0.8, 100))
    assert rows[["channel", "concept", "value", "rank"]].values.tolist() == [
        [7, "b", 0.9, 0],
        [7, "c", 0.5, 1],
        [7, "a", 0.2, 2],
        [8, "c", 0.4, 0],
        [8, "a", 0.1, 1],
    ]
    assert rows["margin"][0] == 0.9 - 0.5 and rows["margin"][1:3].isna().all()


def test_chance_is_the_share_of_permuted_channels_that_reach_the_value_and_above_it_there_is_no_name() -> None:
    rows = claims([[0.9, 0.5], [0.1, 0.1], [0.2, 0.2]], [0.1, 0.3, 0.5, 0.6])
    first = rows[rows["rank"] == 0]
    assert first["chance"].tolist() == [0, 0.5] and first["named"].tolist() == [True, False]
    assert claims([[0.5], [0.1], [0.2]], [0.1, 0.3, 0.5, 0.6], chance=0.5)["named"].tolist() == [True, False, False]


def test_two_concepts_that_agree_equally_well_name_nothing() -> None:
    rows = claims([[0.9], [0.9], [0.1]], [0.1])
    assert rows["concept"].tolist() == ["a", "b", "c"] and not rows["named"].any() and rows["margin"][0] == 0


def test_only_so_many_concepts_are_listed_and_the_margin_still_needs_the_second() -> None:
    rows = claims([[0.9], [0.7], [0.1]], [0.1], top_k=1)
    assert rows["concept"].tolist() == ["a"] and rows["margin"][0] == 0.9 - 0.7


def test_permutations_leave_no_image_in_its_place_and_are_always_the_same() -> None:
    for images in (2, 3, 50):
        orders = permutations_of(images, 100)
        assert len(orders) == 10 and all(sorted(order) == list(range(images)) for order in orders)
        assert not any((order == np.arange(images)).any() for order in orders)
    assert len(permutations_of(5, 10**5)) == 1 and len(permutations_of(5, 1)) == 20
    assert np.array_equal(permutations_of(9, 1000), permutations_of(9, 1000))


def test_channels_without_a_known_value_are_no_part_of_chance() -> None:
    assert best_of(np.array([[0.1, np.nan], [0.3, np.nan]])).tolist() == [0.3]


def test_a_value_below_the_least_of_its_measure_is_no_name() -> None:
    values = np.array([[0.03, 0.05], [0.01, 0.01]])
    rule = ClaimRule(1, 0.05, 0.5)
    agreement = Agreement("masks", "iou", ["a", "b"], values, np.zeros(9), np.zeros((2, 2)), least=0.04)
    rows = claim_columns("conv", np.arange(2), [agreement], rule)
    decide_names(rows, rule)
    assert rows["named"] == [False, True]  # an overlap says by itself how much of a channel the concept is


def test_a_concept_that_applies_to_less_than_half_of_the_winners_is_no_name() -> None:
    assert claims([[0.9], [0.7], [0.1]], [0.1], fits=0.5)["named"].tolist() == [True, False, False]
    assert not claims([[0.9], [0.7], [0.1]], [0.1], fits=0.4)["named"].any()


def test_of_many_channels_those_are_named_of_which_few_are_chances() -> None:
    random = np.random.default_rng(0)
    null = random.normal(size=2000)
    sure, empty = np.full(30, 9.0), random.normal(size=970)
    rows = claims([[*sure, *empty], [-9] * 1000, [-9] * 1000], null)
    first = rows[rows["rank"] == 0]
    assert (first["chance"].iloc[30:] <= 0.05).sum() > 30  # by chance alone, one in twenty would be a name
    assert 30 <= first["named"].sum() <= 33 and first["named"].iloc[:30].all()
    assert first["false_discovery"].between(first["chance"], 1).all()


def test_a_concept_fits_the_strongest_images_to_which_it_is_among_the_nearest() -> None:
    similarities = np.zeros((40, 3))
    similarities[:4, 1] = similarities[4:, 0] = 1
    similarities[:, 2] = 0.99  # near every image, and so of none
    applies = nearest_concepts(similarities)
    assert applies.sum(axis=1).tolist() == [1] * 40 and applies[:4, 1].all() and applies[4:, 0].all()
    responses = np.stack([-np.arange(40.0), np.arange(40.0), np.roll(-np.arange(40.0), 2)], axis=1)
    winners = strongest_images(responses)
    assert winners.T.tolist() == [[0, 1, 2, 3], [39, 38, 37, 36], [2, 3, 4, 5]]
    assert share_that_fits(applies, winners).tolist() == [[0, 1, 0.5], [1, 0, 0.5], [0, 0, 0]]
