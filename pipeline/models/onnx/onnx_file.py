"""ONNX files read as what they are, data from strangers: everything is checked before anything is computed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from math import prod
from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
from google.protobuf.message import DecodeError

from pipeline.errors import MissingInput, UnusableModel, one_line
from pipeline.models.onnx.table import NEWEST, OLDEST, supported

_DOMAINS = ("", "ai.onnx")
_DEEPEST = 16  # subgraphs within subgraphs
_MOST_NODES = 200_000
_MOST_CALLS = 200  # functions within functions, which the inliner follows on its stack
_MOST_EXTERNAL = 2**31  # bytes, as many as a graph of TensorFlow may have
_NO_NUMBERS = (onnx.TensorProto.STRING, onnx.TensorProto.UNDEFINED)


def read_model(path: Path) -> onnx.ModelProto:
    """The model in a file, its external data read, its own functions written out. Raises: MissingInput, UnusableModel."""
    if not path.is_file():
        raise MissingInput(f"the network {str(path)!r} is {'a folder' if path.is_dir() else 'missing'}. Name an .onnx file.")
    model = onnx.ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except DecodeError:
        model.Clear()
    if not model.graph.node:
        raise UnusableModel(
            f"{path} cannot be read as an ONNX model: the file is cut short, nested too deep or something else. Export it again."
        )
    checked(model, str(path))
    _read_external(model, path)
    for tensor in _tensors(model):
        _check_tensor(tensor, str(path))
    return inlined(model, str(path))


def checked(model: onnx.ModelProto, where: str) -> None:
    """Refuse what cannot be translated, before anything is. Raises: UnusableModel."""
    functions = {(function.domain, function.name) for function in model.functions}
    opset = opset_of(model)
    if not OLDEST <= opset <= NEWEST:
        raise UnusableModel(
            f"{where} is of ONNX's opset {opset}; convscope reads {OLDEST} to {NEWEST}. Export it again, with opset_version=17."
        )
    unknown: dict[str, list[str]] = {}
    count = 0
    bodies = [model.graph, *model.functions]
    for node in (node for body in bodies for node in nodes_of(body, where)):
        count += 1
        if count > _MOST_NODES:
            raise UnusableModel(f"{where} has more than {_MOST_NODES} nodes. Export a smaller network.")
        if (node.domain, node.op_type) in functions:
            continue
        if node.domain not in _DOMAINS or node.op_type not in supported():
            kind = f"{node.domain}::{node.op_type}" if node.domain not in _DOMAINS else node.op_type
            unknown.setdefault(kind[:100], []).append((node.name or (node.output[0] if node.output else ""))[:200])
    if unknown:
        named = "; ".join(f"{kind} (node {nodes[0]!r}{_more(nodes)})" for kind, nodes in list(unknown.items())[:10])
        raise UnusableModel(
            f"{where} holds operators that convscope does not translate: {named}. Export the network without them, "
            "such as without its post-processing."
        )


def _more(nodes: list[str]) -> str:
    return f" and {len(nodes) - 1} more" if len(nodes) > 1 else ""


def opset_of(model: onnx.ModelProto) -> int:
    """The version of ONNX's own operators that a model is written in; 1 where it does not say."""
    return max((entry.version for entry in model.opset_import if entry.domain in _DOMAINS), default=1)


def nodes_of(body: onnx.GraphProto | onnx.FunctionProto, where: str, depth: int = 0) -> Iterator[onnx.NodeProto]:
    """All nodes of a graph or function, those of its subgraphs too. Raises: UnusableModel, for one nested too deep."""
    if depth > _DEEPEST:
        raise UnusableModel(f"{where} has subgraphs more than {_DEEPEST} deep. Export the network without nested conditions.")
    for node in body.node:
        yield node
        for attribute in node.attribute:
            for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from nodes_of(graph, where, depth + 1)


def inlined(model: onnx.ModelProto, where: str) -> onnx.ModelProto:
    """The model with its own functions written out. Raises: UnusableModel, for functions that call themselves."""
    if not model.functions:
        return model
    calls = {
        (function.domain, function.name): Counter((node.domain, node.op_type) for node in nodes_of(function, where))
        for function in model.functions
    }
    if len(calls) < len(model.functions):
        raise UnusableModel(f"{where} has two functions of one name. Export it again.")
    try:
        order = [*TopologicalSorter({name: called.keys() & calls.keys() for name, called in calls.items()}).static_order()]
    except CycleError:
        raise UnusableModel(f"{where} holds a function that calls itself. Export the network without recursion.") from None
    sizes: dict[tuple[str, str], int] = {}
    depths = dict.fromkeys(calls, 0)
    for name in order:  # those that it calls come first
        sizes[name] = sum(count * sizes.get(called, 1) for called, count in calls[name].items())
        depths[name] = 1 + max((depths.get(called, 0) for called in calls[name]), default=0)
    if max(depths.values()) > _MOST_CALLS:
        raise UnusableModel(f"{where} has functions within functions, more than {_MOST_CALLS} deep. Export it without functions.")
    total = sum(sizes.get((node.domain, node.op_type), 1) for node in nodes_of(model.graph, where))
    if total > _MOST_NODES:
        raise UnusableModel(f"{where} has functions that grow to more than {_MOST_NODES} nodes. Export a smaller network.")
    try:
        model = onnx.inliner.inline_local_functions(model)
    except Exception as error:  # of the C++ of onnx, which has no type of its own
        raise UnusableModel(f"{where} has functions that cannot be written out ({one_line(error)}). Export it again.") from None
    checked(model, where)
    return model


def _tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every array of a model: initializers and attributes, of subgraphs and functions too."""
    graphs: list[onnx.GraphProto] = [model.graph]
    bodies: list[onnx.GraphProto | onnx.FunctionProto] = [model.graph, *model.functions]
    while bodies:
        body = bodies.pop()
        for node in body.node:
            for attribute in node.attribute:
                inner = [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]
                graphs += inner
                bodies += inner
                if attribute.HasField("t"):
                    yield attribute.t
                yield from attribute.tensors
    for graph in graphs:
        yield from graph.initializer


def _check_tensor(tensor: onnx.TensorProto, where: str) -> None:
    """Refuse an array whose sizes are not those of its numbers."""
    name = tensor.name[:200]
    if tensor.data_type in _NO_NUMBERS or tensor.HasField("segment"):
        return  # refused where a node takes it
    if tensor.data_type not in onnx.TensorProto.DataType.values():
        raise UnusableModel(f"the array {name!r} of {where} is of a type that ONNX does not have. Export it again.")
    if any(size < 0 for size in tensor.dims):
        raise UnusableModel(f"the array {name!r} of {where} has a negative size. Export it again.")
    if tensor.HasField("raw_data"):
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)
        bits = 4 if "4" in dtype.name and dtype.itemsize == 1 and "int" in dtype.name else 8 * dtype.itemsize
        needed, given = -(-prod(tensor.dims) * bits // 8), len(tensor.raw_data)
    else:
        storage = onnx.helper.tensor_dtype_to_field(tensor.data_type)
        given = len(getattr(tensor, storage))
        pairs = tensor.data_type in (onnx.TensorProto.COMPLEX64, onnx.TensorProto.COMPLEX128)
        needed = prod(tensor.dims) * (2 if pairs else 1)
        if "INT4" in onnx.TensorProto.DataType.Name(tensor.data_type) or "FLOAT4" in onnx.TensorProto.DataType.Name(
            tensor.data_type
        ):
            return
    if needed != given:
        raise UnusableModel(
            f"the array {name!r} of {where} is said to be {' x '.join(map(str, tensor.dims))}, but holds something else: "
            "the file is cut short or made up. Export it again."
        )


def _read_external(model: onnx.ModelProto, path: Path) -> None:
    """Read the arrays that stand in files of their own, beside the model and nowhere else."""
    spans = [(tensor, *_span(tensor, path)) for tensor in _tensors(model) if tensor.data_location == onnx.TensorProto.EXTERNAL]
    # A small model may name the same bytes again and again, and a file may have holes that take no disk.
    if sum(length for *_, length in spans) > _MOST_EXTERNAL:
        raise UnusableModel(
            f"{path} keeps arrays of more than {_MOST_EXTERNAL / 2**30:.0f} GiB in other files, too large for TensorFlow. "
            "Export a smaller network, or in half precision."
        )
    for tensor, target, offset, length in spans:
        with target.open("rb") as file:
            file.seek(offset)
            tensor.raw_data = file.read(length)
        tensor.data_location = onnx.TensorProto.DEFAULT
        del tensor.external_data[:]


def _span(tensor: onnx.TensorProto, path: Path) -> tuple[Path, int, int]:
    """Where an array stands that is in another file: the file, and its first byte and how many."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    named = f"{path} keeps the array {tensor.name[:200]!r} in {location[:200]!r}"
    folder = path.parent.resolve()
    target = folder / location
    outside = not location or Path(location).is_absolute() or ".." in Path(location).parts
    if outside or not target.resolve().is_relative_to(folder):
        raise UnusableModel(f"{named}, outside of its own folder, which convscope does not read. Put the files side by side.")
    steps = [folder.joinpath(*Path(location).parts[: count + 1]) for count in range(len(Path(location).parts))]
    if any(step.is_symlink() for step in steps):
        raise UnusableModel(f"{named}, a symbolic link, which convscope does not follow. Put the file itself there.")
    if not target.is_file():
        raise MissingInput(f"{named}, which is missing. Copy it there.")
    size = target.stat().st_size
    try:
        offset = int(entries.get("offset", "0"))
        length = int(entries.get("length", str(size - offset)))
    except ValueError:
        offset = length = -1
    if offset < 0 or length < 0 or offset + length > size:
        raise UnusableModel(
            f"{named}, which does not hold as many bytes as it should: it is cut short. Export the network again."
        )
    return target, offset, length


def array_of(tensor: onnx.TensorProto, where: str) -> np.ndarray:
    """The numbers of an array. Raises: UnusableModel, for texts."""
    if tensor.data_type in _NO_NUMBERS or tensor.HasField("segment"):
        raise UnusableModel(f"the array {tensor.name[:200]!r} of {where} holds no numbers. Export the network without it.")
    return onnx.numpy_helper.to_array(tensor)
