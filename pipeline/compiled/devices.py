"""How a process uses its devices: settled before TensorFlow's first operation, and asked for afterwards."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import tensorflow as tf

from pipeline.compiled.tf_private import intra_op_threads, let_sessions_own_threads
from pipeline.hardware import cores

# TensorFlow's C++ code reads them when it first needs cuDNN. Not the determinism of all operations: it forbids some, and slows
# tf.data. Max pooling passes over NaN by default, there as on a CPU.
_CUDA = {"TF_CUDNN_USE_AUTOTUNE": "0", "TF_CUDNN_DETERMINISTIC": "1"}


def prepare_devices(threads: int | None = None, gpu: bool = True) -> None:
    """Settle how this process uses its devices. Call before TensorFlow's first operation, which reads the settings.

    On a machine with a GPU, the process uses the first visible one alone, and its memory grows as needed; GPUs are numbered
    as nvidia-smi does; TF32 is off, so that float32 has its 24 bits; and cuDNN chooses its algorithms by rule, not by timing
    them in each process, and only among the deterministic ones. What the user has set in the environment holds. Without a
    GPU, every session has its own threads.

    Args:
        threads: for one operation on the CPU; None: as TensorFlow chooses.
        gpu: whether this process may use a GPU.
    """
    if threads is not None:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.experimental.enable_tensor_float_32_execution(False)
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # before the first look at the GPUs
    gpus = visible_gpus()
    if not gpus or not gpu:
        let_sessions_own_threads()
    try:
        if gpus and not gpu:
            tf.config.set_visible_devices([], "GPU")
        elif gpus:
            for name, value in _CUDA.items():
                os.environ.setdefault(name, value)
            tf.config.set_visible_devices(gpus[:1], "GPU")  # a process opens a context on every GPU that it sees
            tf.config.experimental.set_memory_growth(gpus[0], True)
    except RuntimeError:  # already in use, so the caller's own setting holds
        return


def visible_gpus() -> list[Any]:
    """The GPUs that this process may use."""
    return list(tf.config.get_visible_devices("GPU"))


def cpu_threads() -> int:
    """How many threads TensorFlow uses for one operation on the CPU."""
    return intra_op_threads() or cores()


@contextmanager
def tensor_float_32(on: bool) -> Iterator[None]:
    """Convolutions and matrix products of float32 read ten bits of each number while the block runs, or all 23."""
    before = tf.config.experimental.tensor_float_32_execution_enabled()
    tf.config.experimental.enable_tensor_float_32_execution(on)
    try:
        yield
    finally:
        tf.config.experimental.enable_tensor_float_32_execution(before)
