"""A network and images instead of a spec, and the commands that lead to one."""

from __future__ import annotations

import subprocess
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from jobs.specs import source_named, tree_of
from pipeline.errors import ConvscopeError
from pipeline.load import load_spec


@pytest.mark.parametrize(
    ("text", "table", "source"),
    [
        ("keras:VGG16", "model", "keras:VGG16"),
        ("net.onnx", "model", "onnx:net.onnx"),
        ("graph.pb", "model", "frozen:graph.pb"),
        ("net.H5", "model", "file:net.H5"),
        ("saved", "model", "savedmodel:saved"),
        ("saved", "data", "folder:saved"),
        ("saved/", "data", "folder:saved/"),
        ("tfds:cifar10/test", "data", "tfds:cifar10/test"),
        ("shard-*.tar.gz", "data", "tar:shard-*.tar.gz"),
        ("s3://bucket/rows.parquet", "data", "parquet:s3://bucket/rows.parquet"),
        ("names.csv", "data", "list:names.csv"),
        ("kears:VGG16", "model", "kears:VGG16"),
    ],
)
def test_a_path_alone_means_the_kind_of_its_ending(
    text: str, table: str, source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "saved").mkdir()
    for name in ("net.onnx", "graph.pb", "net.H5", "names.csv"):
        (tmp_path / name).touch()
    assert source_named(text, table) == source


@pytest.mark.parametrize(
    ("text", "table", "words"),
    [
        ("VGG16", "model", "for a network of Keras, keras:VGG16"),
        ("photos", "data", "there is no file or folder 'photos'"),
        ("notes.doc", "data", "its name does not say"),
    ],
)
def test_what_is_no_network_and_no_images_is_said(
    text: str, table: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.doc").touch()
    with pytest.raises(ConvscopeError, match=words):
        source_named(text, table)


@pytest.mark.parametrize(
    ("network", "images", "name"),
    [
        ("keras:MobileNetV2", "folder:my photos/", "MobileNetV2-my-photos"),
        ("file:nets/a b.keras", "tfds:cifar10/test", "a-b-cifar10-test"),
        ("onnx:net.onnx", "folder:.", "net-images"),
    ],
)
def test_a_job_is_called_after_its_network_and_its_images(network: str, images: str, name: str) -> None:
    assert tree_of(network, images, [])["name"] == name


def test_a_network_and_images_run_without_a_spec_and_leave_one(
    command: Any, tiny_file: Any, pictures: Any, tmp_path: Path
) -> None:
    words = ("run", tiny_file, pictures, "--out", tmp_path, "--set", "model.preprocess=none", "--set", "activations.top_k=1")
    status, out, error = command(*words)
    assert status == 0 and "model.layers: edges, shapes (one a stage of the network" in error
    (folder,) = tmp_path.iterdir()
    assert out.splitlines()[-1] == f"  look at: {folder}/report/index.html"
    again = load_spec(folder / "spec.toml")
    assert again.model.layers == ["edges", "shapes"] and again.data.source == f"folder:{pictures}"
    status, _, error = command("run", folder / "spec.toml", "--out", tmp_path)
    assert status == 0 and "nothing to do" in error


def test_the_layers_and_the_checks_of_a_network_need_no_spec(command: Any, tiny_file: Any, pictures: Any, tmp_path: Path) -> None:
    options = ("--set", "model.preprocess=none")
    status, out, _ = command("layers", tiny_file, "--fast", *options)
    assert status == 0 and "\nedges" in out
    status, out, _ = command("check", tiny_file, pictures, "--layers", "sh*", "--out", tmp_path, *options)
    assert status == 0 and "  shapes: Conv2D" in out and "edges" not in out
    status, out, error = command("run", tiny_file, *options)
    assert status == 2 and "photos/" in error
    status, out, error = command("run", "demo", pictures)
    assert status == 2 and f"--set data.source=folder:{pictures}" in error


@pytest.mark.parametrize(
    ("override", "meant"),
    [("data.source=photos", "folder:photos"), ("limit=3", "data.limit"), ("data.crop_size=64", "activations.crop_size")],
)
def test_an_error_says_what_was_meant(command: Any, override: str, meant: str, tmp_path: Path) -> None:
    status, _, error = command("check", "demo", "--set", override, "--out", tmp_path)
    assert status == 2 and f"Did you mean {meant}?" in error


def test_init_writes_a_spec_that_check_accepts_and_overwrites_none(
    command: Any, tiny_file: Any, pictures: Any, tmp_path: Path
) -> None:
    file = tmp_path / "job.toml"
    words = ("init", tiny_file, pictures, "--file", file, "--layers", "edges")
    assert command(*words)[0] == 0 and file.read_text().startswith("# A job of convscope")
    assert load_spec(file).model.layers == ["edges"]
    status, _, error = command(*words)
    assert status == 2 and "is there already" in error


def test_open_serves_the_page_on_this_machine_alone(process: Any, tmp_path: Path) -> None:
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "index.html").write_text("<p>page</p>")
    child = process("-m", "jobs", "open", tmp_path, "--serve", "0")
    address = child.stdout.readline().split()[1]
    assert address.startswith("http://127.0.0.1:")
    assert urllib.request.urlopen(address).read() == b"<p>page</p>"
    child.send_signal(2)
    assert child.wait(20) == 0


def test_open_says_how_to_make_a_page_that_is_not_there(command: Any, finished: Any, tmp_path: Path) -> None:
    status, _, error = command("open", finished)
    assert status == 2 and f"convscope report {finished}" in error
    status, _, error = command("open", tmp_path)
    assert status == 2 and "Name a job's folder" in error


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion_knows_every_command(shell: str, command: Any, tmp_path: Path) -> None:
    from jobs.commands import COMMANDS

    status, out, _ = command("completion", shell)
    assert status == 0 and all(name in out for name in COMMANDS)


@pytest.mark.parametrize(
    ("typed", "offered"),
    [("com", {"compare", "completion"}), ("run pat", {"patterns", "pattern.toml"}), ("check cif", {"cifar10"})],
)
def test_bash_completes_commands_shipped_specs_and_files(typed: str, offered: set[str], command: Any, tmp_path: Path) -> None:
    script = tmp_path / "complete"
    script.write_text(command("completion", "bash")[1])
    (tmp_path / "pattern.toml").touch()
    function = "$(complete -p convscope | sed 's/.*-F //; s/ .*//')"
    words = f"COMP_WORDS=(convscope {typed}); COMP_CWORD={len(typed.split())}; {function}; echo ${{COMPREPLY[@]}}"
    result = subprocess.run(["bash", "-c", f"source {script}; {words}"], cwd=tmp_path, capture_output=True, text=True)
    assert set(result.stdout.split()) == offered, result.stderr
