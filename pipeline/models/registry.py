"""The kinds of network, and how a `[model]` table becomes one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from importlib import import_module

from pipeline.errors import UnusableModel, WrongSpec, foreign_errors
from pipeline.models.network import Network
from pipeline.models.selection import select_layers
from pipeline.spec.kinds import Kind, split_source
from pipeline.spec.model import ModelSpec

__all__ = ["KINDS", "open_network", "open_networks", "select_layers"]


def _keras(name: str, spec: ModelSpec) -> Network:
    from pipeline.models.keras.applications import open_application

    return open_application(name, spec)


def _file(path: str, spec: ModelSpec) -> Network:
    from pipeline.models.keras.keras_file import open_file

    return open_file(path, spec)


def _frozen(path: str, spec: ModelSpec) -> Network:
    from pipeline.models.graphs.frozen import open_frozen

    return open_frozen(path, spec)


def _savedmodel(path: str, spec: ModelSpec) -> Network:
    from pipeline.models.graphs.savedmodel import open_savedmodel

    return open_savedmodel(path, spec)


def _hub(name: str, spec: ModelSpec) -> Network:
    try:
        import keras_hub  # noqa: F401
    except ModuleNotFoundError as error:
        if error.name != "keras_hub":
            raise
        raise UnusableModel(f'hub:{name} takes the package keras-hub: pip install "convscope[hub]".') from None
    from pipeline.models.keras.hub import open_hub

    return open_hub(name, spec)


def _onnx(path: str, spec: ModelSpec) -> Network:
    try:
        from pipeline.models.onnx.onnx_network import open_onnx
    except ModuleNotFoundError as error:
        if error.name != "onnx":
            raise
        raise UnusableModel(f'{path} is an ONNX file, which takes the package onnx: pip install "convscope[onnx]".') from None

    return open_onnx(path, spec)


@dataclass(frozen=True)
class NetworkKind(Kind):
    """A kind of network; `open` is given what stands behind the colon of `model.source`, and the table."""

    open: Callable[[str, ModelSpec], Network] = _keras
    # The module that opens it, where a child process does: TensorFlow's C++ reads the file.
    tried: str = ""


_GRAPHS = "pipeline.models.graphs"

# By what stands before the colon. The kinds import Keras, so each is reached for on use.
KINDS: dict[str, NetworkKind] = {
    "keras": NetworkKind(open=_keras, keys=("weights", "top")),
    "file": NetworkKind(open=_file, path=True, keys=("inputs", "trusted", "custom"), endings=(".keras", ".h5", ".hdf5")),
    "frozen": NetworkKind(
        open=_frozen, path=True, keys=("inputs", "allow", "trusted"), endings=(".pb",), tried=f"{_GRAPHS}.frozen"
    ),
    "hub": NetworkKind(open=_hub, keys=("top", "trusted")),
    "onnx": NetworkKind(
        open=_onnx, path=True, keys=("inputs", "trusted"), endings=(".onnx",), tried="pipeline.models.onnx.onnx_network"
    ),
    "savedmodel": NetworkKind(
        open=_savedmodel, path=True, keys=("inputs", "allow", "trusted"), endings=("/",), tried=f"{_GRAPHS}.savedmodel"
    ),
}


def open_network(spec: ModelSpec) -> Network:
    """The network that `[model]` names, its weights loaded, with the directions that are named.

    Raises: UnknownName, MissingInput, UnusableModel, WrongSpec.
    """
    return open_networks([spec])[0]


def open_networks(specs: Sequence[ModelSpec]) -> list[Network]:
    """The networks of one job, in order, as `open_network` opens one.

    All children end before this process takes what they hand over: that starts TensorFlow, after which nothing is forked.
    """
    opened = [_open(spec) for spec in specs]
    return [_with_directions(network(), spec) for network, spec in zip(opened, specs, strict=True)]


def _with_directions(network: Network, spec: ModelSpec) -> Network:
    if not spec.directions:
        return network
    from pipeline.models.directions import with_directions

    return with_directions(network, spec.directions)


def _open(spec: ModelSpec) -> Callable[[], Network]:
    """A function that returns the network, once a child has opened it, where one does."""
    name, path = split_source(spec, "model", KINDS)
    kind = KINDS[name]
    if not kind.path:
        return lambda: _with_tokens(kind.open(path, spec), spec)
    taken: Callable[[], Network | None] = lambda: None  # noqa: E731
    if kind.tried and not spec.trusted:
        from pipeline.models.trial import opened_in_child

        with _broken(path):
            with suppress(ModuleNotFoundError):  # which `open` explains
                import_module(kind.tried)  # once, for both processes
            taken = opened_in_child(lambda: kind.open(path, spec), path)

    def network() -> Network:
        with _broken(path):
            return _with_tokens(taken() or kind.open(path, spec), spec)

    return network


def _broken(path: str) -> AbstractContextManager[None]:
    return foreign_errors(UnusableModel, path, "The file is broken: save the network again.")


def _with_tokens(network: Network, spec: ModelSpec) -> Network:
    """The network, its tokens lying as `model.tokens` says. Raises: WrongSpec."""
    if spec.tokens is None:
        return network
    with_tokens = getattr(network, "with_tokens", None)
    if with_tokens is None:
        raise WrongSpec(f"model.tokens is for networks whose tokens convscope finds; {network.name} says itself. Leave it out.")
    placed: Network = with_tokens(spec.tokens)
    return placed
