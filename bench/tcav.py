"""TCAV where the answer is known: a network whose head learned a planted mark, the mark as a concept, and random photographs.

    python -m bench.tcav PHOTOS WEIGHTS [--folder DIR]

PHOTOS is a folder of at least 400 photographs, WEIGHTS a file of MobileNetV2's weights for Keras. Two classes of photographs
differ in nothing but stripes that are drawn into half of the first class; a new head is fitted to tell them apart. Exits 1 where
no test of the stripes is significant at a layer whose gradients vary, or more than a tenth of those of random photographs are.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

SIDE = 160
LAYERS = ("block_3_expand_relu", "block_6_expand_relu", "block_10_expand_relu", "block_13_expand_relu", "out_relu")
CONSTANT = "out_relu"  # behind it come a mean and the head alone, so that all images have the same gradient
MOST = 0.1  # of the tests of random photographs may be significant; chance is 0.05
CONCEPTS = ("stripes", "random_a", "random_b", "random_c")


def striped(pixels: np.ndarray) -> np.ndarray:
    """The picture with diagonal stripes of eight pixels drawn over it, half transparent."""
    rows, cols = np.mgrid[: pixels.shape[0], : pixels.shape[1]]
    bright = np.asarray((rows + cols) // 8 % 2 * 255)[..., np.newaxis]
    return (pixels * 0.5 + bright * 0.5).astype(np.uint8)


def write_photographs(photos: Path, folder: Path) -> None:
    """Folders data/marked, data/plain, against and one for each concept, of photographs that lie in no other."""
    from PIL import Image

    paths = sorted(path for path in photos.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    paths = [paths[at] for at in np.random.default_rng(0).permutation(len(paths))]
    counts = {"data/marked": 90, "data/plain": 90, "against": 100, **dict.fromkeys(CONCEPTS, 30)}
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for number, path in enumerate([paths.pop() for _ in range(count)]):
            pixels = np.asarray(Image.open(path).convert("RGB").resize((SIDE, SIDE)))
            is_marked = name == "stripes" or (name == "data/marked" and number % 2 == 0)
            Image.fromarray(striped(pixels) if is_marked else pixels).save(folder / name / f"{number}.png")


def write_network(weights: Path, folder: Path) -> float:
    """MobileNetV2 with a head of two classes, fitted by logistic regression. Returns: how many of its images it gets right."""
    import keras
    from PIL import Image
    from sklearn.linear_model import LogisticRegression

    whole = keras.applications.MobileNetV2((SIDE, SIDE, 3), weights=None, classes=1000)
    whole.load_weights(weights)
    pooled = keras.layers.GlobalAveragePooling2D()(whole.get_layer("out_relu").output)
    paths = [path for name in ("marked", "plain") for path in sorted((folder / "data" / name).iterdir())]
    images = np.stack([np.asarray(Image.open(path)) for path in paths]).astype(np.float32) / 127.5 - 1
    features = keras.Model(whole.input, pooled).predict(images, verbose=0)
    truth = np.array([path.parent.name == "plain" for path in paths])
    head = LogisticRegression(C=0.1, max_iter=2000).fit(features, truth)
    outputs = keras.layers.Dense(2, activation="softmax", name="head")(pooled)
    model = keras.Model(whole.input, outputs)
    kernel = np.concatenate([-head.coef_, head.coef_]).T / 2
    model.get_layer("head").set_weights([kernel, np.concatenate([-head.intercept_, head.intercept_]) / 2])
    model.save(folder / "network.keras")
    return float(head.score(features, truth))


def tests(folder: Path) -> Any:
    """index/tcav.parquet and index/concept_vectors.parquet of the job, as data frames."""
    import pandas as pd

    from pipeline import run
    from pipeline.load import load_spec

    concepts = "\n".join(f'[directions.concepts.{name}]\nsource = "folder:{name}"' for name in CONCEPTS)
    (folder / "spec.toml").write_text(
        f'name = "tcav"\nstages = ["directions"]\n'
        f'[model]\nsource = "file:network.keras"\nlayers = {list(LAYERS)}\npreprocess = "symmetric"\n'
        f'[data]\nsource = "folder:data"\n'
        f'[directions]\nmethods = []\ntargets = ["marked", "plain"]\nagainst = "folder:against"\n{concepts}\n'
    )
    out = Path(str(run(load_spec(folder / "spec.toml"), folder / "out")))
    return tuple(pd.read_parquet(out / "index" / f"{name}.parquet") for name in ("tcav", "concept_vectors"))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--folder", type=Path, help="where photographs, network and job are left")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.folder or Path(temporary)
        write_photographs(options.photos, folder)
        right = write_network(options.weights, folder)
        scores, vectors = tests(folder)
    print(f"the head tells {right:.0%} of its photographs apart; half of the marked class has no mark")
    print("| layer | concept | accuracy | random | class | score | random | p | corrected | chance | significant |")
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    accuracies = vectors.set_index(["base", "concept"])
    for row in scores.itertuples():
        own = accuracies.loc[row.base, row.concept]
        numbers = f"{row.score:.2f} | {row.random_score:.2f} | {row.p:.1e} | {row.p_corrected:.1e} | {row.chance:.2f}"
        about = f"{row.base} | {row.concept} | {own.accuracy:.2f} | {own.random_accuracy:.2f} | {row.target}"
        print(f"| {about} | {numbers} | {'yes' if row.significant else 'no'} |")
    at_random = scores[scores.concept != "stripes"]
    by_t, by_both = int((at_random.p_corrected < 0.05).sum()), int(at_random.significant.sum())
    print(
        f"of {len(at_random)} tests of random photographs, the t-test calls {by_t} significant, with chance beside it {by_both}"
    )
    of_stripes = scores[(scores.base != CONSTANT) & (scores.concept == "stripes")].significant
    sys.exit(0 if of_stripes.any() and by_both <= MOST * len(at_random) else 1)


if __name__ == "__main__":
    main()
