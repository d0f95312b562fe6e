"""Clamps wait for what else reads their input, wherever they can, and graphs compute the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from pipeline.compiled.freezing import FrozenGraph
from pipeline.compiled.in_place import let_clamps_wait
from pipeline.compiled.microbatches import in_microbatches

MAPS = np.random.default_rng(0).uniform(-9, 9, (4, 5, 6, 3)).astype(np.float32)


def waits(function: Callable[[Any], Any]) -> dict[str, set[str]]:
    """What each operation of a function waits for, by kind, once its clamps do; it still gives the same."""
    frozen = FrozenGraph.of(function, tf.TensorSpec(MAPS.shape))
    results = []
    for waiting in (False, True):
        if waiting:
            let_clamps_wait(frozen.graph)
        with tf.Graph().as_default(), tf.compat.v1.Session() as session:
            tf.graph_util.import_graph_def(frozen.graph, name="")
            results.append(session.run(list(frozen.outputs), {frozen.inputs[0]: MAPS}))
    for before, after in zip(*results, strict=True):
        np.testing.assert_array_equal(before, after)
    kinds = {node.name: node.op for node in frozen.graph.node}
    return {
        node.op: {kinds[name[1:]] for name in node.input if name.startswith("^")}
        for node in frozen.graph.node
        if any(name.startswith("^") for name in node.input)
    }


@pytest.mark.parametrize(
    ("clamp", "kinds"),
    [
        (tf.nn.relu, {"Relu"}),
        (tf.nn.relu6, {"Relu6"}),
        (lambda maps: tf.minimum(maps, 6.0), {"Minimum"}),
        (lambda maps: tf.maximum(0.0, maps), {"Maximum"}),
        (lambda maps: tf.clip_by_value(maps, 0.0, 6.0), {"ClipByValue", "Minimum"}),
    ],
    ids=["relu", "relu6", "minimum", "constant first", "clip"],
)
def test_a_clamp_waits_for_what_else_reads_its_input(clamp: Any, kinds: set[str]) -> None:
    def function(images: Any) -> Any:
        raw = images * 2
        return tf.reduce_sum(clamp(raw)), tf.reduce_max(raw, axis=2), tf.gather(tf.reshape(raw, (-1, 3)), [1, 5])

    waiting = waits(function)
    assert waiting and waiting.keys() <= kinds
    assert waiting.popitem()[1] == {"Max", "GatherV2"}  # and not the view itself, whose output is the same memory


def test_a_clamp_of_a_view_waits_for_what_reads_the_same_memory() -> None:
    def function(images: Any) -> Any:
        raw = images * 2
        return tf.nn.relu(tf.reshape(raw, (4, -1))), tf.reduce_max(raw)

    assert waits(function) == {"Relu": {"Max"}}


@pytest.mark.parametrize(
    "function",
    [
        lambda images: tf.nn.relu(images * 2),
        lambda images: (raw := images * 2) + tf.square(tf.nn.relu(raw)),
        lambda images: (tf.minimum(images * 2, 6.0), tf.minimum(images * 3, 6.0)),
    ],
    ids=["read by it alone", "read by what needs it", "a constant for two"],
)
def test_where_there_is_nothing_to_wait_for_or_it_would_wait_for_itself_it_does_not(function: Any) -> None:
    assert waits(function) == {}


def test_two_clamps_of_one_map_do_not_wait_for_each_other() -> None:
    """Whichever comes first waits for the other, and the other for nothing."""
    waiting = waits(lambda images: (tf.nn.relu(raw := images * 2), tf.nn.relu6(raw)))
    assert waiting in ({"Relu": {"Relu6"}}, {"Relu6": {"Relu"}})


def test_clamps_in_graphs_with_loops_are_left_alone() -> None:
    graph = tf.Graph()
    with graph.as_default():
        raw = tf.constant(MAPS) * 2
        tf.compat.v1.disable_control_flow_v2()
        try:
            doubled = tf.while_loop(lambda maps: tf.reduce_max(maps) < 99, lambda maps: [maps * 2 + tf.nn.relu(raw)], [raw])[0]
        finally:
            tf.compat.v1.enable_control_flow_v2()
        ends = [tf.nn.relu(raw), doubled]
        before = graph.as_graph_def()
        after = graph.as_graph_def()
        let_clamps_wait(after)
        assert before == after and any(node.op == "Enter" for node in after.node) and len(ends) == 2


def test_microbatches_give_the_same_with_maps_that_are_read_before_and_behind_a_clamp(pixels: Any) -> None:
    def peaks(images: Any, first: Any) -> Any:
        raw = tf.cast(images, tf.float32) - 128
        clipped = tf.nn.relu6(raw)
        return tf.reduce_max(raw, axis=(1, 2)), tf.reduce_mean(clipped, axis=(1, 2)), tf.reduce_min(raw, axis=(1, 2))

    images = pixels(6, 4, 4)
    maxima, means, minima = in_microbatches(peaks, 2, tf.TensorSpec((6, 4, 4, 3), tf.uint8))(images)
    raw = images.astype(np.float32) - 128
    np.testing.assert_array_equal(maxima, raw.max(axis=(1, 2)))
    np.testing.assert_array_equal(minima, raw.min(axis=(1, 2)))
    np.testing.assert_allclose(means, np.clip(raw, 0, 6).mean(axis=(1, 2)), rtol=1e-6)
