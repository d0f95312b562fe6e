"""Metrics of maps beside Quantus, on shared images, maps and draws: the largest difference of each.

    python -m bench.map_metrics PYTHON

PYTHON is the interpreter of an environment with Quantus and numpy; torch and TensorFlow are not needed, since the network there
is two dense layers in NumPy. What is random (squares taken away, noise, weights) is drawn by convscope and handed over. Quantus
has no insertion, which its pixel flipping computes on the blurred image, and its infidelity has no scale: convscope's best one
is given to the map. Exits 1 where a metric differs by more than 1e-3.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

SIDE, CLASSES, COUNT = 20, 5, 4
LARGEST = 1e-3
METHOD = "input_x_gradient"
ORACLES = {
    "deletion": "PixelFlipping",
    "insertion": "PixelFlipping, from the blurred image",
    "mu_fidelity": "FaithfulnessCorrelation",
    "infidelity": "Infidelity, at the best scale",
    "max_sensitivity": "MaxSensitivity",
    "entropy": "Complexity",
    "gini": "Sparseness",
    "pointing": "PointingGame",
    "energy_inside": "RelevanceMassAccuracy",
    "random_logit": "ssim of RandomLogit",
    "cascading": "MPRT, top down",
    "independent": "MPRT, independent",
}


def ours(folder: Path) -> dict[str, np.ndarray]:
    """The values by convscope, (images, …) by metric; what the other side needs goes into shared.npz."""
    from types import SimpleNamespace

    import keras

    from pipeline.attribution.baselines import blurred
    from pipeline.attribution.explainer import Explainer, ImageBatch
    from pipeline.attribution.methods import METHODS
    from pipeline.attribution.plan import ExplainPlan
    from pipeline.attribution.sanity.deletion import DeletionCurves
    from pipeline.attribution.sanity.metrics import MapMetrics, removals
    from pipeline.attribution.sanity.similarity import RandomisationSimilarity, structure
    from pipeline.attribution.sanity.weight_randomisation import WeightRandomisation
    from pipeline.attribution.targets import Classes, ClassTarget
    from pipeline.models.head import OutputSpec
    from pipeline.models.keras.model import keras_network

    random = np.random.default_rng(0)
    pixels = keras.Input((SIDE, SIDE, 3))
    hidden = keras.layers.Dense(16, "relu")(keras.layers.Flatten()(pixels))
    model = keras.Model(pixels, keras.layers.Dense(CLASSES)(hidden), name="dense")
    for weight in model.weights:
        weight.assign(random.normal(0, 3 / np.sqrt(weight.shape[0]), weight.shape))
    network = keras_network(model, "dense", None, "unit", OutputSpec(head="softmax"))
    target = ClassTarget(Classes(CLASSES, None), 0)
    explainer = Explainer.of(network, ExplainPlan(((METHODS[METHOD], None),), (target,), COUNT, with_weights=True))
    images = random.uniform(0, 255, (COUNT, SIDE, SIDE, 3)).astype(np.float32)
    classes = (np.arange(COUNT) % CLASSES)[:, np.newaxis]
    picked: Any = [
        SimpleNamespace(example=number, image=SimpleNamespace(key=str(number), label=None, packed=None))
        for number in range(COUNT)
    ]
    masks = random.random((COUNT, SIDE, SIDE)) < 0.3
    explained = explainer.explain(ImageBatch(picked, images, classes.tolist()))
    maps = explained.maps[METHOD, None][:, 0]
    values: dict[str, np.ndarray] = {}
    metrics = MapMetrics(explainer, lambda image, number: masks[int(image.image.key)])
    curves = DeletionCurves(explainer)
    for check in (metrics, curves):
        check.add(explained)
    for name in dict.fromkeys(metrics.columns["metric"]):
        values[name] = _column(metrics.columns, "value", metric=name).reshape(COUNT)
    for kind in ("deletion", "insertion"):
        values[kind] = _column(curves.columns, "probability", kind=kind).reshape(COUNT, -1)[:, 1:]
    for name in ("cascading", "independent"):
        similarity = RandomisationSimilarity(explainer, cascading=name == "cascading")
        similarity.add(explained)
        values[name] = _column(similarity.columns, "rank_correlation").reshape(-1, COUNT).T[:, 1:]
    others = explainer.maps(images, (classes + CLASSES // 2) % CLASSES)[METHOD, None][:, 0]
    positive, other = np.maximum(maps, 0), np.maximum(others, 0)  # with zeros, both scale data alike
    values["random_logit"] = np.array([structure(*pair) for pair in zip(positive, other, strict=True)])
    squares, removed = removals(SIDE, SIDE)
    copies = [np.random.default_rng(copy).uniform(-1, 1, images.shape[1:]) * 255 * 0.02 for copy in range(4)]
    randomised = WeightRandomisation(explainer)
    shared: dict[str, Any] = {f"w{number}": weight.numpy() for number, weight in enumerate(model.weights)}
    shared |= {f"r{number}": randomised.noise[weight.source] for number, weight in enumerate(reversed(randomised.weights))}
    shared |= {"images": images, "classes": classes[:, 0], "maps": maps, "masks": masks, "others": other}
    shared |= {"removed": removed[:, squares], "noisy": np.stack([images + copy for copy in copies]).astype(np.float32)}
    np.savez(folder / "shared.npz", **shared, blurred=np.stack([blurred(image) for image in images]))
    return values


def _column(columns: dict[str, list[Any]], name: str, **chosen: str) -> np.ndarray:
    rows = [all(columns[key][row] == value for key, value in chosen.items()) for row in range(len(columns[name]))]
    return np.array(columns[name], np.float64)[rows]


def theirs(folder: Path) -> None:
    """The values by Quantus, from shared.npz, into theirs.npz; run by the other interpreter."""
    import quantus  # type: ignore[import-not-found,unused-ignore]
    from quantus.helpers import utils  # type: ignore[import-not-found,unused-ignore]

    utils.get_wrapped_model = lambda model, **options: model
    shared = dict(np.load(folder / "shared.npz"))
    weights = [shared[f"w{number}"].astype(np.float64) for number in range(4)]
    first = np.moveaxis(shared["images"], -1, 1).astype(np.float64)
    maps, classes = shared["maps"][:, np.newaxis].astype(np.float64), shared["classes"]

    class Dense(quantus.ModelInterface):  # type: ignore[misc,name-defined,unused-ignore]
        """Two dense layers on pixels that are divided by 255; inputs (n, 3, SIDE, SIDE)."""

        def __init__(self, weights: list[np.ndarray], probabilities: bool = False) -> None:
            self.weights, self.probabilities = weights, probabilities

        def hidden(self, x: np.ndarray) -> np.ndarray:
            return np.asarray(np.moveaxis(x, 1, -1).reshape(len(x), -1) / 255 @ self.weights[0] + self.weights[1])

        def predict(self, x: np.ndarray, **options: Any) -> np.ndarray:
            logits = np.maximum(self.hidden(x), 0) @ self.weights[2] + self.weights[3]
            powers = np.exp(logits - logits.max(axis=1, keepdims=True))
            return np.asarray(powers / powers.sum(axis=1, keepdims=True) if self.probabilities else logits)

        def explain(self, x: np.ndarray, targets: np.ndarray) -> np.ndarray:
            back = (self.hidden(x) > 0) * self.weights[2].T[targets] @ self.weights[0].T / 255
            return np.asarray((back.reshape(len(x), SIDE, SIDE, 3) * np.moveaxis(x, 1, -1)).sum(axis=-1)[:, np.newaxis])

        def shape_input(self, x: np.ndarray, *shape: Any, **options: Any) -> np.ndarray:
            return x

        def get_model(self) -> Any:
            return self

        def get_random_layer_generator(self, order: str = "top_down", seed: int = 0) -> Any:
            first, second = (shared[key].astype(np.float64) for key in ("r0", "r1"))
            yield "upper", Dense([weights[0], weights[1], second, weights[3]])
            yield "lower", Dense([first, weights[1], second if order == "top_down" else weights[2], weights[3]])

        random_layer_generator_length = 2

        def get_softmax_arg_model(self) -> Any:
            return self

        def state_dict(self) -> dict[str, Any]:
            return {}

        def add_mean_shift_to_first_layer(self, *arguments: Any) -> Any:
            raise NotImplementedError

        def get_hidden_representations(self, *arguments: Any, **options: Any) -> Any:
            raise NotImplementedError

    def explain(model: Dense, inputs: np.ndarray, targets: np.ndarray, **options: Any) -> np.ndarray:
        return model.explain(np.asarray(inputs), np.asarray(targets))

    plain: dict[str, Any] = {"normalise": False, "abs": False, "disable_warnings": True, "return_aggregate": False}

    def asked(metric: Any, x: np.ndarray = first, a: np.ndarray = maps, **options: Any) -> np.ndarray:
        model = options.pop("model", None) or Dense(weights)
        given = {"model": model, "x_batch": x.copy(), "y_batch": classes, "a_batch": a.copy(), "channel_first": True, **options}
        scores = metric(explain_func=explain, **given)
        return np.asarray(scores if not isinstance(scores, dict) else [scores["upper"], scores["lower"]], np.float64)

    def painted(fill: np.ndarray) -> Any:
        """Perturbation by the pixels of other images, at indices of flat arrays (n, features)."""

        def perturb(arr: np.ndarray, indices: np.ndarray, **options: Any) -> np.ndarray:
            changed, flat = arr.copy(), fill.reshape(len(fill), -1)
            np.put_along_axis(changed, indices, np.take_along_axis(flat, indices, axis=1), axis=1)
            return changed

        return perturb

    removed = shared["removed"]
    draws = iter([np.flatnonzero(np.broadcast_to(mask, (3, SIDE, SIDE))) for mask in removed for _ in range(COUNT)])
    masked = iter([first * ~mask for mask in removed])
    noisy = iter(np.moveaxis(shared["noisy"], -1, 2).astype(np.float64))
    sums = np.stack([(maps[:, 0] * mask).sum(axis=(1, 2)) for mask in removed], axis=1)
    predicted = Dense(weights).predict
    own = np.arange(COUNT), classes
    lost = np.stack([predicted(first)[own] - predicted(first * ~mask)[own] for mask in removed], axis=1)
    scales = (sums * lost).sum(axis=1) / (sums**2).sum(axis=1)
    # Quantus multiplies the map by what is taken away; a third of it for each colour makes the map's own sum.
    per_pixel = scales[:, np.newaxis, np.newaxis, np.newaxis] * maps / (3 * first)
    values: dict[str, Any] = {}
    faithfulness = quantus.FaithfulnessCorrelation(nr_runs=len(removed), subset_size=3, perturb_baseline="black", **plain)
    with mock.patch.object(np.random, "choice", side_effect=draws):
        values["mu_fidelity"] = asked(faithfulness)
    infidelity = quantus.Infidelity(
        perturb_patch_sizes=[SIDE], n_perturb_samples=len(removed), perturb_func=lambda arr, **options: next(masked), **plain
    )
    values["infidelity"] = asked(infidelity, a=per_pixel) / (lost**2).mean(axis=1)
    steady = quantus.MaxSensitivity(nr_samples=4, perturb_func=lambda arr, **options: next(noisy), **plain)
    values["max_sensitivity"] = asked(steady)
    sizes = {**plain, "abs": True}
    values["entropy"] = asked(quantus.Complexity(**sizes))
    values["gini"] = asked(quantus.Sparseness(**sizes))
    evidence, masks = np.maximum(maps, 0), shared["masks"][:, np.newaxis]
    values["pointing"] = asked(quantus.PointingGame(**plain), a=evidence, s_batch=masks)
    values["energy_inside"] = asked(quantus.RelevanceMassAccuracy(**plain), a=evidence, s_batch=masks)
    means = np.broadcast_to(first.mean(axis=(2, 3), keepdims=True), first.shape)
    for name, start, fill in (
        ("deletion", first, means),
        ("insertion", np.moveaxis(shared["blurred"], -1, 1).astype(np.float64), first),
    ):
        flipping = quantus.PixelFlipping(features_in_step=SIDE**2 // 20, perturb_func=painted(fill), **sizes)
        # The colours of a pixel are three features with one value: after every third step, all of them have been painted.
        values[name] = asked(flipping, x=start, model=Dense(weights, probabilities=True))[:, 2::3]
    peaks = [positive / positive.max(axis=(1, 2), keepdims=True) for positive in (evidence[:, 0], shared["others"])]
    values["random_logit"] = np.array(quantus.ssim(*(peak.astype(np.float64) for peak in peaks), batched=True))
    for name, order in (("cascading", "top_down"), ("independent", "independent")):
        values[name] = asked(quantus.MPRT(layer_order=order, **sizes)).reshape(2, COUNT).T
    np.savez(folder / "theirs.npz", **values)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("python", help="the interpreter of an environment with Quantus")
    parser.add_argument("--theirs", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.theirs:
        theirs(options.theirs)
        return 0
    from pipeline.run import start_tensorflow

    start_tensorflow()
    worst = 0.0
    with tempfile.TemporaryDirectory() as temporary:
        values = ours(Path(temporary))
        subprocess.run([options.python, "-P", __file__, "-", "--theirs", temporary], check=True)
        with np.load(Path(temporary) / "theirs.npz") as saved:
            expected = dict(saved)
    print("| metric | Quantus | from | to | largest difference |\n|---|---|---|---|---|")
    for name, oracle in ORACLES.items():
        difference = float(np.abs(values[name] - expected[name]).max())
        print(f"| `{name}` | {oracle} | {values[name].min():.3f} | {values[name].max():.3f} | {difference:.1e} |")
        worst = max(worst, difference)
    return int(not worst <= LARGEST)


if __name__ == "__main__":
    sys.exit(main())
