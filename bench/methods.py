"""The methods of attribution ranked for MobileNetV2 on a folder of photographs, as a table in Markdown for the documents.

    python -m bench.methods PHOTOGRAPHS WEIGHTS [--count N] [--methods NAME …]

Runs the stage `gradcam` with `sanity = "metrics"` over as many photographs, spread evenly over the folder, and prints mean and
standard deviation of each metric by method, in the order of `run.json`, and its verdict.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

METHODS = (
    *("gradcam", "hirescam", "gradcam++", "xgradcam", "layercam", "eigencam", "gradient", "input_x_gradient", "guided_backprop"),
    *("integrated_gradients", "occlusion", "lime", "lrp_zplus", "lrp_epsilon_plus_flat", "lrp_epsilon_gamma_box"),
)


def table(folder: Path) -> Iterable[str]:
    """The lines of the table of a finished job, the most trustworthy method first, and the verdict."""
    import pandas as pd

    metrics = pd.read_parquet(folder / "index" / "metrics.parquet")
    *ranked, verdict = json.loads((folder / "run.json").read_text())["stages"]["gradcam"]["trust"]
    names = list(dict.fromkeys(metrics["metric"]))
    yield f"| method | mean rank | {' | '.join(f'`{name}`' for name in names)} |"
    yield f"|---|{'---|' * (len(names) + 1)}"
    for line in ranked:
        key, _, rest = line.partition(": mean rank ")
        own = metrics[metrics["method"] == key.partition(" at ")[0]].groupby("metric")["value"]
        cells = [f"{mean:.2f} ± {deviation:.2f}" for mean, deviation in ((own.mean()[n], own.std(ddof=0)[n]) for n in names)]
        yield f"| `{key.partition(' at ')[0]}` | {rest.partition(';')[0]} | {' | '.join(cells)} |"
    yield from ("", f"> {verdict}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photographs", type=Path, help="a folder")
    parser.add_argument("weights", type=Path, help="of MobileNetV2")
    parser.add_argument("--count", type=int, default=4, help="of photographs (default: %(default)s)")
    parser.add_argument("--methods", nargs="+", default=METHODS, metavar="NAME", help="as in gradcam.methods")
    options = parser.parse_args()
    from pipeline.load import parse_spec
    from pipeline.run import run

    files = sorted(path for path in options.photographs.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    chosen = [str(files[len(files) * number // options.count].resolve()) for number in range(options.count)]
    tree = {
        "name": "methods",
        "stages": ["gradcam"],
        "model": {"source": "keras:MobileNetV2", "weights": str(options.weights.resolve()), "layers": ["out_relu"]},
        "data": {"source": f"folder:{options.photographs.resolve()}"},
        "gradcam": {"files": chosen, "methods": list(options.methods), "sanity": ["metrics"], "pictures": 0, "batch": 4},
    }
    with tempfile.TemporaryDirectory() as out:
        for line in table(Path(str(run(parse_spec(tree), out)))):
            print(line)


if __name__ == "__main__":
    main()
