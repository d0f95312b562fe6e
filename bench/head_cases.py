"""The heads that were answered wrongly once: what convscope said, what is right by plain Keras, and what it says now.

    python -m bench.head_cases

Exits 1 where any of them is wrong.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from bench.heads import PREPROCESSINGS, SIDE, Drawn, Expected, build, cam, compare, store, table_of, trace
from pipeline.errors import ConvscopeError
from pipeline.run import start_tensorflow

# The network, and what the first edition said of it.
CASES = (
    (
        Drawn("one sigmoid", "fused", "alone", "file:.keras", "a Rescaling inside", 1),
        "probability 1 always, class 1 is not there",
    ),
    (Drawn("one sigmoid", "layer", "alone", "frozen", "a Rescaling inside", 2), "probability 1 always"),
    (Drawn("one sigmoid", "layer", "alone", "savedmodel", "a Rescaling inside", 3), "probability 1 always"),
    (Drawn("sigmoids", "fused", "alone", "file:.keras", "a Rescaling inside", 14), "0.106 each of 14 for 1, GradCAM zero"),
    (Drawn("regression, compiled", "layer", "alone", "file:.keras", "a Rescaling inside", 5), "probabilities 0, 1, 0"),
    (Drawn("log_softmax", "fused", "alone", "file:.keras", "a Rescaling inside", 6), "logit 0, GradCAM zero"),
    (Drawn("a binary logit, compiled", "layer", "alone", "file:.keras", "a Rescaling inside", 7), "probability 1 always"),
    (Drawn("tanh", "fused", "alone", "file:.keras", "a Rescaling inside", 8), "GradCAM of the saturated tanh"),
    (Drawn("hard sigmoid", "fused", "alone", "savedmodel", "a Rescaling inside", 9), "probability 1 always, GradCAM zero"),
    (Drawn("softmax", "convolution", "alone", "frozen", "a Rescaling inside", 10), "no logits"),
    (Drawn("softmax", "convolution", "alone", "savedmodel", "a Rescaling inside", 11), "no logits"),
    (Drawn("map of a softmax", "reshaped", "alone", "file:.keras", "a Rescaling inside", 12), "no such head"),
    (Drawn("boxes in columns, YOLO", "layer", "alone", "file:.keras", "a Rescaling inside", 13), "no such head"),
)


def row(drawn: Drawn) -> tuple[str, str, bool]:
    """What is right of the last class or output of an image, what convscope says, and whether they agree."""
    import tensorflow as tf

    from pipeline.models.registry import open_network
    from pipeline.spec.model import ModelSpec

    model, features, (end,) = build(drawn)
    pixels = np.random.default_rng(drawn.seed).integers(0, 256, (3, SIDE, SIDE, 3)).astype(np.float32)
    given = PREPROCESSINGS[drawn.preprocessing].given(pixels)
    with tf.GradientTape() as tape:
        maps = features(given)
        tape.watch(maps)
        z = end.evidence(maps, None)
        total = tf.reduce_sum(z[..., -1])
    peak = cam(maps, tape.gradient(total, maps)).numpy().max()
    with tempfile.TemporaryDirectory() as folder:
        try:
            network = open_network(ModelSpec.model_validate(table_of(drawn, model, store(model, drawn.file, Path(folder)))))
            said, (logits, actual) = network.head(), trace(network, pixels)
        except ConvscopeError as error:
            return _words(z.numpy(), peak, model(given), end), str(error), False
    verdict, why = compare((said, logits, actual), model, features, end, given)
    probabilities = said.box_scores(logits) if said.kind == "boxes" else said.probabilities(logits)
    value = said.activation(logits) if probabilities is None else probabilities
    now = f"{said.kind}: {_numbers(logits, value, 0.0 if actual is None else actual.max())}"
    return _words(z.numpy(), peak, model(given), end), now if verdict == "right" else f"{now} ({why})", verdict == "right"


def _words(z: np.ndarray, peak: float, output: Any, end: Expected) -> str:
    value = end.detector.scores(z) if end.detector else np.asarray(output)
    value = np.exp(value) if end.is_logarithm else 1 / (1 + np.exp(-z)) if end.raw and end.kind == "sigmoid" else value
    return f"{end.kind}: {_numbers(z, value, peak)}"


def _numbers(z: np.ndarray, value: np.ndarray, peak: float) -> str:
    """Of the first image, and of its first position or box: the evidence, the probability or output, GradCAM's peak."""
    return f"evidence {z[0].ravel()[z.shape[-1] - 1]:.4g}, value {value[0].ravel()[value.shape[-1] - 1]:.4g}, GradCAM {peak:.4g}"


def main() -> None:
    start_tensorflow()
    print("| network | before | right | now |\n|---|---|---|---|")
    every = True
    for drawn, before in CASES:
        right, now, agrees = row(drawn)
        every &= agrees
        print(f"| {drawn.head}, {drawn.wrapping}, {drawn.file} | {before} | {right} | {now} |", flush=True)
    sys.exit(not every)


if __name__ == "__main__":
    main()
