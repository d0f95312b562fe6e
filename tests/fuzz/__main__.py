"""`python tests/fuzz`: break inputs of every door for so many seconds or cases, and print what fails."""

from __future__ import annotations

import argparse
import hashlib
import itertools
import math
import os
import pickle
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

# This tree is what runs; and tests/recfield, once tests/ is on the path, would stand for a recfield that is installed editable.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from doors import DOORS
from runner import CORPUS, Case, Runner, Verdict, bound_memory, known_cases, prepare, random_cases


def main() -> int:
    """Returns: 1 where a case failed."""
    options = _options()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fuzz-") as scratch:
        shop = prepare(Path(scratch), not {"frozen", "savedmodel", "checkpoint", "onnx"}.isdisjoint(options.doors))
        until = time.monotonic() + options.seconds if options.seconds else math.inf
        outcomes = []
        cases: Iterator[Case]
        for worker in range(options.workers):
            known = itertools.islice(
                known_cases(shop, options.doors), worker, None if options.every else 0, (options.every or 1) * options.workers
            )
            if options.case is not None:
                cases = itertools.islice(random_cases(shop, options.doors, options.seed, options.case, 1), 1)
            else:
                count = None if options.cases is None else math.ceil(options.cases / options.workers)
                broken = random_cases(shop, options.doors, options.seed, worker, options.workers)
                cases = itertools.chain(known, itertools.islice(broken, count))
            outcomes.append(_start(Runner(shop, Path(scratch) / f"worker{worker}"), cases, until, Path(scratch) / f"{worker}"))
        verdicts: list[Verdict] = []
        for child, path in outcomes:
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            if status:
                raise RuntimeError(f"a worker of the fuzzer itself failed: it ended with {status}")
            with open(path, "rb") as file:
                while True:
                    try:
                        verdicts.append(pickle.load(file))
                    except EOFError:
                        break
    failures = [verdict for verdict in verdicts if verdict.failure]
    _print(verdicts, failures, time.monotonic() - began)
    if options.keep:
        _keep(failures, Path(options.keep))
    return 1 if failures or not verdicts else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python tests/fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, help="stop after so long")
    parser.add_argument("--cases", type=int, help="stop after so many random cases")
    parser.add_argument("--case", type=int, help="run the random case of this number alone")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--doors", nargs="+", choices=DOORS, default=list(DOORS), metavar="DOOR")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only every N-th known case; 0: none of them")
    parser.add_argument("--keep", metavar="DIR", help=f"write one input of each failure to DIR/DOOR, such as {CORPUS.name}")
    options = parser.parse_args()
    if options.seconds is None and options.cases is None and options.case is None:
        options.cases = 0
    return options


def _start(runner: Runner, cases: Iterator[Case], until: float, path: Path) -> tuple[int, Path]:
    """A worker: a child that forks the children of its cases."""
    child = os.fork()
    if not child:
        status = 1
        try:
            bound_memory()
            with open(path, "wb") as file:
                for verdict in runner.verdicts(cases, until):
                    pickle.dump(verdict, file)
                    file.flush()
                    if verdict.failure:
                        print(f"FAILED {verdict.case.door}, {verdict.case.name}", file=sys.stderr, flush=True)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return child, path


def _print(verdicts: list[Verdict], failures: list[Verdict], seconds: float) -> None:
    of_kind: dict[str, list[Verdict]] = {}
    for verdict in failures:
        of_kind.setdefault(verdict.signature, []).append(verdict)
    for same in sorted(of_kind.values(), key=len):
        names = ", ".join(f"{verdict.case.door}, {verdict.case.name}" for verdict in same[:3])
        print(f"--- {len(same)} times: {names}\n{same[0].failure}\n")
    count = Counter(verdict.case.door for verdict in verdicts)
    failed = Counter(verdict.case.door for verdict in failures)
    for door in count:
        seconds_of = [verdict.seconds for verdict in verdicts if verdict.case.door == door]
        times = f"{sum(seconds_of):.1f} s in all, {max(seconds_of):.1f} s the slowest"
        print(f"{door:12} {count[door]:7,} cases {failed[door]:5} failed, {times}")
    print(f"{len(verdicts):,} cases in {seconds:.0f} s; {len(failures)} failed, for {len(of_kind)} reasons")


def _keep(failures: list[Verdict], folder: Path) -> None:
    signatures = set()
    for verdict in failures:
        if verdict.signature not in signatures:
            signatures.add(verdict.signature)
            path = folder / verdict.case.door / hashlib.sha256(verdict.case.data).hexdigest()[:10]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(verdict.case.data)


if __name__ == "__main__":
    sys.exit(main())
