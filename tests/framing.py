"""TFRecord's framing: records with their checksums, whose lengths may lie."""

from __future__ import annotations

import struct

_POLYNOMIAL = 0x82F63B78  # CRC-32C, reversed


def framed(data: bytes, length: int | None = None) -> bytes:
    """One record; `length`: what its frame says instead of the truth, with the checksum that belongs to that."""
    head = struct.pack("<Q", len(data) if length is None else length)
    return head + _masked(head) + data + _masked(data)


def _masked(data: bytes) -> bytes:
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ _POLYNOMIAL * (value & 1)
    value ^= 0xFFFFFFFF
    return struct.pack("<I", ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF)
