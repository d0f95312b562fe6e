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


def compare(layer: str, actual: np.ndarray, expected: np.ndarray) -> Agreement:
    """Compares boxes, (h, w, 4), of every unit."""
    if actual.shape != expected.shape or actual.dtype != np.int32:
        return Agreement(layer, 0, expected[..., 0].size, f"{actual.dtype} {actual.shape}, should be int32 {expected.shape}")
    wrong = np.argwhere((actual != expected).any(axis=-1))
    difference = ""
    if len(wrong):
        row, col = wrong[0].tolist()
        difference = (
            f"{len(wrong)} units, the first {row, col}: {actual[row, col].tolist()}, should be {expected[row, col].tolist()}"
        )
    return Agreement(layer, expected[..., 0].size - len(wrong), expected[..., 0].size, difference)


def assert_agree(solved: Mapping[str, ReceptiveField], expected: Mapping[str, oracle.Field]) -> None:
    """Fails with one line for every layer that has a unit with another box than the oracle's."""
    compared = [compare(layer, field.boxes, expected[layer].boxes()) for layer, field in solved.items()]
    wrong = [f"{one.layer}: {one.difference}" for one in compared if one.difference]
    assert not wrong, "\n".join(wrong)


def three_depths(model: keras.Model) -> list[str]:
    """An early, a middle and a late map of a network.

    In a small image most units of deep layers see all of it, and any solver would agree. So the first two are the
    middle one and the last one of the maps in which some unit sees less; the third lies three quarters of the way
    through. A map of a gate, which has one position only, is passed over.
    """
    names = set(networks.maps(model))
    fields = oracle.fields(model)
    places = [op.name for op in model.operations if op.name in names and max(networks.output(op).shape[1:3]) > 1]
    telling = [name for name in places if len(np.unique(fields[name].boxes().reshape(-1, 4), axis=0)) > 1]
    chosen = [telling[len(telling) // 2], telling[-1], places[len(places) * 3 // 4]]
    return list(dict.fromkeys(chosen))


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
