"""Search: the channels of a job by concept, label, or file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.errors import UnknownName, WrongSpec, quoted
from pipeline.report.job_reader import JobReader


@dataclass(frozen=True)
class Match:
    """A channel, and why it matches: the better a reason, the smaller its key."""

    layer: str
    channel: int
    reason: str
    key: tuple[float, ...]


def find_channels(reader: JobReader, words: str) -> list[Match]:
    """The channels that have all the words in a concept, in the label they prefer, or in a file among their winners.

    Named ones come first, then those with the concept among their best, then labels, then files; each channel once, by its
    best reason. Case does not matter.

    Raises: UnknownName, where nothing has the words: it lists the nearest concepts and labels.
    """
    asked = words.lower().split()
    best: dict[tuple[str, int], Match] = {}
    for match in (*_concepts(reader, asked), *_labels(reader, asked), *_files(reader, asked)):
        other = best.setdefault((match.layer, match.channel), match)
        if match.key < other.key:
            best[match.layer, match.channel] = match
    if not best:
        found = *reader.table("concepts")["concept"].to_pylist(), *reader.table("channels")["selective_label"].to_pylist()
        known = {text for text in found if text}
        if not known:
            raise UnknownName(
                f"{quoted(words)} is in no file's name among the winners of this job, whose channels have no concepts and no "
                "labels. Add the stage concepts."
            )
        raise UnknownName.among(words, known, where="a concept, label or file of this job's channels")
    return sorted(best.values(), key=lambda match: (match.key, match.layer, match.channel))


def nearest_channels(reader: JobReader, text: Callable[[str], np.ndarray]) -> list[Match]:
    """The channels whose strongest images are most like a text, by the encoder that the stage `concepts` was given.

    Args:
        text: embeds the text, given the encoder's folder: float64 (width,).

    Raises: WrongSpec, where the job had no encoder.
    """
    table = reader.table("embeddings")
    spec: dict[str, Any] = (reader.receipt.spec.get("concepts") or {}).get("embeddings") or {}
    if not len(table) or not spec.get("encoder"):
        raise WrongSpec(
            f"{reader.folder} has no embeddings to search by text. Run its stage concepts with concepts.embeddings.encoder."
        )
    vector = text(spec["encoder"])
    cosines = np.stack(table["embedding"].to_numpy()) @ (vector / np.linalg.norm(vector))
    rows = zip(table["layer"].to_pylist(), table["channel"].to_pylist(), cosines.tolist(), strict=True)
    matches = [Match(layer, channel, f"cosine {cosine:.3g}", (-cosine,)) for layer, channel, cosine in rows]
    return sorted(matches, key=lambda match: (match.key, match.layer, match.channel))


def _has(text: str | None, asked: list[str]) -> bool:
    return text is not None and all(word in text.lower() for word in asked)


def _concepts(reader: JobReader, asked: list[str]) -> Iterator[Match]:
    for row in reader.table("concepts").to_pylist():
        if _has(row["concept"], asked):
            measure = f"{row['measure'].replace('_', ' ')} {row['value']:.3g}"
            standing = (
                "named"
                if row["named"]
                else "no name, but best:"
                if row["rank"] == 0
                else f"not a name, concept {row['rank'] + 1}:"
            )
            chance = 1.0 if row["chance"] is None else row["chance"]
            key = (0.0, chance, -(row["margin"] or 0)) if row["named"] else (1.0, row["rank"], chance)
            yield Match(row["layer"], row["channel"], f"{standing} {row['concept']}, {measure}", key)


def _labels(reader: JobReader, asked: list[str]) -> Iterator[Match]:
    for row in reader.table("channels").to_pylist():
        if _has(row["selective_label"], asked):
            reason = f"prefers the label {row['selective_label']}, selectivity {row['selectivity']:.3g}"
            yield Match(row["layer"], row["channel"], reason, (2.0, -row["selectivity"]))


def _files(reader: JobReader, asked: list[str]) -> Iterator[Match]:
    counts: dict[tuple[str, int], list[bool]] = {}
    for row in reader.table("activations").select(["layer", "channel", "key", "label"]).to_pylist():
        has = _has(row["key"], asked) or _has(row["label"], asked)
        counts.setdefault((row["layer"], row["channel"]), []).append(has)
    for (layer, channel), hits in counts.items():
        if any(hits):
            yield Match(layer, channel, f"{sum(hits)} of {len(hits)} winners", (3.0, -sum(hits)))
