"""Whole stages beside the network's passes that they make: gradcam, featuremaps, filters, patterns.

    python -m bench.stages [STAGE ...] [--model NAME] [--weights FILE] [--data SOURCE] [--images N] [--maps N]

One job runs the stages one after the other, in a process of its own. A stage's seconds are those of run.json: opening,
tracing, passes, pictures and tables. Its passes are all calls of compiled graphs, from whatever thread; what is counted is
the time in which at least one of them is at work, and, for `first`, the longest single call, which also plans the graph.
A ratio of 1.5 says that all that a stage does beside the network takes half of the network's own time. CPU seconds are
those of all threads of the process while the stage runs. The stage filters makes next to no passes: its seconds stand alone.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

STAGES = ("gradcam", "featuremaps", "filters", "patterns")
SPEC = """
name = "stages"
stages = [{stages}]
[model]
source = "{model}"
weights = "{weights}"
layers = ["block_3_expand_relu", "out_relu"]
[data]
source = "{data}"
limit = {images}
[gradcam]
first = {images}
[featuremaps]
first = {maps}
[patterns]
channels = [0, 1, 2, 3, 4, 5, 6, 7]
"""


@dataclass
class Passes:
    """The calls of compiled graphs: the time in which at least one is at work, and the longest of them, in seconds."""

    busy: float = 0.0
    longest: float = 0.0
    _at_work: int = 0
    _since: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, whose calls are counted."""

        def call(*arguments: Any, **named: Any) -> Any:
            began = time.monotonic()
            with self._lock:
                self._since = self._since if self._at_work else began
                self._at_work += 1
            try:
                return function(*arguments, **named)
            finally:
                ended = time.monotonic()
                with self._lock:
                    self._at_work -= 1
                    self.busy += 0.0 if self._at_work else ended - self._since
                    self.longest = max(self.longest, ended - began)

        return call


def measure(spec: str, stages: list[str]) -> None:
    """Run the stages of a spec and print a row for each."""
    from pipeline.run import start_tensorflow

    start_tensorflow()
    import tensorflow as tf

    from pipeline import load_spec, run
    from pipeline.progress import Reporter
    from pipeline.receipt import read_receipt

    passes = Passes()
    # Every compiled pass ends in a call of a concrete function or of a session.
    concrete = type(tf.function(lambda: tf.constant(0)).get_concrete_function())
    concrete.__call__ = passes.counted(concrete.__call__)
    make_callable = tf.compat.v1.Session.make_callable

    def counted(session: Any, *arguments: Any, **named: Any) -> Callable[..., Any]:
        return passes.counted(make_callable(session, *arguments, **named))

    tf.compat.v1.Session.make_callable = counted
    quiet = Reporter("stages", io.StringIO())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "stages.toml"
        path.write_text(spec, encoding="utf-8")
        print(f"{'stage':<14}{'seconds':>9}{'passes':>9}{'first':>8}{'ratio':>8}{'CPU':>8}")
        for stage in stages:
            passes.busy = passes.longest = 0.0
            cpu = time.process_time()
            out = run(load_spec(path), folder, [stage], quiet)
            cpu = time.process_time() - cpu
            seconds = read_receipt(out).stages[stage].seconds
            ratio = f"{seconds / passes.busy:.2f}" if passes.busy > 0.05 * seconds else "-"
            print(f"{stage:<14}{seconds:>9.1f}{passes.busy:>9.1f}{passes.longest:>8.1f}{ratio:>8}{cpu:>8.1f}", flush=True)


def main() -> None:
    """Run the stages named and print their table."""
    real, shared = (os.environ.get(f"CONVSCOPE_{name}") for name in ("REAL", "SHARED"))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=f"of {', '.join(STAGES)}; absent: all")
    parser.add_argument("--model", default="keras:MobileNetV2", help="the network, of which two layers are looked at")
    parser.add_argument("--weights", default=f"{real}/mobilenet_v2.h5" if real else "none")
    parser.add_argument("--data", default=f"folder:{shared}/photos" if shared else None, help="the source of the images")
    parser.add_argument("--images", type=int, default=50, help="that gradcam explains (default: %(default)s)")
    parser.add_argument("--maps", type=int, default=4, help="images of which featuremaps draws the maps (default: %(default)s)")
    options = parser.parse_args()
    if options.data is None:
        sys.exit("Set CONVSCOPE_SHARED, or name --data.")
    stages = options.stages or list(STAGES)
    named = ", ".join(f'"{stage}"' for stage in stages)
    measure(
        SPEC.format(stages=named, **{key: getattr(options, key) for key in ("model", "weights", "data", "images", "maps")}),
        stages,
    )


if __name__ == "__main__":
    main()
