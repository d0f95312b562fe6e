"""What concepts from masks cost beside the scan: CPU seconds for each further image, so that what is done once does not count.

    python -m bench.masks PHOTOS WEIGHTS OUT [--masks DIR] [--layers Conv1_relu out_relu] [--images 96 384]

WEIGHTS is a file of MobileNetV2's weights for Keras. Without --masks, a folder of masks with names.txt as bench.edges leaves it,
the masks are the colours of the pixels. A job is run over the first so many photographs, and one over more of them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.progress import Advance, Reporter

_LAYERS = ("Conv1_relu", "block_6_expand_relu", "block_13_expand_relu", "out_relu")


class CpuSeconds(Reporter):
    """Keeps the CPU seconds of each step of a job, by its title: those of all threads of this process."""

    def __init__(self) -> None:
        super().__init__("masks")
        self.steps: dict[str, float] = {}

    @contextmanager
    def step(self, title: str, unit: str) -> Iterator[Advance]:
        began = time.process_time()
        with super().step(title, unit) as advance:
            yield advance
        self.steps[title] = time.process_time() - began


def main() -> None:
    """Run both jobs and print a line for each step that looks at images."""
    from pipeline import run
    from pipeline.load import parse_spec
    from pipeline.options import RunOptions

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("photos", "weights", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--masks", type=Path)
    parser.add_argument("--layers", nargs="+", default=list(_LAYERS))
    parser.add_argument("--images", type=int, nargs=2, default=[96, 384])
    options = parser.parse_args()
    own = options.masks
    masks = {"source": "colours"} if own is None else {"source": str(own), "names": str(own / "names.txt")}
    spent = []
    for images in options.images:
        spec: dict[str, Any] = {
            "name": f"masks-{images}",
            "stages": ["activations", "concepts"],
            "model": {"source": "keras:MobileNetV2", "weights": str(options.weights), "layers": options.layers},
            "data": {"source": f"folder:{options.photos}", "limit": images, "batch": 32},
            "concepts": {"labels": False, "masks": masks},
        }
        reporter = CpuSeconds()
        run(parse_spec(spec), options.out, reporter=reporter, options=RunOptions(anew=True))
        spent.append(reporter.steps)
    first, second = spent
    more = options.images[1] - options.images[0]
    each = {title: 1000 * (second[title] - first[title]) / more for title in ("scan", "masks")}
    print("| step | CPU, ms an image | of the scan's |\n|---|---|---|")
    for title, cost in each.items():
        print(f"| {title} | {cost:.1f} | {cost / each['scan']:.2f} |")


if __name__ == "__main__":
    main()
