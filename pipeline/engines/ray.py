"""The Ray engine: workers on one or more machines scan shard after shard; each opens the network and the data itself.

Only parts travel. Every worker reads its images from where the spec says they are.
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
from pipeline.activations.part_file import PartSaver, shard_name
from pipeline.activations.plan import Progress, ScanPlan
from pipeline.activations.scan_state import ScanState
from pipeline.activations.scan_times import ScanTimes
from pipeline.errors import ConvscopeError, Fault, Interrupted, TooManyBad, TryAgain, Unreachable, WrongSpec, one_line
from pipeline.inputs import open_inputs
from pipeline.job import Job
from pipeline.sources.source import Shard
from pipeline.spec import JobSpec

if TYPE_CHECKING:
    from pipeline.activations.scan_pass import ScanPass

TRIES = 3  # of a shard, before the job stops with its error
_SHARDS = 64  # of a job, or eight a worker if that is more, where the data suffice
_COUNT_EVERY = 1.0  # seconds between two requests to a worker for the number of examples it has done
_PART_EVERY = 15.0  # seconds between two requests for its part so far
_LAST_ANSWER = 5.0  # seconds that a worker has to answer the last request
_ANSWER_WITHIN = 20.0  # seconds that a cluster has to answer at its address
_WAITING_SAID_EVERY = 60.0  # seconds between two messages that no worker has started yet
_STORE = 256 * 2**20  # bytes of memory for parts in transit; Ray keeps more than that on disk


def scan_all(state: ScanState, plan: ScanPlan, progress: Progress) -> tuple[Part, ScanTimes]:
    """Scan the examples that the state lacks on the Ray cluster at RAY_ADDRESS, or else on one that it starts.

    A shard's part is saved when the shard is finished and at intervals while it is being scanned.

    Returns: the part of all shards, and where the time of all workers together went.
    Raises: Interrupted for a signal, with everything scanned so far saved; Unreachable, where no cluster answers;
    Fault, if a shard fails too often; the errors of the scan.
    """
    ray, job = require(), state.job
    with _cluster(ray, job.options.workers):
        crew = _Crew(ray, job, plan, progress)
        part, times = Part.empty(plan), ScanTimes()
        savers = {}
        for shard in _shards(state, plan, crew.size):
            begun = state.take(shard)
            if crew.add(shard, begun):
                savers[shard] = PartSaver(job.folder, state.provenance, shard, job.options.save_every)
            elif begun is not None:
                part = part.merge(begun)
        if crew.done:
            job.reporter.say(f"continuing after {crew.done:,} of {crew.total:,} examples, which an earlier run has scanned")
        progress(crew.done, crew.total)
        try:
            for shard, finished, spent in crew.scan(lambda shard, part: savers[shard].keep(part)):
                savers[shard].keep(finished)
                savers[shard].save()
                del savers[shard]  # not before: a signal may have come meanwhile
                part, times = part.merge(finished), times + spent
                check_bad(part, plan, state.provenance.examples)
        except KeyboardInterrupt:
            for shard, latest in crew.last_answers():
                savers[shard].keep(latest)
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
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # Ray reports nothing unless the user asks for it
    try:
        import ray
    except ImportError as error:
        raise WrongSpec(
            f"--engine ray needs Ray, which cannot be imported ({one_line(error)}). Install convscope with the extra 'cluster'."
        ) from None
    return ray


class Worker:
    """One process of the cluster: opens the job's network and data once, then scans the shards it is given."""

    def __init__(self) -> None:
        self.scan_pass: ScanPass | None = None
        self._latest: tuple[Shard | None, Part | None] = None, None

    def open(self, spec: JobSpec, digests: dict[str, str], threads: int) -> None:
        """Open what the spec names. Raises: WrongSpec, where it is missing, or differs from what the job was started with."""
        from pipeline.compiled.devices import prepare_devices

        # The number of threads can change the order of additions, so it is the same in every worker.
        prepare_devices(threads)
        inputs = open_inputs(spec, fetch=False)
        self.network, self.source = inputs.network, inputs.source
        for table, digest in (("model", self.network.digest()), ("data", self.source.digest())):
            if digest != digests[table]:
                raise WrongSpec(
                    f"what [{table}] names is not the same on {socket.gethostname()} as where the job was started. "
                    "Put it where all machines read the same files."
                )

    def scan(self, plan: ScanPlan, shard: Shard, begun: Part | None) -> tuple[Part, ScanTimes]:
        """The scan that every engine calls."""
        from pipeline.activations.scan import ScanSession, scan
        from pipeline.activations.scan_pass import ScanPass

        self.scan_pass = self.scan_pass or ScanPass(self.network, plan)

        def keep(part: Part) -> None:
            self._latest = shard, part

        return scan(self.network, self.source, plan, shard, ScanSession(begun, keep, scan_pass=self.scan_pass))

    def answer(self, with_part: bool) -> tuple[Shard | None, int, Part | None]:
        """While a scan runs: its shard, how many examples are done and, if asked for, the part so far."""
        shard, part = self._latest
        return shard, part.done if part else 0, part if with_part else None


@dataclass(frozen=True)
class _Task:
    """What a worker is doing; shard None: it opens the network and the data."""

    worker: Any
    shard: Shard | None


class _Crew:
    """The workers of a job and the shards that wait for them: hands out one shard after the other, and replaces lost workers."""

    def __init__(self, ray: ModuleType, job: Job, plan: ScanPlan, progress: Progress) -> None:
        from pipeline.compiled.devices import cpu_threads

        self._threads = cpu_threads()
        self._ray, self._job, self._plan, self._progress = ray, job, plan, progress
        gpus = int(ray.cluster_resources().get("GPU", 0))
        machines = sum(bool(node["Alive"] and node["Resources"].get("CPU")) for node in ray.nodes())
        self.size = job.options.workers or gpus or machines or 1
        # One thread scans, the other answers questions.
        options = {"num_cpus": 1, "num_gpus": 1 if gpus else 0, "max_concurrency": 2, "scheduling_strategy": "SPREAD"}
        self._hired = ray.remote(**options)(Worker)
        self._begun: dict[Shard, Part | None] = {}  # the shards that are not finished, with their latest parts
        self._counts: dict[Shard, tuple[int, int]] = {}  # of every shard: examples done, and in all
        self._waiting: deque[Shard] = deque()
        self._failures: Counter[Shard | None] = Counter()
        self._tasks: dict[Any, _Task] = {}
        self._questions: dict[Any, Any] = {}  # the worker that was asked, by the reference of its answer
        self._idle: list[Any] = []

    @property
    def done(self) -> int:
        """Examples that are known to be scanned."""
        return sum(done for done, _ in self._counts.values())

    @property
    def total(self) -> int:
        """Examples of all shards."""
        return sum(total for _, total in self._counts.values())

    def add(self, shard: Shard, begun: Part | None) -> bool:
        """Add a shard, with the part that an earlier run has left of it. Returns: whether anything is left to scan."""
        first, last = shard.bounds(len(self._job.source))
        done = begun.done if begun else 0
        self._counts[shard] = done, last - first
        if done == last - first:
            return False
        self._begun[shard] = begun
        self._waiting.append(shard)
        return True

    def scan(self, keep: Callable[[Shard, Part], None]) -> Iterator[tuple[Shard, Part, ScanTimes]]:
        """Yield each shard that was added, with its part and times, when it is finished.

        Args:
            keep: called every so often with a shard that is being scanned and its part so far.
        """
        for _ in range(min(self.size, len(self._begun))):
            self._hire()
        self._job.reporter.say(f"shards: {len(self._begun)}; Ray workers: {len(self._tasks)}, threads of each: {self._threads}")
        asked = fetched = reported = time.monotonic()
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
                reported = now
            elif now - reported >= _WAITING_SAID_EVERY:
                reported = now
                self._job.reporter.say("still waiting for the Ray cluster to start a worker")

    def ask(self, with_part: bool) -> None:
        """Ask the workers that scan and owe no answer how many examples are done and, if asked for, their parts so far."""
        owing = [*self._questions.values()]
        for task in self._tasks.values():
            if task.shard is not None and task.worker not in owing:
                self._questions[task.worker.answer.remote(with_part)] = task.worker

    def answers(self, wait: float = 0) -> Iterator[tuple[Shard, Part]]:
        """The parts so far that workers have answered with; the others are waited for, `wait` seconds at most."""
        count = len(self._questions)
        ready = self._ray.wait([*self._questions], num_returns=count, timeout=wait)[0] if count else []
        for reference in ready:
            del self._questions[reference]
            try:
                shard, done, part = self._ray.get(reference)
            except self._ray.exceptions.RayError:  # the scan of this worker fails too: `_finish` sees to it
                continue
            if shard in self._begun:  # the worker may have been between two shards, or have finished this one since
                self._counts[shard] = done, self._counts[shard][1]
                if part is not None:
                    self._begun[shard] = part
                    yield shard, part

    def last_answers(self) -> Iterator[tuple[Shard, Part]]:
        """The latest parts of the shards that are being scanned, before the workers are dismissed."""
        for shard, part in self._begun.items():  # examples that a worker has only counted are lost, unless it answers now
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
        self._tasks[worker.open.remote(self._job.spec, self._job.digests, self._threads)] = _Task(worker, None)

    def _start(self, worker: Any, shard: Shard) -> None:
        self._tasks[worker.scan.remote(self._plan, shard, self._begun[shard])] = _Task(worker, shard)

    def _finish(self, reference: Any) -> tuple[Shard, Part, ScanTimes] | None:
        """Collect the result of a task. Returns: the shard, if it is finished. Raises: errors that a retry cannot solve."""
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
            del self._failures[None]  # some workers can be started: the failures of others were not the job's fault
            return None
        del self._begun[task.shard]
        _, total = self._counts[task.shard]
        self._counts[task.shard] = total, total
        return task.shard, *result

    def _replace(self, task: _Task, error: Exception) -> None:
        """Replace a worker that failed, and put its shard back in the queue.

        Raises: the error, where it is the user's, or comes too often.
        """
        self._ray.kill(task.worker)
        cause = getattr(error, "cause", None)  # the exception in the worker, where it lived to raise one
        if isinstance(cause, (WrongSpec, TooManyBad)):
            raise cause from None
        self._failures[task.shard] += 1
        # Ray describes a lost worker in many lines; the last one says what happened to it.
        why = f"{type(cause).__name__}: {one_line(cause)}" if cause else one_line(Exception(str(error).strip().splitlines()[-1]))
        work = "opening the job in a worker" if task.shard is None else f"shard {shard_name(task.shard)}"
        if self._failures[task.shard] == TRIES:
            if isinstance(cause, ConvscopeError):
                raise cause from None
            raise Fault(f"{work} failed {TRIES} times; the last time: {why}. See Ray's logs.") from None
        self._job.reporter.say(f"{work} failed: {why}. Trying again")
        self._hire()
        if task.shard is not None:
            self._waiting.appendleft(task.shard)


def _save(savers: dict[Shard, PartSaver]) -> None:
    for saver in savers.values():
        saver.save()


def _shards(state: ScanState, plan: ScanPlan, workers: int) -> list[Shard]:
    """The shards of the examples from `begin` on: as an earlier run has cut them, or as many as suit the workers.

    There are more shards than workers, so that a slow one does not keep all others waiting at the end, and fewer than batches.
    """
    batches = -(-(state.provenance.examples - state.begin) // plan.batch)
    count = max(2 * workers, min(batches // 4, max(_SHARDS, 8 * workers)))
    count = state.shard_count() or min(count, batches)
    return [Shard(index, count, plan.batch, state.begin) for index in range(count)]


@contextmanager
def _cluster(ray: ModuleType, workers: int | None) -> Iterator[None]:
    """Connect to the cluster at RAY_ADDRESS, or start one of our own; disconnect or end it afterwards."""
    if ray.is_initialized():  # by the calling program, which will also end it
        yield
        return
    address = os.environ.get("RAY_ADDRESS")
    settings: dict[str, Any] = {"address": address or "local", "log_to_driver": False, "logging_level": logging.ERROR}
    if not address:
        settings |= {"include_dashboard": False, "object_store_memory": _STORE}
        settings |= {"num_cpus": workers} if workers else {}
    elif "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ:  # set by `ray job submit`, whose runtime environment holds the code
        # The workers run the same code as this process, installed or not.
        packages = Path(__file__).resolve().parents[2]
        settings["runtime_env"] = {"py_modules": [str(packages / name) for name in ("pipeline", "recfield")]}
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        if address:
            _check_answers(address)
        ray.init(**settings)
    except (OSError, RuntimeError, ValueError) as error:
        if address and isinstance(error, OSError):
            raise Unreachable(
                f"no Ray cluster answers at RAY_ADDRESS = {address!r} ({one_line(error)}). "
                "Start it, correct the address, or unset it to use this machine alone."
            ) from None
        raise Fault(f"Ray does not start: {one_line(error)}. See Ray's logs.") from None
    except SystemExit:  # what Ray turns SIGTERM into from here on
        raise KeyboardInterrupt from None
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, on_sigterm)
    try:
        yield
    finally:
        ray.shutdown()


def _check_answers(address: str) -> None:
    """Fail early if nobody answers: Ray itself tries for many minutes. Raises: OSError, WrongSpec."""
    scheme, _, rest = address.rpartition("://")
    if scheme.startswith("http"):
        raise WrongSpec(
            f"RAY_ADDRESS = {address!r} is where jobs are submitted: ray job submit -- convscope run ... "
            "To join the cluster from here, name its head, such as head:6379."
        )
    host, colon, port = rest.rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_WITHIN).close()
