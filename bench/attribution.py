"""Attribution beside Xplique, tf-keras-vis and bare passes, on MobileNetV2: the same maps, and CPU seconds, interleaved.

    python -m bench.attribution [--xplique DIR] [--images N] [--batch N] [--rounds N] [--only NAME …]

DIR holds Xplique with what it needs beside TensorFlow (`pip install --no-deps --target DIR xplique deprecated wrapt einops`), and
is put at the end of the path of this process alone. Each method explains the same images for the same classes: ours, theirs, and
the forward, or forward and backward, passes that it cannot do without, through tf.function on the Keras model. Seconds are the
process's own, of all its threads, so that other work on the machine counts little; ratios are medians over rounds in which all
run in turn. Weights are random, which takes no other time. `traces` is how many graphs convscope compiled for the method, once
with few steps or samples and then with three times as many. Two gradients may differ where a ReLU stands at its kink, so that
rounding decides whether it passes anything back: `from float64` is how far each is from the same network in double precision,
largest difference and median over pixels, as shares of the peak, ours first. The last row makes the maps of several methods of
Xplique at once, as one job does; Xplique makes them one after another.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

if TYPE_CHECKING:
    from pipeline.attribution.explainer import Explainer

LAYER, STEPS, SAMPLES, MASKS = "out_relu", 32, 16, 200
PATCH = 56  # of 224 pixels: a quarter of the side


@dataclass(frozen=True)
class Contest:
    """One method: ours by name, theirs, and how many passes an image takes.

    theirs: makes maps (n, h, w) from images and one-hot classes.
    same: whether the two maps must be equal; maps of random masks or noise need not.
    exact: the map from gradients in double precision (n, h, w, 3) and images; None where they do not give it.
    """

    name: str
    library: str
    theirs: Callable[[np.ndarray, np.ndarray], np.ndarray]
    passes: int
    backward: bool = True
    same: bool = True
    exact: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None


def contests(model: Any, images: np.ndarray, batch: int) -> list[Contest]:
    """All that is compared, for a Keras model that gives logits."""
    from tf_keras_vis.gradcam import Gradcam, GradcamPlusPlus
    from tf_keras_vis.saliency import Saliency as VisSaliency
    from tf_keras_vis.utils.scores import CategoricalScore

    def vis(make: Any, **options: Any) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        method = make(model, clone=False)

        def run(images: np.ndarray, classes: np.ndarray) -> np.ndarray:
            parts = [
                method(CategoricalScore(classes[at : at + batch].argmax(axis=1).tolist()), images[at : at + batch], **options)
                for at in range(0, len(images), batch)
            ]
            return np.concatenate([np.asarray(part) for part in parts])

        return run

    cam = {"penultimate_layer": LAYER, "seek_penultimate_conv_layer": False, "expand_cam": False, "normalize_cam": False}
    listed = [
        Contest("gradcam", "tf-keras-vis", vis(Gradcam, **cam), 1),
        Contest("gradcam++", "tf-keras-vis", vis(GradcamPlusPlus, **cam), 1, same=False),  # theirs divides weights by their sum
        Contest("gradient", "tf-keras-vis", vis(VisSaliency, keepdims=True, normalize_map=False), 1),
    ]
    try:
        # For methods of its own that are not compared; TensorFlow Probability does not load beside Keras 3.
        sys.modules.setdefault("tensorflow_probability", types.ModuleType("tensorflow_probability"))
        from xplique import attributions as theirs  # type: ignore[import-not-found,unused-ignore]
    except ImportError as error:
        print(f"Xplique is left out ({error}): name its folder, --xplique DIR")
        return listed
    covers = _covers(images.shape[1])

    def by(make: Any, finish: Callable[[np.ndarray], np.ndarray] = lambda maps: maps, **options: Any) -> Any:
        method = make(model, batch_size=batch, **options)
        return lambda images, classes: finish(np.asarray(method.explain(images, classes)))

    def summed(maps: np.ndarray) -> np.ndarray:
        return maps.sum(axis=-1)

    plain: dict[str, Any] = {"reducer": None}
    steps: dict[str, Any] = {"patch_size": PATCH, "patch_stride": PATCH // 2, "occlusion_value": 0.0}
    return [
        *listed,
        Contest("gradient", "Xplique", by(theirs.Saliency, **plain), 1, exact=lambda slopes, _: np.abs(slopes)),
        Contest(
            "input_x_gradient",
            "Xplique",
            by(theirs.GradientInput, summed, **plain),
            1,
            exact=lambda *pair: summed(pair[0] * pair[1]),
        ),
        Contest("guided_backprop", "Xplique", by(theirs.GuidedBackprop, **plain), 1),
        Contest("deconvnet", "Xplique", by(theirs.DeconvNet, **plain), 1),
        Contest("integrated_gradients", "Xplique", by(theirs.IntegratedGradients, summed, steps=STEPS, **plain), STEPS),
        Contest("smoothgrad", "Xplique", by(theirs.SmoothGrad, nb_samples=SAMPLES, noise=0.2, **plain), SAMPLES, same=False),
        Contest("occlusion", "Xplique", by(theirs.Occlusion, lambda maps: maps[..., 0] / covers, **steps), 50, backward=False),
        Contest("rise", "Xplique", by(theirs.Rise, nb_samples=MASKS), MASKS, backward=False, same=False),
    ]


def _covers(side: int) -> np.ndarray:
    """How many squares of the occlusion cover each pixel: convscope averages over them, and Xplique sums."""
    starts = range(0, side - PATCH + 1, PATCH // 2)
    line = sum(((np.arange(side) >= start) & (np.arange(side) < start + PATCH)).astype(int) for start in starts)
    return np.outer(line, line)


@dataclass(frozen=True)
class Setup:
    """The network, as a Keras model and as convscope's, and the images and classes that all methods explain.

    images: float32 (n, 224, 224, 3). classes: one-hot, float32 (n, 1000).
    """

    model: Any
    network: Any
    images: np.ndarray
    classes: np.ndarray
    batch: int
    rounds: int

    @classmethod
    def of(cls, count: int, batch: int, rounds: int) -> Setup:
        """MobileNetV2 with random weights, and random images."""
        import keras

        from pipeline.models.head import OutputSpec
        from pipeline.models.keras.model import keras_network

        keras.utils.set_random_seed(0)
        model = keras.applications.MobileNetV2(weights=None, classifier_activation=None)
        random = np.random.default_rng(0)
        for weight in model.weights:  # as after training: with the initial statistics, all maps are alike
            if "moving_variance" in weight.path:
                weight.assign(random.uniform(0.5, 1.5, weight.shape))
        images = random.uniform(-1, 1, (count, 224, 224, 3)).astype(np.float32)
        classes = np.eye(1000, dtype=np.float32)[np.arange(count) % 1000]
        network = keras_network(model, "network", None, "none", OutputSpec(head="softmax"))
        batch = min(batch, count)  # ours fills a batch up, which would count against it alone
        return cls(model, network, images, classes, batch, rounds)

    def ours(self, names: Sequence[str], samples: int = 0) -> Explainer:
        """Some methods in one graph."""
        from pipeline.attribution.explainer import Explainer
        from pipeline.attribution.methods import METHODS
        from pipeline.attribution.methods.method import MethodSettings
        from pipeline.attribution.plan import ExplainPlan
        from pipeline.attribution.targets import Classes, ClassTarget

        methods = tuple((METHODS[name], LAYER if METHODS[name].looks_at == "layer" else None) for name in names)
        settings = MethodSettings(steps=STEPS, samples=samples, patch=PATCH / 224)
        return Explainer.of(self.network, ExplainPlan(methods, (ClassTarget(Classes(1000, None), 0),), self.batch, settings))

    def explained(self, explainer: Explainer) -> np.ndarray:
        """The maps of its last method, (n, ...)."""
        from pipeline.attribution.explainer import ImageBatch

        parts, numbers = [], self.classes.argmax(axis=1)[:, np.newaxis].tolist()
        for at in range(0, len(self.images), self.batch):
            batch = slice(at, at + self.batch)
            maps = explainer.explain(ImageBatch([], self.images[batch], numbers[batch])).maps
            parts.append(list(maps.values())[-1][:, 0])
        return np.concatenate(parts)

    def bare(self, passes: int, backward: bool) -> None:
        """The forward, or forward and backward, passes of the Keras model that take so many of each image."""
        for _ in range(-(-len(self.images) * passes // self.batch)):
            pixels, classes = self.images[: self.batch], self.classes[: self.batch]
            (self._backward(pixels, classes) if backward else self._forward(pixels)).numpy()

    @cached_property
    def _forward(self) -> Any:
        import tensorflow as tf

        return tf.function(lambda pixels: self.model(pixels, training=False), jit_compile=False)

    @cached_property
    def _backward(self) -> Any:
        import tensorflow as tf

        return tf.function(partial(_slopes, self.model), jit_compile=False)

    @cached_property
    def exact(self) -> np.ndarray:
        """The gradients by the pixels in double precision, float64 (n, 224, 224, 3)."""
        import keras

        keras.config.set_dtype_policy("float64")
        double = keras.applications.MobileNetV2(weights=None, classifier_activation=None)
        keras.config.set_dtype_policy("float32")
        double.set_weights(self.model.get_weights())
        each = zip(self.images.astype(np.float64), self.classes.astype(np.float64), strict=True)
        return np.stack([_slopes(double, image[np.newaxis], classes[np.newaxis])[0].numpy() for image, classes in each])

    def seconds(self, runs: Mapping[str, Callable[[], object]]) -> tuple[dict[str, float], dict[str, float]]:
        """Median CPU seconds of each, run in turn, and the median of its ratio to those of "ours" in the same round."""
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(self.rounds):
            for name, run in runs.items():
                started = time.process_time()
                run()
                seconds[name].append(time.process_time() - started)
        ratios = {
            name: statistics.median(other / own for other, own in zip(values, seconds["ours"], strict=True))
            for name, values in seconds.items()
        }
        return {name: statistics.median(values) for name, values in seconds.items()}, ratios


def _slopes(model: Any, pixels: Any, classes: Any) -> Any:
    import tensorflow as tf

    pixels = tf.convert_to_tensor(pixels)
    with tf.GradientTape() as tape:
        tape.watch(pixels)
        score = tf.reduce_sum(model(pixels, training=False) * classes)
    return tape.gradient(score, pixels)


def row(setup: Setup, contest: Contest) -> str:
    """One method: the maps compared, and all that is timed."""
    import tensorflow as tf

    samples = {"smoothgrad": SAMPLES, "rise": MASKS}.get(contest.name, 0)
    traced = mock.Mock(wraps=tf.graph_util.import_graph_def)
    with mock.patch.object(tf.graph_util, "import_graph_def", traced):
        explainer = setup.ours([contest.name], samples)
        mine = setup.explained(explainer)
        first = traced.call_count
        if contest.name in ("integrated_gradients", "smoothgrad"):
            settings = replace(explainer.plan.settings, steps=3 * STEPS, samples=3 * samples)
            setup.explained(replace(explainer, plan=replace(explainer.plan, settings=settings)))
        traces = f"{first}, then {traced.call_count - first}"
    differs, precise = "", ""
    theirs = contest.theirs(setup.images, setup.classes)
    if contest.same:
        theirs = theirs.reshape(mine.shape)
        mine = np.abs(mine) if contest.name == "gradient" else mine  # both others take sizes
        differs = f"{np.abs(mine - theirs).max() / np.abs(theirs).max():.1e}"
    if contest.exact is not None:
        right = contest.exact(setup.exact, setup.images)
        off = [np.abs(maps - right) / np.abs(right).max() for maps in (mine, theirs)]
        precise = " and ".join(f"{errors.max():.1e} ({np.median(errors):.0e})" for errors in off)
    setup.bare(1, contest.backward)  # traced before it is timed
    seconds, ratios = setup.seconds(
        {
            "ours": partial(setup.explained, explainer),
            "theirs": partial(contest.theirs, setup.images, setup.classes),
            "bare": partial(setup.bare, contest.passes, contest.backward),
        }
    )
    return (
        f"| `{contest.name}` | {contest.library} | {seconds['ours']:.2f} | {seconds['theirs']:.2f} | {seconds['bare']:.2f} | "
        f"{ratios['theirs']:.2f} | {ratios['bare']:.2f} | {differs} | {precise} | {traces} |"
    )


def together(setup: Setup, several: Sequence[Contest]) -> str:
    """Several methods of one library and the same images: ours in one job, theirs one after another."""
    explainer = setup.ours([contest.name for contest in several])
    setup.explained(explainer)
    setup.bare(1, True)
    seconds, ratios = setup.seconds(
        {
            "ours": partial(setup.explained, explainer),
            "theirs": lambda: [contest.theirs(setup.images, setup.classes) for contest in several],
            "bare": partial(setup.bare, len(several), True),
        }
    )
    return (
        f"| {', '.join(f'`{contest.name}`' for contest in several)} together | {several[0].library} | {seconds['ours']:.2f} | "
        f"{seconds['theirs']:.2f} | {seconds['bare']:.2f} | {ratios['theirs']:.2f} | {ratios['bare']:.2f} | | | |"
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--xplique", help="the folder that Xplique is in")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="methods, or 'together' for the last row")
    options = parser.parse_args()
    sys.path += [options.xplique] if options.xplique else []
    setup = Setup.of(options.images, options.batch, options.rounds)
    listed = contests(setup.model, setup.images, setup.batch)
    print(f"MobileNetV2, {options.images} images in batches of {setup.batch}, {options.rounds} rounds; seconds of CPU")
    print(
        "| method | beside | ours | theirs | bare passes | theirs / ours | bare / ours | maps differ by | from float64 | traces |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|")
    for contest in listed:
        if not options.only or contest.name in options.only:
            print(row(setup, contest), flush=True)
    several = [contest for contest in listed if contest.library == "Xplique" and contest.passes == 1]
    if several and (not options.only or "together" in options.only):
        print(together(setup, several), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
