"""Compiled functions that run on the CPU with their own threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf.rewriter_config_pb2 import RewriterConfig

from pipeline.compiled.freezing import Pass, first_alone


def in_session(
    function: Callable[..., Any], specs: list[tf.TensorSpec], threads: int, each: int = 1, few_calls: bool = False
) -> Pass:
    """Compile a function of tensors for these shapes and types, to run on the CPU in a session.

    By default TensorFlow uses as many threads as there are cores for each operation. If other work is waiting,
    that wastes time, because the threads wait for each other at the end of every operation. A tf.function shares one pool
    of threads with the whole process, whose size is set once; after `prepare_devices`, a session has its own threads.
    Without it, the session uses those of the process: the results are the same, and take longer.

    Args:
        threads: how many operations may run at the same time, for all callers together.
        each: threads for one operation.
        few_calls: plan the graph in less time, though a call of it may take a little more.

    Returns: a callable that takes arrays, or tensors, of the specs and returns arrays in the structure that `function`
        returns. Several threads may call it at the same time.
    """
    graph = tf.Graph()
    with graph.as_default():
        inputs = [tf.compat.v1.placeholder(spec.dtype, spec.shape) for spec in specs]
        structure = function(*inputs)
    config = tf.compat.v1.ConfigProto(
        device_count={"GPU": 0},
        intra_op_parallelism_threads=each,
        inter_op_parallelism_threads=threads,
        use_per_session_threads=True,
    )
    if few_calls:
        config.graph_options.rewrite_options.meta_optimizer_iterations = RewriterConfig.ONE
    config.experimental.disable_output_partition_graphs = True  # else it keeps another copy of the graph and its weights
    call = first_alone(tf.compat.v1.Session(graph=graph, config=config).make_callable(tf.nest.flatten(structure), inputs))

    def run(*arguments: Any) -> Any:
        return tf.nest.pack_sequence_as(structure, call(*map(np.asarray, arguments)))

    return run
