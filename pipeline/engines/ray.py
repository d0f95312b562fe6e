"""The Ray engine: workers on one machine or on many, each with the network in hand, take shard after shard.

Only heaps travel. Every worker reads its images itself, from where the spec says they are.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pipeline.activations.part import Part, check_bad
from pipeline.activations.part_file import PartSaver, Provenance, saved_parts, shard_name
from pipeline.activations.plan import Progress, ScanPlan
from pipeline.activations.scan_state import begun
from pipeline.activations.scan_times import ScanTimes
from pipeline.compiled.compile import cpu_threads, prepare_devices
from pipeline.errors import ConvscopeError, Fault, Interrupted, TooManyBad, TryAgain, Unreachable, WrongSpec, one_line
from pipeline.job import Job, open_inputs
from pipeline.sources.source import Shard
from pipeline.spec import JobSpec

if TYPE_CHECKING:
    from pipeline.activations.scan_pass import ScanPass

TRIES = 3  # of a shard, before the job stops with its error
_SHARDS = 64  # a job has so many, and eight a worker at least, where the data suffice
_COUNT_EVERY = 1.0  # seconds between two questions to a worker, how far it is
_PART_EVERY = 15.0  # seconds between two questions, what it has found so far
_LAST_ANSWER = 5.0  # seconds that a worker has to answer the last question
_ANSWER_WITHIN = 20.0  # seconds that a cluster has to answer at its address
_WAITING_TOLD_EVERY = 60.0  # seconds between two complaints that there is no worker
_STORE = 256 * 2**20  # bytes of memory for the heaps on their way; more of them wait on the disk


def scan_all(job: Job, plan: ScanPlan, provenance: Provenance, begin: int, progress: Progress) -> tuple[Part, ScanTimes]:
    """Scan the examples from `begin` on with the workers of a Ray cluster: the one at RAY_ADDRESS, else one of our own.

    A shard is saved when it is finished and, while it is at work, every so often.

    Returns: what was found, and where the time of all workers together went.
    Raises: Interrupted for a signal, with what was found saved; Unreachable, where no cluster answers;
    Fault, where a shard fails too often; whatever the scan raises.
    """
    ray = require()
    with _cluster(ray, job.options.workers):
        crew = _Crew(ray, job, plan, progress)
        part, times = Part.empty(plan), ScanTimes()
        savers = {}
        for shard in _shards(job, plan, provenance, begin, crew.size):
            found = begun(job, provenance, shard)
            if crew.add(shard, found):
                savers[shard] = PartSaver(job.folder, provenance, shard, job.options.save_every)
            elif found is not None:
                part = part.merge(found)
        if crew.done:
            job.reporter.say(f"going on from example {crew.done:,} of {crew.total:,}: so many were scanned before")
        progress(crew.done, crew.total)
        try:
            for shard, found, spent in crew.scan(lambda shard, part: savers[shard].keep(part)):
                savers[shard].keep(found)
                savers[shard].save()
                del savers[shard]  # not before: a signal may have come meanwhile
                part, times = part.merge(found), times + spent
                check_bad(part, plan, provenance.examples)
        except KeyboardInterrupt:
            for shard, found in crew.last_answers():
                savers[shard].keep(found)
            _save(savers)
            raise Interrupted(
                f"{crew.done:,} of {crew.total:,} examples are scanned and saved. Run the same command again."
            ) from None
        except TryAgain:
            _save(savers)
            raise
        finally:
            crew.dismiss()
    return part, times


def require() -> ModuleType:
    """Ray itself. Raises: WrongSpec, where it is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody unless the user asks for it
    try:
        import ray
    except ImportError as error:
        raise WrongSpec(
            f"--engine ray needs Ray, which cannot be imported ({one_line(error)}). Install convscope with the extra 'cluster'."
        ) from None
    return ray


class Worker:
    """One process of the cluster: opens the job's network and data once, and scans the shards that it is given."""

    def __init__(self) -> None:
        self.scan_pass: ScanPass | None = None
        self._latest: tuple[Shard | None, Part | None] = None, None

    def open(self, spec: JobSpec, digests: dict[str, str], threads: int) -> None:
        """Open what the spec names. Raises: WrongSpec, where it is not there, or is not what it was for the one who asks."""
        # The order in which a sum is added up can depend on the number of threads: it is the same everywhere.
        prepare_devices(threads)
        self.network, self.source = open_inputs(spec, fetch=False)
        for table, digest in (("model", self.network.digest()), ("data", self.source.digest())):
            if digest != digests[table]:
                raise WrongSpec(
                    f"what [{table}] names is not the same on {socket.gethostname()} as where the job was started. "
                    "Put it where all machines read the same files."
                )

    def scan(self, plan: ScanPlan, shard: Shard, begun: Part | None) -> tuple[Part, ScanTimes]:
        """The scan that every engine calls."""
        from pipeline.activations.scan import scan
        from pipeline.activations.scan_pass import ScanPass

        self.scan_pass = self.scan_pass or ScanPass(self.network, plan)

        def keep(part: Part) -> None:
            self._latest = shard, part

        return scan(self.network, self.source, plan, shard, begun=begun, keep=keep, scan_pass=self.scan_pass)

    def answer(self, with_part: bool) -> tuple[Shard | None, int, Part | None]:
        """While a scan runs: its shard, how many examples are done and, if wanted, what was found."""
        shard, part = self._latest
        return shard, part.done if part else 0, part if with_part else None


@dataclass(frozen=True)
class _Task:
    """What a worker is at; shard None: it opens the network and the data."""

    worker: Any
    shard: Shard | None


class _Crew:
    """The workers of a job, and the shards that wait for them: hands out one after the other, and replaces who is lost."""

    def __init__(self, ray: ModuleType, job: Job, plan: ScanPlan, progress: Progress) -> None:
        self._ray, self._job, self._plan, self._progress = ray, job, plan, progress
        gpus = int(ray.cluster_resources().get("GPU", 0))
        machines = sum(bool(node["Alive"] and node["Resources"].get("CPU")) for node in ray.nodes())
        self.size = job.options.workers or gpus or machines or 1
        # One thread scans; the other answers how far it is.
        options = {"num_cpus": 1, "num_gpus": 1 if gpus else 0, "max_concurrency": 2, "scheduling_strategy": "SPREAD"}
        self._hired = ray.remote(**options)(Worker)
        self._begun: dict[Shard, Part | None] = {}  # the shards that are not finished
        self._counts: dict[Shard, tuple[int, int]] = {}  # of every shard, examples done and in all
        self._waiting: deque[Shard] = deque()
        self._failures: Counter[Shard | None] = Counter()
        self._tasks: dict[Any, _Task] = {}
        self._questions: dict[Any, Any] = {}  # by what the answer will be, who was asked
        self._idle: list[Any] = []

    @property
    def done(self) -> int:
        """Examples that are scanned, as far as is known."""
        return sum(done for done, _ in self._counts.values())

    @property
    def total(self) -> int:
        """Examples of all shards."""
        return sum(total for _, total in self._counts.values())

    def add(self, shard: Shard, begun: Part | None) -> bool:
        """Take a shard, and what is known of it already, into account. Returns: whether there is anything left to scan."""
        first, last = shard.bounds(len(self._job.source))
        done = begun.done if begun else 0
        self._counts[shard] = done, last - first
        if done == last - first:
            return False
        self._begun[shard] = begun
        self._waiting.append(shard)
        return True

    def scan(self, keep: Callable[[Shard, Part], None]) -> Iterator[tuple[Shard, Part, ScanTimes]]:
        """Each shard that was added, when it is finished.

        Args:
            keep: given what a shard that is at work has found so far, every so often.
        """
        for _ in range(min(self.size, len(self._begun))):
            self._hire()
        self._job.reporter.say(f"shards: {len(self._begun)}; Ray workers: {len(self._tasks)}, threads of each: {cpu_threads()}")
        asked = fetched = told = time.monotonic()
        while self._begun:
            while self._waiting and self._idle:
                self._start(self._idle.pop(), self._waiting.popleft())
            ready, _ = self._ray.wait([*self._tasks], timeout=_COUNT_EVERY)
            yield from filter(None, map(self._finish, ready))
            now = time.monotonic()
            for shard, part in self.answers():
                keep(shard, part)
            if now - asked >= _COUNT_EVERY:
                asked = now
                self.ask(with_part=now - fetched >= _PART_EVERY)
                fetched = now if now - fetched >= _PART_EVERY else fetched
            self._progress(self.done, self.total)
            if self._idle or any(task.shard for task in self._tasks.values()):
                told = now
            elif now - told >= _WAITING_TOLD_EVERY:
                told = now
                self._job.reporter.say("still waiting for the Ray cluster to start a worker")

    def ask(self, with_part: bool) -> None:
        """Ask those who scan, and owe no answer, how far they are and, if wanted, what they have found."""
        owing = [*self._questions.values()]
        for task in self._tasks.values():
            if task.shard is not None and task.worker not in owing:
                self._questions[task.worker.answer.remote(with_part)] = task.worker

    def answers(self, wait: float = 0) -> Iterator[tuple[Shard, Part]]:
        """What was found by the shards of those who have answered with it; the rest are waited for, some seconds at most."""
        count = len(self._questions)
        ready = self._ray.wait([*self._questions], num_returns=count, timeout=wait)[0] if count else []
        for reference in ready:
            del self._questions[reference]
            try:
                shard, done, part = self._ray.get(reference)
            except self._ray.exceptions.RayError:  # what ended the worker ends its scan too, and is seen there
                continue
            if shard in self._begun:  # it may have been asked between two shards, or have finished this one since
                self._counts[shard] = done, self._counts[shard][1]
                if part is not None:
                    self._begun[shard] = part
                    yield shard, part

    def last_answers(self) -> Iterator[tuple[Shard, Part]]:
        """What was found by the shards that are at work, when all is to end."""
        for shard, part in self._begun.items():  # what a worker only counted is lost, unless it answers now
            self._counts[shard] = part.done if part else 0, self._counts[shard][1]
        self._questions.clear()
        self.ask(with_part=True)
        yield from self.answers(_LAST_ANSWER)

    def dismiss(self) -> None:
        """End all workers."""
        for worker in [*self._idle, *(task.worker for task in self._tasks.values())]:
            self._ray.kill(worker)

    def _hire(self) -> None:
        worker = self._hired.remote()
        self._tasks[worker.open.remote(self._job.spec, self._job.digests, cpu_threads())] = _Task(worker, None)

    def _start(self, worker: Any, shard: Shard) -> None:
        self._tasks[worker.scan.remote(self._plan, shard, self._begun[shard])] = _Task(worker, shard)

    def _finish(self, reference: Any) -> tuple[Shard, Part, ScanTimes] | None:
        """Take what a task has come to; a shard that is finished is returned. Raises: what a task may not be tried again for."""
        task = self._tasks[reference]
        try:
            result = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            del self._tasks[reference]
            self._replace(task, error)
            return None
        del self._tasks[reference]
        self._idle.append(task.worker)
        if task.shard is None:
            del self._failures[None]  # some can be started: those who could not were not the job's fault
            return None
        del self._begun[task.shard]
        _, total = self._counts[task.shard]
        self._counts[task.shard] = total, total
        return task.shard, *result

    def _replace(self, task: _Task, error: Exception) -> None:
        """Another worker for one that failed, and its shard to be done again.

        Raises: the error, where it is the user's, or comes too often.
        """
        self._ray.kill(task.worker)
        cause = getattr(error, "cause", None)  # what the worker has raised, if it still could
        if isinstance(cause, (WrongSpec, TooManyBad)):
            raise cause from None
        self._failures[task.shard] += 1
        # Of a worker that was lost, Ray tells in many lines which it was, and in the last what became of it.
        why = f"{type(cause).__name__}: {one_line(cause)}" if cause else one_line(Exception(str(error).strip().splitlines()[-1]))
        what = "opening the job in a worker" if task.shard is None else f"shard {shard_name(task.shard)}"
        if self._failures[task.shard] == TRIES:
            if isinstance(cause, ConvscopeError):
                raise cause from None
            raise Fault(f"{what} failed {TRIES} times; the last time: {why}. Ray's logs tell more.") from None
        self._job.reporter.say(f"{what} failed: {why}. Trying again")
        self._hire()
        if task.shard is not None:
            self._waiting.appendleft(task.shard)


def _save(savers: dict[Shard, PartSaver]) -> None:
    for saver in savers.values():
        saver.save()


def _shards(job: Job, plan: ScanPlan, provenance: Provenance, begin: int, workers: int) -> list[Shard]:
    """The shards of the examples from `begin` on: those that an earlier run was at, or else as many as suit the workers.

    More than workers, so that a slow one does not keep all others waiting at the end; and not one batch each.
    """
    batches = -(-(provenance.examples - begin) // plan.batch)
    counts = Counter(
        {
            saved.shard.count: saved.part.done
            for saved in saved_parts(job.folder)
            if saved.shard.count > 1 and saved.shard.begin == begin
        }
    )
    count = max(2 * workers, min(batches // 4, max(_SHARDS, 8 * workers)))
    count = counts.most_common(1)[0][0] if counts else min(count, batches)
    return [Shard(index, count, plan.batch, begin) for index in range(count)]


@contextmanager
def _cluster(ray: ModuleType, workers: int | None) -> Iterator[None]:
    """A connection to the cluster at RAY_ADDRESS, or a cluster of our own; nothing of either is left at the end."""
    if ray.is_initialized():  # by the program that calls us, which will also end it
        yield
        return
    address = os.environ.get("RAY_ADDRESS")
    settings: dict[str, Any] = {"address": address or "local", "log_to_driver": False, "logging_level": logging.ERROR}
    if not address:
        settings |= {"include_dashboard": False, "object_store_memory": _STORE}
        settings |= {"num_cpus": workers} if workers else {}
    elif "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ:  # set by `ray job submit`, whose runtime environment holds the code
        # The workers run the very code that this process runs, installed or not.
        packages = Path(__file__).resolve().parents[2]
        settings["runtime_env"] = {"py_modules": [str(packages / name) for name in ("pipeline", "recfield")]}
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        if address:
            _knock(address)
        ray.init(**settings)
    except (OSError, RuntimeError, ValueError) as error:
        if address and isinstance(error, OSError):
            raise Unreachable(
                f"no Ray cluster answers at RAY_ADDRESS = {address!r} ({one_line(error)}). "
                "Start it, correct the address, or unset it to use this machine alone."
            ) from None
        raise Fault(f"Ray does not start: {one_line(error)}. Ray's logs tell more.") from None
    except SystemExit:  # what Ray makes of SIGTERM, from here on
        raise KeyboardInterrupt from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)
    try:
        yield
    finally:
        ray.shutdown()


def _knock(address: str) -> None:
    """See whether somebody answers; Ray itself tries for many minutes. Raises: OSError."""
    scheme, _, rest = address.rpartition("://")
    if scheme.startswith("http"):
        raise WrongSpec(
            f"RAY_ADDRESS = {address!r} is where jobs are submitted: ray job submit -- convscope run ... "
            "To join the cluster from here, name its head, such as head:6379."
        )
    host, colon, port = rest.rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_WITHIN).close()
