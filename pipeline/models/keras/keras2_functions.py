"""TensorFlow's functions as Keras 2 kept them in its files, and the operations of Keras 3 that compute the same: an allow list.

What a row does not name is not translated, and neither is a call with an argument that its row does not know.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from pipeline.models.keras.allowed import OPERATIONS


class UntranslatedCall(Exception):
    """A call of a known function in a way that has no translation; the message goes on from the function's name."""


@dataclass(frozen=True)
class Call:
    """A call in a file of Keras 2.

    first: the first argument: a tensor, a constant, or a list of them.
    options: the other arguments by name, None left out; tensors are dicts of the class `__keras_tensor__`.
    dtype: the constants'.
    """

    first: Any
    options: dict[str, Any]
    dtype: str

    def constant(self, value: Any) -> Any:
        """An argument of an operation: lists of numbers are arrays."""
        if not isinstance(value, list) or any(isinstance(item, dict) for item in value):
            return value
        return {"class_name": "__numpy__", "config": {"value": value, "dtype": self.dtype}}


@dataclass(frozen=True)
class Operation:
    """An operation of Keras 3: its class, its configuration, and the arguments of the one call."""

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    arguments: list[Any] = field(default_factory=list)

    @property
    def module(self) -> str:
        return OPERATIONS[self.name]


Translation = Callable[[Call], Operation]


def _row(name: str, *tensors: str, ignored: tuple[str, ...] = (), **settings: tuple[str, Any]) -> Translation:
    """The translation to an operation.

    Args:
        name: the operation's class.
        tensors: the arguments after the first that are tensors or arrays, in order.
        ignored: arguments that change nothing.
        settings: for each argument that is not a tensor, the operation's setting, and what it is where the file says nothing.
    """

    def translate(call: Call) -> Operation:
        unknown = call.options.keys() - {*tensors, *ignored, *settings}
        if unknown:
            raise UntranslatedCall(f"with {min(unknown)}")
        missing = [key for key in tensors if key not in call.options]
        if missing:
            raise UntranslatedCall(f"without {missing[0]}")
        chosen = dict(settings.values())
        chosen |= {settings[key][0]: value for key, value in call.options.items() if key in settings}
        if any(_holds_tensor(value) for value in chosen.values()):
            raise UntranslatedCall("with a setting that is computed")
        first = call.first if isinstance(call.first, list) and _holds_tensor(call.first) else call.constant(call.first)
        return Operation(name, chosen, [first, *(call.constant(call.options[key]) for key in tensors)])

    return translate


def _holds_tensor(value: Any) -> bool:
    items = value if isinstance(value, list) else [value]
    return any(isinstance(item, dict) or (isinstance(item, list) and _holds_tensor(item)) for item in items)


def _only(translation: Translation, **allowed: Any) -> Translation:
    """A translation that holds where some arguments are left out, or have the one value that changes nothing."""

    def translate(call: Call) -> Operation:
        for key, value in allowed.items():
            if call.options.get(key, value) != value:
                raise UntranslatedCall(f"with {key} = {call.options[key]!r:.40}")
        return translation(
            Call(call.first, {key: value for key, value in call.options.items() if key not in allowed}, call.dtype)
        )

    return translate


def _reduction(name: str) -> Translation:
    return _row(name, axis=("axis", None), keepdims=("keepdims", False))


def _pooling(name: str) -> Translation:
    def translate(call: Call) -> Operation:
        size, strides = (_spatial(call.options.get(key)) for key in ("ksize", "strides"))
        padding = call.options.get("padding")
        if not isinstance(padding, str) or padding.upper() not in ("SAME", "VALID"):
            raise UntranslatedCall(f"with padding = {padding!r:.40}")
        settings = {"pool_size": size, "strides": strides, "padding": padding.lower(), "data_format": "channels_last"}
        rest = {key: value for key, value in call.options.items() if key not in ("ksize", "strides", "padding")}
        return Operation(name, settings, _only(_row(name), data_format="NHWC")(Call(call.first, rest, call.dtype)).arguments)

    return translate


def _spatial(size: Any) -> list[int]:
    """Height and width of a window: a number, one for each, or one for each axis of the batch."""
    sizes = size if isinstance(size, list) else [size]
    sizes = sizes[1:3] if len(sizes) == 4 and sizes[0] == sizes[3] == 1 else sizes * (2 if len(sizes) == 1 else 1)
    if len(sizes) != 2 or not all(type(item) is int and item > 0 for item in sizes):
        raise UntranslatedCall(f"with a window of {size!r:.40}")
    return sizes


def _slice(call: Call) -> Operation:
    spec = call.options.get("slice_spec", [])
    key = [_index(item) for item in (spec if isinstance(spec, list) else [spec])]
    if call.options.keys() - {"slice_spec"}:
        raise UntranslatedCall("with a variable")
    return Operation("GetItem", {}, [call.first, key])


def _index(item: Any) -> Any:
    if isinstance(item, dict) and item.keys() == {"start", "stop", "step"}:
        if not all(value is None or type(value) is int for value in item.values()):
            raise UntranslatedCall("with a bound that is computed")
        return {"class_name": "__slice__", "config": item}
    if isinstance(item, dict) and item.get("class_name") == "__ellipsis__":
        return {"class_name": "__ellipsis__", "config": {}}
    if item is None or type(item) is int:
        return item
    raise UntranslatedCall("with an index that is computed")


def _split(call: Call) -> Operation:
    sizes = call.options.get("num_or_size_splits")
    ends = (
        [sum(sizes[:count]) for count in range(1, len(sizes))] if isinstance(sizes, list) and not _holds_tensor(sizes) else sizes
    )
    return _only(_row("Split", num_or_size_splits=("indices_or_sections", None), axis=("axis", 0)), num=None)(
        Call(call.first, {**call.options, "num_or_size_splits": ends}, call.dtype)
    )


def _resize(call: Call) -> Operation:
    method = call.options.get("method", "bilinear")
    if method not in ("bilinear", "nearest", "bicubic"):
        raise UntranslatedCall(f"with method = {method!r:.40}")
    row = _row("Resize", size=("size", None), method=("interpolation", "bilinear"), antialias=("antialias", False))
    layer = _only(row, preserve_aspect_ratio=False)(call)
    return Operation(layer.name, {**layer.settings, "data_format": "channels_last"}, layer.arguments)


def _pad(call: Call) -> Operation:
    mode = str(call.options.get("mode", "CONSTANT")).lower()
    if mode not in ("constant", "reflect", "symmetric"):
        raise UntranslatedCall(f"with mode = {mode!r:.40}")
    row = _only(_row("Pad", paddings=("pad_width", None), mode=("mode", "constant")), constant_values=0)
    return row(Call(call.first, {**call.options, "mode": mode}, call.dtype))


def _normalized(call: Call) -> Operation:
    """tf.math.l2_normalize bounds the sum of squares from below, Keras its root."""
    layer = _row("Normalize", axis=("axis", -1), epsilon=("epsilon", 1e-12))(call)
    return Operation(layer.name, {**layer.settings, "epsilon": layer.settings["epsilon"] ** 0.5, "order": 2}, layer.arguments)


def _unary(name: str) -> Translation:
    return _row(name)


def _binary(name: str) -> Translation:
    return _row(name, "y")


_UNARY = {
    "abs": "Absolute", "negative": "Negative", "exp": "Exp", "log": "Log", "log1p": "Log1p", "sqrt": "Sqrt", "rsqrt": "Rsqrt",
    "square": "Square", "reciprocal": "Reciprocal", "sin": "Sin", "cos": "Cos", "tanh": "Tanh", "sigmoid": "Sigmoid",
    "erf": "Erf", "floor": "Floor", "ceil": "Ceil", "round": "Round", "sign": "Sign",
    "softplus": "Softplus", "log_sigmoid": "LogSigmoid",
}  # fmt: skip
_BINARY = {
    "add": "Add", "subtract": "Subtract", "multiply": "Multiply", "truediv": "TrueDivide", "divide": "TrueDivide",
    "floordiv": "FloorDivide", "pow": "Power", "maximum": "Maximum", "minimum": "Minimum", "divide_no_nan": "DivideNoNan",
}  # fmt: skip
_REDUCTIONS = {"reduce_mean": "Mean", "reduce_sum": "Sum", "reduce_max": "Max", "reduce_min": "Min", "reduce_prod": "Prod",
               "reduce_std": "Std", "reduce_variance": "Var"}  # fmt: skip

# By what Keras 2 calls the function: what stands after `tf.` when it is written in full.
FUNCTIONS: dict[str, Translation] = {
    **{f"math.{old}": _unary(new) for old, new in _UNARY.items()},
    **{f"math.{old}": _binary(new) for old, new in _BINARY.items()},
    **{f"math.{old}": _reduction(new) for old, new in _REDUCTIONS.items()},
    "compat.v1.floor_div": _binary("FloorDivide"),
    "__operators__.add": _binary("Add"),
    "__operators__.getitem": _slice,
    "nn.bias_add": _only(_row("Add", "bias"), data_format="NHWC"),
    "nn.relu": _unary("Relu"),
    "nn.relu6": _unary("Relu6"),
    "nn.leaky_relu": _row("LeakyRelu", alpha=("negative_slope", 0.2)),
    "nn.elu": _row("Elu"),
    "nn.selu": _row("Selu"),
    "nn.silu": _only(_row("Silu"), beta=1.0),
    "nn.swish": _only(_row("Silu"), beta=1.0),
    "nn.gelu": _row("Gelu", approximate=("approximate", False)),
    "nn.softsign": _row("Softsign"),
    "nn.sigmoid": _unary("Sigmoid"),
    "nn.tanh": _unary("Tanh"),
    "nn.softplus": _unary("Softplus"),
    "nn.softmax": _row("Softmax", axis=("axis", -1)),
    "nn.log_softmax": _row("LogSoftmax", axis=("axis", -1)),
    "nn.avg_pool2d": _pooling("AveragePool"),
    "nn.avg_pool": _pooling("AveragePool"),
    "nn.max_pool2d": _pooling("MaxPool"),
    "nn.max_pool": _pooling("MaxPool"),
    "nn.depth_to_space": _only(_row("DepthToSpace", block_size=("block_size", None)), data_format="NHWC"),
    "nn.space_to_depth": _only(_row("SpaceToDepth", block_size=("block_size", None)), data_format="NHWC"),
    "math.l2_normalize": _normalized,
    "nn.l2_normalize": _normalized,
    "linalg.matmul": _only(_row("Matmul", "b"), transpose_a=False, transpose_b=False, adjoint_a=False, adjoint_b=False),
    "image.resize": _resize,
    "image.rgb_to_grayscale": _row("RGBToGrayscale"),
    "concat": _row("Concatenate", axis=("axis", 0)),
    "stack": _row("Stack", axis=("axis", 0)),
    "split": _split,
    "reshape": _row("Reshape", shape=("newshape", None)),
    "transpose": _only(_row("Transpose", perm=("axes", None)), conjugate=False),
    "compat.v1.transpose": _only(_row("Transpose", perm=("axes", None)), conjugate=False),
    "expand_dims": _row("ExpandDims", axis=("axis", None)),
    "compat.v1.expand_dims": _row("ExpandDims", axis=("axis", None)),
    "squeeze": _row("Squeeze", axis=("axis", None)),
    "compat.v1.squeeze": _row("Squeeze", axis=("axis", None)),
    "tile": _row("Tile", multiples=("repeats", None)),
    "reverse": _row("Flip", axis=("axis", None)),
    "pad": _pad,
    "compat.v1.pad": _pad,
    "cast": _row("Cast", dtype=("dtype", None)),
    "clip_by_value": _row("Clip", clip_value_min=("x_min", None), clip_value_max=("x_max", None)),
    "stop_gradient": _unary("StopGradient"),
}
