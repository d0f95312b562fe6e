"""Our TopK autoencoder beside that of overcomplete, at equal size on the same vectors: explained variance, dead atoms, seconds.

    python -m bench.autoencoders PYTHON PHOTOS WEIGHTS [--atoms 256] [--keep 16] [--steps 2000]

PYTHON is the interpreter of an environment with overcomplete 0.3 and torch. The vectors are those of MobileNetV2's `out_relu` at
every position of the photographs, 49 of each; WEIGHTS is a file of its weights for Keras. Both are trained with Adam, a rate of
0.001, batches of 1,024 vectors and as many steps, theirs with its own loss for dead atoms. Exits 1 where ours explains less by
more than 0.01, or has more dead atoms.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

BATCH = 1024


def theirs(folder: Path, atoms: int, keep: int, steps: int) -> None:
    """Train and measure overcomplete's, on vectors.npy; run by the other interpreter. Prints: explained, dead, CPU seconds."""
    import torch  # type: ignore[import-not-found,unused-ignore]
    from overcomplete.sae import TopKSAE, train_sae  # type: ignore[import-not-found,unused-ignore]
    from overcomplete.sae.losses import top_k_auxiliary_loss  # type: ignore[import-not-found,unused-ignore]

    torch.manual_seed(0)
    vectors = np.load(folder / "vectors.npy")
    mean = vectors.mean(axis=0)
    scale = np.sqrt(((vectors - mean) ** 2).mean())
    x = torch.tensor((vectors - mean) / scale)
    began = time.process_time()
    model = TopKSAE(x.shape[1], atoms, top_k=keep, device="cpu")
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x), batch_size=BATCH, shuffle=True, drop_last=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    epochs = round(steps / len(loader))
    train_sae(model, loader, top_k_auxiliary_loss, optimizer, nb_epochs=epochs, monitoring=0, device="cpu")
    cpu = time.process_time() - began
    model.eval()
    with torch.no_grad():
        codes = torch.cat([model.encode(part)[1] for part in x.split(4096)])
        rest = float((x - model.decode(codes)).square().sum())
    total = float((x - x.mean(0)).square().sum())
    print(1 - rest / total, int((codes > 0).sum(0).eq(0).sum()), cpu)


def vectors_of(photos: Path, weights: Path) -> np.ndarray:
    """MobileNetV2's `out_relu` at every position of every photograph: float32 (vectors, 1280)."""
    import keras
    from PIL import Image

    whole = keras.applications.MobileNetV2(weights=None, classes=1000)
    whole.load_weights(weights)
    model = keras.Model(whole.input, whole.get_layer("out_relu").output)
    paths = sorted(path for path in photos.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    maps = []
    for first in range(0, len(paths), 32):
        pictures = [Image.open(path).convert("RGB").resize((224, 224)) for path in paths[first : first + 32]]
        maps.append(model.predict(np.stack([np.asarray(picture, np.float32) for picture in pictures]) / 127.5 - 1, verbose=0))
    return np.concatenate(maps).reshape(-1, maps[0].shape[-1])


def ours(vectors: np.ndarray, atoms: int, keep: int, steps: int) -> tuple[float, int, float]:
    """Train and measure ours: explained, dead, CPU seconds."""
    from pipeline.ascent.checkpoint import Checkpoint
    from pipeline.directions.autoencoder import Training, train_directions
    from pipeline.directions.fitting import SetPlan, explained

    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Checkpoint(Path(folder) / "training.npz", 1e9)
        directions = train_directions(SetPlan("layer", f"topk{atoms}", ""), vectors, Training(keep, steps), checkpoint)
    cpu = time.process_time() - began
    used = np.any([(directions.respond(part) > 0).any(axis=0) for part in np.array_split(vectors, 8)], axis=0)
    return explained(directions, vectors), int((~used).sum()), cpu


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("python", help="the interpreter of an environment with overcomplete")
    parser.add_argument("photos", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--atoms", type=int, default=256)
    parser.add_argument("--keep", type=int, default=16)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--theirs", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.theirs:
        theirs(options.theirs, options.atoms, options.keep, options.steps)
        return
    vectors = vectors_of(options.photos, options.weights)
    sizes = [f"--{name}={getattr(options, name)}" for name in ("atoms", "keep", "steps")]
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "vectors.npy", vectors)
        call = [options.python, __file__, options.python, ".", ".", "--theirs", folder, *sizes]
        answer = subprocess.run(call, capture_output=True, text=True, check=False)
    if answer.returncode:
        sys.exit(f"{options.python} cannot run overcomplete: {answer.stderr.strip().splitlines()[-1:]}")
    values = [float(value) for value in answer.stdout.split()[-3:]]
    mine = ours(vectors, options.atoms, options.keep, options.steps)
    size = f"{options.atoms} atoms, {options.keep} at a time, {options.steps} steps"
    print(f"{len(vectors):,} vectors of {vectors.shape[1]:,} channels, {size}")
    print("| autoencoder | explained | dead | CPU seconds |")
    print("|---|---|---|---|")
    for name, (explained, dead, cpu) in {"overcomplete": values, "ours": mine}.items():
        print(f"| {name} | {explained:.4f} | {int(dead)} | {cpu:.0f} |")
    sys.exit(1 if mine[0] < values[0] - 0.01 or mine[1] > values[1] else 0)


if __name__ == "__main__":
    main()
