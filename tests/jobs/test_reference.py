"""What keys mean, on the command line and for editors: the same as in docs/spec.md, and the same as what convscope takes."""

from __future__ import annotations

import json
import tomllib
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from jobs.reference import entry, schema
from jobs.specs import shipped_specs
from pipeline.spec.job_spec import keys

LEAST: dict[str, Any] = {"name": "a", "model": {"source": "keras:VGG16"}, "data": {"source": "folder:a"}}


@pytest.fixture(scope="module")
def validator() -> Draft202012Validator:
    Draft202012Validator.check_schema(schema())
    return Draft202012Validator(schema())


@pytest.mark.parametrize("name", shipped_specs())
def test_editors_accept_every_shipped_spec(name: str, validator: Any) -> None:
    assert list(validator.iter_errors(tomllib.loads(shipped_specs()[name].read_text()))) == []


@pytest.mark.parametrize(
    "tables",
    [
        {"stages": "activations"},
        {"model": {"source": "keras:VGG16", "layers": "block*", "size": 64}},
        {"model": {"source": "keras:VGG16", "layers": ["block*"], "size": [64, 32]}},
        {"data": {"source": "folder:a", "range": [0, 1]}},
        {"data": {"source": "folder:a", "range": [[0, 1], [2, 3]]}},
        {"activations": {"channels": [1, 2], "crop": "map"}},
        {"gradcam": {"classes": 3, "trust": "curves", "files": "a.png", "methods": "gradcam"}},
        {"gradcam": {"targets": ["label", 2, {"class": 4}, {"region": [0, 0, 1, 1]}], "sanity": ["curves"]}},
        {"patterns": {"transforms": {"pad": 0.1}, "parametrization": "pixels", "objectives": []}},
        {"dream": {"layers": ["a", "b"], "checkpoint": 3}},
        {"dream": {"layers": {"a": 1.5}}},
    ],
    ids=str,
)
def test_editors_accept_what_convscope_accepts(tables: Any, validator: Any) -> None:
    from pipeline.load import parse_spec

    parse_spec(LEAST | tables)
    assert [error.message for error in validator.iter_errors(LEAST | tables)] == []


@pytest.mark.parametrize(
    "tables", [{"limit": 3}, {"data": {"source": "folder:a", "top_k": 3}}, {"stages": ["report", "fly"]}, {"data": {}}], ids=str
)
def test_editors_refuse_what_convscope_refuses(tables: Any, validator: Any) -> None:
    assert list(validator.iter_errors(LEAST | tables))


@pytest.mark.parametrize("key", list(keys()))
def test_help_knows_every_key(key: str) -> None:
    head, facts, _, meaning, *_ = entry(key).splitlines()
    assert head == key and facts.count(",") and meaning.strip()


def test_help_prints_the_section_that_an_entry_points_to(command: Any) -> None:
    status, out, _ = command("help", "model.preprocess")
    assert status == 0 and 'default: "auto"' in out
    assert "\nPreprocessing\n" in out and "symmetric" in out and "](" not in out


@pytest.mark.parametrize(("key", "meant"), [("crop", "activations.crop"), ("gradcam.clases", "gradcam.classes")])
def test_help_suggests_the_key_that_was_meant(key: str, meant: str, command: Any) -> None:
    status, out, error = command("help", key)
    assert status == 2 and out == "" and meant in error


def test_help_of_a_command_is_its_own(command: Any) -> None:
    assert command("help", "run")[1] == command("run", "--help")[1]
    assert command("help")[1] == command("--help")[1]


def test_the_command_prints_the_schema(command: Any) -> None:
    status, out, _ = command("schema")
    assert status == 0 and json.loads(out) == schema()
