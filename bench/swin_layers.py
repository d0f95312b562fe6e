"""Which layer of a Swin transformer GradCAM explains best: the grid pointing game on a small one, trained on CIFAR-10.

    python -m bench.swin_layers --data DIR [--python PYTHON] [--epochs 3] [--network FILE.onnx]

DIR holds CIFAR-10 as tensorflow-datasets prepares it. PYTHON is the interpreter of an environment with torch, timm and onnx: it
trains the network on images of 32 x 32 and exports it for 64 x 64, unless --network names a file that it wrote before. Then 320
canvases of 2 x 2 images of different classes are shown (Rao et al., 2022: "Towards Better Understanding Attribution Methods"),
and GradCAM explains the class of one cell: printed are the share of the map that lies in that cell (0.25 by chance) and how
often its peak does.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

CELL, CANVASES, SURE, BATCH = 32, 320, 800, 64
STRETCH = slice(2000, 5000)  # of the test images: the 2,000 before them say how well the network was trained


def train(folder: Path, epochs: int) -> None:
    """Train and export; run by the other interpreter."""
    import torch  # type: ignore[import-not-found,unused-ignore]
    from timm.models.swin_transformer import SwinTransformer  # type: ignore[import-not-found,unused-ignore]

    torch.manual_seed(0)
    random = np.random.default_rng(0)
    data = np.load(folder / "cifar10.npz")
    mean, deviation = (torch.tensor(row).view(1, 3, 1, 1) for row in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    images = {name: torch.tensor(data[f"{name}_image"]).permute(0, 3, 1, 2) for name in ("train", "test")}
    labels = {name: torch.tensor(data[f"{name}_label"]) for name in ("train", "test")}
    options = {"patch_size": 4, "num_classes": 10, "embed_dim": 48, "depths": (2, 2), "num_heads": (2, 4), "window_size": 4}
    model = SwinTransformer(img_size=CELL, **options)
    batch, count = 256, len(images["train"])
    optimizer = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=epochs * (count // batch) + 1)
    for epoch in range(epochs):
        order = torch.randperm(count)
        for start in range(0, count - batch + 1, batch):
            rows = order[start : start + batch]
            x = (images["train"][rows].float() / 255 - mean) / deviation
            x = torch.where(torch.rand(batch, 1, 1, 1) < 0.5, x.flip(3), x)
            x = torch.roll(x, tuple(int(by) for by in random.integers(-3, 4, 2)), (2, 3))
            loss = torch.nn.functional.cross_entropy(model(x), labels["train"][rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        with torch.no_grad():
            answers = model((images["test"][:2000].float() / 255 - mean) / deviation).argmax(1)
        print(
            f"epoch {epoch + 1}: {float((answers == labels['test'][:2000]).float().mean()):.3f} of 2,000 test images right",
            flush=True,
        )
    wide = SwinTransformer(img_size=2 * CELL, **options)
    fitting = {
        name: value for name, value in model.state_dict().items() if wide.state_dict().get(name, value[:0]).shape == value.shape
    }
    wide.load_state_dict(fitting, strict=False)  # masks of shifted windows are made anew
    torch.onnx.export(
        wide.eval(),
        torch.zeros(2, 3, 2 * CELL, 2 * CELL),
        folder / "swin.onnx",
        opset_version=17,
        dynamo=False,
        input_names=["image"],
        dynamic_axes={"image": {0: "batch"}},
    )


def canvases(images: np.ndarray, labels: np.ndarray, sure: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """uint8 (CANVASES, 64, 64, 3) of four images of different classes, the class that is explained, and the cell where it is."""
    random = np.random.default_rng(0)
    shown = np.zeros((CANVASES, 2 * CELL, 2 * CELL, 3), np.uint8)
    classes, cells = np.zeros((CANVASES, 1), np.int64), random.integers(4, size=CANVASES)
    for canvas, cell in enumerate(cells):
        picked: list[int] = []
        while len(picked) < 4:
            row = int(random.choice(sure))
            if labels[row] not in labels[picked]:
                picked.append(row)
        for at, row in enumerate(picked):
            top, left = CELL * (at // 2), CELL * (at % 2)
            shown[canvas, top : top + CELL, left : left + CELL] = images[row]
        classes[canvas] = labels[picked[cell]]
    return shown, classes, cells


def measure(path: Path, data: dict[str, Any]) -> None:
    """Print one line a layer of the last block."""
    from pipeline.attribution.explainer import Explainer
    from pipeline.attribution.methods import METHODS
    from pipeline.attribution.plan import ExplainPlan
    from pipeline.attribution.targets import Classes, ClassTarget
    from pipeline.compiled.default_layer import default_layer
    from pipeline.models.registry import open_network
    from pipeline.spec.model import ModelSpec

    network = open_network(ModelSpec(source=f"onnx:{path}", layers=["*"], preprocess="torch", head="softmax"))
    last = [
        layer.name
        for layer in network.layers()
        if layer.of_tokens and layer.name.startswith(("/layers/layers.1/blocks/blocks.1", "/norm"))
    ]
    layers = [name for name in last if "Norm" in name or name.endswith(("blocks.1/Add", "Add_1"))]
    plan = ExplainPlan(tuple((METHODS["gradcam"], name) for name in layers), (ClassTarget(Classes(10, None), 0),), BATCH)
    explainer = Explainer.of(network, plan)
    images, labels = data["test_image"][STRETCH], data["test_label"][STRETCH]
    logits = explainer.logits(np.tile(images, (1, 2, 2, 1)))
    right = np.flatnonzero(logits.argmax(1) == labels)
    margin = logits[right, labels[right]] - np.log(np.exp(logits[right]).sum(1))
    shown, classes, cells = canvases(images, labels, right[np.argsort(-margin)][:SURE])
    print(f"default: {default_layer(network).name}; {len(right) / len(images):.3f} of images, four times on a canvas, right")
    maps = [explainer.maps(shown[at : at + BATCH], classes[at : at + BATCH]) for at in range(0, CANVASES, BATCH)]
    for name in layers:
        heat = np.concatenate([part["gradcam", name][:, 0] for part in maps]).astype(np.float64)
        half = heat.shape[1] // 2
        quarters = heat.reshape(CANVASES, 2, half, 2, half).sum((2, 4)).reshape(CANVASES, 4)
        shares = quarters[np.arange(CANVASES), cells] / np.maximum(quarters.sum(1), 1e-12)
        row, column = np.divmod(heat.reshape(CANVASES, -1).argmax(1), 2 * half)
        peaks = (row // half) * 2 + column // half == cells
        print(f"{name:60} share in the cell {shares.mean():.3f}, peak in the cell {peaks.mean():.3f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="where tensorflow-datasets keeps CIFAR-10")
    parser.add_argument("--python", help="an interpreter with torch, timm and onnx")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--network", type=Path)
    parser.add_argument("--train-in", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.train_in:
        train(options.train_in, options.epochs)
        return
    import tensorflow_datasets

    splits = tensorflow_datasets.load("cifar10", data_dir=options.data, batch_size=-1)
    data: dict[str, Any] = {
        f"{name}_{key}": np.asarray(splits[name][key]) for name in ("train", "test") for key in ("image", "label")
    }
    with tempfile.TemporaryDirectory() as folder:
        path = options.network or Path(folder) / "swin.onnx"
        if options.network is None:
            if options.python is None:
                sys.exit(
                    "Name an interpreter with torch, timm and onnx (--python), or a network that it wrote before (--network)."
                )
            np.savez(Path(folder) / "cifar10.npz", **data)
            subprocess.run([options.python, __file__, "--train-in", folder, "--epochs", str(options.epochs)], check=True)
        measure(path, data)


if __name__ == "__main__":
    main()
