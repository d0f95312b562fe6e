"""Relevance propagation beside zennit, on one small network: the largest difference of each composite's maps.

    python -m bench.relevance PYTHON

PYTHON is the interpreter of an environment with zennit, torch and numpy. convscope is asked with `hands_biases_on` off, since
zennit loses what is due to biases. Exits 1 where a map differs by more than 1e-4 of its peak.
"""

from __future__ import annotations

import argparse
import dataclasses
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

NAMES = ("epsilon", "zplus", "epsilon_plus_flat", "epsilon_gamma_box")
LARGEST = 1e-4  # difference, of the map's peak
SIDE, CLASSES = 16, np.array([[1], [3]], np.int32)


def network(normalised: bool) -> Any:
    """A Keras model of four convolutions, a sum of two ways and two dense layers, with batch normalisation or without."""
    import keras

    layers = keras.layers

    def after(x: Any, name: str) -> Any:
        return layers.BatchNormalization(epsilon=1e-5, name=f"bn{name}")(x) if normalised else x

    image = keras.Input((SIDE, SIDE, 3))
    x = layers.ReLU()(after(layers.Conv2D(6, 3, padding="same", name="c1")(image), "1"))
    x = beside = layers.ReLU()(after(layers.Conv2D(8, 3, padding="same", name="c2")(layers.MaxPooling2D()(x)), "2"))
    x = layers.ReLU()(after(layers.DepthwiseConv2D(3, padding="same", name="c3")(x), "3"))
    x = layers.Add()([after(layers.Conv2D(8, 1, name="c4")(x), "4"), beside])
    x = layers.Dense(12, activation="relu", name="f1")(layers.Flatten()(layers.AveragePooling2D(2)(x)))
    model = keras.Model(image, layers.Dense(5, name="f2")(x))
    random = np.random.default_rng(0)
    for weight in model.weights:
        spread = 0.2 if len(weight.shape) == 1 else 1 / np.sqrt(np.prod(weight.shape[:-1]))
        values = random.normal(0, spread, weight.shape)
        if "variance" in weight.path or "gamma" in weight.path:
            values = random.uniform(0.5, 2, weight.shape)
        weight.assign(values)
    return model


def ours(model: Any, images: np.ndarray) -> dict[str, np.ndarray]:
    """The maps by convscope, float32 (images, SIDE, SIDE) by composite."""
    from pipeline.attribution.explainer import Explainer, ImageBatch
    from pipeline.attribution.methods import METHODS
    from pipeline.attribution.plan import ExplainPlan
    from pipeline.attribution.targets import Classes, ClassTarget
    from pipeline.compiled.relevance import COMPOSITES
    from pipeline.models.head import OutputSpec
    from pipeline.models.keras.model import keras_network

    without = {name: dataclasses.replace(COMPOSITES[name], hands_biases_on=False) for name in NAMES}
    opened = keras_network(model, "network", None, "unit", OutputSpec(head="softmax"))
    plan = ExplainPlan(tuple((METHODS[f"lrp_{name}"], None) for name in NAMES), (ClassTarget(Classes(5, None), 0),), len(images))
    with mock.patch.dict(COMPOSITES, without):
        explained = Explainer.of(opened, plan).explain(ImageBatch([], images, CLASSES.tolist()))
    return {name: explained.maps[f"lrp_{name}", None][:, 0] for name in NAMES}


def theirs(folder: Path) -> None:
    """The maps by zennit, from weights.npz and images.npy, into theirs.npz; run by the other interpreter."""
    import torch  # type: ignore[import-not-found,unused-ignore]
    from zennit.attribution import Gradient  # type: ignore[import-not-found,unused-ignore]
    from zennit.canonizers import NamedMergeBatchNorm  # type: ignore[import-not-found,unused-ignore]
    from zennit.composites import (  # type: ignore[import-not-found,unused-ignore]
        EpsilonGammaBox,
        EpsilonPlusFlat,
        LayerMapComposite,
        layer_map_base,
    )
    from zennit.layer import Sum  # type: ignore[import-not-found,unused-ignore]
    from zennit.rules import Epsilon, ZPlus  # type: ignore[import-not-found,unused-ignore]
    from zennit.types import Linear  # type: ignore[import-not-found,unused-ignore]

    weights, nn = dict(np.load(folder / "weights.npz")), torch.nn
    normalised = "bn1.gamma" in weights

    def tensor(values: np.ndarray) -> Any:
        return torch.tensor(np.asarray(values, np.float64))

    def filled(layer: Any, name: str, turn: tuple[int, ...]) -> Any:
        kernel = tensor(weights[f"{name}.kernel"].transpose(turn))
        layer.weight.data, layer.bias.data = kernel, tensor(weights[f"{name}.bias"])
        return layer

    def norm(number: int, width: int) -> Any:
        if not normalised:
            return nn.Identity()
        layer, name = nn.BatchNorm2d(width, eps=1e-5), f"bn{number}"
        layer.weight.data, layer.bias.data = tensor(weights[f"{name}.gamma"]), tensor(weights[f"{name}.beta"])
        layer.running_mean, layer.running_var = (tensor(weights[f"{name}.moving_{which}"]) for which in ("mean", "variance"))
        return layer

    class Net(nn.Module):  # type: ignore[misc,name-defined,unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            self.c1, self.bn1, self.pool1 = filled(nn.Conv2d(3, 6, 3, padding=1), "c1", (3, 2, 0, 1)), norm(1, 6), nn.MaxPool2d(2)
            self.c2, self.bn2 = filled(nn.Conv2d(6, 8, 3, padding=1), "c2", (3, 2, 0, 1)), norm(2, 8)
            self.c3, self.bn3 = filled(nn.Conv2d(8, 8, 3, padding=1, groups=8), "c3", (2, 3, 0, 1)), norm(3, 8)
            self.c4, self.bn4 = filled(nn.Conv2d(8, 8, 1), "c4", (3, 2, 0, 1)), norm(4, 8)
            self.relus, self.sum, self.pool2 = nn.ModuleList([nn.ReLU() for _ in range(4)]), Sum(), nn.AvgPool2d(2)
            self.f1, self.f2 = filled(nn.Linear(128, 12), "f1", (1, 0)), filled(nn.Linear(12, 5), "f2", (1, 0))

        def forward(self, x: Any) -> Any:
            x = self.pool1(self.relus[0](self.bn1(self.c1(x))))
            x = beside = self.relus[1](self.bn2(self.c2(x)))
            x = self.bn4(self.c4(self.relus[2](self.bn3(self.c3(x)))))
            x = self.pool2(self.sum(torch.stack([x, beside], -1))).permute(0, 2, 3, 1).flatten(1)
            return self.f2(self.relus[3](self.f1(x)))

    net = Net().double().eval()
    merged = [NamedMergeBatchNorm([([f"c{number}"], f"bn{number}") for number in range(1, 5)])] if normalised else []
    zeros = torch.zeros(1, 3, SIDE, SIDE).double()
    composites = {
        "epsilon": LayerMapComposite([*layer_map_base(), (Linear, Epsilon())], canonizers=merged),
        "zplus": LayerMapComposite([*layer_map_base(), (Linear, ZPlus())], canonizers=merged),
        "epsilon_plus_flat": EpsilonPlusFlat(canonizers=merged),
        "epsilon_gamma_box": EpsilonGammaBox(low=zeros, high=zeros + 1, canonizers=merged),
    }
    images = tensor(np.load(folder / "images.npy")).permute(0, 3, 1, 2) / 255
    chosen = torch.nn.functional.one_hot(torch.tensor(CLASSES[:, 0].astype(np.int64)), 5) * net(images).detach()
    maps = {}
    for name, composite in composites.items():
        with Gradient(net, composite) as attributor:
            maps[name] = attributor(images, chosen)[1].sum(1).detach().numpy()
    np.savez(folder / "theirs.npz", **maps)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("python", help="the interpreter of an environment with zennit")
    parser.add_argument("--theirs", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.theirs:
        theirs(options.theirs)
        return 0
    from pipeline.run import start_tensorflow

    start_tensorflow()
    images = np.random.default_rng(1).integers(0, 256, (2, SIDE, SIDE, 3), dtype=np.uint8)
    worst = 0.0
    print(f"{'composite':<20}{'plain':>12}{'normalised':>12}   largest difference, of the map's peak")
    differences: dict[str, list[float]] = {name: [] for name in NAMES}
    for normalised in (False, True):
        model = network(normalised)
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            np.savez(folder / "weights.npz", **{weight.path.replace("/", "."): weight.numpy() for weight in model.weights})
            np.save(folder / "images.npy", images)
            subprocess.run([options.python, "-P", __file__, "-", "--theirs", temporary], check=True)
            with np.load(folder / "theirs.npz") as saved:
                expected = {name: saved[name] for name in NAMES}
        for name, maps in ours(model, images).items():
            differences[name].append(float(np.abs(maps - expected[name]).max() / np.abs(expected[name]).max()))
    for name, values in differences.items():
        print(f"{name:<20}{values[0]:>12.1e}{values[1]:>12.1e}")
        worst = max(worst, *values)
    return int(worst > LARGEST)


if __name__ == "__main__":
    sys.exit(main())
