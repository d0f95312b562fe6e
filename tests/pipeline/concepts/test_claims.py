"""Names are claims: their order, their margin, what chance gives, and when there is none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from pipeline.concepts.claims import Agreement, ClaimRule, best_of, claim_columns, permutations_of


def claims(values: Any, by_chance: Any, top_k: int = 5, chance: float = 0.05) -> Any:
    """The rows of one layer, whose channels are numbered from 7, for the concepts a, b and c."""
    values = np.asarray(values, float)
    agreement = Agreement("labels", "auc", ["a", "b", "c"], values, np.asarray(by_chance, float))
    return pd.DataFrame(claim_columns("conv", np.arange(7, 7 + values.shape[1]), [agreement], ClaimRule(top_k, chance)))


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
    agreement = Agreement("masks", "iou", ["a", "b"], values, np.zeros(9), least=0.04)
    rows = claim_columns("conv", np.arange(2), [agreement], ClaimRule(1, 0.05))
    assert rows["named"] == [False, True]
