"""Embeddings of images and of concepts: as Parquet files give them, or the means of an embedding over each label."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline.errors import MissingInput, UnusableData, WrongSpec, foreign_errors, one_line
from pipeline.store.places import place
from pipeline.store.tables import read_table


@dataclass(frozen=True, eq=False)
class Concepts:
    """Concepts as vectors: their names, and float64 (concepts, width)."""

    names: tuple[str, ...]
    vectors: np.ndarray


def read_vectors(path: str, column: str) -> tuple[list[str], np.ndarray]:
    """A Parquet file of texts and their embeddings.

    Args:
        column: the column of texts, "key" or "text"; the other is "embedding", a list of as many numbers in every row.

    Returns: the texts, each once, and float64 (texts, width).
    Raises: MissingInput, UnusableData; WrongSpec, for a width of 1, and a text that stands there twice with two embeddings.
    """
    try:
        table = read_table(place(path))
    except OSError as error:
        raise MissingInput(
            f"the embeddings {path!r} cannot be read ({error.strerror or one_line(error)}). Name a Parquet file."
        ) from None
    except pa.ArrowException as error:
        raise UnusableData(f"the embeddings {path!r} are no Parquet file ({one_line(error)}).") from None
    missing = {column, "embedding"} - set(table.column_names)
    if missing:
        raise UnusableData(
            f"{path!r} has no column {' and no column '.join(sorted(missing))}, but {', '.join(table.column_names)}. "
            f"Embeddings are a table of {column} and embedding."
        )
    with foreign_errors(UnusableData, f"the embeddings in {path!r}", "Write the table again."):
        texts, lists = [str(text) for text in table[column].to_pylist()], table["embedding"].to_pylist()
    widths = {len(values) if isinstance(values, list) else 0 for values in lists}
    if len(widths) != 1 or widths == {0}:
        raise UnusableData(
            f"the embeddings in {path!r} are of {len(widths)} lengths. All need the same, above 0, and a row at least."
        )
    with foreign_errors(UnusableData, f"the embeddings in {path!r}", "Each needs to be a list of numbers."):
        vectors = np.array(lists, np.float64)
    if vectors.ndim != 2 or not np.isfinite(vectors).all():
        raise UnusableData(f"the embeddings in {path!r} hold something that is no finite number.")
    check_width(vectors.shape[1], repr(path))
    first: dict[str, int] = {}
    for row, text in enumerate(texts):
        if not np.array_equal(vectors[first.setdefault(text, row)], vectors[row]):
            raise WrongSpec(f"{path!r} has two embeddings of {text!r}. Leave one of the rows out.")
    return list(first), vectors[list(first.values())]


def check_width(width: int | None, source: str) -> None:
    """Raises: WrongSpec, for embeddings of one number: likeness is a cosine, and of one number that is 1 or -1."""
    if width == 1:
        raise WrongSpec(f"{source} embeds by a single number, which has no direction to compare. Name a layer of more channels.")


def read_words(path: str) -> list[str]:
    """The lines of a text file that are not empty, each once. Raises: MissingInput, UnusableData."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise MissingInput(f"the words {path!r} cannot be read ({error.strerror}). Name a text file.") from None
    except UnicodeDecodeError:
        raise UnusableData(f"the words {path!r} are no UTF-8. Save the file as UTF-8.") from None
    words = list(dict.fromkeys(" ".join(line.split()) for line in lines if line.strip()))
    if len(words) < 2:
        raise UnusableData(f"{path!r} holds {len(words)} words. Write two concepts at least, each into a line of its own.")
    return words


def of_keys(path: str, keys: Sequence[str]) -> np.ndarray:
    """The embeddings of images, from a Parquet file, in the order of the images' keys: float64 (images, width).

    Raises: WrongSpec, where an image has none; as `read_vectors`.
    """
    names, vectors = read_vectors(path, "key")
    rows = {name: row for row, name in enumerate(names)}
    missing = [key for key in keys if key not in rows]
    if missing:
        raise WrongSpec(
            f"{path!r} has embeddings of {len(rows):,} images, but none of {missing[0]!r} and {len(missing) - 1:,} others "
            f"of {len(keys):,}. Its keys must be those of the data, as in index/images.parquet."
        )
    return vectors[[rows[key] for key in keys]]


def label_means(vectors: np.ndarray, codes: np.ndarray, labels: Sequence[str]) -> Concepts:
    """The mean embedding, each of length 1, of the images of every label that has any.

    Args:
        vectors: float64 (images, width); codes: int64 (images,), positions in `labels`, -1 for none.
    """
    unit = normalised(vectors)
    present = [code for code in range(len(labels)) if (codes == code).any()]
    means = np.array([unit[codes == code].mean(axis=0) for code in present]).reshape(len(present), vectors.shape[1])
    return Concepts(tuple(labels[code] for code in present), means)


def concept_matrix(images: np.ndarray, concepts: Concepts, names: Mapping[str, str]) -> np.ndarray:
    """The cosine of every image's embedding and every concept's: float64 (images, concepts).

    Args:
        names: what the error calls the two: "images" and "concepts".

    Raises: WrongSpec, where they are of different lengths.
    """
    if images.shape[1] != concepts.vectors.shape[1]:
        raise WrongSpec(
            f"the embeddings of images, from {names['images']}, have {images.shape[1]:,} numbers, and those of concepts, from "
            f"{names['concepts']}, {concepts.vectors.shape[1]:,}. Both must come from one model."
        )
    return normalised(images) @ normalised(concepts.vectors).T


def finite(vectors: np.ndarray, say: Callable[[str], None]) -> np.ndarray:
    """The embeddings that a network gives, float64 (images, width), with zeros, which are like nothing, where one has NaN or
    infinity; says how many those are.
    """
    known: np.ndarray = np.isfinite(vectors).reshape(len(vectors), -1).all(axis=1)
    if known.all():
        return vectors
    say(f"concepts: {np.count_nonzero(~known):,} of {len(vectors):,} embeddings hold NaN or infinity, and are like no other.")
    return np.where(known[:, np.newaxis], vectors, 0.0)


def normalised(vectors: np.ndarray) -> np.ndarray:
    """Each row of length 1; rows of zeros stay."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(norms > 0, norms, 1)
