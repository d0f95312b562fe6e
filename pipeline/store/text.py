"""Text files as people have them: UTF-8 with or without a byte order mark, UTF-16 and UTF-32 with one."""

from __future__ import annotations

import codecs
import re

_MARKS = (  # UTF-32's first: it begins as UTF-16's does
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def decoded(data: bytes) -> str:
    """The text of a file, without its byte order mark. Raises: UnicodeDecodeError, also where it holds zero bytes."""
    encoding = next((encoding for mark, encoding in _MARKS if data.startswith(mark)), "utf-8-sig")
    text = data.decode(encoding)
    if "\0" in text:
        raise UnicodeDecodeError(encoding, data, 0, 1, "it holds zero bytes, as binary files do, or UTF-16 without a mark")
    return text


def lines(text: str) -> list[str]:
    r"""The lines of a text, which `\n`, `\r\n` and `\r` end, and nothing else: names may hold U+2028 and form feeds."""
    return re.split(r"\r\n|\r|\n", text)
