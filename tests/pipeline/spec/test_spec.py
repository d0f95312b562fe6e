"""The spec: every key's default and limits, and one line for whatever is wrong with it."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from pipeline.errors import MissingInput, UnknownName, WrongSpec
from pipeline.load import load_spec, parse_spec
from pipeline.models.preprocessing import MODES
from pipeline.spec import STAGES, JobSpec
from pipeline.spec.model import PREPROCESSING
from pipeline.spec.paths import PathText, resolve_paths
from pipeline.spec.patterns import ShakeSpec
from pipeline.spec.picks import Picks
from pipeline.spec.table import Table

LEAST = {"name": "job", "model": {"source": "keras:VGG16", "layers": ["conv"]}, "data": {"source": "folder:/images"}}

# Every key that may be left out, and what it then is.
DEFAULTS = {
    "stages": ["activations", "report"],
    "model.weights": "imagenet",
    "model.preprocess": "auto",
    "model.labels": None,
    "model.top": True,
    "model.size": None,
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
    "gradcam.batch": 16,
    "activations.channels": "all",
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
]


def with_value(key: Any, value: Any) -> Any:
    """The least spec there is, with one value more or another."""
    tree = {name: dict(part) if isinstance(part, dict) else part for name, part in LEAST.items()}
    if key.startswith("data.window."):
        tree["data"]["window"] = {"size": 32, "stride": 16}
    table = tree
    *tables, last = key.split(".")
    for name in tables:
        table = table.setdefault(name, {})  # type: ignore[assignment]
    table[last] = value
    return tree


def value_at(spec: Any, key: Any) -> Any:
    for name in key.split("."):
        spec = getattr(spec, name)
    return spec


def keys_of(table: Any, prefix: Any = "") -> Iterator[Any]:
    """Every key of a table and of the tables in it, but for the window's."""
    for name, field in table.model_fields.items():
        yield prefix + name
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from keys_of(field.annotation, f"{prefix}{name}.")


def one_line(caught: Any, status: Any = 2) -> Any:
    message = str(caught.value)
    assert "\n" not in message and caught.value.exit_code == status
    return message


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
    with pytest.raises(UnknownName, match=r"'activation' is not a stage; nearest: activations; known: ") as caught:
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


# The file.


TOML = """
name = "job"
[model]
source = "file:nets/a.keras"
layers = ["conv"]
labels = "names.txt"
[data]
source = "folder:images"
data_dir = "../tfds"
"""


@pytest.fixture
def spec_file(tmp_path: Path) -> Any:
    folder = tmp_path / "specs"
    folder.mkdir()
    path = folder / "job.toml"
    path.write_text(TOML, encoding="utf-8")
    return path


def test_paths_in_the_file_are_relative_to_the_file(spec_file: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    spec = load_spec("specs/job.toml")
    folder = spec_file.parent
    assert spec.model.source == f"file:{folder}/nets/a.keras" and spec.model.labels == f"{folder}/names.txt"
    assert spec.data.source == f"folder:{folder}/images" and spec.data.data_dir == f"{tmp_path}/tfds"


def test_paths_on_the_command_line_are_relative_to_where_it_is_typed(
    spec_file: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    spec = load_spec(spec_file, ["data.source=folder:here", "model.weights=w.h5", "model.labels=/names"])
    assert spec.data.source == f"folder:{tmp_path}/here" and spec.model.weights == f"{tmp_path}/w.h5"
    assert spec.model.labels == "/names"


@pytest.mark.parametrize("kind", ["frozen", "savedmodel"])
def test_paths_of_graphs_are_relative_to_the_file_too(spec_file: Any, kind: Any) -> None:
    spec_file.write_text(spec_file.read_text().replace("file:nets/a.keras", f"{kind}:nets/a"))
    assert load_spec(spec_file).model.source == f"{kind}:{spec_file.parent}/nets/a"


class Places(Table):
    """A table such as a stage that is still to be written may have."""

    inside: tuple[Picks, ...] = ()
    atlas: PathText | None = None
    title: str = ""


class Larger(Table):
    mine: Places = Places()
    other: Picks = Picks()


def test_paths_in_any_table_are_relative_to_the_file_because_their_fields_say_so() -> None:
    tree = {
        "mine": {"atlas": "map.parquet", "title": "map.parquet", "inside": [{"files": "a.png"}, {"files": ["b.png", "/c.png"]}]},
        "other": {"files": ["s3://bucket/d.png", "../e.png"], "keys": ["f.png"]},
        "unknown": {"files": ["g.png"]},
    }
    resolve_paths(tree, Larger, Path("/specs"), {})
    assert tree == {
        "mine": {
            "atlas": "/specs/map.parquet",
            "title": "map.parquet",
            "inside": [{"files": "/specs/a.png"}, {"files": ["/specs/b.png", "/c.png"]}],
        },
        "other": {"files": ["s3://bucket/d.png", "/e.png"], "keys": ["f.png"]},
        "unknown": {"files": ["g.png"]},
    }


@pytest.mark.parametrize("stage", ["featuremaps", "gradcam", "dream"])
def test_files_that_a_stage_picks_are_relative_to_the_file(spec_file: Any, tmp_path: Path, stage: Any) -> None:
    spec_file.write_text(f'{TOML}\n[{stage}]\nfiles = ["../one.png"]\n')
    assert value_at(load_spec(spec_file), f"{stage}.files") == [f"{tmp_path}/one.png"]


@pytest.mark.parametrize("value", [7, {"files": 7}, [7], {"visualization": 7}])
def test_what_is_no_table_and_no_path_is_left_to_validation(spec_file: Any, value: Any) -> None:
    text = json.dumps(value).replace(":", " =").replace('"', "")
    spec_file.write_text(f"dream = {text}\n{TOML}")
    with pytest.raises(WrongSpec, match=r"dream.* = .*job\.toml: "):
        load_spec(spec_file)


def test_words_that_are_no_paths_stay(spec_file: Any) -> None:
    spec = load_spec(
        spec_file,
        ["model.source=keras:VGG16", "model.weights=imagenet", "model.labels=imagenet", "data.source=tfds:cifar10/train"],
    )
    assert (spec.model.source, spec.model.weights, spec.model.labels) == ("keras:VGG16", "imagenet", "imagenet")
    assert spec.data.source == "tfds:cifar10/train"
    assert load_spec(spec_file, ["model.weights=none"]).model.weights == "none"


def test_home_and_variables_are_expanded(spec_file: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PICTURES", "/disk/pictures")
    monkeypatch.setenv("HOME", "/home/me")
    spec = load_spec(spec_file, ["data.source=folder:${PICTURES}/cats", "model.source=file:~/a.keras", "data.data_dir=$PICTURES"])
    assert spec.data.source == "folder:/disk/pictures/cats" and spec.model.source == "file:/home/me/a.keras"
    assert spec.data.data_dir == "/disk/pictures"


@pytest.mark.parametrize("variable", ["${NOT_SET_ANYWHERE}", "$NOT_SET_ANYWHERE"])
def test_a_variable_that_is_not_set_is_named(spec_file: Any, variable: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOT_SET_ANYWHERE", raising=False)
    with pytest.raises(WrongSpec, match="the environment variable NOT_SET_ANYWHERE, which is not set") as caught:
        load_spec(spec_file, [f"data.source=folder:{variable}/x"])
    one_line(caught)


def test_a_variable_that_is_not_set_does_not_matter_where_another_value_is_given(
    spec_file: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NOT_SET_ANYWHERE", raising=False)
    text = spec_file.read_text().replace("folder:", "folder:${NOT_SET_ANYWHERE}/")
    spec_file.write_text(text)
    with pytest.raises(WrongSpec, match=r"NOT_SET_ANYWHERE, which is not set\. Set it, .*--set") as caught:
        load_spec(spec_file, ["data.batch=7"])
    one_line(caught)
    assert load_spec(spec_file, ["data.source=folder:/elsewhere"]).data.source == "folder:/elsewhere"


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("data.batch=7", "data.batch", 7),
        ("model.layers=conv", "model.layers", ["conv"]),
        ('model.layers=["a", "b"]', "model.layers", ["a", "b"]),
        ("activations.channels=[1, 2]", "activations.channels", [1, 2]),
        ("model.top=false", "model.top", False),
        ("data.max_bad=0.5", "data.max_bad", 0.5),
        ("name = other", "name", "other"),
        ("name=a.b", "name", "a.b"),
        ("data.window={size = 8, stride = 4}", "data.window.stride", 4),
        ("model.source=keras:A=B", "model.source", "keras:A=B"),
    ],
)
def test_a_value_on_the_command_line_is_toml_or_else_plain_text(spec_file: Any, override: Any, key: Any, value: Any) -> None:
    assert value_at(load_spec(spec_file, [override]), key) == value


def test_values_on_the_command_line_change_their_keys_alone_and_the_last_wins(spec_file: Any) -> None:
    spec = load_spec(spec_file, ["data.batch=7", "data.limit=3", "data.batch=9"])
    plain = load_spec(spec_file)
    assert (spec.data.batch, spec.data.limit, spec.data.source) == (9, 3, plain.data.source) and spec.model == plain.model


@pytest.mark.parametrize("override", ["data.batch", "=7", "", "data.=7", ".batch=7", "a..b=7"])
def test_an_override_that_is_none_is_refused(spec_file: Any, override: Any) -> None:
    with pytest.raises(WrongSpec, match="is not of the form section.key=value") as caught:
        load_spec(spec_file, [override])
    one_line(caught)


@pytest.mark.parametrize("override", ["data.bach=7", "dat.batch=7", "batch=7"])
def test_an_override_of_an_unknown_key_is_named(spec_file: Any, override: Any) -> None:
    with pytest.raises(UnknownName, match=rf"'{override.split('=')[0].split('.')[-1]}|'dat' is not a key"):
        load_spec(spec_file, [override])


@pytest.mark.parametrize("override", ["name.x=7", "model.layers.x=7", "data=7"])
def test_an_override_that_makes_a_table_of_a_value_or_a_value_of_a_table_is_refused(spec_file: Any, override: Any) -> None:
    with pytest.raises(WrongSpec) as caught:
        load_spec(spec_file, [override])
    one_line(caught)


def test_a_spec_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match=r"none\.toml' cannot be read \(No such file or directory\)") as caught:
        load_spec(tmp_path / "none.toml")
    one_line(caught)


def test_a_folder_or_junk_instead_of_a_spec_is_an_error_of_one_line(tmp_path: Path) -> None:
    with pytest.raises(MissingInput, match="Is a directory"):
        load_spec(tmp_path)
    (tmp_path / "junk.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(WrongSpec, match=r"junk\.toml is not text in UTF-8") as caught:
        load_spec(tmp_path / "junk.toml")
    one_line(caught)


@pytest.mark.parametrize("text", ["name = ", "[model\n", 'name = "a"\nname = "b"', "x = 1 2"])
def test_what_is_not_toml_is_named_with_its_line(tmp_path: Path, text: Any) -> None:
    path = tmp_path / "job.toml"
    path.write_text(text)
    with pytest.raises(WrongSpec, match=r"job\.toml is not TOML: .*(line \d+|end of document)") as caught:
        load_spec(path)
    one_line(caught)


def test_a_bad_value_in_a_file_names_the_file(spec_file: Any) -> None:
    spec_file.write_text(TOML + "batch = 0\n")
    with pytest.raises(WrongSpec, match=r"data\.batch = 0 in .*specs/job\.toml: ") as caught:
        load_spec(spec_file)
    one_line(caught)


SHIPPED = sorted(Path(__file__).resolve().parents[3].glob("jobs/*.toml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_the_shipped_specs_are_right_and_name_files_that_are_there(path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in re.findall(r"\$\{(\w+)\}", path.read_text()):
        monkeypatch.setenv(variable, "/elsewhere")
    spec = load_spec(path)
    assert spec.name == path.stem
    kind, _, file = spec.model.source.partition(":")
    assert kind != "file" or os.path.isfile(file)


def test_specs_are_shipped() -> None:
    assert {"demo", "cifar10", "lfw_facenet", "imagenet_vgg16", "imagenet_mobilenet_v2"} <= {path.stem for path in SHIPPED}


@pytest.mark.parametrize(
    ("table", "other", "name", "value"),
    [
        ("patterns", "parametrization", "canvas", "pixels"),
        ("patterns", "transforms", "shake", {"jitter": 0.5}),
        ("patterns", "checkpoint", "snapshot", 5.0),
        ("dream", "checkpoint", "snapshot", 5.0),
        ("gradcam", "trust", "sanity", ["curves"]),
    ],
)
def test_a_key_may_have_its_other_name_in_a_file_and_on_the_command_line(
    tmp_path: Path, table: str, other: str, name: str, value: Any
) -> None:
    plain = parse_spec(LEAST | {table: {name: value}})
    assert parse_spec(LEAST | {table: {other: value}}) == plain != parse_spec(LEAST)
    file = tmp_path / "job.toml"
    file.write_text('name = "job"\nmodel = { source = "keras:VGG16", layers = "conv" }\ndata = { source = "folder:/images" }\n')
    text = "{jitter = 0.5}" if isinstance(value, dict) else json.dumps(value)
    assert load_spec(file, [f"{table}.{other}={text}"]) == plain
    assert load_spec(file, [f"{table}.{name}={text}", f"{table}.{other}={text}"]) == plain


def test_an_override_by_one_name_replaces_the_value_that_the_file_gives_by_the_other(tmp_path: Path) -> None:
    file = tmp_path / "job.toml"
    file.write_text(
        'name = "job"\nmodel = { source = "keras:VGG16", layers = "conv" }\ndata = { source = "folder:/images" }\n'
        "[patterns]\nshake = { jitter = 0.1, rotate = 2.0 }\n"
    )
    shake = load_spec(file, ["patterns.transforms.jitter=0.5"]).patterns.shake
    assert (shake.jitter, shake.rotate) == (0.5, 2.0)


def test_a_key_under_both_of_its_names_is_refused() -> None:
    with pytest.raises(WrongSpec, match=r"patterns\.canvas and patterns\.parametrization in the spec are two names of one key"):
        parse_spec(LEAST | {"patterns": {"canvas": "pixels", "parametrization": "fourier"}})
