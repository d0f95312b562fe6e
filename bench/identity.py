"""Three whole jobs, and a digest of every index table they leave: shows that a change to the code changed no result.

    python -m bench.identity --save before.json       # on the commit before
    python -m bench.identity --against before.json    # on the commit after: exits 1 where a table differs

The jobs: the demo; MobileNetV2 over 60 photographs, every stage; FaceNet as a frozen graph over 60 faces. The last two
need CONVSCOPE_REAL and CONVSCOPE_SHARED and are left out, by name, where those are not set.

What may differ without a change of results, and is not compared: run.json (versions, times), pictures and the page.
Of Parquet files the rows are compared, value for value, not the bytes: the bytes also hold the writer's version.
`--bytes` compares the bytes as well.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow.parquet as pq

MOBILENET = """
name = "mobilenet_v2"
stages = ["activations", "filters", "featuremaps", "gradcam", "patterns", "dream", "report"]
[model]
source = "keras:MobileNetV2"
weights = "{real}/mobilenet_v2.h5"
layers = ["Conv1_relu", "block_3_expand_relu", "block_13_expand_relu"]
labels = "{folder}/labels.txt"
[data]
source = "folder:{shared}/photos"
limit = 60
batch = 16
[activations]
channels = [0, 1, 2, 3, 4, 5, 6, 7]
[gradcam]
methods = ["gradcam", "hirescam", "gradcam++", "gradient", "guided_backprop", "guided_gradcam"]
first = 2
[patterns]
layers = ["block_3_expand_relu"]
channels = [0, 1]
steps = 16
[dream]
layers = ["block_13_expand_relu"]
first = 1
num_octave = 2
iterations = 4
"""

FACENET = """
name = "facenet"
stages = ["activations", "filters", "featuremaps"]
[model]
source = "frozen:{real}/facenet.pb"
layers = ["InceptionResnetV1_1/Conv2d_2b_3x3_1/convolution", "InceptionResnetV1_1/add_1/Add"]
preprocess = "standardize"
[data]
source = "folder:{shared}/lfw"
limit = 60
batch = 16
[activations]
top_k = 5
channels = [0, 1, 2, 3, 4, 5, 6, 7]
crop = "effective"
"""


def run_jobs(out: Path) -> list[str]:
    """Run the jobs whose inputs are there; returns their names."""
    _convscope("run", "demo", "--out", str(out))
    names = ["demo"]
    real, shared = os.environ.get("CONVSCOPE_REAL"), os.environ.get("CONVSCOPE_SHARED")
    if not (real and shared):
        print("left out: mobilenet_v2 and facenet (set CONVSCOPE_REAL and CONVSCOPE_SHARED)")
        return names
    (out / "labels.txt").write_text("".join(f"class {number}\n" for number in range(1000)), encoding="utf-8")
    for name, spec in (("mobilenet_v2", MOBILENET), ("facenet", FACENET)):
        path = out / f"{name}.toml"
        path.write_text(spec.format(real=real, shared=shared, folder=out), encoding="utf-8")
        _convscope("run", str(path), "--out", str(out))
        names.append(name)
    return names


def digests(out: Path, names: list[str]) -> dict[str, dict[str, str]]:
    """For each table: a digest of its rows and one of its bytes."""
    tables = {}
    for name in names:
        for path in sorted((out / name).rglob("*.parquet")):
            rows = pq.read_table(path)
            digest = hashlib.sha256(repr([rows.schema.names, rows.to_pylist()]).encode()).hexdigest()
            tables[str(path.relative_to(out))] = {"rows": digest, "bytes": hashlib.sha256(path.read_bytes()).hexdigest()}
    return tables


def _convscope(*arguments: str) -> None:
    print("convscope", *arguments, flush=True)
    subprocess.run([sys.executable, "-m", "jobs", *arguments], check=True, stdout=subprocess.DEVNULL)


def main() -> int:
    """Print a line a table. Returns: 1 where one differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--save", type=Path, help="write the digests to this JSON file")
    parser.add_argument("--against", type=Path, help="compare with the digests in this JSON file")
    parser.add_argument("--bytes", action="store_true", help="compare the files' bytes, not their rows alone")
    parser.add_argument("--out", type=Path, help="keep the jobs' results in this folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out = (options.out or Path(folder)).resolve()
        out.mkdir(parents=True, exist_ok=True)
        tables = digests(out, run_jobs(out))
    if options.save:
        options.save.write_text(json.dumps(tables, indent=1) + "\n", encoding="utf-8")
    if not options.against:
        print(f"{len(tables)} tables")
        return 0
    before, kind = json.loads(options.against.read_text(encoding="utf-8")), "bytes" if options.bytes else "rows"
    different = [name for name in sorted({*before, *tables}) if before.get(name, {}).get(kind) != tables.get(name, {}).get(kind)]
    for name in sorted({*before, *tables}):
        print(f"{'differs  ' if name in different else 'identical'}  {name}")
    print(f"{len(tables) - len(different)} of {len(tables)} tables have identical {kind}")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
