"""The documents: they describe every option, key, column and error, their examples run, and their links lead somewhere."""

from __future__ import annotations

import argparse
import json
import re
import shlex
import shutil
import subprocess
import tomllib
import typing
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pydantic import BaseModel

import recfield
from jobs.cli import parser
from jobs.specs import shipped_specs
from jobs.summary import summary
from pipeline import errors, run
from pipeline.drawing.pixels import encode_png
from pipeline.load import load_spec, parse_spec
from pipeline.models import registry as models
from pipeline.report.compare import COMPARISON
from pipeline.sources import registry as sources
from pipeline.sources.sample import SAMPLES
from pipeline.spec import JobSpec
from pipeline.spec.model import PREPROCESSING
from pipeline.store.direction_tables import ATLAS
from pipeline.store.tables import CROPS, INDEX, MAPS, PATTERNS

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
OUTSIDE = [ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", ROOT / "SECURITY.md"]  # in the root of the tree, not on the site
COMMANDS: dict[str, argparse.ArgumentParser] = next(
    action.choices for action in parser()._actions if isinstance(action, argparse._SubParsersAction)
)


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


# ---- reading Markdown


@dataclass(frozen=True)
class Block:
    """A fenced block: its position, its language, its text, and whether the line above it says that it runs."""

    document: str
    line: int
    language: str
    text: str
    runs: bool

    def __str__(self) -> str:
        return f"{self.document}:{self.line}"


def blocks(*languages: str) -> list[Block]:
    """The fenced blocks of all documents in some languages."""
    fenced = []
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        for match in re.finditer(r"^(<!-- runs -->\n)?^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            line = text.count("\n", 0, match.start(2)) + 1
            fenced.append(Block(str(path.relative_to(ROOT)), line, match[2], match[3], bool(match[1])))
    return [block for block in fenced if block.language in languages]


def without_blocks(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def headings(name: str) -> list[str]:
    return re.findall(r"^#+ (.+)$", without_blocks(read(name)), re.MULTILINE)


def section(name: str, heading: str) -> str:
    """The text between a heading and the next of the same level or a higher one."""
    match = re.search(rf"^(#+) {re.escape(heading)}$", read(name), re.MULTILINE)
    assert match, f"{name} has no section {heading!r}"
    rest = read(name)[match.end() :]
    end = re.search(rf"^#{{1,{len(match[1])}}} ", rest, re.MULTILINE)
    return rest[: end.start()] if end else rest


def rows(text: str) -> list[list[str]]:
    """The cells of all tables' rows, without the heads."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    rules = {number for number, row in enumerate(cells) if all(re.fullmatch("-+", cell) for cell in row)}
    return [row for number, row in enumerate(cells) if number not in rules and number + 1 not in rules]


def by_name(text: str) -> dict[str, list[str]]:
    """Rows by the text in backticks in their first cell."""
    named = {match[1]: row for row in rows(text) if (match := re.match("`([^`]+)`", row[0]))}
    assert named, "no table"
    return named


def slug(heading: str) -> str:
    """The anchor that a heading gets."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def described(path: Path) -> list[str]:
    """The Python names that a page of the API describes: an anchor each."""
    return re.findall(r"^::: (\S+)$", path.read_text(encoding="utf-8"), re.MULTILINE)


# ---- the command line


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_of_a_command_is_documented_with_its_default(command: Any) -> None:
    positional = [action for action in COMMANDS[command]._actions if not action.option_strings]
    names = [str(action.metavar or "|".join(action.choices or [])) for action in positional]
    arguments = [f"[{name}]" if action.nargs == "?" else name for name, action in zip(names, positional, strict=True)]
    documented = section("docs/commands.md", f"`{' '.join([command, *arguments])}`")
    expected = {}
    for action in COMMANDS[command]._actions:
        if action.option_strings and not isinstance(action, argparse._HelpAction):
            words = f"{action.option_strings[-1]} {action.metavar}" if action.nargs != 0 else action.option_strings[-1]
            expected[words] = f"`{action.default}`" if action.default else ""
    assert {name: row[1] for name, row in by_name(documented).items()} == expected if expected else not rows(documented)


def test_every_documented_command_exists() -> None:
    assert {
        heading.strip("`").split()[0] for heading in headings("docs/commands.md") if heading.startswith("`")
    } == COMMANDS.keys()


def test_every_shipped_spec_is_documented() -> None:
    assert by_name(section("docs/commands.md", "Commands").split("\n## ")[0]).keys() == shipped_specs().keys()


@pytest.mark.parametrize("block", blocks("sh"), ids=str)
def test_every_command_line_in_the_documents_is_one(block: Any) -> None:
    for line in block.text.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        position = next((number for number, word in enumerate(words) if Path(word).name == "convscope"), None)
        if position is not None and words[0] not in ("git", "cd"):
            end = words.index(">") if ">" in words else len(words)
            parser().parse_args(words[position + 1 : end])


def test_every_error_is_documented_with_its_exit_code() -> None:
    def below(kind: type[errors.ConvscopeError]) -> Iterator[type[errors.ConvscopeError]]:
        yield kind
        for child in kind.__subclasses__():
            yield from below(child)

    expected = {kind.__name__: str(kind.exit_code) for kind in below(errors.ConvscopeError) if kind.__module__ == errors.__name__}
    assert {name: row[1] for name, row in by_name(section("docs/commands.md", "Errors")).items()} == expected
    for document in ("docs/commands.md", "docs/concepts.md"):
        codes = {row[0] for row in rows(section(document, "Exit codes"))}
        assert codes == {"0", *expected.values()}, document


def test_every_error_of_recfield_is_documented() -> None:
    names = {name for name in recfield.__all__ if issubclass(getattr(recfield, name), Exception)}
    assert by_name(section("docs/concepts.md", "What is detected")).keys() == names


# ---- the spec


def spec_tables(table: type[BaseModel] = JobSpec, path: str = "") -> Iterator[tuple[str, type[BaseModel]]]:
    yield path, table
    for key, field in table.model_fields.items():
        for kind in parts(field.annotation):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                yield from spec_tables(kind, f"{path}.{key}".strip("."))


def parts(annotation: Any) -> Iterator[Any]:
    """All that an annotation is made of."""
    yield annotation
    for part in typing.get_args(annotation):
        yield from parts(part)


def as_documented(default: Any, required: bool) -> str:
    if required:
        return "required"
    if default is None:
        return "absent"
    of_tables = isinstance(default, list) and any(isinstance(item, BaseModel) for item in default)
    return "its own defaults" if of_tables or isinstance(default, BaseModel) else f"`{json.dumps(default)}`"


def choices(annotation: Any) -> set[str]:
    if typing.get_origin(annotation) is typing.Literal:
        return set(typing.get_args(annotation))
    return {choice for part in typing.get_args(annotation) for choice in choices(part)}


@pytest.mark.parametrize(("path", "table"), [pytest.param(path, table, id=path or "top") for path, table in spec_tables()])
def test_every_key_of_a_spec_is_documented_with_its_default(path: Any, table: Any) -> None:
    documented = section("docs/spec.md", f"`[{path}]`" if path else "Top of the file")
    keys = {name: row[2] for name, row in by_name(re.split("^### ", documented, flags=re.MULTILINE)[0]).items()}
    assert keys == {name: as_documented(field.get_default(), field.is_required()) for name, field in table.model_fields.items()}
    for name, field in table.model_fields.items():
        for choice in choices(field.annotation):
            assert f"`{json.dumps(choice)}`" in documented, f"{path}.{name}: {choice}"


def test_every_kind_sample_and_preprocessing_is_documented() -> None:
    kinds = {
        "Kinds of network": set(models.KINDS),
        "Kinds of source": set(sources.KINDS),
    }
    for heading, expected in kinds.items():
        assert {name.partition(":")[0] for name in by_name(section("docs/spec.md", heading))} == expected
    assert {name.strip('"') for name in by_name(section("docs/spec.md", "Preprocessing"))} == set(PREPROCESSING)
    for name in SAMPLES:
        assert f"`sample:{name}`" in section("docs/spec.md", "Kinds of source")


_LEAST: dict[str, Any] = {"name": "a", "model": {"source": "keras:VGG16", "layers": "*"}, "data": {"source": "folder:a"}}


# The specs of extending.md are of a tree that has what the page adds; tests/test_extending.py runs them there.
@pytest.mark.parametrize("block", [block for block in blocks("toml") if block.document != "docs/extending.md"], ids=str)
def test_every_spec_in_the_documents_is_valid(block: Any) -> None:
    tree = tomllib.loads(block.text)
    spec = parse_spec(tree if "name" in tree else _LEAST | tree)
    assert spec.model.source.partition(":")[0] in models.KINDS
    assert spec.data.source.partition(":")[0] in sources.KINDS


# ---- the results


def as_named(kind: pa.DataType) -> str:
    return {"float": "float32", "double": "float64"}.get(str(kind), str(kind))


@pytest.mark.parametrize(
    ("file", "schema"),
    [
        *((f"index/{name}.parquet", schema) for name, schema in INDEX.items()),
        ("crops/LAYER.parquet", CROPS),
        ("comparison.parquet", COMPARISON),
        ("patterns/LAYER.parquet", PATTERNS),
        ("maps/LAYER-METHOD.parquet", MAPS),
        ("atlas/LAYER.parquet", ATLAS),
    ],
)
def test_every_column_is_documented_with_its_type(file: Any, schema: Any) -> None:
    documented = [(name, row[1].strip("`")) for name, row in by_name(section("docs/results.md", f"`{file}`")).items()]
    assert documented == [(field.name, as_named(field.type)) for field in schema]


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the examples need: a finished small demo, some photographs and a spec."""
    folder: Path = tmp_path_factory.mktemp("docs")
    (folder / "photos").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8)
    (folder / "photos" / "one.png").write_bytes(encode_png(pixels))
    demo = shipped_specs()["demo"]
    network = demo.parent / "shipped" / "cifar10.keras"
    (folder / "my-photos.toml").write_text(
        f'name = "my-photos"\nmodel = {{ source = "file:{network}", layers = "conv1" }}\ndata = {{ source = "folder:photos" }}\n'
    )
    run(load_spec(demo, ["data.limit=64", "data.batch=32", "activations.channels=[0, 7]", "activations.top_k=2"]), folder / "out")
    return folder


def test_every_file_of_a_job_is_documented(workplace: Any) -> None:
    documented = set(by_name(section("docs/results.md", "What a job leaves")))
    layers = json.loads((workplace / "out/demo/run.json").read_text())["layers"]
    for path in (workplace / "out/demo").rglob("*"):
        name = re.sub("|".join(layers), "LAYER", str(path.relative_to(workplace / "out/demo")))
        name = re.sub(r"^(report/\w+/).*", r"\1", name)
        if path.is_file():
            assert name in documented, name


def test_every_key_of_the_receipt_is_documented(workplace: Any) -> None:
    receipt = json.loads((workplace / "out/demo/run.json").read_text())
    top, stage = section("docs/results.md", "`run.json`").split("The entry of the stage")
    assert by_name(top).keys() == receipt.keys()
    assert by_name(stage).keys() == receipt["stages"]["activations"].keys()
    inner = receipt["digests"].keys() | receipt["stages"]["activations"]["scan_seconds"].keys()
    assert all(f"`{name}`" in top + stage for name in inner)


def test_the_demo_ends_with_the_summary_of_the_tutorial(workplace: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(workplace)
    (summary_text,) = (block.text for block in blocks("text") if block.text.startswith("demo: "))

    def shape(text: str) -> str:
        return re.sub(" +", " ", re.sub(r"\d[\d,.e+-]*", "N", text.strip()))  # columns are as wide as their numbers

    assert shape("\n".join(summary(Path("out/demo")))) == shape(summary_text)


# ---- examples, links, targets


@pytest.mark.parametrize("block", blocks("python"), ids=str)
def test_every_python_example_compiles(block: Any) -> None:
    compile(block.text, str(block), "exec")


@pytest.mark.parametrize("document", sorted({block.document for block in blocks("python") if block.runs}))
def test_the_examples_of_a_document_run_one_after_the_other(
    document: Any, workplace: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(workplace)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(workplace / "cache"))
    names: dict[str, Any] = {"__name__": "example"}
    for block in blocks("python"):
        if block.document == document and block.runs:
            exec(compile(block.text, str(block), "exec"), names)
            printed = capsys.readouterr().out
            for promise in re.findall(r"^print\(.*\)  # ([(\[].*)$", block.text, re.MULTILINE):
                assert promise in printed, block


def test_every_link_and_picture_is_there() -> None:
    for path in DOCUMENTS + OUTSIDE:
        for target in re.findall(r"\]\(([^)\s]+)\)", without_blocks(path.read_text(encoding="utf-8"))):
            if re.match(r"\w+:", target):
                continue
            file, _, anchor = target.partition("#")
            linked = (path.parent / file).resolve() if file else path
            assert linked.exists(), f"{path.name} links to {target}"
            if anchor:
                anchors = {*map(slug, headings(str(linked.relative_to(ROOT)))), *described(linked)}
                assert anchor in anchors, f"{path.name} links to {target}"


def test_every_document_is_linked_from_the_start_page_and_that_from_the_readme() -> None:
    for path in [ROOT / "docs" / "index.md", *OUTSIDE]:
        assert f"]({path.relative_to(ROOT)})" in section("README.md", "More"), path.name
    for path in sorted((ROOT / "docs").rglob("*.md")):
        assert path.name == "index.md" or f"]({path.relative_to(ROOT / 'docs')})" in read("docs/index.md"), path.name


def test_the_site_lists_the_pages_that_the_start_page_lists_in_the_same_order() -> None:
    listed = re.findall(r": ([\w/]+\.md)$", read("mkdocs.yml"), re.MULTILINE)
    assert listed == ["index.md", *re.findall(r"\]\(([\w/]+\.md)\)", read("docs/index.md"))]


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")
def test_the_targets_of_make_are_the_documented_ones() -> None:
    targets = set(re.findall(r"^([a-z][\w-]*):(?!=)", read("Makefile"), re.MULTILINE))
    helped = subprocess.run(["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    listed = {word for line in helped.splitlines() for word in line.split()[:2] if word in targets}
    documented = {name.removeprefix("make ") for name in by_name(section("CONTRIBUTING.md", "Targets of `make`"))}
    assert documented == listed
    for path in DOCUMENTS + OUTSIDE:
        text = path.read_text(encoding="utf-8")
        named = re.findall(r"`make ([a-z][\w-]*)`", text) + re.findall(r"^make ([a-z][\w-]*)", text, re.MULTILINE)
        assert set(named) <= targets, path.name
