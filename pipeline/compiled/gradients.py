"""Gradients, the same bits each time on a GPU too, and gradient overrides: one mechanism, and the rules that convscope uses.

A rule changes what `tf.gradients` computes in the same graph, and leaves the forward pass unchanged. A `tf.GradientTape`
ignores it, because it looks up gradients by the operation's type.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from pipeline.compiled.tf_private import gradient_name, registered_gradient, set_gradient

_SCALE = 4096.0


@dataclass(frozen=True)
class GradientRule:
    """A replacement for the gradients of some operations.

    name: part of the names under which TensorFlow registers it.
    gradient: of the operation, of its own gradient function, and of the gradients by its outputs: the gradients by its
        inputs.
    types: the operation types to which `replaced_gradients` applies it.
    """

    name: str
    gradient: Callable[..., Any]
    types: frozenset[str] = frozenset()


def replace_gradients(operations: Iterable[tf.Operation], rule: GradientRule) -> None:
    """Apply a rule to operations of a graph, for every later `tf.gradients`; gradients computed before do not change.

    Several rules may be applied to one operation: each sees the previous rules as the operation's own gradient.
    """
    for operation in operations:
        set_gradient(operation, _registered(rule, gradient_name(operation)))


@contextlib.contextmanager
def replaced_gradients(rule: GradientRule) -> Iterator[None]:
    """Apply a rule to the operations of its types that the block adds to the default graph."""
    names = {kind: _registered(rule, kind) for kind in sorted(rule.types)}
    with tf.compat.v1.get_default_graph().gradient_override_map(names):
        yield


def deterministic_gradients(total: Any, by: Any, **options: Any) -> list[Any]:
    """`tf.gradients` in the current graph, without the gradient operations that have no deterministic GPU kernel.

    These are TensorFlow's gradients of batch normalisation in inference mode and of nearest resizing. With the determinism
    of operations on, the first is an error on a GPU.

    Args: as those of `tf.gradients`.
    """
    operations = tf.compat.v1.get_default_graph().get_operations()
    replace_gradients((operation for operation in operations if gradient_name(operation) in DETERMINISTIC.types), DETERMINISTIC)
    return tf.gradients(total, by, **options)


def own_gradient(operation: tf.Operation) -> Callable[..., Any]:
    """The gradient function of an operation's type, deterministic. Raises: LookupError, where there is none."""
    registered = registered_gradient(operation.type)
    return (
        (lambda operation, *above: _deterministic(operation, registered, *above))
        if operation.type in DETERMINISTIC.types
        else registered
    )


def gradient_of(total: tf.Tensor, by: tf.Tensor) -> tf.Tensor | None:
    """The gradient by one tensor; see `gradients_of`."""
    return gradients_of(total, [by])[0]


def gradients_of(total: tf.Tensor, by: Sequence[tf.Tensor]) -> list[tf.Tensor | None]:
    """The gradients of one or several numbers by tensors, of their shapes; None where they do not depend on one.

    Where anything in the graph is float16, gradients under 6e-8 are zero, such as those of a mean over a large map. They are
    then taken of the numbers times a power of two, and divided by it; where that overflows, those of the numbers themselves
    count. They are float32 then.
    """
    gradients = deterministic_gradients(total, list(by))
    if not _is_in_halves(total.graph):
        return gradients
    many = deterministic_gradients(total, list(by), grad_ys=tf.fill(tf.shape(total), tf.cast(_SCALE, total.dtype)))
    return [None if plain is None else _unscaled(scaled, plain) for scaled, plain in zip(many, gradients, strict=True)]


def _unscaled(scaled: tf.Tensor, plain: tf.Tensor) -> tf.Tensor:
    scaled, plain = tf.cast(scaled, tf.float32) / _SCALE, tf.cast(plain, tf.float32)
    return tf.where(tf.math.is_finite(scaled), scaled, plain)


def _is_in_halves(graph: tf.Graph) -> bool:
    return any(output.dtype == tf.float16 for operation in graph.get_operations() for output in operation.outputs)


def _registered(rule: GradientRule, own_name: str) -> str:
    """The name of a rule for operations whose own gradient has this name."""
    name, plain_gradient = f"Convscope{rule.name}{own_name}", registered_gradient(own_name)
    with contextlib.suppress(KeyError):  # registered before, for another operation
        tf.RegisterGradient(name)(lambda operation, *above: rule.gradient(operation, plain_gradient, *above))
    return name


def _without_ceiling(operation: tf.Operation, registered: Callable[..., Any], above: tf.Tensor) -> tf.Tensor:
    return tf.where(operation.inputs[0] > 0, above, tf.zeros_like(above))


def _opened(operation: tf.Operation, registered: Callable[..., Any], above: tf.Tensor) -> tf.Tensor:
    through = registered(operation, above)
    axes = tf.range(1, tf.rank(above))
    return tf.where(tf.reduce_any(tf.not_equal(through, 0.0), axis=axes, keepdims=True), through, above)


def _guided(operation: tf.Operation, registered: Callable[..., Any], *above: tf.Tensor) -> Any:
    return registered(operation, *(tf.nn.relu(gradient) for gradient in above))


def _deterministic(operation: tf.Operation, registered: Callable[..., Any], *above: tf.Tensor) -> Any:
    if operation.type == "ResizeNearestNeighbor":
        return _of_nearest(operation, *above), None
    return registered(operation, *above) if operation.get_attr("is_training") else _of_normalisation(operation, above[0])


def _of_normalisation(operation: tf.Operation, above: tf.Tensor) -> list[tf.Tensor | None]:
    """The gradients of (x - mean) * scale / sqrt(variance + epsilon) + offset by x, scale and offset."""
    x, scale, _, mean, variance = operation.inputs
    channels_first = operation.get_attr("data_format").startswith(b"NC")
    shape = [1, -1] + [1] * (x.shape.rank - 2) if channels_first else [-1]
    others = [axis for axis in range(x.shape.rank) if axis != (1 if channels_first else x.shape.rank - 1)]
    inverse = tf.math.rsqrt(variance + operation.get_attr("epsilon"))
    wide = tf.cast(above, scale.dtype)  # x may be a half, and the statistics never are
    centred = tf.cast(x, scale.dtype) - tf.reshape(mean, shape)
    by_x = tf.cast(wide * tf.reshape(scale * inverse, shape), x.dtype)
    return [by_x, tf.reduce_sum(wide * centred, others) * inverse, tf.reduce_sum(wide, others), None, None]


def _of_nearest(operation: tf.Operation, above: tf.Tensor) -> tf.Tensor:
    """The sum over the copies of each pixel, by two products with matrices that say which pixel each copy is of."""
    images, options = operation.inputs[0], {key: operation.get_attr(key) for key in ("align_corners", "half_pixel_centers")}
    copies = []
    for axis in (1, 2):
        count = tf.shape(images)[axis]
        numbers = tf.reshape(tf.range(tf.cast(count, tf.float32)), [1, -1, 1, 1])
        size = tf.stack([tf.shape(above)[axis], 1])
        resized = tf.raw_ops.ResizeNearestNeighbor(images=numbers, size=size, **options)
        copies.append(tf.one_hot(tf.cast(tf.reshape(resized, [-1]), tf.int32), count, dtype=tf.float32))
    summed = tf.einsum("nyxc,yh,xw->nhwc", tf.cast(above, tf.float32), *copies)
    return tf.cast(tf.ensure_shape(summed, images.shape), images.dtype)


# What TensorFlow's own gradients compute, but for the last digits, with operations that are deterministic on a GPU.
DETERMINISTIC = GradientRule(
    "Deterministic",
    _deterministic,
    frozenset({"FusedBatchNorm", "FusedBatchNormV2", "FusedBatchNormV3", "ResizeNearestNeighbor"}),
)


def _deconvnet(operation: tf.Operation, registered: Callable[..., Any], above: tf.Tensor) -> Any:
    return tf.nn.relu(above)


# ReLU6 has the gradient of ReLU: above its ceiling, the gradient passes.
WITHOUT_CEILING = GradientRule("WithoutCeiling", _without_ceiling, frozenset({"Relu6"}))

# A ReLU that would stop an image's whole gradient lets the gradient pass. If part of it passes anyway, the ReLU works as
# usual: a gradient that ignores every ReLU is useless in a deep network.
OPENED = GradientRule("Opened", _opened, frozenset({"Relu", "Relu6"}))

# Only the positive part of the gradient from above enters an operation's own gradient: guided backpropagation
# (Springenberg et al., "Striving for Simplicity", 2015), once every ReLU has it.
GUIDED = GradientRule("Guided", _guided)

# Only the positive part of the gradient from above goes on, past the operation: Zeiler and Fergus, 2014.
DECONVNET = GradientRule("Deconvnet", _deconvnet)
