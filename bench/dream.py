"""Patterns beside their yardsticks: what a step costs, what a batch saves, what parametrization and transforms bring.

    python -m bench.dream [--weights DIR] [--size N] [--rounds N] [--clock wall|cpu] [--only step,batch,others,quality]

Four tables. `step`: a whole step of the ascent over a bare forward and backward pass of the same Keras model on the same
batch, in turns, the median of the ratios. `batch`: 64 patterns of VGG16's block4_conv1 in one batch over 64 single ones,
and the same for the bare passes, which is the ceiling. `others`: steps/s beside tf-keras-vis's ActivationMaximization and
beside a plain loop of GradientTape as tutorials have it. `quality`: the same seeds with and without Fourier coefficients and
transforms; it needs --weights, a folder with vgg16_notop.weights.h5, without which all weights are random. `--clock cpu` counts
the processor's seconds of all threads in place of those on the wall, which on a busy machine tell more of the others.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

LAYER = "block4_conv1"
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
clock = CLOCKS["wall"]  # set by --clock


def network(source: str, weights: Path | None, size: int | None) -> Any:
    """A network of keras.applications; VGG16 with real weights where there are some."""
    from pipeline.models.registry import open_network
    from pipeline.spec.model import ModelSpec

    file = weights / "vgg16_notop.weights.h5" if weights and source == "keras:VGG16" else None
    shape = (size, size) if size else None
    return open_network(ModelSpec(source=source, layers=["*"], top=False, size=shape, weights=str(file or "none")))


def climber(net: Any, layer: str, batch: int, **keys: Any) -> Callable[[int], None]:
    """A function that makes so many steps of an ascent of the layer's first channels, as a spec with these keys has it."""
    import tensorflow as tf

    from pipeline.ascent.objectives import channel
    from pipeline.ascent.optimizer import Ascent, State
    from pipeline.patterns.runner import config_of, parametrization_of
    from pipeline.spec.patterns import PatternsSpec

    config = config_of(PatternsSpec(**keys))
    parametrization = parametrization_of(PatternsSpec(**keys), net, config.transforms)
    objectives = [channel(layer, number) for number in range(batch)]
    ascent = Ascent.compile(net, parametrization, objectives, config)
    state = State.start(tf.stack([parametrization.noise((0, number), 0.1) for number in range(batch)]))

    def run(steps: int) -> None:
        nonlocal state
        state, _ = ascent.run(state, objectives, steps)

    return run


def bare(net: Any, layer: str, batch: int) -> Callable[[int], None]:
    """A function that makes so many forward and backward passes of the Keras model, on images that lie in memory."""
    import keras
    import tensorflow as tf

    output = net.reader.model.output if layer == "logits" else net.reader.model.get_layer(layer).output
    part = keras.Model(net.reader.model.input, output)
    rest = list(range(1, len(output.shape) - 1))
    images = tf.random.stateless_uniform((batch, *net.input_shape), (0, 0), -1.0, 1.0)

    @tf.function(jit_compile=False)
    def gradient(images: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(images)
            value = tf.reduce_sum(tf.reduce_mean(part(images, training=False), axis=rest))
        return tape.gradient(value, images)

    def run(passes: int) -> None:
        for _ in range(passes):
            last = gradient(images)
        last.numpy()

    return run


def in_turns(runs: dict[str, Callable[[int], None]], steps: int, rounds: int) -> dict[str, list[float]]:
    """Seconds a step of each, round by round; the first round warms up and does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(rounds + 1):
        for name, run in runs.items():
            started = clock()
            run(steps)
            if turn:
                seconds[name].append((clock() - started) / steps)
    return seconds


def show_step(weights: Path | None, size: int | None, rounds: int) -> None:
    """The table `step`."""
    still = {"pad": 0.0, "jitter": 0.0, "scale": 0.0, "rotate": 0.0}
    cases: dict[str, dict[str, Any]] = {
        "as shipped": {},
        "pixels, still, sgd": {"canvas": "pixels", "shake": still, "optimiser": "sgd", "tv": 0.0},
    }
    print(f"{'a step over a bare pass':<34}{'batch':>6}{'bare s':>9}" + "".join(f"{name:>22}" for name in cases))
    networks = (("keras:VGG16", LAYER, 2), ("keras:MobileNetV2", "block_6_expand_relu", 8), ("keras:MobileNetV2", "out_relu", 8))
    for source, layer, batch in networks:
        net = network(source, weights, size)
        runs = {"bare": bare(net, layer, batch)} | {name: climber(net, layer, batch, **keys) for name, keys in cases.items()}
        seconds = in_turns(runs, 10, rounds)
        ratios = [statistics.median(a / b for a, b in zip(seconds[name], seconds["bare"], strict=True)) for name in cases]
        label = f"{net.name} {layer}"
        print(
            f"{label:<34}{batch:>6}{statistics.median(seconds['bare']):>9.3f}" + "".join(f"{r:>22.2f}" for r in ratios),
            flush=True,
        )


def show_batch(weights: Path | None, size: int | None, rounds: int) -> None:
    """The table `batch`."""
    net = network("keras:VGG16", weights, size)
    runs = {f"{kind} {batch}": make(net, LAYER, batch) for kind, make in (("ours", climber), ("bare", bare)) for batch in (1, 64)}
    seconds = {}
    for name, run in runs.items():
        seconds[name] = statistics.median(in_turns({name: run}, 16 if name.endswith(" 1") else 1, rounds)[name])
    for kind, words in (("ours", "64 patterns in one batch"), ("bare", "the ceiling: bare passes")):
        gain = 64 * seconds[f"{kind} 1"] / seconds[f"{kind} 64"]
        print(
            f"{words}: {seconds[f'{kind} 64']:.2f} s a step, 64 single ones {64 * seconds[f'{kind} 1']:.2f} s: {gain:.2f} times"
        )


def show_others(weights: Path | None, size: int | None, rounds: int) -> None:
    """The table `others`: one picture, one channel of VGG16."""
    net = network("keras:VGG16", weights, size)
    runs = {"ours": climber(net, LAYER, 1), "plain loop": _plain(net), "tf-keras-vis": _vis(net)}
    seconds = in_turns(runs, 8, rounds)
    for name, of_run in seconds.items():
        print(f"{name:<16}{1 / statistics.median(of_run):>8.1f} steps/s")


def _plain(net: Any) -> Callable[[int], None]:
    """A GradientTape around a call of the model, step by step, the gradient over its mean size: no graph, no transforms."""
    import keras
    import tensorflow as tf

    part = keras.Model(net.reader.model.input, net.reader.model.get_layer(LAYER).output)
    picture = tf.random.stateless_uniform((1, *net.input_shape), (0, 0), -10.0, 10.0)

    def run(steps: int) -> None:
        nonlocal picture
        for _ in range(steps):
            with tf.GradientTape() as tape:
                tape.watch(picture)
                loss = tf.reduce_mean(part(picture)[..., 0])
            gradient = tape.gradient(loss, picture)
            picture = picture + gradient / tf.maximum(tf.reduce_mean(tf.abs(gradient)), 1e-6)
        picture.numpy()

    return run


def _vis(net: Any) -> Callable[[int], None]:
    """tf-keras-vis, as its documentation has it."""
    import keras
    from tf_keras_vis.activation_maximization import ActivationMaximization
    from tf_keras_vis.utils.scores import CategoricalScore

    part = keras.Model(net.reader.model.input, net.reader.model.get_layer(LAYER).output)
    dream = ActivationMaximization(part, clone=False)

    def run(steps: int) -> None:
        dream(CategoricalScore([0]), steps=steps)

    return run


def show_quality(weights: Path | None, size: int | None, rounds: int) -> None:
    """The table `quality`: eight channels of two layers, the same seeds."""
    import numpy as np

    from pipeline.ascent.measure import compile_measure
    from pipeline.ascent.objectives import channel
    from pipeline.ascent.optimizer import Ascent
    from pipeline.ascent.starts import Noise, find_starts
    from pipeline.patterns.runner import config_of, parametrization_of
    from pipeline.spec.patterns import PatternsSpec

    still = {"pad": 0.0, "jitter": 0.0, "scale": 0.0, "rotate": 0.0}
    cases: dict[tuple[str, int], dict[str, Any]] = {
        (kind, moved): {"canvas": kind, **({} if moved else {"shake": still})}
        for kind in ("fourier", "pixels")
        for moved in (1, 0)
    }
    net = network("keras:VGG16", weights, size or 96)
    print(f"{'layer':<14}{'canvas':<12}{'shaken':<8}{'reached':>10}{'when moved':>12}{'kept':>7}{'fine':>7}")
    for layer in ("block2_conv2", "block4_conv1"):
        objectives = [channel(layer, number) for number in range(8)]
        measure = compile_measure(net, objectives)
        for (kind, moved), keys in cases.items():
            spec = PatternsSpec(**keys, steps=48)
            config = config_of(spec)
            ascent = Ascent.compile(net, parametrization_of(spec, net, config.transforms), objectives, config)
            state, _ = find_starts(ascent, objectives, [str(objective) for objective in objectives], Noise(0, spec.contrast))
            pictures = ascent.pictures(ascent.run(state, objectives, spec.steps)[0].good)
            reached = measure(pictures, objectives)[0]
            turned = measure(_turned(pictures), objectives)[0]
            row = [reached.mean(), turned.mean(), (turned / reached).mean(), _fine(pictures)]
            numbers = "{:>10.0f}{:>12.0f}{:>7.2f}{:>7.3f}".format(*np.asarray(row))
            print(f"{layer:<14}{kind:<12}{'yes' if moved else 'no':<8}{numbers}", flush=True)


def _turned(pictures: Any) -> Any:
    """The pictures turned by five degrees and enlarged by a twentieth, which a pattern that means something survives."""
    import cv2
    import numpy as np

    height, width = pictures.shape[1:3]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), 5.0, 1.05)
    return np.stack([cv2.warpAffine(picture, matrix, (width, height), borderMode=cv2.BORDER_REFLECT) for picture in pictures])


def _fine(pictures: Any) -> float:
    """The share of the pictures' energy above 0.35 cycles a pixel, where a checkerboard lies."""
    import numpy as np

    grey = pictures.mean(axis=3)
    energy = np.abs(np.fft.fft2(grey - grey.mean(axis=(1, 2), keepdims=True))) ** 2
    height, width = grey.shape[1:]
    high = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None]) > 0.35
    return float((energy[:, high].sum(axis=1) / energy.sum(axis=(1, 2))).mean())


TABLES = {"step": show_step, "batch": show_batch, "others": show_others, "quality": show_quality}


def main() -> None:
    """Print the tables."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--weights", type=Path)
    options.add_argument("--size", type=int)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--clock", choices=sorted(CLOCKS), default="wall")
    options.add_argument("--only", default=",".join(TABLES))
    given = options.parse_args()
    global clock
    clock = CLOCKS[given.clock]
    for name in given.only.split(","):
        TABLES[name](given.weights, given.size, given.rounds)
        print()


if __name__ == "__main__":
    main()
