"""What the keys of a spec mean, from docs/spec.md, which the package holds: for people and, as a JSON schema, for editors."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Iterator
from importlib import resources
from typing import Any

from pydantic import BaseModel

from pipeline.errors import UnknownName
from pipeline.spec.job_spec import JobSpec, keys
from pipeline.spec.table import AlsoNamed, inner_tables


def entry(key: str) -> str:
    """What a key or a table of the spec means, as lines for a terminal. Raises: UnknownName."""
    names = {**{name: name for name in keys()}, **dict(_other_names())}
    if key not in names:
        elsewhere = [name for name in names if name.rpartition(".")[2] == key]
        hint = f"Did you mean {', '.join(elsewhere[:3])}?" if elsewhere else "All keys of a table: convscope help data"
        raise UnknownName.among(key, names, where="a key of the spec", hint=hint)
    table, _, name = names[key].rpartition(".")
    kind, default, meaning = _rows(table)[name]
    lines = [names[key], f"  {kind}, {'required' if default == 'required' else f'default: {default}'}", ""]
    lines += [_wrapped(_plain(meaning), "  ")]
    for anchor in re.findall(r"\(#([\w-]+)\)", meaning):
        lines += ["", *_section(anchor)]
    return "\n".join(lines)


def schema() -> dict[str, Any]:
    """The JSON schema of a spec (draft 2020-12), each key with its meaning."""
    tree = JobSpec.model_json_schema()
    tree = {"$schema": "https://json-schema.org/draft/2020-12/schema", **tree, "title": "A job of convscope"}
    definitions = tree["$defs"]
    for path, table in _tables(JobSpec):
        properties = (tree if table is JobSpec else definitions[table.__name__])["properties"]
        for name, field in table.model_fields.items():
            properties[name] = {**properties[name], "description": _plain(_rows(path)[name][2])}
            for mark in field.metadata:
                if isinstance(mark, AlsoNamed):
                    properties[mark.name] = {**properties[name], "description": f"The same as {name}."}
    return tree


def _tables(table: type[BaseModel], path: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    """Every table of a spec by its path."""
    yield path, table
    for name, field in table.model_fields.items():
        for inner in inner_tables(field.annotation):
            yield from _tables(inner, f"{path}.{name}".strip("."))


def _other_names() -> Iterator[tuple[str, str]]:
    """The other names of keys, such as "gradcam.classes", and the names that they have here."""
    for path, table in _tables(JobSpec):
        for name, field in table.model_fields.items():
            for mark in field.metadata:
                if isinstance(mark, AlsoNamed):
                    yield f"{path}.{mark.name}", f"{path}.{name}"


def _document() -> str:
    return resources.files("jobs").joinpath("spec.md").read_text(encoding="utf-8")


def _body(heading: str) -> str:
    """What stands between a heading, as a pattern, and the next one of its level or higher."""
    text = _document()
    match = re.search(rf"^(#+) {heading}$", text, re.MULTILINE)
    if match is None:
        return ""
    rest = text[match.end() :]
    end = re.search(rf"^#{{1,{len(match[1])}}} ", rest, re.MULTILINE)
    return rest[: end.start()] if end else rest


def _rows(table: str) -> dict[str, tuple[str, str, str]]:
    """Type, default and meaning of each key of a table, as the document has them."""
    body = re.split(r"^#+ ", _body(rf"`\[{re.escape(table)}\]`" if table else "Top of the file"), flags=re.MULTILINE)[0]
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \| (.+?) \|$", body, re.MULTILINE)
    return {name: (kind, default.strip("`"), meaning) for name, kind, default, meaning in rows}


def _section(anchor: str) -> Iterator[str]:
    """The section of the document that an anchor leads to, without what stands below its own headings."""
    for heading in re.findall(r"^#+ (.+)$", _document(), re.MULTILINE):
        if re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") == anchor:
            yield _plain(heading)
            for block in re.split(r"\n\n+", re.split(r"^#+ ", _body(re.escape(heading)), flags=re.MULTILINE)[0].strip()):
                yield from ("", *_block(block))


def _block(block: str) -> Iterator[str]:
    lines = block.splitlines()
    if block.startswith("|"):
        rows = [[_plain(cell.strip()) for cell in line.strip("|").split(" | ")] for line in lines if not re.match(r"\|-", line)]
        width = max(len(row[0]) for row in rows)
        for first, *rest in rows[1:]:
            yield _wrapped("; ".join(rest), " " * (width + 4), f"  {first:<{width}}  ")
    elif block.startswith("```"):
        yield from (f"    {line}".rstrip() for line in lines if not line.startswith("```"))
    else:
        yield from (_wrapped(_plain(line), "  ") for line in lines)


def _plain(text: str) -> str:
    """Markdown without links and backticks."""
    return re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", re.sub(r"\[`([^`]*)`\]\([^)]*\)", r"\1", text)).replace("`", "")


def _wrapped(text: str, indent: str, first: str | None = None) -> str:
    width = min(100, shutil.get_terminal_size().columns)
    return textwrap.fill(text, max(40, width), initial_indent=indent if first is None else first, subsequent_indent=indent)
