"""Whole models from strangers: nothing in them runs, nothing is read, fetched or written, and each is refused in one line."""

from __future__ import annotations

import base64
import json
import marshal
import tracemalloc
import zipfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest

from pipeline.errors import UnusableModel
from pipeline.models.keras.keras_file import load_model
from pipeline.models.keras.weights import load_weights


def entry(name: str, config: Any, module: str | None = "keras.layers", registered: str | None = None) -> dict[str, Any]:
    return {"module": module, "class_name": name, "config": config, "registered_name": registered}


def function(name: str, module: str) -> dict[str, Any]:
    return entry("function", name, module, name)


def bytecode(proof: Path) -> dict[str, Any]:
    code = base64.b64encode(marshal.dumps(compile(f"lambda x: open({str(proof)!r}, 'w')", "", "eval").co_consts[0])).decode()
    return {"class_name": "__lambda__", "config": {"code": code, "defaults": None, "closure": None}}


# By the advisory that published it; `{proof}` is the file that would be written.
ATTACKS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "CVE-2024-3660, CVE-2026-12481: bytecode": lambda proof: entry("Lambda", {"name": "evil", "function": bytecode(proof)}),
    "CVE-2024-3660: bytecode of Keras 2": lambda proof: entry(
        "Lambda", {"name": "evil", "function": [bytecode(proof)["config"]["code"], None, None], "function_type": "lambda"}
    ),
    "CVE-2025-1550: any module": lambda proof: entry("Popen", {"name": "evil", "args": ["touch", str(proof)]}, "subprocess"),
    "CVE-2025-1550: any function": lambda proof: entry(
        "Lambda", {"name": "evil", "function": function("system", "os"), "arguments": {"command": f"touch {proof}"}}
    ),
    "CVE-2025-8747, CVE-2025-12060, CVE-2024-55459: get_file": lambda proof: entry(
        "Lambda", {"name": "evil", "function": function("get_file", "keras.utils"), "arguments": {"origin": f"file://{proof}"}}
    ),
    "CVE-2025-9906: unsafe deserialization": lambda proof: entry(
        "Lambda", {"name": "evil", "function": function("enable_unsafe_deserialization", "keras.config")}
    ),
    "CVE-2025-9906: a second archive": lambda proof: entry(
        "Lambda", {"name": "evil", "function": function("load_model", "keras.models"), "arguments": {"filepath": str(proof)}}
    ),
    "CVE-2025-9905: activation": lambda proof: entry("Dense", {"name": "evil", "units": 2, "activation": bytecode(proof)}),
    "CVE-2025-12058: vocabulary": lambda proof: entry("StringLookup", {"name": "evil", "vocabulary": "/etc/passwd"}),
    "CVE-2025-12058: vocabulary of numbers": lambda proof: entry("IntegerLookup", {"name": "evil", "vocabulary": "http://x/y"}),
    "CVE-2025-12058: vocabulary of texts": lambda proof: entry(
        "TextVectorization", {"name": "evil", "vocabulary": "/etc/passwd"}
    ),
    "CVE-2025-49655: torch": lambda proof: entry("TorchModuleWrapper", {"name": "evil", "module": "gASVCg=="}),
    "CVE-2026-1462: SavedModel": lambda proof: entry("TFSMLayer", {"name": "evil", "filepath": str(proof.parent)}),
    "jax": lambda proof: entry("JaxLayer", {"name": "evil", "call_fn": bytecode(proof)}),
    "registered under another name": lambda proof: entry("Dense", {"name": "evil", "units": 2}, "keras.layers", "os>system"),
    "a module inside of Keras": lambda proof: entry(
        "Lambda", {"name": "evil", "function": function("load_data", "keras.datasets.mnist")}
    ),
    "a class that is no text": lambda proof: entry(["Dense"], {"name": "evil"}),
    "a type of TensorFlow": lambda proof: {**entry("__typespec__", [], "builtins"), "spec_name": "open"},
}


def bare(layer: dict[str, Any]) -> dict[str, Any]:
    return layer


def in_time(layer: dict[str, Any]) -> dict[str, Any]:
    return entry("TimeDistributed", {"name": "outer", "layer": layer})


def both_ways(layer: dict[str, Any]) -> dict[str, Any]:
    return entry("Bidirectional", {"name": "outer", "layer": layer, "merge_mode": "sum"})


def in_a_sequential(layer: dict[str, Any]) -> dict[str, Any]:
    return entry("Sequential", {"name": "outer", "layers": [in_time(layer)]}, "keras")


def as_an_activation(layer: dict[str, Any]) -> dict[str, Any]:
    return entry("Dense", {"name": "outer", "units": 2, "activation": layer})


def net() -> keras.Model:
    inputs = keras.Input((8, 8, 3), name="input")
    return keras.Model(inputs, keras.layers.Dense(2, name="dense")(keras.layers.Conv2D(2, 3, name="conv")(inputs)))


def changed(path: Path, change: Callable[[Any], Any], **members: bytes) -> Path:
    """The network in a file, its description changed; other members of the archive as given."""
    net().save(path)
    if path.suffix == ".h5":
        with h5py.File(path, "a") as file:
            file.attrs["model_config"] = json.dumps(change(json.loads(file.attrs["model_config"])))
        return path
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    contents["config.json"] = json.dumps(change(json.loads(contents["config.json"]))).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in (contents | members).items():
            archive.writestr(name, data)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(UnusableModel) as caught:
        load_model(path, {})
    message = str(caught.value)
    assert len(message.replace(str(path), "")) <= 500 and "\n" not in message
    return message


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
@pytest.mark.parametrize("around", [bare, in_time, both_ways, in_a_sequential, as_an_activation])
@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_in_a_file_runs_or_is_read_however_deep_it_hides(
    tmp_path: Path, attack: str, around: Callable[[Any], Any], suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    proof = tmp_path / "proof"

    def change(config: Any) -> Any:
        layer = config["config"]["layers"][2]
        config["config"]["layers"][2] = {
            **around(ATTACKS[attack](proof)),
            "name": "dense",
            "inbound_nodes": layer["inbound_nodes"],
        }
        return config

    path = changed(tmp_path / f"net{suffix}", change)
    # Keras never sees what is refused.
    monkeypatch.setattr(keras.saving, "deserialize_keras_object", lambda *_, **__: proof.touch())
    assert "cannot be loaded" not in refusal(path)
    assert not proof.exists()


def test_a_network_may_be_named_as_the_compiler_of_nothing(tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    path = changed(tmp_path / "net.keras", lambda config: {**config, "compile_config": {"loss": bytecode(proof)}})
    load_model(path, {})
    assert not proof.exists()


# How an archive may lie in another, by the member that it is; and what is said of the other, "" where that opens as ever.
INSIDE = {
    "config.json": "broken JSON",
    "model.weights.h5": "cannot be read as a .keras model",
    "assets/inner.keras": "files of its layers' own",
    "../inner.keras": "lies outside",
    "model.weights.json": "",
    "inner.keras": "",
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_archive_inside_an_archive_is_never_opened(tmp_path: Path, attack: str) -> None:
    proof = tmp_path / "proof"

    def change(config: Any) -> Any:
        config["config"]["layers"][2] |= {**ATTACKS[attack](proof), "name": "dense"}
        return config

    inner = changed(tmp_path / "inner.keras", change).read_bytes()
    outer = changed(tmp_path / "outer.keras", lambda config: config).read_bytes()
    path = tmp_path / "net.keras"
    for member, reason in INSIDE.items():
        with zipfile.ZipFile(tmp_path / "outer.keras") as archive, zipfile.ZipFile(path, "w") as both:
            for name in set(archive.namelist()) - {member}:
                both.writestr(name, archive.read(name))
            both.writestr(member, inner)
        if reason:
            assert reason in refusal(path), member
        else:
            assert [layer.name for layer in load_model(path, {}).layers] == ["input", "conv", "dense"], member
    path.write_bytes(outer + inner)  # of two in a row, the last is the archive
    assert "cannot be" not in refusal(path)
    path.write_bytes(inner + outer)
    assert [layer.name for layer in load_model(path, {}).layers] == ["input", "conv", "dense"]
    assert {file.name for file in tmp_path.iterdir()} == {"inner.keras", "outer.keras", "net.keras"}


def rewritten(path: Path, write: Callable[[h5py.File], object]) -> Path:
    net().save(path)
    with h5py.File(path, "a") as file:
        del file["model_weights/conv/conv/kernel"]
        write(file)
    return path


def other_file(tmp_path: Path) -> Path:
    with h5py.File(tmp_path / "secret.h5", "w") as file:
        file["kernel"] = np.ones((3, 3, 3, 2), "float32")
    return tmp_path / "secret.h5"


def test_weights_in_other_files_are_never_read(tmp_path: Path) -> None:
    """CVE-2026-1669, CVE-2026-12480 and GHSA-27f4-p4xq-cxg8: external storage, links, also of all weights, virtual datasets."""
    secret, name = other_file(tmp_path), "model_weights/conv/conv/kernel"
    layout = h5py.VirtualLayout((3, 3, 3, 2), "float32")
    layout[...] = h5py.VirtualSource(secret, "kernel", (3, 3, 3, 2))
    attacks: dict[str, Callable[[h5py.File], object]] = {
        "external storage": lambda file: file.create_dataset(name, (3, 3, 3, 2), "float32", external=[(str(secret), 0, 216)]),
        "an external link": lambda file: file.__setitem__(name, h5py.ExternalLink(str(secret), "kernel")),
        "a soft link": lambda file: file.__setitem__(name, h5py.SoftLink("/model_weights/dense")),
        "a virtual dataset": lambda file: file.create_virtual_dataset(name, layout),
        "all weights by a link": lambda file: (
            file.__delitem__("model_weights"),
            file.__setitem__("model_weights", h5py.ExternalLink(str(secret), "/")),
        ),
        "itself": lambda file: file["model_weights/conv"].__setitem__("again", file["model_weights"]),
    }
    for attack, write in attacks.items():
        message = refusal(rewritten(tmp_path / "net.h5", write))
        assert "link" in message or "another file" in message or "another name" in message, attack
        with zipfile.ZipFile(changed(tmp_path / "net.keras", lambda config: config), "a") as archive:
            weights = rewritten(tmp_path / "weights.h5", write).read_bytes()
            kept = {name: archive.read(name) for name in ("config.json", "metadata.json")}
        with zipfile.ZipFile(tmp_path / "net.keras", "w") as archive:
            for member, data in (kept | {"model.weights.h5": weights}).items():
                archive.writestr(member, data)
        assert "cannot be loaded" not in refusal(tmp_path / "net.keras"), attack


@pytest.mark.parametrize("suffix", [".weights.h5", ".h5", ".keras"])
def test_files_of_weights_alone_are_held_against_the_same_bounds(tmp_path: Path, suffix: str) -> None:
    """Keras 3.12.3 and 3.15.1: links on the way to an array, arrays that are not there, archives that unpack to far more."""
    model, secret = net(), other_file(tmp_path)
    good, path = tmp_path / f"good{suffix}", tmp_path / f"evil{suffix}"
    model.save_weights(good) if suffix == ".weights.h5" else model.save(good)
    load_weights(model, good, "net", top=True, build_other=net)
    writes: list[Callable[[h5py.File], object]] = [
        lambda file: file.__setitem__("linked", h5py.ExternalLink(str(secret), "/")),
        lambda file: file.__setitem__("linked", h5py.SoftLink("/")),
        lambda file: file.create_dataset("immense", (1 << 20, 1 << 20), chunks=(8, 8)),
    ]
    for write in writes:
        with zipfile.ZipFile(good) if suffix == ".keras" else nullcontext() as archive:
            members = {} if archive is None else {name: archive.read(name) for name in archive.namelist()}
        inner = tmp_path / "inner.h5"
        inner.write_bytes(members.get("model.weights.h5") or good.read_bytes())
        with h5py.File(inner, "a") as file:
            write(file)
        path.write_bytes(inner.read_bytes())
        if archive is not None:
            with zipfile.ZipFile(path, "w") as evil:
                for name, data in (members | {"model.weights.h5": inner.read_bytes()}).items():
                    evil.writestr(name, data)
        with pytest.raises(UnusableModel, match="is a link to something else|declares 4,398,"):
            load_weights(model, path, "net", top=True, build_other=net)


def test_arrays_that_are_declared_but_not_held_take_no_memory(tmp_path: Path) -> None:
    """CVE-2026-0897."""
    shape = (1 << 20, 1 << 20)
    path = rewritten(
        tmp_path / "net.h5", lambda file: file.create_dataset("model_weights/conv/conv/kernel", shape, chunks=(8, 8))
    )
    assert "declares 4,398,0" in refusal(path)


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_layers_cannot_ask_for_more_weights_than_are_stored(tmp_path: Path, suffix: str) -> None:
    def change(config: Any) -> Any:
        config["config"]["layers"][2]["config"]["units"] = 1 << 30
        return config

    assert "asks for more weights" in refusal(changed(tmp_path / f"net{suffix}", change))


def test_a_small_archive_with_an_immense_description_is_never_unpacked(tmp_path: Path) -> None:
    path = changed(tmp_path / "net.keras", lambda config: config)
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("config.json", "w", force_zip64=True) as member,
    ):
        for _ in range(1 << 7):
            member.write(b" " * (1 << 23))
    tracemalloc.start()
    assert "unpacks to more than 64 MB" in refusal(path)
    assert tracemalloc.get_traced_memory()[1] < 1 << 26
    tracemalloc.stop()


def test_nesting_without_end_is_refused(tmp_path: Path) -> None:
    for deep in (b"[" * 100_000 + b"]" * 100_000, b"[" * 300 + b"]" * 300):
        assert "nested more than 200 deep" in refusal(
            changed(tmp_path / "net.keras", lambda config: config, **{"config.json": deep})
        )


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda info: setattr(info, "flag_bits", 1), "is encrypted"),
        (lambda info: setattr(info, "compress_type", zipfile.ZIP_LZMA), "is packed in a form"),
    ],
)
def test_members_that_are_not_ordinary_are_refused(
    tmp_path: Path, edit: Callable[[Any], None], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = changed(tmp_path / "net.keras", lambda config: config)
    plain = zipfile.ZipFile.infolist

    def infolist(archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
        edit(plain(archive)[0])
        return plain(archive)

    monkeypatch.setattr(zipfile.ZipFile, "infolist", infolist)
    assert reason in refusal(path)


@pytest.mark.parametrize("name", ["../../evil", "/evil", "assets/../../evil", "assets/vocabulary.txt"])
def test_members_outside_of_the_archive_and_assets_are_refused(tmp_path: Path, name: str) -> None:
    """GHSA-hqp4-2352-xf5r and CVE-2026-12479."""
    path = changed(tmp_path / "net.keras", lambda config: config, **{name: b"x"})
    assert "lies outside" in refusal(path) or "files of its layers' own" in refusal(path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["net.keras"]


def test_a_name_that_ends_early_hides_nothing(tmp_path: Path) -> None:
    path = changed(tmp_path / "net.keras", lambda config: config, **{"config.json#hidden": b"{}"})
    path.write_bytes(path.read_bytes().replace(b"config.json#hidden", b"config.json\0hidden"))
    assert "hides another" in refusal(path)


@pytest.mark.parametrize(
    "config", [None, 3, "x", [], {}, {"class_name": 3}, {"class_name": "Functional", "config": {"layers": 3}}]
)
@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_descriptions_that_describe_nothing_are_one_line(tmp_path: Path, suffix: str, config: Any) -> None:
    refusal(changed(tmp_path / f"net{suffix}", lambda _: config))


def test_objects_that_cannot_be_opened_are_one_line(tmp_path: Path) -> None:
    net().save(tmp_path / "net.h5")
    data = bytearray((tmp_path / "net.h5").read_bytes())
    for first in range(2048, len(data), 4096):
        broken = bytes(data[:first] + bytes(64) + data[first + 64 :])
        (tmp_path / "broken.h5").write_bytes(broken)
        try:
            load_model(tmp_path / "broken.h5", {})
        except UnusableModel as error:
            assert len(str(error)) < 600


def test_a_layer_that_tensorflow_cannot_name_is_refused(tmp_path: Path) -> None:
    keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(2, 1, name="my conv")]).save(tmp_path / "net.keras")
    assert "a layer named 'my conv'" in refusal(tmp_path / "net.keras")
