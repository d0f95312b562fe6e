"""Which layers a job looks at where its spec names none."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest

from pipeline.models.network import LayerInfo
from pipeline.models.selection import choose_layers


@dataclass
class Sketch:
    """A network as the rule sees it: each layer's name, kind, map and sources, in forward order."""

    rows: list[tuple[str, str, tuple[int, int, int], str]]
    input_shape: tuple[int, int, int] = (64, 64, 3)
    name: str = field(default="sketch")

    def layers(self) -> list[LayerInfo]:
        return [LayerInfo(name, kind, shape) for name, kind, shape, _ in self.rows]

    def feeds(self, layer: str) -> tuple[str, ...]:
        return next(tuple(sources.split()) for name, _, _, sources in self.rows if name == layer)

    def convolutions(self) -> list[str]:
        return [name for name, kind, _, _ in self.rows if kind == "Conv"]


def chain(*layers: str) -> Sketch:
    """Layers one after another, each "name:Kind:side"."""
    parts = [layer.split(":") for layer in layers]
    before = ["", *(name for name, _, _ in parts)]
    return Sketch([(n, kind, (int(side), int(side), 4), b) for (n, kind, side), b in zip(parts, before, strict=False)])


PLAIN = chain("scale:Rescaling:64", "a:Conv:64", "b:Conv:62", "pool:MaxPool:31", "c:Conv:31", "last:MaxPool:15", "out:Dense:1")
CLAMPED = chain(
    "a:Conv:64", "bn:BatchNorm:64", "relu:ReLU:64", "pad:ZeroPadding2D:65", "b:Conv:32", "drop:Dropout:32", "out:Dense:1"
)
OF_ONE_SIZE = chain("embed:Conv:8", *(f"block{i}:Add:8" for i in range(1, 13)), "out:Dense:1")
WITHOUT_MAPS = chain("a:Dense:1", "b:Dense:1", "out:Dense:1")
BRANCHES = Sketch(
    [
        ("a", "Conv", (64, 64, 4), ""),
        ("left", "Conv", (64, 64, 4), "a"),
        ("half_left", "Conv", (32, 32, 4), "left"),
        ("half_right", "Conv", (32, 32, 4), "a"),
        ("join", "Concatenate", (32, 32, 8), "half_left half_right"),
        ("tokens", "MatMul", (2, 512, 8), "join"),
        ("out", "Dense", (1, 1, 10), "tokens"),
    ]
)
HOURGLASS = Sketch(
    [
        ("e1", "Conv", (64, 64, 4), ""),
        ("e2", "Conv", (32, 32, 4), "e1"),
        ("e3", "Conv", (16, 16, 4), "e2"),
        ("up2", "UpSampling2D", (32, 32, 4), "e3"),
        ("d2", "Concatenate", (32, 32, 8), "up2 e2"),
        ("up1", "UpSampling2D", (64, 64, 8), "d2"),
        ("d1", "Concatenate", (64, 64, 12), "up1 e1"),
    ]
)


@pytest.mark.parametrize(
    ("network", "expected"),
    [
        (PLAIN, ["b", "c"]),
        (CLAMPED, ["bn", "b"]),
        (BRANCHES, ["a", "join"]),
        (HOURGLASS, ["e1", "e2", "e3", "d2", "d1"]),
        (OF_ONE_SIZE, ["block2", "block5", "block9", "block12"]),
        (WITHOUT_MAPS, ["b"]),
        (chain("only:Conv:8"), ["only"]),
    ],
    ids=["plain", "clamped", "branches", "hourglass", "of one size", "without maps", "one layer"],
)
def test_the_layer_before_each_change_of_resolution_is_chosen(network: Sketch, expected: list[str]) -> None:
    assert choose_layers(network) == expected
