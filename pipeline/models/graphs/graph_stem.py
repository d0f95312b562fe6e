"""What a graph does to pixels before its first weights, and the preprocessing that follows from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.errors import WrongSpec, one_line
from pipeline.models.graphs.graphdef import Operations, owner
from pipeline.models.network import SHAPES_ALONE, Setting
from pipeline.models.plain_colours import ReadsStem, answer
from pipeline.models.preprocessing import MODES

# Operations that move pixels, and those that change their values; none of them learns anything.
_MOVES = (
    *("Identity", "Cast", "Reshape", "Squeeze", "ExpandDims", "Transpose", "Pad", "PadV2", "MirrorPad", "StridedSlice", "Slice"),
    *("ResizeBilinear", "ResizeNearestNeighbor", "ResizeBicubic", "ResizeArea", "CropAndResize", "StopGradient", "EnsureShape"),
    *("PlaceholderWithDefault", "SpaceToBatchND", "Split", "SplitV", "Unpack"),
)
_CHANGES = (
    *("Sub", "Mul", "RealDiv", "Div", "Add", "AddV2", "BiasAdd", "Neg", "ClipByValue", "Maximum", "Minimum", "ConcatV2", "Pack"),
    *("ReverseV2", "GatherV2"),
)
_WEIGHTS = ("Conv2D", "DepthwiseConv2dNative", "Conv2DBackpropInput", "MatMul", "BatchMatMulV2", "Einsum", "FusedBatchNormV3")

# How names begin in graphs of TF-slim's and Keras's networks, by what these were trained with.
_LIKELY = {
    "symmetric": (
        "inceptionv",
        "inception_v",
        "inceptionresnetv2",
        "inception_resnet_v2",
        "mobilenetv1",
        "mobilenetv2",
        "nasnet",
    ),
    "caffe": ("vgg16", "vgg19", "resnet50/", "resnet101/", "resnet152/"),
}


def infer_from_graph(reader: ReadsStem, operations: Operations, image: str, layers: Mapping[str, str], where: str) -> Setting:
    """ "none", where a graph rescales or centres pixels itself, measured with plain colours.

    Args:
        image: the tensor of the images. layers: the layer that each tensor is.
        where: the graph, for the errors.

    Raises: WrongSpec, where it does not, or where a step stands there that this rule does not know.
    """
    pixels = {image}
    steps: list[str] = []
    unknown: list[str] = []
    answers: dict[str, Setting | str | None] = {}
    for name, node in operations.nodes.items():
        taken = [ref for ref in node.input if ref in pixels]
        words = f"{node.op} {name!r}"
        if not taken or node.op in SHAPES_ALONE:
            continue
        if node.op in _WEIGHTS:
            layer = 0 if taken[0] == image else layers.get(taken[0])
            answers[words] = (
                f"what comes out of {owner(taken[0])!r} cannot be looked at"
                if layer is None
                else _measured(reader, layer, steps, words)
            )
            continue
        if node.op not in (*_MOVES, *_CHANGES):
            unknown.append(words)
            continue
        steps += [words] if node.op in _CHANGES else []
        pixels |= {f"{name}:{number}" for number in range(_MOST_OUTPUTS)}
    settings = [inferred for inferred in answers.values() if isinstance(inferred, Setting)]
    if not unknown and settings and len(settings) == len(answers):
        return settings[0]
    if unknown:
        seen = f"after the image comes {', '.join(unknown[:3])}, which convscope does not know"
    elif None in answers.values():
        seen = f"pixels reach {next(iter(answers))} as they are, and no graph records what was done before{_likely(operations)}"
    else:
        seen = "; ".join(reason for reason in answers.values() if isinstance(reason, str)) or "it has no weights"
    raise WrongSpec(
        f"what {where} wants done to its pixels cannot be told: {seen}. Name it in model.preprocess: {', '.join(MODES)}."
    )


_MOST_OUTPUTS = 4  # of an operation that parts an image


def _measured(reader: ReadsStem, layer: int | str, steps: Sequence[str], end: str) -> Setting | str | None:
    try:
        return answer(reader, [layer], steps, end)
    except Exception as error:  # TensorFlow refuses to run a graph in many ways and types
        return f"what it does before {end} cannot be measured ({one_line(error)})"


def _likely(operations: Operations) -> str:
    """A word on what is likely, by the names that TF-slim and Keras give."""
    for name in operations.nodes:
        for part in name.split("/")[:3]:
            for mode, begins in _LIKELY.items():
                if f"{part.lower()}/".startswith(begins):
                    return f'; by the name {part!r}, "{mode}" is likely'
    return ""
