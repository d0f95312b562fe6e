"""What a Keras model does to pixels before its first weights, and the preprocessing that follows from it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import keras
import numpy as np
import tensorflow as tf

from pipeline.errors import WrongSpec, one_line
from pipeline.models.keras.applications import inferred_mode, recognised
from pipeline.models.keras.functional import FunctionalReader
from pipeline.models.keras.keras_graph import KerasGraph, LayerCall
from pipeline.models.network import Setting
from pipeline.models.preprocessing import COLOUR_ONLY, MODES

# Keras's own layers and operations that move pixels, and those that change their values. They treat all pixels and images
# alike, so that images of one colour show all they do. Augmentation, and whatever else begins with "Random", passes images
# on in inference.
_MOVES = (
    *("AugMix", "CutMix", "MixUp", "RandAugment", "Dropout", "SpatialDropout2D", "GaussianDropout", "GaussianNoise", "Identity"),
    *("Cast", "CenterCrop", "CropImages", "Cropping2D", "ExpandDims", "Flatten", "Permute", "Reshape", "Resize", "Resizing"),
    *("Split", "Squeeze", "Transpose", "UpSampling2D", "ZeroPadding2D"),
)
_CHANGES = (
    *("Add", "Clip", "Concatenate", "Divide", "Flip", "GetItem", "Multiply", "Negative", "Normalization", "Rescaling", "Stack"),
    *("Subtract", "TrueDivide"),
)

_COLOURS = np.array(
    [(0, 0, 0), (255, 255, 255), (255, 0, 0), (0, 255, 0), (0, 0, 255), (64, 64, 64), (10, 90, 200), (250, 128, 3)], np.float32
)

# What networks are fed: values scaled to a spread of a few units, or centred with the spread of pixels.
_SCALED, _CENTRED_SPREAD, _CENTRED_LOW = (0.5, 26.0), 300.0, -50.0


@dataclass(frozen=True)
class _FirstWeights:
    """A layer with weights that takes pixels: its name, and the models that it lies in, the outermost first."""

    name: str
    call: LayerCall
    models: tuple[keras.Model, ...]

    def __str__(self) -> str:
        return f"{self.call.kind} {self.name!r}"


@dataclass
class _Stem:
    """The part of a graph between the image and the first weights.

    steps: what stands there, by name. passed: calls whose outputs belong to it, nested models too.
    """

    steps: dict[str, LayerCall] = field(default_factory=dict)
    passed: set[str] = field(default_factory=set)
    ends: list[_FirstWeights] = field(default_factory=list)

    def follow(self, graph: KerasGraph, pixels: set[int], prefix: str, models: tuple[keras.Model, ...]) -> None:
        """Add what a graph does to some of its tensors; `pixels` holds their ids, and takes up those made from them."""
        for name, call in graph.calls.items():
            if all(id(tensor) not in pixels for tensor in call.inputs):
                continue
            name = prefix + name
            if call.nested:
                pairs = zip(call.nested.inputs, call.inputs, strict=True)
                inside = {id(own) for own, given in pairs if id(given) in pixels}
                self.follow(call.nested, inside, f"{name}/", (*models, call.operation))
                made = [out for out, own in zip(call.outputs, call.nested.outputs, strict=True) if id(own) in inside]
            elif getattr(call.operation, "weights", None) and not _is_known(call):
                self.ends.append(_FirstWeights(name, call, models))
                continue
            else:
                self.steps[name] = call
                made = list(call.outputs)
            if made:
                self.passed.add(name)
                pixels |= set(map(id, made))


def infer_preprocessing(reader: FunctionalReader, where: str) -> Setting:
    """The preprocessing that a model of unknown origin needs, by what it does to pixels before its first weights.

    Where it rescales or centres them itself, "none". Where it passes them on, what the network of keras.applications that
    it is, or that it holds, was trained with.

    Args:
        where: the model, for the errors.

    Raises: WrongSpec, where neither is so, or where a step stands there that this rule does not know.
    """
    stem = _Stem()
    stem.follow(reader.graph, {id(reader.graph.inputs[reader.image])}, "", (reader.model,))
    unknown = [f"{call.kind} {name!r}" for name, call in stem.steps.items() if not _is_known(call)]
    answers = [_answer(reader, stem, end) for end in stem.ends]
    settings = [answer for answer in answers if isinstance(answer, Setting)]
    values = {setting.value for setting in settings} if len(settings) == len(answers) else set()
    if not unknown and len(values) == 1:
        return settings[0]
    ends = ", ".join(map(str, stem.ends[:3])) or "its end"
    if unknown:
        seen = f"between the image and {ends} stands {', '.join(unknown[:3])}, which convscope does not know"
        if len(values) == 1:
            seen += f'. By what comes out of it for plain colours, "{values.pop()}" is likely ({settings[0].reason})'
    elif values:
        seen = "; ".join(f"{end} asks for {setting}" for end, setting in zip(stem.ends, settings, strict=True))
    else:
        seen = "; ".join(dict.fromkeys(answer for answer in answers if isinstance(answer, str))) or "it has no layer with weights"
    raise WrongSpec(
        f"what {where} wants done to its pixels cannot be told: {seen}. Name it in model.preprocess: {', '.join(MODES)}."
    )


def _is_known(call: LayerCall) -> bool:
    own = type(call.operation).__module__.partition(".")[0] == "keras"
    return own and (call.kind in (*_MOVES, *_CHANGES) or call.kind.startswith("Random"))


def _answer(reader: FunctionalReader, stem: _Stem, end: _FirstWeights) -> Setting | str:
    """The preprocessing by one of the first layers with weights; or, in words, why there is none."""
    feeds = [name for name in reader.graph.feeds(end.name) if name == reader.image or name in stem.passed]
    try:
        tables = {mode: _values(reader, feeds, mode) for mode in MODES if _suits(mode, reader)}
    except Exception as error:  # whatever the model's own code raises
        return f"what it does before {end} cannot be measured ({one_line(error)})"
    own, given = tables["none"], _colours(reader, "none")
    steps = [f"{call.kind} {name!r}" for name, call in stem.steps.items() if call.kind in _CHANGES or not _is_known(call)]
    by = f"its own {', '.join(steps[:3])}" + (f" and {len(steps) - 3} more" if len(steps) > 3 else "")
    if own.shape[1] == given.shape[1] and np.allclose(own, given, atol=0.01):
        return _of_application(end)
    if _is_fed(own):
        return Setting("none", f"{by} gives {_span(own)}")
    likely = [mode for mode in ("unit", "symmetric", "caffe") if mode in tables and _is_fed(tables[mode])]
    advice = f'. With "{likely[0]}" it would be {_span(tables[likely[0]])}, which is likely' if likely else ""
    return f"{by} would give {end} {_span(own)} for pixels as they are{advice}"


def _of_application(end: _FirstWeights) -> Setting | str:
    for model in reversed(end.models):
        builder = recognised(model)
        mode = inferred_mode(builder) if builder else None
        if builder and mode:
            return Setting(mode, builder.__name__)
    return f"pixels reach {end} as they are, and it is no network of keras.applications that convscope recognises"


def _values(reader: FunctionalReader, feeds: Sequence[str | int], mode: str) -> np.ndarray:
    """What layers are fed where the image has one colour: float (colours, channels)."""
    height, width, _ = reader.input_shape
    colours = _colours(reader, mode)
    images = tf.constant(np.broadcast_to(colours[:, None, None], (len(colours), height, width, colours.shape[1])))
    names = [name for name in feeds if isinstance(name, str)]
    outputs = reader.read(reader.layout.feed(images), names) if names else {}
    return np.concatenate([colours] * (len(names) < len(feeds)) + [_middle(reader, outputs[name]) for name in names], axis=1)


def _middle(reader: FunctionalReader, values: tf.Tensor) -> np.ndarray:
    """The middle of maps, float (count, channels); of flat ones, an image's worth of channels in their middle."""
    if values.shape.rank == 4:
        maps = np.asarray(reader.layout.maps(tf.cast(values, tf.float32)))
        return np.asarray(maps[:, maps.shape[1] // 2, maps.shape[2] // 2])
    flat = np.asarray(tf.cast(values, tf.float32)).reshape(len(values), -1, reader.input_shape[2])
    return np.asarray(flat[:, flat.shape[1] // 2])


def _colours(reader: FunctionalReader, mode: str) -> np.ndarray:
    channels = reader.input_shape[2]
    colours = _COLOURS if channels == 3 else _COLOURS.mean(axis=1, keepdims=True)
    return np.asarray(MODES[mode](tf.constant(colours[:, None, None]))).reshape(len(colours), channels)


def _suits(mode: str, reader: FunctionalReader) -> bool:
    return mode != "standardize" and (reader.input_shape[2] == 3 or mode not in COLOUR_ONLY)


def _is_fed(values: np.ndarray) -> bool:
    spread = float(np.ptp(values))
    return _SCALED[0] <= spread <= _SCALED[1] or (spread <= _CENTRED_SPREAD and float(values.min()) <= _CENTRED_LOW)


def _span(values: np.ndarray) -> str:
    return f"{values.min():.3g} to {values.max():.3g}"
