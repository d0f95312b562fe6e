"""The pixels that all threads may hold decoded at a time, so that a few bytes of image files cannot fill the memory."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.hardware import cores

_UNCOUNTED = 2**20  # pixels; smaller images are bounded by the number of threads


class PixelBudget:
    """Lends pixels to threads, first come, first served.

    most: how many are lent at a time. An image of more waits until it is alone.
    """

    def __init__(self, most: int) -> None:
        self._most = self._free = most
        self._queue, self._returned = threading.Lock(), threading.Condition()

    @contextmanager
    def hold(self, pixels: int) -> Iterator[None]:
        """Wait until so many pixels are free, and hold them until the block ends. A block must not hold twice."""
        if pixels <= _UNCOUNTED:
            yield
            return
        pixels = min(pixels, self._most)
        with self._queue, self._returned:  # small images must not pass a large one for ever
            self._returned.wait_for(lambda: self._free >= pixels)
            self._free -= pixels
        try:
            yield
        finally:
            with self._returned:
                self._free += pixels
                self._returned.notify_all()


# A pixel at work takes about eight bytes. Photographs of 16 million pixels keep every core busy.
DECODING = PixelBudget(max(2**28, cores() * 2**24))
