"""Sessions: a graph that runs on the CPU with threads of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from pipeline.compiled.freezing import Pass


def in_session(function: Callable[..., Any], specs: list[tf.TensorSpec], threads: int, each: int = 1) -> Pass:
    """Compile a function of tensors for these shapes and types, to be run on the CPU.

    TensorFlow computes an operation with as many threads as there are cores. Where there is other work for them, that
    is a waste: they wait for each other at the end of every operation. How many there are is set once a process, but
    for a session that owns its threads, as sessions do after `prepare_devices`. Without it they take those of the
    process: what they give is the same, only later.

    Args:
        threads: how many operations may be computed at the same time, by all who call.
        each: how many threads compute one of them.

    Returns: a callable that takes arrays, or tensors, of the specs and returns arrays in the structure that `function`
        returns. It may be called from several threads at the same time; they share those of the session.
    """
    graph = tf.Graph()
    with graph.as_default():
        feeds = [tf.compat.v1.placeholder(spec.dtype, spec.shape) for spec in specs]
        structure = function(*feeds)
    config = tf.compat.v1.ConfigProto(
        device_count={"GPU": 0},
        intra_op_parallelism_threads=each,
        inter_op_parallelism_threads=threads,
        use_per_session_threads=True,
    )
    config.experimental.disable_output_partition_graphs = True  # a copy of the graph, weights and all
    call = tf.compat.v1.Session(graph=graph, config=config).make_callable(tf.nest.flatten(structure), feeds)
    return lambda *arguments: tf.nest.pack_sequence_as(structure, call(*map(np.asarray, arguments)))
