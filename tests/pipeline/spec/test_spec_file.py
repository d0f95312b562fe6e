"""The file of a spec: its paths, values on the command line, keys with two names, and whatever is wrong with it."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from spec_values import LEAST, one_line, value_at

from pipeline.errors import MissingInput, UnknownName, WrongSpec
from pipeline.load import load_spec, parse_spec
from pipeline.spec.paths import PathText, resolve_paths
from pipeline.spec.picks import Picks
from pipeline.spec.table import Table

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


@pytest.mark.parametrize(
    "key", ["model.labels", "data.source=list:", "gradcam.files", "concepts.masks.source", "concepts.embeddings.texts"]
)
def test_pipes_and_devices_are_refused_by_name(spec_file: Any, key: str) -> None:
    """What reads one waits, or reads, for ever."""
    os.mkfifo(spec_file.parent / "pipe")
    (spec_file.parent / "link").symlink_to("/dev/zero")
    name, _, kind = key.partition("=")
    for path in ("pipe", "link"):
        with pytest.raises(WrongSpec, match=f"{path}' is a pipe or a device") as caught:
            load_spec(spec_file, [f"{name}={kind}{spec_file.parent / path}"])
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
