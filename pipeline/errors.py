"""Every error a user can meet. Each is one line: what is wrong, where, and what to do now.

ConvscopeError            exit code
|-- WrongSpec                 2    the spec, or a value given on the command line, cannot be right
|   |-- UnknownName           2    an unknown name: key, stage, kind, network, data set, layer
|   |   `-- UnknownLayer      2
|   |-- MissingInput          2    a file or folder that the spec names is missing, empty or unreadable
|   |-- UnusableModel         2    a network that cannot be loaded, or not safely
|   `-- UnusableData          2    a data set that cannot be read as images
|-- TooManyBad                3    more unreadable images than `max_bad` allows
|-- TryAgain                 75    nothing is wrong with the job: run it again later
|   |-- Interrupted          75    stopped by a signal
|   |-- FolderHeld           75    another run holds the output folder
|   |-- PartsMissing         75    not every shard has finished its part
|   `-- Unreachable          75    a remote address that answered before no longer does
`-- Fault                     1    the machine or the network failed under the job
    |-- StoreFailed           1    a result could not be written
    `-- FieldUnsolved         1    a receptive field could not be measured, or not be proved
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator


class ConvscopeError(Exception):
    """The base class: a message for people, and the exit code of the command line."""

    exit_code = 1

    def __str__(self) -> str:
        return f"{type(self).__name__}: {super().__str__()}"


class WrongSpec(ConvscopeError):
    """The spec, or a value given on the command line, cannot be right."""

    exit_code = 2


class UnknownName(WrongSpec):
    """An unknown name; the message lists the nearest known ones."""

    @classmethod
    def among(cls, name: str, known: Iterable[str], *, where: str, hint: str = "") -> UnknownName:
        """The error for a `name` that is not `where`; lists the nearest known names and, if they are few, all."""
        known = sorted(set(known))
        near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
        parts = [f"{name!r} is not {where}"]
        if near:
            parts.append(f"nearest: {', '.join(near)}")
        if len(known) <= 60:
            parts.append(f"known: {', '.join(known) or 'none'}")
        message = "; ".join(parts) + "."
        return cls(f"{message} {hint}" if hint else message)


class UnknownLayer(UnknownName):
    """A layer name or glob that matches nothing in the network."""


class MissingInput(WrongSpec):
    """A file or folder that the spec names is missing, empty or unreadable."""


class UnusableModel(WrongSpec):
    """A network that cannot be loaded, or cannot be loaded safely."""


class UnusableData(WrongSpec):
    """A data set that cannot be read as images."""


class TooManyBad(ConvscopeError):
    """More unreadable images than `max_bad` allows."""

    exit_code = 3


class TryAgain(ConvscopeError):
    """Nothing is wrong with the job: run it again later."""

    exit_code = 75


class Interrupted(TryAgain):
    """Stopped by a signal."""


class FolderHeld(TryAgain):
    """Another run holds the output folder."""


class PartsMissing(TryAgain):
    """Not every shard has finished its part."""


class Unreachable(TryAgain):
    """A remote address does not answer, even after several tries."""


class Fault(ConvscopeError):
    """The machine or the network failed under the job."""


class StoreFailed(Fault):
    """A result could not be written."""


class FieldUnsolved(Fault):
    """A receptive field could not be measured, or could not be proved."""


def one_line(error: BaseException) -> str:
    """The message of another library's exception in one line of at most 200 characters, without a full stop."""
    text = " ".join(str(error).split()) or type(error).__name__
    return (text if len(text) <= 200 else f"{text[:197]}...").rstrip(".")


def carried(message: str) -> ConvscopeError | None:
    """The ConvscopeError inside a message of TensorFlow, which wraps what its threads raise in lines of its own."""
    for line in message.splitlines():
        for kind in _kinds(ConvscopeError):
            match = re.search(rf"(?:^|[\s.]){kind.__name__}: (.+)$", line)
            if match:
                return kind(match[1])
    return None


def _kinds(kind: type[ConvscopeError]) -> Iterator[type[ConvscopeError]]:
    for below in kind.__subclasses__():
        yield from _kinds(below)
        yield below
