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
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

LONGEST = 480  # characters of a message


class ConvscopeError(Exception):
    """The base class: a message for people, and the exit code of the command line.

    The message is one line of at most LONGEST characters that a terminal may show, whatever a stranger's file put in it.
    """

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(shortened(printable(message), LONGEST))

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
        near = difflib.get_close_matches(name[:200], known, n=3, cutoff=0.5)
        parts = [f"{quoted(name)} is not {where}"]
        if near:
            parts.append(f"nearest: {', '.join(near)}")
        if len(known) <= 60:
            names = ", ".join(known) or "none"
            if len(names) > 250:
                names = f"{names[:250].rpartition(', ')[0] or names[:250]}, ... ({len(known)} in all)"
            parts.append(f"known: {names}")
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


@contextmanager
def foreign_errors(kind: type[ConvscopeError], what: str, advice: str) -> Iterator[None]:
    """Turns what other libraries raise over a file from outside into our error: they raise more types than can be listed.

    Args:
        kind: the class of the error.
        what: the file or data set, as the message names it. advice: what to do now, a sentence.

    Raises: `kind`; a ConvscopeError and a MemoryError as they are.
    """
    try:
        yield
    except (ConvscopeError, MemoryError):
        raise
    except Exception as error:
        raise kind(f"{shortened(what)} cannot be opened ({type(error).__name__}: {one_line(error)}). {advice}") from error


def require_module(name: str, need: str, kind: type[ConvscopeError] = UnusableModel) -> None:
    """Find out whether a module of the extra `meaning` is installed, without importing it.

    Args:
        need: what needs which package, as the message begins.

    Raises: `kind`, where it is not.
    """
    if find_spec(name) is None:
        raise kind(f'{need}: pip install "convscope[meaning]".')


def printable(text: str) -> str:
    """A text as one line without control characters: a terminal would take them for commands."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def shortened(text: str, most: int = 200) -> str:
    """A text of at most `most` characters, cut in its middle."""
    return text if len(text) <= most else f"{text[: most - most // 3 - 3]}...{text[len(text) - most // 3 :]}"


def quoted(value: Any) -> str:
    """A value as Python writes it, shortened; of numbers too long and values too deep to write, the type."""
    try:
        return shortened(repr(value), 120)
    except (ValueError, RecursionError):
        return f"a {type(value).__name__} that is too long to write"


_COLOURS = re.compile(r"\x1b\[[0-9;]*m")  # with which Keras marks parts of its messages


def one_line(error: BaseException) -> str:
    """The message of another library's exception in one line of at most 200 characters, without a full stop."""
    text = " ".join(_COLOURS.sub("", str(error)).split()) or type(error).__name__
    return (text if len(text) <= 200 else f"{text[:197]}...").rstrip(".")


def carried(message: str) -> ConvscopeError | None:
    """The ConvscopeError inside a message of TensorFlow, which wraps what its threads raise in lines of its own."""
    for line in message.splitlines():
        for kind in _kinds(ConvscopeError):
            match = re.search(rf"(?:^|[\s.]){kind.__name__}: (?:{kind.__name__}: )?(.+)$", line)
            if match:
                return kind(match[1])
    return None


_NODES = re.compile(r"\{\{[^{}]*\}\}|\[Op:.*")  # where in a graph, as TensorFlow says it


def damaged(error: Exception, what: str) -> ConvscopeError:
    """What TensorFlow raises while it reads data, as our error: the one inside it, or that the data are damaged.

    Args:
        error: of TensorFlow; or a UnicodeDecodeError, where its message repeats what no text is.
        what: the data, as the message begins.
    """
    text = str(getattr(error, "message", error))
    reason = _NODES.sub("", text.strip().partition("\n")[0]).strip(" .")
    return carried(text) or UnusableData(f"{what} cannot be read: {shortened(reason)}. Prepare the data set again.")


def _kinds(kind: type[ConvscopeError]) -> Iterator[type[ConvscopeError]]:
    for below in kind.__subclasses__():
        yield from _kinds(below)
        yield below
