"""The spec: every key's default and limits, and one line for whatever is wrong with it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel
from spec_values import LEAST, one_line, value_at

from pipeline.errors import UnknownName, WrongSpec
from pipeline.load import parse_spec
from pipeline.models.preprocessing import MODES
from pipeline.spec import STAGES, JobSpec
from pipeline.spec.model import PREPROCESSING
from pipeline.spec.patterns import ShakeSpec

# Every key that may be left out, and what it then is.
DEFAULTS = {
    "stages": ["activations", "report"],
    "model.weights": "imagenet",
    "model.preprocess": "auto",
    "model.labels": None,
    "model.top": True,
    "model.size": None,
    "model.directions": [],
    "model.tokens": None,
    "model.inputs": {},
    "model.logits": None,
    "model.boxes": None,
    "model.head": "auto",
    "model.trusted": False,
    "model.allow": [],
    "model.custom": None,
    "data.data_dir": None,
    "data.limit": None,
    "data.image": None,
    "data.label": None,
    "data.labels": None,
    "data.batch": 64,
    "data.resize": "crop",
    "data.window": None,
    "data.on_bad": "skip",
    "data.max_bad": 0.01,
    "data.bands": None,
    "data.rgb": None,
    "data.range": None,
    "data.max_pixels": 2**28,
    "model.precision": "float32",
    "model.xla": False,
    "activations.top_k": 9,
    "activations.bottom_k": 0,
    "activations.label_k": 0,
    "activations.per_image": None,
    "filters.layers": None,
    "filters.sort": "norm",
    "filters.filters": None,
    "filters.inputs": None,
    **{f"{stage}.{key}": [] for stage in ("featuremaps", "gradcam") for key in ("examples", "keys", "files")},
    **{f"{stage}.first": 4 for stage in ("featuremaps", "gradcam")},
    "featuremaps.layers": None,
    "featuremaps.scale": "map",
    "featuremaps.colours": "viridis",
    "featuremaps.channels": 4096,
    "gradcam.methods": ["gradcam", "guided_backprop", "guided_gradcam"],
    "gradcam.layers": [],
    "gradcam.targets": ["predicted"],
    "gradcam.sanity": [],
    "gradcam.objects": None,
    "gradcam.steps": 256,
    "gradcam.baseline": "black",
    "gradcam.channels": None,
    "gradcam.evidence": "for",
    "gradcam.merge": False,
    "gradcam.noise": 0.15,
    "gradcam.patch": 0.125,
    "gradcam.references": 16,
    "gradcam.samples": None,
    "gradcam.segments": 50,
    "gradcam.through": [],
    "gradcam.arrays": False,
    "gradcam.aggregate": [],
    "gradcam.pictures": 200,
    "gradcam.batch": 16,
    "activations.channels": "all",
    "activations.rank": "response",
    "activations.crop": "auto",
    "activations.crop_size": 128,
    "patterns.layers": None,
    "patterns.channels": "all",
    "patterns.target": "channel",
    "patterns.objectives": [],
    "patterns.sign": "positive",
    "patterns.variants": 1,
    "patterns.diversity": 1.0,
    "patterns.steps": 128,
    "patterns.batch": 16,
    "patterns.seed": 0,
    "patterns.canvas": "fourier",
    "patterns.decorrelated": True,
    "patterns.decay": 1.0,
    "patterns.contrast": 0.1,
    "patterns.optimiser": "adam",
    "patterns.rate": 0.1,
    "patterns.tv": 0.0,
    "patterns.l2": 0.0,
    "patterns.shake": ShakeSpec(),
    "patterns.shake.pad": 0.05,
    "patterns.shake.jitter": 0.04,
    "patterns.shake.scale": 0.08,
    "patterns.shake.rotate": 8.0,
    "patterns.snapshot": 60.0,
    **{f"dream.{key}": [] for key in ("examples", "keys", "files")},
    "dream.first": 4,
    "dream.layers": None,
    "dream.num_octave": 3,
    "dream.octave_scale": 1.4,
    "dream.iterations": 20,
    "dream.step": 0.01,
    "dream.max_loss": None,
    "dream.levels": 3,
    "dream.shift": 1.0,
    "dream.longest": None,
    "dream.zoom": None,
    "dream.visualization": None,
    "dream.batch": 4,
    "dream.seed": 0,
    "dream.snapshot": 60.0,
    "concepts.labels": True,
    "concepts.embeddings": None,
    "concepts.masks": None,
    "concepts.quality": False,
    "concepts.images": 10_000,
    "concepts.top_k": 5,
    "concepts.chance": 0.05,
    "atlas.layers": None,
    "atlas.vectors": 20_000,
    "atlas.per_image": 4,
    "atlas.neighbours": 15,
    "atlas.grids": [8, 16],
    "atlas.least": 3,
    "atlas.icons": True,
    "atlas.steps": 128,
    "atlas.batch": 16,
    "atlas.seed": 0,
    "atlas.checkpoint": 60.0,
    "atlas.projector": False,
    "concepts.fits": 0.5,
    "circuits.layers": None,
    "circuits.top_k": 5,
    "circuits.winners": 3,
    "directions.layers": None,
    "directions.methods": ["pca16", "kmeans16"],
    "directions.vectors": 20_000,
    "directions.per_image": 8,
    "directions.seed": 0,
    "directions.sparsity": 16,
    "directions.split": None,
    "directions.steps": 2000,
    "directions.checkpoint": 60.0,
    "directions.concepts": {},
    "directions.against": None,
    "directions.runs": 20,
    "directions.images": 100,
    "directions.targets": [],
}
REQUIRED = ("name", "model", "model.source", "data", "data.source")

GOOD = [
    ("name", "a.B-c_9", "a.B-c_9"),
    ("stages", "activations", ["activations"]),
    ("stages", ["activations", "activations"], ["activations"]),
    ("model.layers", "conv", ["conv"]),
    ("model.layers", ["a", "b*"], ["a", "b*"]),
    ("model.preprocess", "caffe", "caffe"),
    ("model.size", 96, (96, 96)),
    ("model.size", [96, 128], (96, 128)),
    ("model.top", False, False),
    ("data.limit", 1, 1),
    ("data.resize", "pad", "pad"),
    ("data.window.size", 32, 32),
    ("data.window.align", "middle", "middle"),
    ("data.max_bad", 0, 0.0),
    ("data.max_bad", 1.0, 1.0),
    ("data.on_bad", "fail", "fail"),
    ("activations.top_k", 1000, 1000),
    ("activations.bottom_k", 5, 5),
    ("activations.label_k", 1000, 1000),
    ("activations.channels", [3, 0], [3, 0]),
    ("activations.crop", "image", "image"),
    ("activations.crop", "channel", "channel"),
    ("activations.crop", "map", "map"),
    ("activations.crop_size", 16, 16),
]

BAD = [
    ("name", ""),
    ("name", "../x"),
    ("name", ".hidden"),
    ("name", "a/b"),
    ("name", 7),
    ("stages", []),
    ("stages", 7),
    ("model", 7),
    ("model.source", 7),
    ("model.weights", 7),
    ("model.layers", []),
    ("model.layers", [7]),
    ("model.preprocess", "imagenet"),
    ("model.size", 0),
    ("model.size", -5),
    ("model.size", [96]),
    ("model.size", [96, 96, 3]),
    ("model.size", "large"),
    ("model.size", True),
    ("model.size", 9.5),
    ("model.top", "maybe"),
    ("model.trusted", "maybe"),
    ("data.limit", 0),
    ("data.limit", "ten"),
    ("data.batch", 0),
    ("data.batch", -1),
    ("data.batch", 2.5),
    ("data.batch", True),
    ("data.batch", "64"),
    ("data.resize", "squeeze"),
    ("data.window", 32),
    ("data.window.size", 0),
    ("data.window.align", "left"),
    ("data.window.stride", 0),
    ("data.on_bad", "ignore"),
    ("data.max_bad", -0.1),
    ("data.max_bad", 1.1),
    ("data.max_bad", float("nan")),
    ("data.max_bad", "few"),
    ("activations.top_k", 0),
    ("activations.bottom_k", -1),
    ("activations.label_k", 1001),
    ("activations.top_k", 1001),
    ("activations.top_k", 1.5),
    ("activations.channels", "some"),
    ("activations.channels", []),
    ("activations.channels", [-1]),
    ("activations.channels", [1, 1]),
    ("activations.channels", [1.5]),
    ("activations.crop", "box"),
    ("activations.crop_size", 15),
    ("patterns.channels", [-1]),
    ("patterns.target", "map"),
    ("patterns.sign", "up"),
    ("patterns.variants", 0),
    ("patterns.steps", 0),
    ("patterns.batch", 0),
    ("patterns.seed", 2**31),
    ("patterns.canvas", "oil"),
    ("patterns.optimiser", "lion"),
    ("patterns.rate", 0),
    ("patterns.rate", float("nan")),
    ("patterns.tv", -1),
    ("patterns.l2", float("inf")),
    ("patterns.shake.jitter", 2),
    ("patterns.snapshot", 0),
    ("dream.num_octave", 0),
    ("dream.octave_scale", 1.0),
    ("dream.iterations", 0),
    ("dream.step", 2),
    ("dream.max_loss", float("nan")),
    ("dream.shift", 1.5),
    ("dream.longest", 0),
    ("dream.zoom.frames", 0),
    ("dream.visualization.octaves", []),
    ("concepts.images", 0),
    ("concepts.embeddings", {}),
    ("concepts.embeddings", {"images": "a.parquet", "layer": "conv"}),
    ("concepts.embeddings", {"images": "a.parquet", "model": "keras:VGG16"}),
    ("concepts.top_k", 101),
    ("concepts.chance", 1.5),
    ("concepts.fits", 1.5),
    ("circuits.top_k", 0),
    ("circuits.winners", -1),
    ("atlas.vectors", 0),
    ("atlas.per_image", 0),
    ("atlas.neighbours", 1),
    ("atlas.least", 0),
    ("atlas.steps", 0),
    ("atlas.batch", 0),
    ("atlas.seed", -1),
    ("atlas.checkpoint", 0),
    ("directions.methods", ["pca"]),
    ("directions.vectors", 0),
    ("directions.per_image", 0),
    ("directions.seed", -1),
    ("directions.sparsity", 0),
    ("directions.split", 0),
    ("directions.steps", 0),
    ("directions.checkpoint", 0),
    ("directions.concepts", 3),
    ("directions.against", 3),
    ("directions.runs", 19),
    ("directions.images", 9),
    ("directions.targets", 1.5),
]


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
    found = value_at(parse_spec(with_value(key, given)), key)
    assert found == value and type(found) is type(value)


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
