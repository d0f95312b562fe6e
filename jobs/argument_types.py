"""What the command line makes of the text of an option, or why it cannot: one function for each kind."""

from __future__ import annotations

import argparse


def shard(text: str) -> tuple[int, int]:
    """The number of the shard, from 0, and the number of shards."""
    from pipeline.options import MOST_SHARDS

    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count) <= MOST_SHARDS):
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form I/N, with I from 1 to N, and N up to {MOST_SHARDS:,}")
    return int(index) - 1, int(count)


def seconds(text: str) -> float:
    """A number of seconds, from 0."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds")
    return value


def port(text: str) -> int:
    """The number of a port; 0 for any that is free."""
    if not text.isdecimal() or not 0 <= int(text) < 65536:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port: 0, for any that is free, to 65535")
    return int(text)


def positive(text: str) -> int:
    """A whole number above 0."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return int(text)
