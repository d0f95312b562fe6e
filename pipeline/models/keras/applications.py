"""`keras:NAME`: the networks of keras.applications, each built by the library's own builder."""

from __future__ import annotations

import inspect
import math
import random
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import keras
import numpy as np

from pipeline.compiled.keras_private import size_asked_for
from pipeline.errors import UnknownName, UnusableModel, WrongSpec, one_line
from pipeline.models.head import OutputSpec
from pipeline.models.image_network import ImageNetwork
from pipeline.models.keras.keras_graph import KerasGraph
from pipeline.models.keras.model import keras_network
from pipeline.models.keras.weights import check_readable, load_weights
from pipeline.models.network import Setting
from pipeline.models.preprocessing import MODES
from pipeline.spec.model import ModelSpec

Builder = Callable[..., keras.Model]

# Networks that take any size, such as MobileNetV3, were trained at ImageNet's usual one.
_USUAL_SIZE = (224, 224)

# The deviations that the ImageNet weights of EfficientNet hold where a Normalization layer holds variances.
_EFFICIENTNET_DEVIATION = (0.229, 0.224, 0.225)


def builders() -> dict[str, Builder]:
    """Every builder of this Keras's keras.applications, by name."""
    return {
        name: value
        for name, value in sorted(vars(keras.applications).items())
        if inspect.isfunction(value) and {"weights", "include_top"} <= inspect.signature(value).parameters.keys()
    }


def open_application(name: str, spec: ModelSpec) -> ImageNetwork:
    """Build `keras:NAME`, its classifier (if any) ending in logits, and load its weights.

    Without weights the network is random, but the same in every process, so that shards agree.

    Raises: UnknownName, MissingInput, UnusableModel, WrongSpec.
    """
    name, builder = _find(name)
    mode: str | Setting = spec.preprocess
    if mode == "auto":
        mode = Setting(inferred_mode(builder) or _unknown_mode(name), name)
    size = spec.size or default_size(builder)
    from_file = spec.weights not in ("imagenet", "none")
    if from_file:
        check_readable(Path(spec.weights))

    def build(weights: str | None = None, top: bool = spec.top) -> keras.Model:
        return _build(builder, weights=weights, include_top=top, input_shape=(*size, 3), classifier_activation=None)

    try:
        model = build("imagenet" if spec.weights == "imagenet" else None)
    except ValueError as error:
        advice = "Leave model.size out, or set model.top = false." if "imagenet" in str(error) else "Set another model.size."
        raise WrongSpec(f"keras:{name} cannot be built at {size[0]}x{size[1]}: {one_line(error)}. {advice}") from None
    except Exception as error:
        raise UnusableModel(
            f"the imagenet weights of keras:{name} could not be fetched ({one_line(error)}). "
            'Put the weights file somewhere and set model.weights = PATH, or set model.weights = "none".'
        ) from None
    if from_file:
        load_weights(model, Path(spec.weights), f"keras:{name}", top=spec.top, build_other=lambda: build(top=not spec.top))
        model = _as_trained_on_imagenet(model)
    classifier = "a classifier of keras.applications" if spec.top else ""
    return keras_network(model, name, size, mode, OutputSpec.of(spec, classifier=classifier))


def inferred_mode(builder: Builder) -> str | None:
    """The key of `MODES` that does what the `preprocess_input` beside this builder does; None if none does.

    It is "none" for the networks that rescale inside: their `preprocess_input` leaves pixels as they are.
    """
    probe = np.array([[[[0, 10, 200], [255, 127.5, 3]], [[60, 90, 120], [1, 254, 33]]]], np.float32)
    theirs = np.asarray(sys.modules[builder.__module__].preprocess_input(probe.copy()))
    for mode, ours in MODES.items():
        if np.allclose(ours(probe), theirs, rtol=1e-4, atol=1e-4):
            return mode
    return None


def default_size(builder: Builder) -> tuple[int, int]:
    """The (height, width) a builder uses when told nothing, found without building anything."""
    try:
        # A size that the ImageNet classifier cannot have is refused before any work, in words that name the right one.
        builder(weights="imagenet", include_top=True, input_shape=(1, 1, 3))
    except ValueError as error:
        return size_asked_for(error) or _USUAL_SIZE
    return _USUAL_SIZE


def recognised(model: keras.Model) -> Builder | None:
    """The builder that a model of unknown origin came from: its name says so, and its layers agree."""
    kinds = _kinds(model)
    for name, builder in builders().items():
        given = inspect.signature(builder).parameters["name"].default or name
        called = model.name.lower()
        # MobileNets are named for their width and size: mobilenetv2_1.00_224.
        if called != given.lower() and not called.startswith(f"{name.lower()}_"):
            continue
        with keras.StatelessScope():  # no weights are allocated
            reference = _kinds(_build(builder, weights=None, include_top=False, input_shape=model.input_shape[1:]))
        if kinds[: len(reference)] == reference:
            return builder
    return None


def _find(name: str) -> tuple[str, Builder]:
    known = builders()
    if name not in known:
        alike = [other for other in known if other.lower() == name.lower()]
        if len(alike) != 1:
            raise UnknownName.among(name, known, where="a network of keras.applications")
        name = alike[0]
    return name, known[name]


def _unknown_mode(name: str) -> str:
    raise WrongSpec(
        f"the preprocessing of keras:{name} is none that convscope knows. Name it in model.preprocess: {', '.join(MODES)}."
    )


def _build(builder: Builder, **options: Any) -> keras.Model:
    """Call a builder such that names and random weights depend on nothing that ran before."""
    # Keras counts names such as conv2d_7, and draws its seeds, from states of the process: a thread of its own has
    # counters at zero, and Python's random numbers are put back as they were.
    state = random.getstate()
    random.seed(0)
    try:
        with ThreadPoolExecutor(max_workers=1) as thread:
            return thread.submit(builder, **options).result()
    finally:
        random.setstate(state)


def _as_trained_on_imagenet(model: keras.Model) -> keras.Model:
    """Give an EfficientNet that got ImageNet's weights from a file the layer that Keras adds for them alone.

    They were trained with pixels divided by the variance, not the deviation; for weights = "imagenet" Keras makes
    that up by a second division, which a file's weights need just as much.
    """
    first = next((layer for layer in model.layers if isinstance(layer, keras.layers.Normalization)), None)
    if first is None or not first.variables or not np.allclose(np.ravel(first.variables[1]), _EFFICIENTNET_DEVIATION, atol=1e-4):
        return model

    def call(layer: keras.Layer, *args: Any, **kwargs: Any) -> Any:
        output = layer(*args, **kwargs)
        if layer is not first:
            return output
        return keras.layers.Rescaling([1 / math.sqrt(d) for d in _EFFICIENTNET_DEVIATION], name="imagenet_rescaling")(output)

    return keras.models.clone_model(model, clone_function=lambda layer: layer, call_function=call)


def _kinds(model: keras.Model) -> list[str]:
    return [call.kind for call in KerasGraph.of(model).calls.values()]
