"""A spec as TOML text."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from pipeline.spec.job_spec import JobSpec


def spec_text(spec: JobSpec) -> str:
    """The TOML of a spec: the keys that were given, in the order of its tables."""
    return as_toml(spec.model_dump(mode="json", exclude_unset=True))


def as_toml(tree: Mapping[str, Any], comments: Mapping[str, str] = MappingProxyType({})) -> str:
    """The TOML of a tree of tables, texts, numbers, booleans and lists; None is left out, and tables in tables are inline.

    Args:
        comments: lines above keys and tables, by `key` or `table.key`; by "" those above all.
    """
    lines = [*_comment(comments, "")]
    for key, value in sorted(tree.items(), key=lambda item: isinstance(item[1], dict)):
        if isinstance(value, dict):
            lines += ["", *_comment(comments, key), f"[{_key(key)}]"]
            for name, inner in value.items():
                lines += [
                    *_comment(comments, f"{key}.{name}"),
                    *([f"{_key(name)} = {_value(inner)}"] if inner is not None else []),
                ]
        elif value is not None:
            lines += [*_comment(comments, key), f"{_key(key)} = {_value(value)}"]
    return "\n".join(lines) + "\n"


def _comment(comments: Mapping[str, str], path: str) -> Iterator[str]:
    return (f"# {line}" for line in comments.get(path, "").splitlines())


def _key(name: str) -> str:
    return name if name.isascii() and name.replace("_", "").replace("-", "").isalnum() else _value(name)


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{_key(key)} = {_value(inner)}" for key, inner in value.items() if inner is not None) + " }"
    if isinstance(value, list):
        return f"[{', '.join(map(_value, value))}]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")  # JSON's texts, numbers and booleans are TOML's
