"""Attribution beside Xplique, tf-keras-vis and bare passes, on MobileNetV2: the same maps, and CPU seconds, interleaved.

    python -m bench.attribution [--xplique DIR] [--images N] [--batch N] [--rounds N] [--only NAME …]

DIR holds Xplique with what it needs beside TensorFlow (`pip install --no-deps --target DIR xplique deprecated wrapt einops`), and
is put at the end of the path of this process alone. Each method explains the same images for the same classes: ours, theirs, and
the forward, or forward and backward, passes that it cannot do without, through tf.function on the Keras model. Seconds are the
process's own, of all its threads, so that other work on the machine counts little; ratios are medians over rounds in which all
run in turn. Weights are random, which takes no other time. `traces` is how many graphs convscope compiled for the method, once
with few steps or samples and then with three times as many.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
import types
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any
from unittest import mock

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

LAYER, STEPS, SAMPLES, MASKS = "out_relu", 32, 16, 200
PATCH = 56  # of 224 pixels: a quarter of the side
Passes = Callable[[], object]


@dataclass(frozen=True)
class Contest:
    """One method: ours by name, theirs, and how many passes an image takes.

    theirs: makes maps (n, h, w) from images and one-hot classes; None for a method that the others do not have.
    same: whether the two maps must be equal; maps of random masks or noise need not.
    """

    name: str
    library: str
    theirs: Callable[[np.ndarray, np.ndarray], np.ndarray] | None
    passes: int
    backward: bool = True
    same: bool = True


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
        Contest("gradcam++", "tf-keras-vis", vis(GradcamPlusPlus, **cam), 1, same=False),  # of another factor; see docs
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
        Contest("gradient", "Xplique", by(theirs.Saliency, **plain), 1),
        Contest("input_x_gradient", "Xplique", by(theirs.GradientInput, summed, **plain), 1),
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


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--xplique", help="the folder that Xplique is in")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", metavar="NAME")
    options = parser.parse_args()
    options.batch = min(options.batch, options.images)  # a batch is filled up, which would count against ours alone
    import keras
    import tensorflow as tf

    from pipeline.attribution.explainer import Explainer, ImageBatch
    from pipeline.attribution.methods import METHODS
    from pipeline.attribution.methods.method import MethodSettings
    from pipeline.attribution.plan import ExplainPlan
    from pipeline.attribution.targets import Classes, ClassTarget
    from pipeline.models.head import OutputSpec
    from pipeline.models.keras.model import keras_network

    sys.path += [options.xplique] if options.xplique else []
    keras.utils.set_random_seed(0)
    model = keras.applications.MobileNetV2(weights=None, classifier_activation=None)
    random = np.random.default_rng(0)
    for weight in model.weights:  # as after training: with the initial statistics, all maps are alike
        if "moving_variance" in weight.path:
            weight.assign(random.uniform(0.5, 1.5, weight.shape))
    images = random.uniform(-1, 1, (options.images, 224, 224, 3)).astype(np.float32)
    numbers = np.arange(options.images) % 1000
    classes = np.eye(1000, dtype=np.float32)[numbers]
    network = keras_network(model, "network", None, "none", OutputSpec(head="softmax"))
    target = (ClassTarget(Classes(1000, None), 0),)
    settings = MethodSettings(steps=STEPS, samples=0, patch=PATCH / 224)

    forward = tf.function(lambda pixels: model(pixels, training=False), jit_compile=False)

    @tf.function(jit_compile=False)  # type: ignore[untyped-decorator,unused-ignore]
    def backward(pixels: tf.Tensor, chosen: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(pixels)
            score = tf.reduce_sum(model(pixels, training=False) * chosen)
        return tape.gradient(score, pixels)

    def bare(contest: Contest) -> None:
        for _ in range(-(-options.images * contest.passes // options.batch)):
            pixels = tf.constant(images[: options.batch])
            (backward(pixels, tf.constant(classes[: options.batch])) if contest.backward else forward(pixels)).numpy()

    print(f"MobileNetV2, {options.images} images in batches of {options.batch}, {options.rounds} rounds; seconds of CPU")
    print("| method | beside | ours | theirs | bare passes | theirs / ours | bare / ours | maps differ by | traces |")
    print("|---|---|---|---|---|---|---|---|---|")
    for contest in contests(model, images, options.batch):
        if options.only and contest.name not in options.only:
            continue
        samples = {"smoothgrad": SAMPLES, "rise": MASKS}.get(contest.name, 0)
        own = (METHODS[contest.name], LAYER if METHODS[contest.name].looks_at == "layer" else None)
        plan = ExplainPlan((own,), target, options.batch, replace(settings, samples=samples))
        explainer = Explainer.of(network, plan)
        traced = mock.Mock(wraps=tf.graph_util.import_graph_def)

        def ours(explainer: Explainer = explainer) -> np.ndarray:
            parts = []
            for at in range(0, options.images, options.batch):
                asked = numbers[at : at + options.batch, np.newaxis].tolist()
                explained = explainer.explain(ImageBatch([], images[at : at + options.batch], asked))
                parts.append(next(iter(explained.maps.values()))[:, 0])
            return np.concatenate(parts)

        with mock.patch.object(tf.graph_util, "import_graph_def", traced):
            mine = ours()
            first = traced.call_count
            more = replace(plan, settings=replace(plan.settings, steps=3 * STEPS, samples=3 * samples))
            if contest.name in ("integrated_gradients", "smoothgrad"):
                ours(replace(explainer, plan=more))
            traces = f"{first}, then {traced.call_count - first}"
        runs: dict[str, Passes] = {"ours": ours, "bare": partial(bare, contest)}
        difference = ""
        if contest.theirs is not None:
            expected = contest.theirs(images, classes)
            runs["theirs"] = partial(contest.theirs, images, classes)
            if contest.same:
                mine = np.abs(mine) if contest.name == "gradient" else mine  # both others take sizes
                difference = f"{np.abs(mine - expected.reshape(mine.shape)).max() / np.abs(expected).max():.1e}"
        forward(tf.constant(images[: options.batch]))  # traced before it is timed
        backward(tf.constant(images[: options.batch]), tf.constant(classes[: options.batch]))
        seconds: dict[str, list[float]] = {name: [] for name in runs}
        for _ in range(options.rounds):
            for name, run in runs.items():
                started = time.process_time()
                run()
                seconds[name].append(time.process_time() - started)
        median = {name: statistics.median(values) for name, values in seconds.items()}
        ratio = {
            name: statistics.median(other / own for other, own in zip(values, seconds["ours"], strict=True))
            for name, values in seconds.items()
        }
        print(
            f"| `{contest.name}` | {contest.library} | {median['ours']:.2f} | {median.get('theirs', 0):.2f} | "
            f"{median['bare']:.2f} | {ratio.get('theirs', 0):.2f} | {ratio['bare']:.2f} | {difference} | {traces} |",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
