"""The spec that a command line means: a file, a shipped spec by its name, or a network and images without any spec."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from pipeline.errors import MissingInput, UnusableModel, WrongSpec
from pipeline.load import load_spec, spec_of
from pipeline.models import registry as models
from pipeline.sources import registry as sources
from pipeline.spec import JobSpec
from pipeline.spec.kinds import Kind, guess_source

_ANY_IMAGES = "sample:photos"  # where a command looks at the network alone


def shipped_specs() -> dict[str, Path]:
    """The example specs that come with convscope, by name."""
    folder = Path(str(resources.files("jobs")))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def read_spec(options: argparse.Namespace, needs_images: bool = True) -> JobSpec:
    """The spec that a command line means.

    Args:
        options: `spec`, a TOML file, the name of a shipped spec, or a network; `images`, where it is a network; `layers`
            and `overrides`.
        needs_images: whether a network alone is not enough.

    Raises: MissingInput, WrongSpec, UnknownName.
    """
    images: str | None = getattr(options, "images", None)
    layers: list[str] = getattr(options, "layers", None) or []
    path = _spec_file(options.spec)
    if path is None:
        tree = tree_of(options.spec, images or ("" if needs_images else _ANY_IMAGES), layers)
        return spec_of(tree, Path.cwd(), options.overrides, "the command line")
    if images is not None:
        raise WrongSpec(
            f"{options.spec} is a spec and names its images itself. For others: --set data.source={source_named(images, 'data')}"
        )
    return load_spec(path, [*options.overrides, *([f"model.layers={layers}"] if layers else [])])


def tree_of(network: str, images: str, layers: list[str]) -> dict[str, Any]:
    """The tables of a spec for a network and images, each with its kind or as a path alone.

    Raises: WrongSpec, where no images are named; MissingInput, for a path that is not there; UnknownName.
    """
    source = source_named(network, "model")
    if not images:
        raise WrongSpec(
            f"which images {source} is to see is not said. Name a folder or another source: convscope run {source} photos/"
        )
    data = source_named(images, "data")
    named: dict[str, Any] = {"layers": layers} if layers else {}
    return {"name": f"{_short(source)}-{_short(data)}", "model": {"source": source, **named}, "data": {"source": data}}


def source_named(text: str, table: str) -> str:
    """`model.source` or `data.source` as a command line names it: with its kind, or a path by whose ending the kind is known.

    Raises: MissingInput, for a path that is not there, and one that no kind is known for.
    """
    kinds: Mapping[str, Kind] = models.KINDS if table == "model" else sources.KINDS
    kind, colon, _ = text.partition(":")
    if colon and (kind in kinds or not os.path.exists(text)) and not re.match(r"\w+://", text):
        return text  # validation says what is wrong with a kind that is not there
    known = ", ".join(f"{name}:" for name in kinds)
    noun = "images" if table == "data" else "a spec or a network"
    if not os.path.lexists(os.path.expanduser(text)) and not re.search(r"[*?{\[]|://", text):
        near = f"; for a network of Keras, keras:{text}" if table == "model" and text.isidentifier() else ""
        specs = f" Specs that come with convscope: {', '.join(shipped_specs())}." if table == "model" else ""
        raise MissingInput(f"there is no file or folder {text!r}. Name {noun}, such as one of the kinds {known}{near}.{specs}")
    guess = guess_source(text, kinds)
    if guess is None:
        error = UnusableModel if table == "model" else MissingInput
        raise error(f"what kind of {table}.source {text!r} is, its name does not say. Write it before a colon: {known}")
    return guess


def _spec_file(named: str) -> Path | None:
    """The file of a spec; None for what names a network."""
    path = Path(named)
    if path.suffix == ".toml" or (os.path.isfile(path) and guess_source(named, models.KINDS) is None):
        return path
    shipped = shipped_specs()
    if named in shipped and not os.path.exists(path):
        return shipped[named]
    return None


def _short(source: str) -> str:
    """The part of a source that may stand in a job's name."""
    rest = source.partition(":")[2].rstrip("/")
    last = re.sub(r"\.[A-Za-z0-9]+$", "", rest.rpartition("/")[2]) if not source.startswith("tfds:") else rest.replace("/", "-")
    return re.sub(r"[^A-Za-z0-9._]+", "-", last).strip("-._") or "images"
