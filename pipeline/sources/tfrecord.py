"""TFRecord: whether a file's records lie where their lengths say, before TensorFlow reads it."""

from __future__ import annotations

import os

from pipeline.errors import UnusableData
from pipeline.store.remote import is_remote

_LENGTH, _FRAME = 8, 16  # bytes: of a record's length, and of all that surrounds its data


def check_records(path: str, needed: int) -> None:
    """Follow the lengths in a file on this machine. TensorFlow takes memory for any length, and crashes where there is none.

    Args:
        needed: how many records are to be there; what follows them is not looked at.

    Raises: UnusableData, for fewer, and for one that is said to be longer than the file.
    """
    if is_remote(path):
        return  # a request for each record would take longer than reading them
    with open(path, "rb", buffering=0) as file:
        size, at = os.fstat(file.fileno()).st_size, 0
        for number in range(needed):
            length = os.pread(file.fileno(), _LENGTH, at)
            at += _FRAME + int.from_bytes(length, "little")
            if len(length) < _LENGTH:
                raise UnusableData(f"{path} holds {number:,} records, and its notes say more. Prepare the data set again.")
            if at > size:
                raise UnusableData(f"record {number:,} of {path} is said to be longer than the file. Prepare the data set again.")
