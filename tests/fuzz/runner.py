"""Runner: cases in forked children of a process that has imported TensorFlow and not started it, and what is a failure."""

from __future__ import annotations

import json
import os
import re
import resource
import select
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from door import READ
from doors import DOORS
from kinds import KINDS
from mutation import mutate_bytes
from workshop import Workshop

from jobs.terminal import is_left_out

CORPUS = Path(__file__).parent / "corpus"
HANG = 10.0  # seconds that a command may take, on a machine that has a processor for it
LONGEST = 500  # characters of a line
MEMORY = 3 * 2**30  # bytes that a child may come to hold
_IN_A_CHILD = 40  # cases, after which a new child is forked
_STATUSES = (0, 1, 2, 3, 75)
# What convscope writes on the standard error: its log, one line for an error, and argparse's usage.
_OWN = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d |[A-Z][A-Za-z]+: |usage: |convscope[ a-z]*: error: | +\[?-|$")


@dataclass(frozen=True)
class Case:
    """One input for a door; `name` tells where it came from."""

    door: str
    name: str
    data: bytes


@dataclass(frozen=True)
class Verdict:
    """What became of a case: `failure` is None where every command answered as it should."""

    case: Case
    failure: str | None
    seconds: float

    @property
    def signature(self) -> str:
        """What failures of the same cause share: where Python raised, or what was judged."""
        lines = (self.failure or "").splitlines()
        frames = [line.strip() for line in lines if line.startswith("  File ") and "/fuzz/" not in line]
        return f"{frames[-1] if frames else ''} {re.sub(r'[0-9]+', '#', lines[-1][:60])}" if lines else ""


def corpus(door: str) -> list[tuple[str, bytes]]:
    """What earlier runs found, by file name."""
    return [(path.name, path.read_bytes()) for path in sorted((CORPUS / door).glob("*")) if path.is_file()]


def known_cases(shop: Workshop, doors: Sequence[str]) -> Iterator[Case]:
    """The whole inputs, the kinds of broken ones that are known, and the corpus."""
    for door in doors:
        for number, data in enumerate(DOORS[door].seeds(shop)):
            yield Case(door, f"whole {number}", data)
        for name, make in KINDS.get(door, {}).items():
            yield Case(door, name, make(shop))
        for name, data in corpus(door):
            yield Case(door, f"corpus/{door}/{name}", data)


def random_cases(shop: Workshop, doors: Sequence[str], seed: int, first: int, step: int) -> Iterator[Case]:
    """Broken inputs without end; the case of a number is the same for the same seed and corpus."""
    turns = [door for door in doors for _ in range(DOORS[door].share)]
    Random(0).shuffle(turns)
    whole = {door: DOORS[door].seeds(shop) for door in doors}
    broken = {door: [data for _, data in corpus(door)] for door in doors}
    number = first
    while True:
        door, random = turns[number % len(turns)], Random(f"{seed}/{number}")
        if broken[door] and random.random() < 0.2:  # as bytes alone: their own libraries may not end over them
            data = mutate_bytes(random, random.choice(broken[door]))
        else:
            data = DOORS[door].mutate(random, random.choice(whole[door]))
        yield Case(door, f"seed {seed}, case {number}", data)
        number += step


class Runner:
    """Runs cases in children, several to a child where the door allows it.

    Args:
        scratch: a folder of its own.
    """

    def __init__(self, shop: Workshop, scratch: Path) -> None:
        self._shop, self._scratch = shop, scratch

    def verdicts(self, cases: Iterator[Case], until: float) -> Iterator[Verdict]:
        """The verdicts of cases, in any order, up to a time of the monotonic clock."""
        batch: list[Case] = []
        for case in cases:
            if time.monotonic() >= until:
                break
            if DOORS[case.door].alone:
                yield from self._of([case])
                continue
            batch.append(case)
            if len(batch) == _IN_A_CHILD:
                yield from self._of(batch)
                batch = []
        yield from self._of(batch)

    def _of(self, cases: list[Case]) -> Iterator[Verdict]:
        while cases:
            done = list(self._in_one_child(cases))
            yield from done
            cases = cases[len(done) :]

    def _in_one_child(self, cases: list[Case]) -> Iterator[Verdict]:
        """The verdicts of the cases that one child came to, at least one of them."""
        read, write = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        child = os.fork()
        if not child:
            os.close(read)
            os.setsid()  # whatever it starts is killed with it
            try:
                _work(self._shop, self._scratch, cases, write)
            finally:
                os._exit(0)
        os.close(write)
        number, began, pending, end = 0, time.monotonic(), b"", ""
        patience = _Patience(child)
        with open(read, "rb", buffering=0) as lines:
            while number < len(cases):
                ready = select.select([lines], [], [], 0.5)[0]
                if not ready and not patience.ends():
                    continue
                block = lines.read(65536) if ready else b""
                if not block:
                    end = "" if ready else f"no answer within {HANG:g} seconds"
                    break
                patience = _Patience(child)
                pending += block
                *whole, pending = pending.split(b"\n")
                for line in whole:
                    news = json.loads(line)
                    if "failure" in news:
                        yield Verdict(cases[number], news["failure"], time.monotonic() - began)
                        number, began = number + 1, time.monotonic()
        if number < len(cases):
            with_stack = _stack(child) if end else ""
            os.killpg(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if number < len(cases):
            how = f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"exit {os.WEXITSTATUS(status)}"
            yield Verdict(cases[number], f"{end}{with_stack}" or f"the process died: {how}", time.monotonic() - began)


class _Patience:
    """How long a child has not answered, without the time for which it and what it started stood in line for a processor."""

    def __init__(self, session: int) -> None:
        self._session, self._began = session, time.monotonic()
        self._waits: dict[str, float] = {}
        self._before = self._in_line()

    def ends(self) -> bool:
        return time.monotonic() - self._began - (self._in_line() - self._before) > HANG

    def _in_line(self) -> float:
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError, IndexError):  # it has ended, or the system does not say
                if os.getsid(int(process.name)) == self._session:
                    self._waits[process.name] = int((process / "schedstat").read_text().split()[1]) / 1e9
        return sum(self._waits.values())


def _stack(child: int) -> str:
    """Where a child that does not answer stands, as far as the system says."""
    try:
        return f" ({Path(f'/proc/{child}/wchan').read_text()})"
    except OSError:
        return ""


def _work(shop: Workshop, scratch: Path, cases: list[Case], pipe: int) -> None:
    """In a child: the cases in turn, a line of JSON at each command's start and each case's end."""
    bound_memory()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for number, case in enumerate(cases):
        folder = scratch / f"{os.getpid()}-{number}"
        folder.mkdir(parents=True)
        try:
            failure = None
            for words in DOORS[case.door].open(shop, folder, case.data):
                os.write(pipe, b'{"command": true}\n')
                failure = judge(words, folder / "said")
                if failure:
                    break
        except BaseException:
            failure = traceback.format_exc()
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        os.write(pipe, json.dumps({"failure": failure}).encode() + b"\n")


def judge(words: list[str], said: Path) -> str | None:
    """Run a command in this process. Returns: what is wrong with how it answered; None where nothing is."""
    raised = ""
    with open(said, "wb") as out:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        os.dup2(out.fileno(), 2)
        try:
            status = _read_all(words[1]) if words[0] == READ else _main(words)
        except BaseException:
            raised, status = traceback.format_exc(), -1
        sys.stderr.flush()
    text = said.read_bytes().decode("utf-8", "backslashreplace")
    if raised:
        return f"{' '.join(words)[:300]}\n{raised[-6000:]}"
    if "Traceback (most recent call last)" in text:
        return f"a traceback was printed\n{text[-6000:]}"
    for line in text.split("\n"):
        if len(line) > LONGEST:
            return f"{words[0]}: a message of {len(line)} characters: {line[:700]}"
        if not _OWN.match(line) and not is_left_out(line.encode()):
            return f"{words[0]}: somebody else's line: {line}"
    if status not in _STATUSES:
        return f"{words[0]}: exit status {status}"
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return f"{words[0]}: {held:,} bytes of memory" if held > MEMORY else None


def _main(words: list[str]) -> int:
    from jobs.cli import main

    try:
        return main(words)
    except SystemExit as stop:  # argparse's way
        return int(stop.code or 0)


def _read_all(spec: str) -> int:
    """Read every example of a spec's data: as the scan does, and as the pictures of winners do."""
    from pipeline import load_spec
    from pipeline.errors import ConvscopeError
    from pipeline.sources.fit import Fit
    from pipeline.sources.registry import open_source
    from pipeline.sources.source import Shard, drawn

    try:
        source = open_source(load_spec(spec).data, Fit(16, 16))
        errors = [element["error"] for element in drawn(source.stream(Shard(0, 1)).take(200).as_numpy_iterator())]
        for example in [number for number, error in enumerate(errors) if not error][:20]:
            for _ in source.fetch([example]):
                pass
    except ConvscopeError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    for reason in errors:
        if len(reason) > LONGEST:
            return 256
    return 0


def bound_memory() -> None:
    """Let this process take 10 GiB more, and those that it forks; a fuzzer that grows is to say where."""
    with open("/proc/self/statm", encoding="ascii") as file:
        taken = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    limit = taken + 10 * 2**30
    if hard == resource.RLIM_INFINITY or limit < hard:
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def prepare(scratch: Path, graphs: bool) -> Workshop:
    """Import all that children need, and build the workshop in one of them."""
    os.environ.update({"TF_CPP_MIN_LOG_LEVEL": "3", "ABSL_MIN_LOG_LEVEL": "3", "CONVSCOPE_CACHE": "off"})
    import keras  # noqa: F401
    import tensorflow  # noqa: F401

    import pipeline.models.keras.keras_file
    import pipeline.report.page
    import pipeline.sources.registry
    import pipeline.stages  # noqa: F401
    from pipeline.compiled.tf_private import has_started

    shop = Workshop(scratch / "workshop")
    child = os.fork()
    if not child:
        status: Any = 1
        try:
            shop.folder.mkdir(parents=True)
            shop.build(graphs)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    if os.waitpid(child, 0)[1]:
        raise RuntimeError("the whole inputs could not be made")
    assert not has_started(), "children could not open graphs as the command line does"
    return shop
