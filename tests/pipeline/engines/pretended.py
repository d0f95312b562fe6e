"""A Ray that runs everything in this process, so that workers fail when a test wants them to."""

from __future__ import annotations

from collections import Counter, defaultdict
from functools import partial
from types import SimpleNamespace
from typing import Any


class RayError(Exception):
    """What Ray raises for a worker that was lost."""


class TaskError(RayError):
    """What Ray raises for an exception in a worker."""

    def __init__(self, cause: Any) -> None:
        super().__init__("a traceback\nof many lines")
        self.cause = cause


class Handle:
    """A worker as its owner sees it."""

    def __init__(self, ray: Any, worker: Any) -> None:
        self._ray, self._worker = ray, worker

    def __getattr__(self, method: Any) -> Any:
        return SimpleNamespace(remote=lambda *arguments: self._ray.submit(self, method, arguments))


class PretendedRay:
    """Does a task when its result is waited for: workers are opened first, then the latest scan is done first.

    failures: by shard number, what is raised in place of its next scans. opening_fails: what becomes of the next workers,
    the last first: what is raised, or None for one that is opened. killed: who was.
    """

    def __init__(self, job: Any, scan_pass: Any, gpus: Any = 0) -> None:
        self.exceptions = SimpleNamespace(RayError=RayError)
        self.job, self.scan_pass, self.gpus = job, scan_pass, gpus
        self.failures, self.opening_fails = defaultdict(list), []
        self.workers, self.killed, self.submitted, self.most_at_work, self.options = [], [], Counter(), 0, None
        self._tasks, self._number = {}, 0

    def cluster_resources(self) -> Any:
        return {"CPU": 8.0, **({"GPU": float(self.gpus)} if self.gpus else {})}

    def nodes(self) -> Any:
        return [
            {"Alive": alive, "Resources": {"CPU": cpus}} for alive, cpus in ((True, 4.0), (True, 4.0), (False, 4.0), (True, 0))
        ]

    def remote(self, **options: Any) -> Any:
        self.options = options  # type: ignore[assignment]

        def hire(kind: Any) -> Any:
            worker = kind()
            worker.network, worker.source, worker.scan_pass = self.job.network, self.job.source, self.scan_pass
            self.workers.append(Handle(self, worker))
            return self.workers[-1]

        return lambda kind: SimpleNamespace(remote=partial(hire, kind))

    def submit(self, handle: Any, method: Any, arguments: Any) -> Any:
        self._number += 1
        self._tasks[self._number] = handle, method, arguments
        self.submitted[method] += 1
        at_work = [task for task in self._tasks.values() if task[1] == "scan"]
        assert len({id(task[0]) for task in at_work}) == len(at_work), "a worker was given two shards at once"
        self.most_at_work = max(self.most_at_work, len(at_work))
        return self._number

    def wait(self, references: Any, num_returns: Any = 1, timeout: Any = None) -> Any:
        ready = sorted(references, key=lambda one: (self._tasks[one][1] == "scan", -one))[:num_returns]
        return ready, [reference for reference in references if reference not in ready]

    def get(self, reference: Any) -> Any:
        handle, method, arguments = self._tasks.pop(reference)
        if handle in self.killed:
            raise RayError("it was killed")
        if method == "open":
            error = self.opening_fails.pop() if self.opening_fails else None
            if error is not None:
                raise error
            return None
        if method == "scan" and self.failures[arguments[1].index]:
            raise self.failures[arguments[1].index].pop(0)
        return getattr(handle._worker, method)(*arguments)

    def kill(self, handle: Any) -> None:
        self.killed.append(handle)
