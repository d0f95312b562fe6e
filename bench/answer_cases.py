"""Preprocessing, files, inputs and layers that were answered wrongly once: what was said, what is right, and what is said now.

    python -m bench.answer_cases [NAME …]

What is right is computed by plain Keras or by hand. Exits 1 where any row is wrong. The heads are in `bench.head_cases`.
"""

from __future__ import annotations

import io
import sys
import tempfile
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import ConvscopeError
from pipeline.run import start_tensorflow

SIDE = 32
PIXELS = np.random.default_rng(0).integers(0, 256, (2, SIDE, SIDE, 3)).astype(np.float32)

Answer = tuple[str, str]  # what is right, and what convscope says


@dataclass(frozen=True)
class Case:
    """One thing that was answered wrongly. before: by the first edition. answers: right and now, from a folder to write in."""

    name: str
    before: str
    answers: Callable[[Path], Answer]


def _net(inputs: Any, x: Any, last: Any = None) -> Any:
    import keras

    layers = keras.layers
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3, activation="relu", name="conv")(x))
    return keras.Model(inputs, (last or layers.Dense(3, name="classes"))(x))


def _image(**options: Any) -> Any:
    import keras

    return keras.Input(options.pop("shape", (SIDE, SIDE, 3)), name="photo", **options)


def _opened(model: Any, folder: Path, **keys: Any) -> Any:
    from pipeline.models.registry import open_network
    from pipeline.spec.model import ModelSpec

    model.save(folder / "net.keras")
    return open_network(ModelSpec.model_validate({"source": f"file:{folder / 'net.keras'}", "layers": ["*"], **keys}))


def _first_logits(network: Any, pixels: np.ndarray) -> str:
    import tensorflow as tf

    prepared = network.preprocess(tf.constant(pixels))
    return _numbers(network.trace(prepared, ["logits"])["logits"])


def _numbers(values: Any) -> str:
    return ", ".join(f"{value:.4g}" for value in np.asarray(values)[0].ravel()[:3])


def _said(work: Callable[[], str]) -> str:
    """What convscope answers; of an error, that it asks, and for which key."""
    try:
        return work()
    except ConvscopeError as error:
        key = next((word.strip(".,:") for word in str(error).split() if word.startswith("model.")), None)
        return f"asks for {key}" if key else f"refused: {error}"


def inside(step: Callable[[Any], Any], asks: bool = False, **keys: Any) -> Callable[[Path], Answer]:
    """A network that does something to its pixels itself, `preprocess` left to convscope."""

    def answers(folder: Path) -> Answer:
        image = _image()
        model = _net(image, step(image))
        right = "asks for model.preprocess" if asks else _numbers(model(PIXELS))
        return right, _said(lambda: _first_logits(_opened(model, folder, **keys), PIXELS))

    return answers


def nested_application(folder: Path) -> Answer:
    """A network of keras.applications behind its own `preprocess_input`, and one behind none."""
    import keras

    family = keras.applications.mobilenet
    said, right = [], []
    for given in (family.preprocess_input, lambda x: x):
        image = _image()
        base = keras.applications.MobileNet(alpha=0.25, weights=None, include_top=False, input_shape=(SIDE, SIDE, 3))
        x = keras.layers.GlobalAveragePooling2D()(base(given(keras.layers.RandomFlip()(image))))
        model = keras.Model(image, keras.layers.Dense(3)(x))
        pixels = PIXELS if given is family.preprocess_input else family.preprocess_input(PIXELS.copy())
        right.append(_numbers(model(pixels, training=False)))
        network = _opened(model, folder)
        said.append(f"{_first_logits(network, PIXELS)} ({network.settings['preprocess'].value})")
    modes = ("none", "symmetric")
    return "; ".join(f"{numbers} ({mode})" for numbers, mode in zip(right, modes, strict=True)), "; ".join(said)


def whole_numbers(folder: Path) -> Answer:
    """An input of uint8, cast inside."""
    import keras

    image = _image(dtype="uint8")
    model = _net(image, keras.layers.Rescaling(1 / 127.5, -1)(image))
    return _numbers(model(PIXELS.astype(np.uint8))), _said(lambda: _first_logits(_opened(model, folder), PIXELS))


def called_twice(folder: Path) -> Answer:
    """One convolution and one ReLU, called twice."""
    import keras

    image = _image()
    convolution, relu = keras.layers.Conv2D(3, 3, padding="same", name="shared"), keras.layers.ReLU(name="relu")
    x = relu(convolution(relu(convolution(keras.layers.Rescaling(1 / 255)(image)))))
    model = keras.Model(image, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(x)))
    right = "shared, relu, shared:1, relu:1; GradCAM explains relu:1"
    return right, _said(lambda: _layers_and_last(_opened(model, folder), ("shared", "relu")))


def _layers_and_last(network: Any, names: tuple[str, ...]) -> str:
    from pipeline.compiled.default_layer import default_layer

    own = [layer.name for layer in network.layers() if layer.name.startswith(names)]
    return f"{', '.join(own)}; GradCAM explains {default_layer(network).name}"


def several_outputs_inside(folder: Path) -> Answer:
    """A nested model that gives two maps."""
    import keras

    layers = keras.layers
    inner = keras.Input((SIDE, SIDE, 3))
    first = layers.Conv2D(3, 3, name="first")(inner)
    base = keras.Model(inner, [first, layers.Conv2D(4, 3, name="second")(first)], name="base")
    image = _image()
    small, large = base(layers.Rescaling(1 / 255)(image))
    pooled = [layers.GlobalAveragePooling2D()(x) for x in (small, large)]
    model = keras.Model(image, layers.Dense(2)(layers.Concatenate()(pooled)))
    network = _opened(model, folder)
    return "base/first, base/second", ", ".join(layer.name for layer in network.layers() if layer.name.startswith("base/"))


def two_inputs(folder: Path) -> Answer:
    """An image, and three numbers."""
    import keras

    layers = keras.layers
    image, meta = _image(), keras.Input((3,), name="meta")
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(layers.Rescaling(1 / 255)(image)))
    model = keras.Model([image, meta], layers.Dense(3)(layers.Concatenate()([x, meta])))
    right = _numbers(model([PIXELS, np.full((2, 3), (0.5, -1.0, 2.0), np.float32)]))
    inputs = {"image": "photo", "meta": [0.5, -1.0, 2.0]}
    return right, _said(lambda: _first_logits(_opened(model, folder, inputs=inputs), PIXELS))


def bands(count: int) -> Callable[[Path], Answer]:
    """A network of so many bands."""

    def answers(folder: Path) -> Answer:
        image = _image(shape=(SIDE, SIDE, count))
        import keras

        model = _net(image, keras.layers.Rescaling(1 / 255)(image))
        pixels = np.random.default_rng(1).integers(0, 256, (2, SIDE, SIDE, count)).astype(np.float32)
        return _numbers(model(pixels)), _said(lambda: _first_logits(_opened(model, folder).of_samples(None), pixels))

    return answers


def half_precision(folder: Path) -> Answer:
    """The peak of GradCAM on a mixed_float16 network of a large last map and many classes, beside the same in float32."""
    import keras

    peaks = []
    random = np.random.default_rng(0)
    for policy in ("float32", "mixed_float16"):
        layers = keras.layers
        image = _image(shape=(224, 224, 3))
        x = layers.Conv2D(4, 3, padding="same", activation="relu", name="last", dtype=policy)(layers.Rescaling(1 / 255)(image))
        model = keras.Model(image, layers.Dense(1000, dtype=policy)(layers.GlobalAveragePooling2D(dtype=policy)(x)))
        random = np.random.default_rng(0)
        shapes = [weight.shape for weight in model.weights]
        model.set_weights([random.normal(0, 2e-4 if shape[-1] == 1000 else 0.3, shape) for shape in shapes])
        peaks.append(_peak_of_gradcam(_opened(model, folder), "last", random.integers(0, 256, (1, 224, 224, 3))))
    return f"{peaks[0]:.2g}", f"{peaks[1]:.2g}"


def _peak_of_gradcam(network: Any, layer: str, images: np.ndarray) -> float:
    from pipeline.attribution.explainer import Explainer
    from pipeline.attribution.methods import method_named
    from pipeline.attribution.plan import ExplainPlan
    from pipeline.attribution.targets import Classes, ClassTarget

    plan = ExplainPlan.of([method_named("gradcam")], [layer], (ClassTarget(Classes(1000, None), 7),), 1)
    explainer = Explainer.of(network, plan)
    return float(explainer.maps(images.astype(np.uint8), np.array([[7]], np.int32))["gradcam", layer].max())


def labels(encoding: str) -> Callable[[Path], Answer]:
    """A file of class names as editors write it."""

    def answers(folder: Path) -> Answer:
        from pipeline.models.labels import class_names

        (folder / "labels.txt").write_text("cat\ndog\nhouse\n", encoding=encoding)
        return "cat, dog, house", _said(lambda: ", ".join(class_names(str(folder / "labels.txt"), "net", 3, None) or ()))

    return answers


def strides(folder: Path) -> Answer:
    """The strides that `layers` prints behind upsampling and resizing."""
    import keras

    from jobs.cli import main

    image = _image(shape=(48, 48, 3))
    x = keras.layers.Conv2D(3, 3, padding="same")(keras.layers.Rescaling(1 / 255)(image))
    x = keras.layers.MaxPooling2D(name="pool")(x)
    x = keras.layers.Resizing(31, 31, name="odd")(keras.layers.UpSampling2D(name="up")(x))
    keras.Model(image, keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(x))).save(folder / "net.keras")
    with redirect_stdout(io.StringIO()) as out:
        main(["layers", f"file:{folder / 'net.keras'}"])
    rows = [line.split("  ") for line in out.getvalue().splitlines()]
    cells = {row[0].strip(): row[-1].strip() for row in rows}
    names = ("pool", "up", "odd")
    return "pool 2 x 2, up 1 x 1, odd 48/31 x 48/31", ", ".join(f"{name} {cells.get(name)}" for name in names)


def transformer(folder: Path) -> Answer:
    """The layer that GradCAM explains of a network of tokens where none is named."""
    import keras

    from pipeline.compiled.default_layer import default_layer

    layers = keras.layers
    image = _image()
    x = layers.Conv2D(8, 8, 8, name="stem")(layers.Rescaling(1 / 127.5, -1)(image))
    x = layers.Reshape((16, 8))(x)
    for _ in range(2):
        x = layers.Add()([x, layers.MultiHeadAttention(2, 4)(layers.LayerNormalization()(x), layers.LayerNormalization()(x))])
        x = layers.Add()([x, layers.Dense(8)(layers.Dense(16, "gelu")(layers.LayerNormalization()(x)))])
    model = keras.Model(image, layers.Dense(3)(layers.GlobalAveragePooling1D()(layers.LayerNormalization(name="end")(x))))
    chosen = default_layer(_opened(model, folder))
    return "a layer of tokens", "the stem" if chosen.name == "stem" else "a layer of tokens" if chosen.of_tokens else chosen.name


def _scaled(x: Any) -> Any:
    return x * (1 / 255.0)


def _resized(x: Any) -> Any:
    import keras

    return keras.layers.Rescaling(1 / 255)(keras.layers.Resizing(24, 24)(x))


def _lambda(x: Any) -> Any:
    import keras

    return keras.layers.Lambda(lambda v: v / 255.0)(x)


def _clipped(x: Any) -> Any:
    import keras

    return keras.ops.clip(x, 0.0, 1.0)


CASES = (
    Case("preprocess_input and a nested application", "preprocessed twice: 12 of 20 instead of 18", nested_application),
    Case("x * (1/255.) inside", "1/255 or the application's mode again", inside(_scaled)),
    Case("Resizing and Rescaling inside", "the mode of the network behind them again", inside(_resized)),
    Case("a Lambda inside, trusted", "the mode of the network behind it again", inside(_lambda, asks=True, trusted=True)),
    Case("a clip to 0 and 1 inside", "every pixel 1 (seen now)", inside(_clipped, asks=True)),
    Case("input of uint8", "floats cut to whole numbers", whole_numbers),
    Case("a shared convolution and ReLU", "the first calls alone", called_twice),
    Case("a nested model of two outputs", "both convolutions missing", several_outputs_inside),
    Case("an image and three numbers", '"Set another model.size"', two_inputs),
    Case("2 bands", "refused", bands(2)),
    Case("6 bands", "refused", bands(6)),
    Case("mixed_float16, GradCAM's peak", "0", half_precision),
    Case("labels in UTF-8 with BOM", "the first class lost", labels("utf-8-sig")),
    Case("labels in UTF-16", "unreadable", labels("utf-16")),
    Case("strides behind UpSampling and Resizing", "1.03226", strides),
    Case("GradCAM of tokens by default", "the stem, unsaid", transformer),
)


def _agree(right: str, now: str) -> bool:
    try:
        first, second = ([float(word) for word in text.split(", ")] for text in (right, now))
    except ValueError:
        return right == now
    return bool(np.allclose(first, second, rtol=0.02 if len(first) == 1 else 1e-3, atol=1e-5 if len(first) > 1 else 0))


def main() -> None:
    start_tensorflow()
    import keras

    print("| case | before | right | now |\n|---|---|---|---|")
    every = True
    for case in CASES:
        if sys.argv[1:] and not any(word in case.name for word in sys.argv[1:]):
            continue
        keras.utils.set_random_seed(3)
        with tempfile.TemporaryDirectory() as folder:
            right, now = case.answers(Path(folder))
        every &= _agree(right, now)
        print(f"| {case.name} | {case.before} | {right} | {now}{'' if _agree(right, now) else ' WRONG'} |", flush=True)
    sys.exit(not every)


if __name__ == "__main__":
    main()
