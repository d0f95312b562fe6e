"""The spec: every key's default and limits, and one line for whatever is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel
from spec_values import BAD, DEFAULTS, GOOD, LEAST, REQUIRED, one_line, value_at

from pipeline.errors import UnknownName, WrongSpec
from pipeline.load import parse_spec
from pipeline.models.preprocessing import MODES
from pipeline.spec import STAGES, JobSpec
from pipeline.spec.model import PREPROCESSING


def with_value(key: Any, value: Any) -> Any:
    """The least spec there is, with one value more or another."""
    tree = {name: dict(part) if isinstance(part, dict) else part for name, part in LEAST.items()}
    if key.startswith("data.window."):
        tree["data"]["window"] = {"size": 32, "stride": 16}
    table = tree
    *tables, last = key.split(".")
    for name in tables:
        table = table.setdefault(name, {})
    table[last] = value
    return tree


def keys_of(table: Any, prefix: Any = "") -> Iterator[Any]:
    """Every key of a table and of the tables in it, but for the window's."""
    for name, field in table.model_fields.items():
        yield prefix + name
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from keys_of(field.annotation, f"{prefix}{name}.")


def test_every_key_is_tested_here() -> None:
    assert set(keys_of(JobSpec)) == {
        *DEFAULTS,
        *REQUIRED,
        "model.layers",
        "activations",
        "filters",
        "featuremaps",
        "gradcam",
        "patterns",
        "dream",
        "concepts",
        "atlas",
        "circuits",
        "directions",
    }


@pytest.mark.parametrize(("key", "value"), DEFAULTS.items())
def test_what_is_left_out_has_its_documented_default(key: Any, value: Any) -> None:
    assert value_at(parse_spec(LEAST), key) == value


@pytest.mark.parametrize(("key", "given", "value"), GOOD)
def test_what_is_allowed_is_taken(key: Any, given: Any, value: Any) -> None:
    actual = value_at(parse_spec(with_value(key, given)), key)
    assert actual == value and type(actual) is type(value)


@pytest.mark.parametrize(("key", "value"), BAD)
def test_what_cannot_be_is_refused_in_one_line_that_names_key_and_value(key: Any, value: Any) -> None:
    with pytest.raises(WrongSpec) as caught:
        parse_spec(with_value(key, value), where="job.toml")
    message = one_line(caught)
    assert message.startswith(f"WrongSpec: {key}") and "job.toml" in message and message.endswith(".")
    shown = value[-1] if isinstance(value, list) and key in ("model.layers",) and value else value
    assert repr(shown) in message or key in ("model.size", "activations.channels", "patterns.channels")


@pytest.mark.parametrize("value", ["some", [], [-1], [1.5]])
def test_the_error_for_wrong_channels_says_that_a_list_is_allowed(value: Any) -> None:
    with pytest.raises(WrongSpec, match=r"activations\.channels.*(list|numbers|greater|at least|integer)"):
        parse_spec(with_value("activations.channels", value))


@pytest.mark.parametrize("key", REQUIRED)
def test_what_is_missing_is_named(key: Any) -> None:
    tree = with_value("data.batch", 1)
    *tables, last = key.split(".")
    del (tree[tables[0]] if tables else tree)[last]
    with pytest.raises(WrongSpec, match=f"job.toml has no '{key}'") as caught:
        parse_spec(tree, where="job.toml")
    one_line(caught)


@pytest.mark.parametrize(
    ("key", "near", "place"),
    [
        ("stagse", "stages", "the spec"),
        ("model.wieghts", "weights", "[model]"),
        ("data.batch_size", "batch", "[data]"),
        ("activations.topk", "top_k", "[activations]"),
        ("data.window.strid", "stride", "[data.window]"),
    ],
)
def test_an_unknown_key_is_named_with_its_table_and_what_is_near(key: Any, near: Any, place: Any) -> None:
    with pytest.raises(UnknownName) as caught:
        parse_spec(with_value(key, 1), where="job.toml")
    message = one_line(caught)
    assert f"'{key.split('.')[-1]}' is not a key of {place} in job.toml; nearest: {near}" in message and "known: " in message


def test_an_unknown_table_is_an_unknown_key() -> None:
    with pytest.raises(UnknownName, match=r"'activation' is not a key of the spec in job.toml; nearest: activations"):
        parse_spec({**LEAST, "activation": {"top_k": 3}}, where="job.toml")


def test_an_unknown_stage_is_named_with_what_is_near_and_known() -> None:
    with pytest.raises(UnknownName, match=r"'activation' is not a stage; nearest: activations, directions; known: ") as caught:
        parse_spec({**LEAST, "stages": ["activation"]})
    one_line(caught)


def test_the_lists_of_the_spec_are_those_of_the_tables_behind_them() -> None:
    from pipeline.stages import STAGES as TABLE

    assert list(STAGES) == list(TABLE)
    assert set(PREPROCESSING) == {"auto", *MODES}
    for mode in PREPROCESSING:
        assert parse_spec(with_value("model.preprocess", mode)).model.preprocess == mode


def test_a_spec_cannot_be_changed_once_read() -> None:
    spec = parse_spec(LEAST)
    with pytest.raises(ValueError, match="frozen"):
        spec.name = "other"


def test_a_spec_survives_its_way_through_the_receipt() -> None:
    spec = parse_spec(with_value("data.window.size", 24))
    assert parse_spec(spec.model_dump(mode="json", exclude_none=True)) == spec
