"""Embeddings from files: by key, whatever their order, and clear errors for those that do not belong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline.concepts.embeddings import Concepts, concept_matrix, label_means, of_keys, read_vectors
from pipeline.errors import MissingInput, UnusableData, WrongSpec


def parquet(path: Path, **columns: Any) -> str:
    pd.DataFrame(columns).to_parquet(path)
    return str(path)


def test_embeddings_are_found_by_key_whatever_their_order(tmp_path: Path) -> None:
    path = parquet(tmp_path / "e.parquet", key=["b", "c", "a"], embedding=[[2.0, 0], [3, 0], [1, 0]])
    assert of_keys(path, ["a", "b", "b"]).tolist() == [[1, 0], [2, 0], [2, 0]]


def test_a_key_without_an_embedding_and_one_with_two_are_errors(tmp_path: Path) -> None:
    path = parquet(tmp_path / "e.parquet", key=["a", "b", "a"], embedding=[[1.0, 0.0], [2.0, 0.0], [1.0, 0.0]])
    assert len(of_keys(path, ["a"])) == 1
    with pytest.raises(WrongSpec, match="none of 'x' and 1 others of 3"):
        of_keys(path, ["x", "a", "y"])
    path = parquet(tmp_path / "e.parquet", key=["a", "b", "a"], embedding=[[1.0, 0.0], [2.0, 0.0], [3.0, 0.0]])
    with pytest.raises(WrongSpec, match="two embeddings of 'a'"):
        of_keys(path, ["b"])


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"text": ["a"], "embedding": [[1.0]]}, "no column key, but text, embedding"),
        ({"key": ["a", "b"], "embedding": [[1.0], [1.0, 2.0]]}, "of 2 lengths"),
        ({"key": ["a", "b"], "embedding": [[1.0], None]}, "of 2 lengths"),
        ({"key": ["a"], "embedding": [[np.nan]]}, "no finite number"),
        ({"key": ["a"], "embedding": [[]]}, "of 1 lengths"),
    ],
)
def test_a_file_that_holds_no_embeddings_is_refused(tmp_path: Path, columns: Any, problem: str) -> None:
    with pytest.raises(UnusableData, match=problem):
        read_vectors(parquet(tmp_path / "e.parquet", **columns), "key")


def test_a_file_that_is_missing_or_no_parquet_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match="cannot be read"):
        read_vectors(str(tmp_path / "none.parquet"), "key")
    (tmp_path / "text.parquet").write_text("key,embedding\n")
    with pytest.raises(UnusableData, match="no Parquet file"):
        read_vectors(str(tmp_path / "text.parquet"), "key")


def test_a_text_that_stands_twice_counts_once_and_is_refused_with_two_embeddings(tmp_path: Path) -> None:
    texts, vectors = read_vectors(
        parquet(tmp_path / "a.parquet", text=["a", "b", "a"], embedding=[[1.0, 2], [3, 4], [1, 2]]), "text"
    )
    assert texts == ["a", "b"] and vectors.tolist() == [[1, 2], [3, 4]]
    with pytest.raises(WrongSpec, match="two embeddings of 'a'"):
        read_vectors(parquet(tmp_path / "b.parquet", text=["a", "b", "a"], embedding=[[1.0, 2], [3, 4], [1, 3]]), "text")


def test_embeddings_of_different_lengths_do_not_compare() -> None:
    concepts = Concepts(("a",), np.ones((1, 3)))
    with pytest.raises(WrongSpec, match=r"images\.parquet, have 2 numbers, and those of concepts, from words\.parquet, 3"):
        concept_matrix(np.ones((4, 2)), concepts, {"images": "images.parquet", "concepts": "words.parquet"})
    assert np.allclose(concept_matrix(np.ones((4, 3)), concepts, {}), np.ones((4, 1)))


def test_a_label_is_the_mean_of_its_images_whatever_their_length() -> None:
    vectors = np.array([[5.0, 0], [0, 2], [1, 0], [0, 0]])
    concepts = label_means(vectors, np.array([0, 0, 2, -1]), ["both", "none", "first"])
    assert concepts.names == ("both", "first") and concepts.vectors.tolist() == [[0.5, 0.5], [1, 0]]
