"""The oracle is held against boxes worked out by hand, and against Keras's own layers run on sets of pixels."""

from __future__ import annotations

from functools import partial
from typing import Any

import keras
import networks
import numpy as np
import oracle
import pytest
import tensorflow as tf
import zoo
from keras import layers as L


def boxes_of(height: int, width: int, *stack: Any) -> np.ndarray:
    model = keras.Sequential([keras.Input((height, width, 1)), *stack])
    return oracle.boxes(model, model.layers[-1].name)


def rows_of(size: int, *stack: Any) -> list[tuple[int, int]]:
    """y1, y2 of a column of units; the other axis is checked to say the same."""
    actual = boxes_of(size, size, *stack)
    assert (actual[:, 0, 0] == actual[0, :, 1]).all() and (actual[:, 0, 2] == actual[0, :, 3]).all()
    return [tuple(edges) for edges in actual[:, 0, [0, 2]].tolist()]


def test_a_valid_convolution_sees_its_kernel() -> None:
    assert rows_of(5, L.Conv2D(1, 3)) == [(0, 3), (1, 4), (2, 5)]


def test_a_same_convolution_is_clipped_at_both_ends() -> None:
    assert rows_of(4, L.Conv2D(1, 3, padding="same")) == [(0, 2), (0, 3), (1, 4), (2, 4)]


def test_an_even_kernel_is_padded_more_at_the_end() -> None:
    assert rows_of(4, L.Conv2D(1, 2, padding="same")) == [(0, 2), (1, 3), (2, 4), (3, 4)]


def test_a_stride_of_two_on_an_even_side_pads_at_the_end_only() -> None:
    assert rows_of(6, L.Conv2D(1, 3, 2, padding="same")) == [(0, 3), (2, 5), (4, 6)]


def test_a_dilated_kernel_has_holes_but_its_hull_is_whole() -> None:
    assert rows_of(6, L.Conv2D(1, 3, dilation_rate=2)) == [(0, 5), (1, 6)]


def test_rows_that_a_strided_pixel_skips_are_not_counted_by_the_layer_above() -> None:
    # Units of the first layer stand on rows 0, 2, 4; the second sees the first two of them, or the last two.
    assert rows_of(6, L.Conv2D(1, 1, 2), L.Conv2D(1, 2)) == [(0, 3), (2, 5)]


def test_a_hole_of_a_dilated_kernel_stays_a_hole_under_a_strided_one() -> None:
    # Rows 0 and 2, then 3 and 5: the pair of units 0 and 3 sees rows 0 to 5, and nothing of unit 1.
    assert rows_of(6, L.Conv2D(1, 2, dilation_rate=2), L.Conv2D(1, 2, dilation_rate=3)) == [(0, 6)]


def test_a_transposed_convolution_with_same_padding_cuts_its_first_row() -> None:
    # Kernel 3, stride 2, one row too many: cut at the end, so row 0 is tap 0 of unit 0.
    assert rows_of(3, L.Conv2DTranspose(1, 3, 2, padding="same")) == [(0, 1), (0, 1), (0, 2), (1, 2), (1, 3), (2, 3)]


def test_a_transposed_convolution_with_valid_padding_keeps_every_row() -> None:
    assert rows_of(2, L.Conv2DTranspose(1, 3, 2)) == [(0, 1), (0, 1), (0, 2), (1, 2), (1, 2)]


def test_units_between_the_copies_of_a_small_transposed_kernel_see_nothing() -> None:
    assert rows_of(2, L.Conv2DTranspose(1, 1, 2)) == [(0, 1), (0, 0), (1, 2), (0, 0)]


def test_nearest_upsampling_repeats() -> None:
    assert rows_of(2, L.UpSampling2D(2)) == [(0, 1), (0, 1), (1, 2), (1, 2)]


def test_bilinear_upsampling_leaves_out_a_neighbour_of_weight_zero() -> None:
    # By two no unit falls on a pixel's centre; by three each middle one does.
    assert rows_of(3, L.UpSampling2D(2, interpolation="bilinear")) == [(0, 1), (0, 2), (0, 2), (1, 3), (1, 3), (2, 3)]
    by_three = rows_of(2, L.UpSampling2D(3, interpolation="bilinear"))
    assert by_three == [(0, 1), (0, 1), (0, 2), (0, 2), (1, 2), (1, 2)]


def test_a_unit_that_sees_padding_only_has_an_empty_box() -> None:
    actual = boxes_of(2, 3, L.ZeroPadding2D(((1, 0), (0, 0))), L.Conv2D(1, 1))
    assert actual.tolist() == [
        [[0, 0, 0, 0]] * 3,
        [[0, 0, 1, 1], [0, 1, 1, 2], [0, 2, 1, 3]],
        [[1, 0, 2, 1], [1, 1, 2, 2], [1, 2, 2, 3]],
    ]


def test_a_blind_row_does_not_lend_its_columns() -> None:
    # One branch sees nothing in row 0 though its columns reach far: the sum sees there what the other branch sees.
    inputs = keras.Input((2, 5, 1))
    blind = L.Conv2D(1, (1, 5), padding="same")(L.ZeroPadding2D(((1, 0), (0, 0)))(L.Cropping2D(((0, 1), (0, 0)))(inputs)))
    model = keras.Model(inputs, L.Add(name="sum")([inputs, blind]))
    assert oracle.boxes(model, "sum")[:, 2].tolist() == [[0, 2, 1, 3], [0, 0, 2, 5]]


def test_a_gate_from_global_pooling_shows_the_whole_image() -> None:
    model = zoo.build("squeeze_and_excite")
    whole = oracle.boxes(model, "gated")
    assert whole.shape == (12, 12, 4) and (whole == [0, 0, 24, 24]).all()


def test_channels_of_a_concatenation_keep_their_own_boxes() -> None:
    inputs = keras.Input((6, 6, 2))
    model = keras.Model(inputs, L.Concatenate(name="both")([inputs, L.Conv2D(3, 3, padding="same")(inputs)]))
    actual = oracle.channel_boxes(model, "both")
    assert actual.shape == (6, 6, 5, 4)
    assert actual[2, 3].tolist() == [[2, 3, 3, 4]] * 2 + [[1, 2, 4, 5]] * 3
    assert oracle.boxes(model, "both")[2, 3].tolist() == [1, 2, 4, 5]


def test_vgg16_has_the_field_sizes_of_the_literature() -> None:
    model = keras.applications.VGG16(weights=None, include_top=False, input_shape=(224, 224, 3))
    actual = oracle.fields(model)
    sizes = {name: int(np.ptp(actual[name].boxes()[..., [0, 2]], axis=-1).max()) for name in actual if name.endswith("conv3")}
    assert sizes == {"block3_conv3": 40, "block4_conv3": 92, "block5_conv3": 196}


@pytest.mark.parametrize(
    "layer",
    [
        L.Permute((2, 1, 3)),
        L.Resizing(3, 3),
        L.UpSampling2D(2, interpolation="bicubic"),
        L.Conv2DTranspose(1, 3, 2, output_padding=1),
        L.LayerNormalization(axis=[1, 2]),
        L.Lambda(lambda x: x),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_a_layer_without_a_rule_raises(layer: keras.Layer) -> None:
    with pytest.raises(oracle.UnknownKind):
        boxes_of(6, 6, layer)


@pytest.mark.parametrize("name", zoo.ZOO)
def test_the_oracle_says_what_keras_layers_do_to_sets_of_pixels(name: str) -> None:
    assert_oracle_equals_sets(zoo.build(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", networks.APPLICATIONS)
def test_the_oracle_says_what_keras_layers_do_to_sets_of_pixels_in_applications(name: str) -> None:
    assert_oracle_equals_sets(networks.application(name))


# Keras's layers on sets. A batch holds one image for every pixel row and every pixel column: 1 on that row, 0
# elsewhere. With kernels of ones and no biases, layers only add, and a map made 0 or 1 again after each layer says
# which units the row can reach. Nothing cancels, fades or saturates; the geometry is all Keras's own.


def assert_oracle_equals_sets(model: keras.Model) -> None:
    expected = run_on_sets(model)
    actual = oracle.fields(model)
    assert list(actual) == list(expected)
    for name, reached in expected.items():
        for channel in {0, *np.cumsum([group.channels for group in actual[name].groups]) - 1}:
            hull = hull_of(reached[..., channel], model.inputs[0].shape[1])
            wrong = np.argwhere((actual[name].channel_boxes(channel) != hull).any(axis=-1))
            assert not len(wrong), f"{name}, channel {channel}, unit {wrong[0]}"
        assert (actual[name].boxes() == hull_of(reached.any(axis=-1), model.inputs[0].shape[1])).all(), name
        assert actual[name].channels == reached.shape[-1]


def run_on_sets(model: keras.Model) -> dict[str, np.ndarray]:
    """For each layer: bool (H + W, h, w, c), whether a pixel row, or a pixel column, reaches the unit."""
    height, width, channels = model.inputs[0].shape[1:]
    images = np.zeros((height + width, height, width, channels), np.float32)
    images[np.arange(height), np.arange(height)] = 1
    images[height + np.arange(width), :, np.arange(width)] = 1
    reached: dict[str, np.ndarray] = {}
    walk_on_sets(model, tf.constant(images), reached)
    return {name: actual if actual.ndim == 4 else actual[:, None, None] for name, actual in reached.items()}


def walk_on_sets(model: Any, images: tf.Tensor, reached: dict[str, np.ndarray] | None) -> tf.Tensor:
    def visit(operation: Any, *args: Any, **flags: Any) -> tf.Tensor:
        actual = keep_only_geometry(operation, *args)
        # Fast convolutions round, but sums of ones are whole numbers; means are smaller, and exact where they are 0.
        actual = tf.cast(actual > (0.5 if has_kernel(operation) else 1e-6), tf.float32)
        if reached is not None:
            reached[operation.name] = actual.numpy() > 0
        return actual

    graph = getattr(model, "_functional", model)
    return graph._run_through_graph([images], operation_fn=lambda operation: partial(visit, operation))


def keep_only_geometry(operation: Any, *args: Any) -> tf.Tensor:
    """The layer with ones for its kernel, and without all that is not geometry."""
    kind = type(operation).__name__
    tensors = [arg for arg in keras.tree.flatten(args) if tf.is_tensor(arg)]
    if isinstance(operation, keras.Model):
        return walk_on_sets(operation, tensors[0], None)
    if kind in ("Add", "Multiply", "Subtract", "CustomScaleLayer"):
        return keras.layers.add(tensors) if len(tensors) > 1 else tensors[0]
    if kind in ("LayerNormalization", "Softmax"):
        return tf.ones_like(tensors[0]) * tf.reduce_sum(tensors[0], axis=-1, keepdims=True)
    if has_kernel(operation):
        for weight in operation.weights:
            weight.assign(tf.zeros_like(weight) if weight.name == "bias" else tf.ones_like(weight))
        operation.activation = keras.activations.linear
        return operation(tensors[0])
    if isinstance(operation, (L.Reshape, L.Flatten, L.Concatenate, L.ZeroPadding2D, L.Cropping2D, L.UpSampling2D)):
        return operation(*args)
    if "Pooling" in kind:
        return operation(*args)
    assert operation.output.shape == operation.input.shape, kind
    return tensors[0]


def has_kernel(operation: Any) -> bool:
    return hasattr(operation, "kernel_size") or isinstance(operation, L.Dense)


def hull_of(reached: np.ndarray, height: int) -> np.ndarray:
    """bool (H + W, h, w) -> boxes, int32 (h, w, 4)."""
    edges = []
    for lines in (reached[:height], reached[height:]):
        first, last = lines.argmax(axis=0), len(lines) - lines[::-1].argmax(axis=0)
        edges.append(np.where(lines.any(axis=0), [first, last], 0))
    (y1, y2), (x1, x2) = edges
    return np.stack([y1, x1, y2, x2], axis=-1).astype(np.int32)
