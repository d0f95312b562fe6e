"""Trains the small CIFAR-10 network of the specs `demo` and `cifar10`.

The network is the one of TensorFlow's CIFAR-10 tutorial (conv1, pool, norm, conv2, norm, pool, local3,
local4; Krizhevsky's cuda-convnet layers), with batch normalisation instead of local response
normalisation, which Keras does not have, on whole 32x32 images and with 192 units in `local3`, which
keeps the file under 5 MB.
"""

from __future__ import annotations

import csv
import json
import sys
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from pipeline.sources.fit import Fit
from pipeline.sources.registry import open_source
from pipeline.sources.source import Shard, drawn
from pipeline.spec.data import DataSpec

HELD_OUT = 2_000  # training images that choose the best epoch; the test images are used once, at the end


def build_network() -> keras.Model:
    """The CIFAR-10 network: uint8-range pixels (batch, 32, 32, 3) -> logits (batch, 10)."""
    layers = keras.layers
    relu = {"activation": "relu", "padding": "same"}
    pixels = keras.Input((32, 32, 3), name="pixels")
    x = layers.Rescaling(1 / 127.5, offset=-1.0, name="rescale")(pixels)
    x = layers.Conv2D(64, 5, name="conv1", **relu)(x)
    x = layers.MaxPooling2D(3, 2, padding="same", name="pool1")(x)
    x = layers.BatchNormalization(name="norm1")(x)
    x = layers.Conv2D(64, 5, name="conv2", **relu)(x)
    x = layers.BatchNormalization(name="norm2")(x)
    x = layers.MaxPooling2D(3, 2, padding="same", name="pool2")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dropout(0.3, name="drop2")(x)
    x = layers.Dense(192, activation="relu", name="local3")(x)
    x = layers.Dropout(0.3, name="drop3")(x)
    x = layers.Dense(192, activation="relu", name="local4")(x)
    return keras.Model(pixels, layers.Dense(10, name="logits")(x), name="cifar10")


def _load(split: str, data_dir: str | None) -> tuple[np.ndarray, np.ndarray]:
    """A split of CIFAR-10: uint8 (n, 32, 32, 3), int32 (n,)."""
    source = open_source(DataSpec(source=f"tfds:cifar10/{split}", data_dir=data_dir), Fit(32, 32))
    batch = next(drawn(source.stream(Shard()).batch(len(source))))
    index = {name.encode(): number for number, name in enumerate(source.labels or [])}
    return batch["image"].numpy(), np.array([index[label] for label in batch["label"].numpy()], np.int32)


def _best_so_far(log: Path) -> float | None:
    """The highest accuracy on the held-out images that an interrupted run has logged."""
    with log.open(newline="") as file:
        return max((float(row["val_accuracy"]) for row in csv.DictReader(file)), default=None)


def _augment(image: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """A random mirror image, shifted by up to four pixels."""
    padded = tf.pad(image, [[4, 4], [4, 4], [0, 0]], mode="REFLECT")
    shifted = tf.image.random_crop(padded, [32, 32, 3])
    return tf.cast(tf.image.random_flip_left_right(shifted), tf.float32), label


def train_cifar10(out: Path, data_dir: str | None, epochs: int, batch: int, seed: int = 0) -> dict[str, Any]:
    """Train on CIFAR-10's 50,000 training images and measure on its 10,000 test images.

    The weights with the best accuracy on held-out training images are saved after every epoch that improves it;
    an interrupted run resumes from the last complete epoch.

    Args:
        out: folder for `cifar10.keras`, `log.csv`, `result.json` and the saved state.
        data_dir: folder of prepared TensorFlow Datasets; None: their default, downloaded where missing.
        epochs: passes over the data, with one cosine decay of the learning rate.
        batch: images a step.
        seed: seed of the weights, the shuffling and the augmentation.

    Returns: what is also written to `result.json`: test accuracy, epochs, seconds.
    """
    out.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(seed)
    images, labels = _load("train", data_dir)
    held_out = (images[-HELD_OUT:].astype(np.float32), labels[-HELD_OUT:])
    images, labels = images[:-HELD_OUT], labels[:-HELD_OUT]
    data = (
        tf.data.Dataset.from_tensor_slices((images, labels))
        .shuffle(len(images), seed=seed)
        .map(_augment, num_parallel_calls=tf.data.AUTOTUNE)
        .batch(batch, drop_remainder=True)
        .prefetch(4)
    )
    steps = len(images) // batch
    schedule = keras.optimizers.schedules.CosineDecay(0.0, epochs * steps, warmup_target=2e-3, warmup_steps=2 * steps, alpha=0.0)
    model = build_network()
    model.compile(
        keras.optimizers.AdamW(schedule, weight_decay=0.01),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    best, log, state = out / "best.weights.h5", out / "log.csv", out / "state"
    resumes = any(state.rglob("*.h5"))
    if not resumes:
        log.unlink(missing_ok=True)
    started = time.monotonic()
    model.fit(
        data,
        shuffle=False,  # the data set shuffles itself, and Keras warns that it cannot
        epochs=epochs,
        validation_data=held_out,
        verbose=1 if sys.stdout.isatty() else 2,
        callbacks=[
            keras.callbacks.ModelCheckpoint(
                str(best),
                "val_accuracy",
                mode="max",
                save_best_only=True,
                save_weights_only=True,
                # Without it, the first epoch after an interruption would count as the best.
                initial_value_threshold=_best_so_far(log) if resumes else None,
            ),
            keras.callbacks.CSVLogger(str(log), append=True),
            keras.callbacks.BackupAndRestore(str(state)),
        ],
    )
    seconds = time.monotonic() - started
    model = build_network()
    model.load_weights(best)
    test_images, test_labels = _load("test", data_dir)
    predicted = model.predict(test_images.astype(np.float32), batch_size=500, verbose=0).argmax(axis=1)
    accuracy = float((predicted == test_labels).mean())
    model.save(out / "cifar10.keras")
    result = {
        "test_accuracy": accuracy,
        "test_images": len(test_labels),
        "epochs": epochs,
        "batch": batch,
        "seconds": round(seconds),
    }
    (out / "result.json").write_text(json.dumps(result, indent=1) + "\n")
    return result
