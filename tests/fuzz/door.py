"""Door: where files from strangers come in."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from workshop import Workshop

READ = "read"  # not a command: opens the data of a spec and reads all of them, as a scan would

Commands = list[list[str]]


@dataclass(frozen=True)
class Door:
    """Where something from outside is opened.

    seeds: whole inputs, of which broken ones are made.
    mutate: a broken one of a whole one.
    open: puts an input into an empty folder and gives the commands that open it.
    alone: whether each case has a process of its own, since TensorFlow opens it in a child while it has not started.
    share: how many of the cases are this door's, beside the others'.
    """

    seeds: Callable[[Workshop], list[bytes]]
    mutate: Callable[[Random, bytes], bytes]
    open: Callable[[Workshop, Path, bytes], Commands]
    alone: bool = False
    share: int = 2


def file_of(*names: str) -> Callable[[Workshop], list[bytes]]:
    """The bytes of files of the workshop, as seeds."""
    return lambda shop: [(shop.folder / name).read_bytes() for name in names]
