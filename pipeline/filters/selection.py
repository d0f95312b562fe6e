"""Which layers' kernels to draw: those that the spec names, or the convolutions that give the job's layers."""

from __future__ import annotations

from collections.abc import Container, Sequence

from pipeline.errors import WrongSpec
from pipeline.models.network import Kernel, LayerInfo, Network
from pipeline.models.selection import select_layers


def choose(network: Network, named: Sequence[str] | None, layers: Sequence[LayerInfo]) -> list[LayerInfo]:
    """The convolutions to draw, each once, in the network's order.

    Args:
        named: `filters.layers`: names and globs; globs skip layers without a kernel.
        layers: those of the job, for where none is named: a convolution stands for itself, any other layer for the
            convolutions nearest before it.

    Raises: UnknownLayer; WrongSpec, for a layer named that has no kernel, and where there is nothing to look at.
    """
    convolutions = set(network.convolutions())
    if named is None:
        chosen = {name for layer in layers for name in nearest(network, layer.name, convolutions)}
        problem = f"no layer of model.layers, such as {layers[0].name!r} ({layers[0].kind}), is or comes from a convolution"
    else:
        matched = select_layers(network, named)
        for layer in matched:
            if layer.name in {name.removesuffix(":0") for name in named} and layer.name not in convolutions:
                before = ", ".join(nearest(network, layer.name, convolutions)) or "none"
                raise WrongSpec(
                    f"filters.layers: {layer.name!r} ({layer.kind}) has no kernel. "
                    f"Name only convolutions; the nearest before it: {before}."
                )
        chosen = {layer.name for layer in matched} & convolutions
        problem = f"filters.layers matches no convolution, but {matched[0].name!r} ({matched[0].kind})"
    if not chosen:
        raise WrongSpec(
            f"[filters]: {problem}. Name some in filters.layers; {network.name} has: {_listed(network.convolutions())}."
        )
    return [layer for layer in network.layers() if layer.name in chosen]


def given_by(network: Network, convolutions: Sequence[LayerInfo], layers: Sequence[LayerInfo]) -> dict[str, list[str]]:
    """For each of some convolutions, the layers whose channels are its filters' own, one for one: itself, and those of the
    job that have it alone before them and as many channels."""
    gives = {layer.name: [layer.name] for layer in convolutions}
    channels = {layer.name: layer.channels for layer in convolutions}
    all_convolutions = set(network.convolutions())
    for layer in layers:
        before = nearest(network, layer.name, all_convolutions)
        if (
            len(before) == 1
            and layer.base is None
            and layer.name not in all_convolutions
            and channels.get(before[0]) == layer.channels
        ):
            gives[before[0]].append(layer.name)
    return gives


def inputs_of(network: Network, layer: str, kernel: Kernel, layers: Sequence[LayerInfo]) -> str | None:
    """The layer whose channels are the inputs of a convolution's kernel, one for one: the nearest before it that the job
    looks at, if only layers that keep channels apart lie between, else the layer that feeds it.

    None for a second kernel, and where the convolution takes the image, several layers, or channels in another order.
    """
    known = {info.name: info.channels for info in network.layers()}
    inputs, convolutions = kernel.inputs * kernel.groups, set(network.convolutions())
    first: str | None = None
    feeds = network.feeds(layer) if kernel.part != "pointwise" else ()
    while len(feeds) == 1 and known.get(feeds[0]) == inputs:
        first = first or feeds[0]
        if feeds[0] in {info.name for info in layers}:
            return feeds[0]
        if feeds[0] in convolutions:
            break
        feeds = network.feeds(feeds[0])
    return first


def nearest(network: Network, layer: str, convolutions: Container[str]) -> list[str]:
    """The layer itself if it is a convolution, else the nearest convolutions before it, if there are any."""
    seen, frontier = {layer}, [layer]
    while frontier:
        reached = [name for name in frontier if name in convolutions]
        if reached:
            return reached
        frontier = list(dict.fromkeys(name for after in frontier for name in network.feeds(after) if name not in seen))
        seen.update(frontier)
    return []


def sees_image(network: Network, layer: str) -> bool:
    """Whether no convolution lies between the image and a layer."""
    convolutions = set(network.convolutions())
    return not any(nearest(network, name, convolutions) for name in network.feeds(layer))


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "") if names else "none"
