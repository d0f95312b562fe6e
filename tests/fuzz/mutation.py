"""Mutation: broken inputs made of whole ones, the same for the same seed."""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Callable
from random import Random
from typing import Any

# What stands in a file where its reader does not expect it.
NASTY: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 7, 2**31, 2**53, 2**63, 10**19, -(10**19), 10**400, 0.5, -0.0, 1e308, 1e-320),
    *(float("nan"), float("inf"), "", " ", "\0", "a\0b", "x" * 300, "x" * 70_000, "a b", "ä\u2028b", "\ud800", "../..", "/etc"),
    *("http://127.0.0.1:9/x", "s3://x/y", "{0..400000000}", "{a,b}" * 40, "*", "[", "%s%n{}", "CON", "-", "auto", "imagenet"),
    *([], {}, [[]], [{}], {"": None}, [0] * 5000, [1, "a", None], {"a": {"b": {"c": []}}}),
)
_NUMBER = re.compile(rb"-?\d+(\.\d+)?")
_INTERESTING = (
    b"\0",
    b"\xff",
    b"\x7f",
    b"\x80",
    b"[" * 3000,
    b"{" * 300,
    b"-" * 1000,
    b"9" * 5000,
    b"\r",
    b"\n",
    b'"',
    b"\\u0000",
)


def nested(depth: int) -> Any:
    """Lists in lists."""
    value: Any = []
    for _ in range(depth):
        value = [value]
    return value


def a_value(random: Random) -> Any:
    """A nasty value, which the caller may change."""
    return nested(random.choice((30, 300))) if random.random() < 0.03 else copy.deepcopy(random.choice(NASTY))


def mutate_bytes(random: Random, data: bytes) -> bytes:
    """A few bytes flipped, cut out, put in, moved or doubled."""
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 4, 16))):
        at = random.randrange(len(changed) + 1)
        length = random.choice((1, 1, 2, 4, 8, 64, 1024))
        match random.randrange(7):
            case 0 if changed:
                at = min(at, len(changed) - 1)
                changed[at] ^= 1 << random.randrange(8)
            case 1:
                del changed[at : at + length]
            case 2:
                changed[at:at] = random.choice(_INTERESTING)
            case 3:
                changed[at : at + length] = random.randbytes(length)
            case 4:
                changed[at:at] = changed[at : at + length]
            case 5:
                number = random.choice((0, 1, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1, 10**9))
                width = random.choice((1, 2, 4, 8))
                changed[at : at + width] = (number % 2 ** (8 * width)).to_bytes(width, random.choice(("little", "big")))
            case _ if random.random() < 0.2:
                del changed[at:]
    return bytes(changed)


def mutate_text(random: Random, data: bytes) -> bytes:
    """A number of a text replaced by another, lines moved, or bytes changed."""
    numbers = list(_NUMBER.finditer(data))
    kind = random.randrange(4)
    if kind == 0 and numbers:
        match = random.choice(numbers)
        new = random.choice(
            ("-1", "0", "1e999", "nan", "1_0", "9" * 5000, str(10**19), str(2**63), "0x", "''", "[]", "{}", "inf")
        )
        return data[: match.start()] + new.encode() + data[match.end() :]
    lines = data.split(b"\n")
    if kind == 1 and len(lines) > 1:
        first, second = random.randrange(len(lines)), random.randrange(len(lines))
        lines[first], lines[second] = lines[second], lines[first]
        return b"\n".join(lines)
    if kind == 2:
        at = random.randrange(len(lines))
        return b"\n".join([*lines[: at + 1], *lines[at:]])
    return mutate_bytes(random, data)


def mutate_tree(random: Random, tree: Any) -> Any:
    """A tree of JSON in which some values are nasty, gone, doubled, or those of others."""
    tree = json.loads(json.dumps(tree))
    for _ in range(random.choice((1, 1, 1, 2, 5))):
        spots = _spots(tree)
        if not spots:
            return a_value(random)
        holder, key = random.choice(spots)
        match random.randrange(6):
            case 0 | 1 | 2:
                holder[key] = a_value(random)
            case 3:
                del holder[key]
            case 4:
                other, name = random.choice(spots)
                holder[key] = json.loads(json.dumps(other[name])) if _is_there(other, name) else None
            case _:
                if isinstance(holder, dict):
                    holder[str(random.choice(("", "a b", "\0", "x" * 300, "unknown", f"{key} ")))] = holder.pop(key)
                else:
                    holder.append(json.loads(json.dumps(holder[key])))
    return tree


def _spots(tree: Any) -> list[tuple[Any, Any]]:
    spots: list[tuple[Any, Any]] = []
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        keys = list(node) if isinstance(node, dict) else list(range(len(node))) if isinstance(node, list) else []
        spots += [(node, key) for key in keys]
        waiting += [node[key] for key in keys]
    return spots


def _is_there(holder: Any, key: Any) -> bool:
    return key in holder if isinstance(holder, dict) else key < len(holder)


def mutate_message(random: Random, message: Any, values: Callable[[Random], Any] = a_value) -> None:
    """Change a protocol buffer in place, somewhere below it."""
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        target = message
        while True:  # down to a message, and perhaps further
            below = [(field, value) for field, value in target.ListFields() if field.type == field.TYPE_MESSAGE]
            if not below or random.random() < 0.15:
                break
            field, value = random.choice(below)
            if field.message_type.GetOptions().map_entry:
                entries = [value[key] for key in value if hasattr(value[key], "ListFields")]
                if not entries:
                    break
                target = random.choice(entries)
            else:
                target = random.choice(list(value)) if field.is_repeated else value
        _mutate_fields(random, target, values)


def _mutate_fields(random: Random, message: Any, values: Callable[[Random], Any]) -> None:
    there = [field for field, _ in message.ListFields()]
    fields = there if there and random.random() < 0.7 else list(message.DESCRIPTOR.fields)
    if not fields:
        return
    field = random.choice(fields)
    value = getattr(message, field.name)
    is_map = field.type == field.TYPE_MESSAGE and field.message_type.GetOptions().map_entry
    try:
        if is_map:
            keys = list(value)
            if keys and random.random() < 0.7:
                del value[random.choice(keys)]
            else:
                value.get_or_create(random.choice(("T", "dtype", "value", "f", "x" * 300)))
        elif field.is_repeated:
            match random.randrange(3):
                case 0 if len(value):
                    del value[random.randrange(len(value))]
                case 1 if len(value):
                    value.append(value[random.randrange(len(value))])
                case _ if field.type != field.TYPE_MESSAGE:
                    value.append(_fitting(random, field, values))
        elif field.type == field.TYPE_MESSAGE or random.random() < 0.3:
            message.ClearField(field.name)
        else:
            setattr(message, field.name, _fitting(random, field, values))
    except (TypeError, ValueError, AttributeError, UnicodeError):  # a value that protocol buffers themselves refuse
        message.ClearField(field.name)


def _fitting(random: Random, field: Any, values: Callable[[Random], Any]) -> Any:
    """A value that a field of this type takes."""
    if field.cpp_type == field.CPPTYPE_STRING:
        text = random.choice(
            ("", "x" * 300, "a b", "../x", "nowhere:0", "^x", "input", "PartitionedCall", "Switch", "VarHandleOp", "\0")
        )
        return text if field.type == field.TYPE_STRING else text.encode()
    if field.cpp_type in (field.CPPTYPE_FLOAT, field.CPPTYPE_DOUBLE):
        return random.choice((0.0, -1.0, 1e30, float("nan"), float("inf")))
    if field.cpp_type == field.CPPTYPE_BOOL:
        return random.random() < 0.5
    if field.cpp_type == field.CPPTYPE_ENUM:
        return random.choice([value.number for value in field.enum_type.values])
    return random.choice((0, 1, -1, 2**31 - 1, 2**62, 10**9, 400_000))
