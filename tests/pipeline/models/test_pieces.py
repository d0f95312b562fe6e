"""A batch in pieces against the same batch at once."""

from __future__ import annotations

import gc
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from pipeline.compiled import microbatches as pieces
from pipeline.compiled.microbatches import in_pieces, piece_size
from pipeline.errors import UnusableModel
from pipeline.models.network import LayerInfo


def with_maps(*shapes):
    """A network of layers of these shapes, as far as the size of a piece asks."""
    return SimpleNamespace(layers=lambda: [LayerInfo(f"layer{number}", "Conv2D", shape) for number, shape in enumerate(shapes)])


@pytest.mark.parametrize(
    ("shape", "batch", "size"),
    [
        ((32, 32, 64), 256, 16),  # 256 KiB a map: 16 images are 4 MiB
        ((32, 32, 64), 100, 15),  # 7 pieces; of 16 each, the last would be nearly empty
        ((32, 32, 64), 17, 9),
        ((32, 32, 64), 16, 16),
        ((512, 512, 64), 32, 4),  # a single map is too large: four all the same
        ((512, 512, 64), 9, 3),
        ((512, 512, 64), 3, 3),
        ((1, 1, 10), 512, 512),
    ],
)
def test_a_piece_is_four_mebibytes_of_the_largest_map_or_four_images_and_all_pieces_are_alike(shape, batch, size):
    assert piece_size(with_maps((1, 1, 3), shape, (1, 1, 2)), batch) == size


def test_where_there_is_a_gpu_a_batch_goes_whole(monkeypatch):
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: ["a GPU"] if kind == "GPU" else [])
    assert piece_size(with_maps((512, 512, 64)), 32) == 32


@pytest.mark.parametrize("piece", [1, 2, 4, 6])
def test_pieces_give_what_the_whole_batch_gives_row_by_row(pixels, piece):
    weights = tf.Variable(np.float32([[1, 2], [3, 4], [5, 6]]))

    def answer(images, first, floor):
        """Sums of every image, which images are above the floor, and by how much."""
        sums = tf.reduce_sum(tf.cast(images, tf.float32), axis=(1, 2)) @ weights
        above = tf.where(sums > floor)
        return {"sums": sums, "above": [above + tf.stack([first, 0]), tf.gather_nd(sums - floor, above)]}

    images, floor = pixels(6, 4, 4), np.float32([[17500, 25500]])
    of_batch = tf.TensorSpec((6, 4, 4, 3), tf.uint8)
    whole = answer(tf.constant(images), tf.constant(0, tf.int64), floor)
    run = in_pieces(answer, piece, of_batch, tf.TensorSpec((None, 2), tf.float32))
    found = run(images, floor)
    assert 0 < len(whole["above"][0]) < 12
    np.testing.assert_array_equal(found["sums"][:6], whole["sums"])
    np.testing.assert_array_equal(found["above"][0], whole["above"][0])
    np.testing.assert_array_equal(found["above"][1], whole["above"][1])
    assert found["sums"].shape[0] == -(-6 // piece) * piece and not np.any(found["sums"][6:])


def test_the_function_of_a_piece_is_traced_once_however_many_there_are(pixels):
    kernel = tf.Variable(np.ones((3, 3, 3, 8), np.float32))
    traced = []

    def answer(images, first):
        traced.append(images.shape)
        return tf.nn.conv2d(tf.cast(images, tf.float32), kernel, 1, "SAME")

    run = in_pieces(answer, 2, tf.TensorSpec((64, 8, 8, 3), tf.uint8))
    found = run(pixels(64, 8, 8))
    assert traced == [(2, 8, 8, 3)] and found.shape == (64, 8, 8, 8)


@pytest.mark.parametrize(("cores", "each"), [(1, 1), (2, 1), (6, 1), (7, 7), (64, 64)])
def test_an_operation_has_one_thread_where_two_batches_have_pieces_for_all_cores(monkeypatch, cores, each):
    told = []
    monkeypatch.setattr(pieces, "cpu_threads", lambda: cores)
    monkeypatch.setattr(pieces, "in_session", lambda function, specs, threads, each: told.append((threads, each)))
    in_pieces(lambda images, first: tf.cast(images, tf.float32), 2, tf.TensorSpec((6, 4, 4, 3), tf.uint8))
    assert told == [(cores, each)]


@pytest.mark.parametrize("piece", [2, 6])
def test_pieces_do_not_follow_later_changes_of_a_variable(pixels, piece):
    weight = tf.Variable(2.0)
    run = in_pieces(lambda images, first: tf.cast(images, tf.float32) * weight, piece, tf.TensorSpec((6, 4, 4, 3), tf.uint8))
    weight.assign(3.0)
    images = pixels(6, 4, 4)
    np.testing.assert_array_equal(run(images), images * np.float32(2))


@pytest.mark.parametrize("piece", [2, 6])
def test_what_calls_python_may_go_in_pieces_too(pixels, piece):
    def answer(images, first):
        inverted = tf.numpy_function(lambda values: 255 - values, [images], tf.uint8)
        return tf.ensure_shape(inverted, images.shape)

    run = in_pieces(answer, piece, tf.TensorSpec((6, 4, 4, 3), tf.uint8))
    del answer
    gc.collect()
    images = pixels(6, 4, 4)
    np.testing.assert_array_equal(run(images), 255 - images)


@pytest.mark.parametrize("piece", [2, 6])
def test_what_asks_a_table_is_refused_by_name(piece):
    keys = tf.lookup.KeyValueTensorInitializer(tf.range(3, dtype=tf.int64), tf.range(3, dtype=tf.int64))
    table = tf.lookup.StaticHashTable(keys, -1)
    with pytest.raises(UnusableModel, match="table_handle.*Take the layer"):
        in_pieces(lambda images, first: table.lookup(tf.cast(images, tf.int64)), piece, tf.TensorSpec((6, 4, 4, 3), tf.uint8))
