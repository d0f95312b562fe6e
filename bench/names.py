"""How many names a person agrees with: a job that names channels of MobileNetV2, and sheets of names drawn at random.

    python -m bench.names PHOTOS WEIGHTS TFDS OUT [--images 600] [--draw 50] [--seed 21]

WEIGHTS is a file of MobileNetV2's weights for Keras, TFDS a folder that holds CIFAR-10. Its labels name channels of two deep
layers, and the eleven colours, as masks over PHOTOS, those of the first. Prints how many channels each rule names, and how far
colours overlap; writes `names-1.png` and so on, the names drawn with the patches of their channels and nothing else, and
`names.csv`, what they are.
"""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import Any

import pandas as pd

LAYERS = ["block_13_expand_relu", "out_relu"]
SIDE, PATCHES, ROWS, TEXT = 88, 9, 13, 170  # pixels of a patch; patches of a channel; channels of a column; pixels of its name


def name_channels(weights: Path, out: Path, layers: list[str], **tables: Any) -> Path:
    """Run a job that names channels; one that is done is not run again. Returns: its folder."""
    from pipeline import run
    from pipeline.load import parse_spec

    spec: dict[str, Any] = {
        "name": layers[0],
        "stages": ["activations", "concepts"],
        "model": {"source": "keras:MobileNetV2", "weights": str(weights), "layers": layers},
        **tables,
    }
    return Path(str(run(parse_spec(spec), out)))


def sheet(rows: pd.DataFrame, crops: dict[str, pd.DataFrame]) -> Any:
    """Numbers, names and patches in two columns: a picture."""
    from PIL import Image, ImageDraw, ImageFont

    column = TEXT + PATCHES * SIDE + 12
    picture = Image.new("RGB", (2 * column, ROWS * (SIDE + 4)), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(14)
    for place, (number, row) in enumerate(rows.iterrows()):
        left, top = place // ROWS * column, place % ROWS * (SIDE + 4)
        draw.text((left + 4, top + 12), f"#{number}\n{row['concept']}", fill="black", font=font)
        own = crops[str(row["layer"])].query(f"channel == {row['channel']}").sort_values("rank")
        for rank, image in enumerate(own["image"]):
            patch = Image.open(io.BytesIO(image["bytes"])).convert("RGB").resize((SIDE, SIDE))
            picture.paste(patch, (left + TEXT + rank * SIDE, top))
    return picture


def main() -> None:
    """Run the job, print the counts, and draw the sheets."""
    from pipeline.report.job_reader import JobReader
    from pipeline.store.files import file_name

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("photos", "weights", "tfds", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--images", type=int, default=600)
    parser.add_argument("--draw", type=int, default=50)
    parser.add_argument("--seed", type=int, default=21)
    options = parser.parse_args()
    photos = {"source": f"folder:{options.photos}", "batch": 32}
    masks = {"labels": False, "masks": {"source": "colours"}}
    colours = name_channels(options.weights, options.out, ["Conv1_relu"], data=photos, concepts=masks)
    rows = pd.read_parquet(colours / "index" / "concepts.parquet").query("rank == 0").sort_values("value", ascending=False)
    print(rows[["channel", "concept", "value", "named"]].head(10).to_string(index=False))
    data = {"source": "tfds:cifar10/test", "data_dir": str(options.tfds), "limit": options.images, "batch": 32}
    job = name_channels(options.weights, options.out, LAYERS, data=data)
    concepts = pd.read_parquet(job / "index" / "concepts.parquet")
    first = concepts[concepts["rank"] == 0]
    rules = {
        "a chance of 0.05 for each channel": first["chance"] <= 0.05,
        "a false discovery rate of 0.05": first["false_discovery"] <= 0.05,
        "that, and fitting: named": first["named"],
    }
    print(f"{len(pd.read_parquet(job / 'index' / 'channels.parquet')):,} channels\n\n| rule | channels |\n|---|---|")
    for rule, holds in rules.items():
        print(f"| {rule} | {len(first[holds].drop_duplicates(['layer', 'channel']))} |")
    reader = JobReader(job)
    names = pd.DataFrame([row for layer in LAYERS for row in reader.names(layer).values()])
    print(names.groupby(["layer", "concept"]).size().to_string())
    drawn = names.sample(min(options.draw, len(names)), random_state=options.seed).reset_index(drop=True)
    drawn.to_csv(options.out / "names.csv")
    crops = {layer: pd.read_parquet(job / "crops" / f"{file_name(layer)}.parquet") for layer in drawn["layer"].unique()}
    for page, start in enumerate(range(0, len(drawn), 2 * ROWS), start=1):
        sheet(drawn[start : start + 2 * ROWS], crops).save(options.out / f"names-{page}.png")


if __name__ == "__main__":
    main()
