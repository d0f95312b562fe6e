"""The methods of attribution ranked for MobileNetV2 on a folder of photographs, as a table in Markdown for the documents.

    python -m bench.methods PHOTOGRAPHS WEIGHTS [--count N] [--methods NAME …] [--objects PATH] [--out DIR]

Runs the stage `gradcam` with `sanity = "metrics"` over as many photographs, spread evenly over the folder, and prints mean and
standard deviation of each metric by method, the most trustworthy first, the verdict, and how far maps miss their scores.
Methods run a few at a time, each group as a job of its own below DIR; a group that DIR has finished is not run again, so that
the program can be stopped and started. `channels = 64` for Score-CAM and Ablation-CAM; all else is as the spec has it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

if TYPE_CHECKING:
    import pandas as pd

GROUPS = (
    ("gradcam", "hirescam", "gradcam++", "xgradcam", "layercam", "eigencam"),
    ("gradient", "input_x_gradient", "guided_backprop", "deconvnet", "guided_gradcam"),
    ("lrp_epsilon", "lrp_zplus", "lrp_epsilon_plus_flat", "lrp_epsilon_gamma_box"),
    ("occlusion", "expected_gradients", "smoothgrad"),
    ("integrated_gradients",),
    ("ablationcam", "scorecam"),
    ("lime",),
    ("kernelshap",),
    ("squaregrad", "vargrad"),
    ("rise",),
)


def table(metrics: pd.DataFrame) -> Iterable[str]:
    """The lines of the table of index/metrics.parquet, the most trustworthy method first, and the verdict."""
    from pipeline.attribution.sanity.metrics import verdict

    # pandas makes NaN of no layer and of the number that a file does not have, and one NaN is not the other
    metrics = metrics.astype({"layer": object, "example": object}).where(metrics.notna(), None)
    *ranked, words = verdict({str(name): list(values) for name, values in metrics.items()})
    names = list(dict.fromkeys(metrics["metric"]))
    yield f"| method | mean rank | {' | '.join(f'`{name}`' for name in names)} |"
    yield f"|---|{'---|' * (len(names) + 1)}"
    for line in ranked:
        method, (mean_rank, _, _) = line.partition(" at ")[0].partition(":")[0], line.partition("mean rank ")[2].partition(";")
        own = metrics[metrics["method"] == method].groupby("metric")["value"]
        means, deviations = own.mean(), own.std(ddof=0)
        cells = [f"{means[name]:.2f} ± {deviations[name]:.2f}" for name in names if name in means]
        yield f"| `{method}` | {mean_rank} | {' | '.join(cells)} |"
    yield from ("", f"> {words}")


def gaps(attributions: pd.DataFrame) -> Iterable[str]:
    """The share of a score for which maps do not account, median and worst, by method."""
    known = attributions.dropna(subset=["gap"])
    for method, own in known.groupby("method")["gap"]:
        yield f"{method:<24}gap: median {own.median():.2%}, worst {own.max():.2%}, above 1%: {(own > 0.01).sum()} of {len(own)}"


def _run(options: argparse.Namespace, out: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Run what is not finished. Returns: metrics and attributions of all methods."""
    import pandas as pd

    from pipeline.load import parse_spec
    from pipeline.run import run

    files = sorted(path for path in options.photographs.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    chosen = [str(files[len(files) * number // options.count].resolve()) for number in range(options.count)]
    groups = [tuple(name for name in group if name in options.methods) for group in GROUPS]
    tables: dict[str, list[pd.DataFrame]] = {"metrics": [], "attributions": []}
    for group in filter(None, groups):
        tree: dict[str, Any] = {
            "name": group[0],
            "stages": ["gradcam"],
            "model": {"source": "keras:MobileNetV2", "weights": str(options.weights.resolve()), "layers": ["out_relu"]},
            "data": {"source": f"folder:{options.photographs.resolve()}"},
            "gradcam": {
                "files": chosen,
                "methods": list(group),
                "sanity": ["metrics"],
                "pictures": 0,
                "batch": 4,
                "channels": 64,
                "arrays": True,
                **({"objects": {"source": str(options.objects.resolve())}} if options.objects else {}),
            },
        }
        folder = out / group[0]
        if not _finished(folder):
            run(parse_spec(tree), str(out))
        for name, parts in tables.items():
            parts.append(pd.read_parquet(folder / "index" / f"{name}.parquet"))
    metrics = pd.concat(tables["metrics"])
    explained = {frozenset(zip(own["key"], own["target"], strict=True)) for _, own in metrics.groupby("method")}
    if len(explained) > 1:  # methods are compared over what they have in common
        raise SystemExit(f"The jobs in {out} explain different images or targets. Remove those of other settings, and run again.")
    return metrics, pd.concat(tables["attributions"])


def _finished(folder: Path) -> bool:
    with contextlib.suppress(OSError, ValueError, KeyError):
        return "trust" in json.loads((folder / "run.json").read_text())["stages"]["gradcam"]
    return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photographs", type=Path, help="a folder")
    parser.add_argument("weights", type=Path, help="of MobileNetV2")
    parser.add_argument("--count", type=int, default=4, help="of photographs (default: %(default)s)")
    every = [name for group in GROUPS for name in group]
    parser.add_argument("--methods", nargs="+", default=every, choices=every, metavar="NAME", help="as in gradcam.methods")
    parser.add_argument("--objects", type=Path, help="as in gradcam.objects: boxes or masks of the photographs")
    parser.add_argument("--out", type=Path, help="where the jobs are kept; absent: nowhere")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        out = options.out or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        metrics, attributions = _run(options, out)
    for line in (*table(metrics), "", *gaps(attributions)):
        print(line)


if __name__ == "__main__":
    main()
