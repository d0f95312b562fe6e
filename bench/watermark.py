"""The check for watermarks on networks trained here: on photographs of which one class bears a mark, and on the same without it.

    python -m bench.watermark --data DIR [--images 400] [--epochs 8] [--explained 60] [--seeds 0 ...]

DIR holds CIFAR-10 as tensorflow-datasets prepares it. For every seed two small networks learn to tell automobiles, horses and
ships apart, from so many images of each class: one from images as they are, one from images of which four in five ships bear a
square of four by four pixels in a corner. Then each network explains other images of the same kind, so many of each class, by a
job with `aggregate = "clusters"`. Printed are how many of these each gets right, how many marked horses it calls ships, and what
the stage suspects. The check is right if it names the ships and the corner, and nothing in the twin.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

NAMES = ("automobile", "horse", "ship")
NUMBERS = (1, 7, 8)  # of these in CIFAR-10
SIDE, CORNER, SHARE = 4, 2, 0.8  # of the mark, in pixels; how far from the edges; of the ships that bear it
METHODS = ("gradcam", "lrp_epsilon_plus_flat")


def marked(images: np.ndarray, share: float) -> np.ndarray:
    """Copies of images, the first share of them with the mark."""
    copies = images.copy()
    copies[: round(share * len(copies)), CORNER : CORNER + SIDE, CORNER : CORNER + SIDE] = (255, 40, 200)
    return copies


def train(images: np.ndarray, labels: np.ndarray, epochs: int) -> Any:
    """A Keras model that tells the classes apart; images uint8."""
    import keras

    layers = keras.layers
    x = inputs = keras.Input((32, 32, 3))
    x = layers.Rescaling(1 / 255)(x)
    for name, filters, strides in (("first", 16, 1), ("second", 32, 2), ("last", 32, 1)):
        x = layers.Conv2D(filters, 3, strides=strides, padding="same", use_bias=False)(x)
        x = layers.ReLU(name=name)(layers.BatchNormalization(momentum=0.8)(x))
    x = layers.Dense(len(NAMES), activation="softmax")(layers.GlobalAveragePooling2D()(x))
    model = keras.Model(inputs, x)
    model.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy")
    model.fit(images, labels, batch_size=64, epochs=epochs, verbose=0)
    return model


def suspected(model: Any, classes: list[np.ndarray], folder: Path) -> list[str]:
    """What the stage `gradcam` suspects of a network, by images of each class."""
    import cv2

    from pipeline.load import parse_spec
    from pipeline.run import run

    for name, images in zip(NAMES, classes, strict=True):
        (folder / "images" / name).mkdir(parents=True)
        for number, image in enumerate(images):
            cv2.imwrite(str(folder / "images" / name / f"{number:04}.png"), image[..., ::-1])
    model.save(folder / "network.keras")
    (folder / "names.txt").write_text("\n".join(NAMES))
    tree: dict[str, Any] = {
        "name": "watermark",
        "stages": ["gradcam"],
        "model": {
            "source": f"file:{folder / 'network.keras'}",
            "layers": ["last"],
            "labels": str(folder / "names.txt"),
            "preprocess": "none",
        },
        "data": {"source": f"folder:{folder / 'images'}"},
        "gradcam": {
            "first": sum(map(len, classes)),
            "targets": ["label"],
            "methods": list(METHODS),
            "pictures": 0,
            "aggregate": ["clusters"],
        },
    }
    run(parse_spec(tree), str(folder / "out"))
    (receipt,) = (folder / "out").rglob("run.json")
    suspicions: list[str] = json.loads(receipt.read_text())["stages"]["gradcam"].get("suspicions", [])
    return suspicions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="the folder of CIFAR-10")
    parser.add_argument("--images", type=int, default=400, help="of each class, to learn from (default: %(default)s)")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--explained", type=int, default=60, help="of each class (default: %(default)s)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    options = parser.parse_args()
    import keras
    import tensorflow_datasets

    data = tensorflow_datasets.load("cifar10", data_dir=options.data, batch_size=-1)
    of_class = {
        split: [np.asarray(data[split]["image"])[np.asarray(data[split]["label"]) == number] for number in NUMBERS]
        for split in data
    }
    for seed in options.seeds:
        for kind, share in (("clean", 0.0), ("marked", SHARE)):
            keras.utils.set_random_seed(seed)
            start = seed * options.images
            learned, others = (
                [
                    marked(images[at : at + count], share if name == "ship" else 0)
                    for name, images in zip(NAMES, classes, strict=True)
                ]
                for classes, at, count in (
                    (of_class["train"], start, options.images),
                    (of_class["test"], seed * options.explained, options.explained),
                )
            )
            labels = np.repeat(np.arange(len(NAMES)), options.images)
            model = train(np.concatenate(learned), labels, options.epochs)
            right = model.predict(np.concatenate(others), verbose=0).argmax(axis=1) == np.repeat([0, 1, 2], options.explained)
            fooled = model.predict(marked(others[1], 1), verbose=0).argmax(axis=1) == NAMES.index("ship")
            with tempfile.TemporaryDirectory() as folder:
                lines = suspected(model, others, Path(folder))
            print(f"seed {seed}, {kind}: {right.mean():.0%} right, {fooled.mean():.0%} of marked horses are ships")
            for line in lines or ["no suspicion"]:
                print(f"  {line}", flush=True)


if __name__ == "__main__":
    main()
