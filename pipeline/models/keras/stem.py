"""What a Keras model does to pixels before its first weights, and the preprocessing that follows from it."""

from __future__ import annotations

from dataclasses import dataclass, field

import keras

from pipeline.errors import WrongSpec, one_line
from pipeline.models.keras.applications import inferred_mode, recognised
from pipeline.models.keras.functional import FunctionalReader
from pipeline.models.keras.keras_graph import KerasGraph, LayerCall
from pipeline.models.network import Setting
from pipeline.models.plain_colours import answer
from pipeline.models.preprocessing import MODES

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
                inside = {id(inner) for inner, outer in pairs if id(outer) in pixels}
                self.follow(call.nested, inside, f"{name}/", (*models, call.operation))
                outputs = [out for out, inner in zip(call.outputs, call.nested.outputs, strict=True) if id(inner) in inside]
            elif getattr(call.operation, "weights", None) and not _is_known(call):
                self.ends.append(_FirstWeights(name, call, models))
                continue
            else:
                self.steps[name] = call
                outputs = list(call.outputs)
            if outputs:
                self.passed.add(name)
                pixels |= set(map(id, outputs))


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
    by_keras = type(call.operation).__module__.partition(".")[0] == "keras"
    return by_keras and (call.kind in (*_MOVES, *_CHANGES) or call.kind.startswith("Random"))


def _answer(reader: FunctionalReader, stem: _Stem, end: _FirstWeights) -> Setting | str:
    """The preprocessing by one of the first layers with weights; or, in words, why there is none."""
    feeds = [name for name in reader.graph.feeds(end.name) if name == reader.image or name in stem.passed]
    steps = [f"{call.kind} {name!r}" for name, call in stem.steps.items() if call.kind in _CHANGES or not _is_known(call)]
    try:
        of_steps = answer(reader, feeds, steps, str(end))
    except Exception as error:  # whatever the model's own code raises
        return f"what it does before {end} cannot be measured ({one_line(error)})"
    return _of_application(end) if of_steps is None else of_steps


def _of_application(end: _FirstWeights) -> Setting | str:
    for model in reversed(end.models):
        builder = recognised(model)
        mode = inferred_mode(builder) if builder else None
        if builder and mode:
            return Setting(mode, builder.__name__)
    return f"pixels reach {end} as they are, and it is no network of keras.applications that convscope recognises"
