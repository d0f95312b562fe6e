"""Whether winners agree with expanded weights, by how many activations lie between two layers of MobileNetV2.

    python -m bench.circuits PHOTOS WEIGHTS OUT

WEIGHTS is a file of MobileNetV2's weights for Keras. Prints the median rank correlation of a channel's weights and of what the
earlier channels add to its winners, for each stretch between neighbouring layers of the job; one that is done is not run again.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pandas as pd

LAYERS = ["Conv1_relu", "block_1_project_BN", "block_2_add", "block_6_expand_relu", "block_13_expand_relu", "block_13_project_BN"]


def main() -> None:
    """Run the job and print the table."""
    from pipeline import run
    from pipeline.load import parse_spec

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("photos", "weights", "out"):
        parser.add_argument(name, type=Path)
    options = parser.parse_args()
    spec: dict[str, Any] = {
        "name": "circuits",
        "stages": ["activations", "circuits"],
        "model": {"source": "keras:MobileNetV2", "weights": str(options.weights), "layers": [*LAYERS, "out_relu"]},
        "data": {"source": f"folder:{options.photos}", "batch": 32},
    }
    rows = pd.read_parquet(str(run(parse_spec(spec), options.out) / "index" / "stretches.parquet")).to_dict("records")
    print("| from | to | activations between | rank correlation |\n|---|---|---|---|")
    for row in rows:
        between = sum(int(part.split()[0]) for part in row["passed"])
        print(f"| `{row['other_layer']}` | `{row['layer']}` | {between} | {row['agreement']:.2f} |")


if __name__ == "__main__":
    main()
