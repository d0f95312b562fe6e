"""Freed memory goes back to the system."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from pipeline.hardware import release_memory


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc alone keeps freed memory")
def test_what_was_freed_between_pieces_that_are_still_in_use_goes_back_to_the_system() -> None:
    pieces = [bytearray(100_000) for _ in range(1500)]
    kept = pieces[::50]
    del pieces
    before = _resident()
    release_memory()
    assert before - _resident() > 100_000_000
    assert len(kept) == 30


def _resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
