"""How many names a person agrees with: a job that names channels of MobileNetV2, and sheets of names drawn at random.

    python -m bench.names PHOTOS WEIGHTS OUT [--draw 50] [--seed 21]

PHOTOS is a folder of photographs whose names begin with the number of their ImageNet class (`207_….jpg`), WEIGHTS a file of
MobileNetV2's weights for Keras. The concepts are the kinds of things below, as labels, and the eleven colours, as masks. Prints
how many channels each rule names, and which channels of the first layer have a colour; writes `names-1.png` and so on, the names
drawn with the patches of their channels and nothing else, and `names.csv`, what they are.
"""

from __future__ import annotations

import argparse
import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

LAYERS = ["Conv1_relu", "block_6_expand_relu", "block_13_expand_relu", "out_relu"]
KINDS = {  # ranges of ImageNet's classes, ends included; all others are objects
    "fish": "0-6 389-397",
    "bird": "7-24 80-100 127-146",
    "frog or salamander": "25-32",
    "turtle": "33-37",
    "lizard or crocodile": "38-50",
    "snake": "52-68",
    "spider": "70 72-77",
    "crab or lobster": "118-125",
    "dog": "151-268",
    "wolf or fox": "269-280",
    "cat": "281-293",
    "bear": "294-297",
    "insect": "300-326",
    "rabbit or rodent": "330-338",
    "hoofed animal": "339-355",
    "monkey or ape": "365-384",
    "elephant": "385-386",
    "car, bus or truck": "407 408 436 468 511 555 569 609 627 654 656 661 675 717 734 751 757 779 817 864 867 874",
    "boat or ship": "403 472 484 510 554 576 625 628 724 780 814 833 871 914",
    "aircraft": "404 405 417 812 895",
    "musical instrument": "401 402 420 432 486 513 541 546 558 566 579 593 594 642 683 684 687 699 776 822 875 881 889",
    "building or bridge": "425 437 449 483 497 580 663 668 698 718 727 743 821 832 839 888",
    "food": "923-969",
    "landscape": "970-980",
    "mushroom": "991-997",
}
SIDE, PATCHES, ROWS, TEXT = 88, 9, 13, 170  # pixels of a patch; patches of a channel; channels of a column; pixels of its name


def sort_photographs(photos: Path, folder: Path) -> None:
    """Copy every photograph into the folder of its kind."""
    kind_of: dict[int, str] = {}
    for kind, ranges in KINDS.items():
        for part in ranges.split():
            first, _, last = part.partition("-")
            kind_of |= dict.fromkeys(range(int(first), int(last or first) + 1), kind)
    for path in sorted(photos.glob("*.jpg")):
        target = folder / kind_of.get(int(path.name.split("_")[0]), "object")
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)


def name_channels(weights: Path, folder: Path) -> Path:
    """Run the job over the sorted photographs; one that is done is not run again. Returns: its folder."""
    from pipeline import run
    from pipeline.load import parse_spec

    spec: dict[str, Any] = {
        "name": "named",
        "stages": ["activations", "concepts"],
        "model": {"source": "keras:MobileNetV2", "weights": str(weights), "layers": LAYERS},
        "data": {"source": f"folder:{folder / 'photographs'}", "batch": 32},
        "concepts": {"masks": {"source": "colours"}},
    }
    return Path(str(run(parse_spec(spec), folder)))


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
    for name in ("photos", "weights", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--draw", type=int, default=50)
    parser.add_argument("--seed", type=int, default=21)
    options = parser.parse_args()
    if not (options.out / "photographs").exists():
        sort_photographs(options.photos, options.out / "photographs")
    job = name_channels(options.weights, options.out)
    concepts = pd.read_parquet(job / "index" / "concepts.parquet")
    first = concepts[concepts["rank"] == 0]
    rules = {
        "a chance of 0.05 for each channel": first["chance"] <= 0.05,
        "a false discovery rate of 0.05": first["false_discovery"] <= 0.05,
        "that, and fitting: named": first["named"],
    }
    print(f"{len(pd.read_parquet(job / 'index' / 'channels.parquet')):,} channels\n\n| rule | channels |\n|---|---|")
    for rule, rows in rules.items():
        print(f"| {rule} | {len(first[rows].drop_duplicates(['layer', 'channel']))} |")
    reader = JobReader(job)
    names = pd.DataFrame([row for layer in LAYERS for row in reader.names(layer).values()])
    print(names.groupby(["layer", "concept"]).size().to_string())
    colours = first[(first["layer"] == "Conv1_relu") & (first["source"] == "masks")].set_index("channel")["value"]
    print("iou of the first layer:", np.sort(colours.to_numpy())[::-1].round(3)[:10])
    drawn = names.sample(min(options.draw, len(names)), random_state=options.seed).reset_index(drop=True)
    drawn.to_csv(options.out / "names.csv")
    crops = {layer: pd.read_parquet(job / "crops" / f"{file_name(layer)}.parquet") for layer in drawn["layer"].unique()}
    for page, start in enumerate(range(0, len(drawn), 2 * ROWS), start=1):
        sheet(drawn[start : start + 2 * ROWS], crops).save(options.out / f"names-{page}.png")


if __name__ == "__main__":
    main()
