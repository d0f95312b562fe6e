"""How solved fields are compared with the oracle's: unit by unit, and the first difference named."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import keras
import networks
import numpy as np
import oracle

from recfield import ReceptiveField


@dataclass(frozen=True)
class Agreement:
    """One layer's comparison. difference: "" or the first unit that differs, with both boxes."""

    layer: str
    agree: int
    units: int
    difference: str


def compare(layer: str, found: np.ndarray, expected: np.ndarray) -> Agreement:
    """Compares boxes, (h, w, 4), of every unit."""
    if found.shape != expected.shape or found.dtype != np.int32:
        return Agreement(layer, 0, expected[..., 0].size, f"{found.dtype} {found.shape}, should be int32 {expected.shape}")
    wrong = np.argwhere((found != expected).any(axis=-1))
    difference = ""
    if len(wrong):
        row, col = wrong[0].tolist()
        difference = (
            f"{len(wrong)} units, the first {row, col}: {found[row, col].tolist()}, should be {expected[row, col].tolist()}"
        )
    return Agreement(layer, expected[..., 0].size - len(wrong), expected[..., 0].size, difference)


def assert_agree(solved: Mapping[str, ReceptiveField], expected: Mapping[str, oracle.Field]) -> None:
    """Fails with one line for every layer that has a unit with another box than the oracle's."""
    compared = [compare(layer, field.boxes, expected[layer].boxes()) for layer, field in solved.items()]
    wrong = [f"{one.layer}: {one.difference}" for one in compared if one.difference]
    assert not wrong, "\n".join(wrong)


def middle_layers(model: keras.Model) -> list[str]:
    """The maps nearest to 1/4, 1/2 and 3/4 of the way through a network: early, middle and late.

    A map of a gate, which has one position only, is passed over.
    """
    names = set(networks.maps(model))
    places = [
        (i, op.name) for i, op in enumerate(model.operations) if op.name in names and max(networks.output(op).shape[1:3]) > 1
    ]
    return [min(places, key=lambda place: abs(place[0] - share * len(model.operations)))[1] for share in (0.25, 0.5, 0.75)]


@dataclass(frozen=True)
class Solved:
    """A network's layers solved in one pass and compared."""

    agreements: list[Agreement]
    probes: int
    seconds: float

    def line(self, name: str) -> str:
        layers = "  ".join(f"{one.layer} {one.agree}/{one.units}" for one in self.agreements)
        return f"{name:<18} {self.probes:>5} probes {self.seconds:>6.1f} s  {layers}"


def solve(model: keras.Model, layers: Sequence[str], batch: int) -> Solved:
    """Solves layers of a network and compares each with the oracle."""
    expected = oracle.fields(model)
    started = time.perf_counter()
    fields = ReceptiveField.of_layers((batch, *model.inputs[0].shape[1:]), networks.forward(model, layers))
    seconds = time.perf_counter() - started
    agreements = [compare(layer, fields[layer].boxes, expected[layer].boxes()) for layer in layers]
    return Solved(agreements, next(iter(fields.values())).probes, seconds)
