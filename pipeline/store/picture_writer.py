"""PictureWriter: pictures are encoded and written by threads of their own, while the caller draws the next."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from pipeline.hardware import cores
from pipeline.store.files import write_bytes
from pipeline.store.places import Place


class PictureWriter:
    """Writes pictures, atomically but without waiting for the disk: those of a machine that fails are made again.

    No more pictures wait than twice the number of cores. A failure is raised by a later `put`, or by `finish`.
    """

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._waiting: deque[Future[None]] = deque()

    def put(self, path: Place, encode: Callable[[], bytes]) -> None:
        """Write what `encode` returns. Raises: StoreFailed, for this or an earlier picture."""
        self._pool = self._pool or ThreadPoolExecutor(cores(), thread_name_prefix="pictures")
        self._waiting.append(self._pool.submit(lambda: write_bytes(path, encode(), durable=False)))
        while len(self._waiting) > 2 * cores():
            self._waiting.popleft().result()

    def finish(self) -> None:
        """Wait until all are written. Raises: StoreFailed."""
        while self._waiting:
            self._waiting.popleft().result()
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
