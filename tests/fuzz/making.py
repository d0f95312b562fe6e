"""Making: how broken inputs of a known kind are made, by door."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import h5py
import numpy as np
import workshop
from workshop import Workshop

Make = Callable[[Workshop], bytes]

DEEP = 100_000


def spec(old: str, new: str, rest: str = "") -> Make:
    def make(shop: Workshop) -> bytes:
        text = shop.spec(rest=rest)
        assert old in text
        return text.replace(old, new).encode("utf-8", "surrogatepass")

    return make


def added(rest: str) -> Make:
    return lambda shop: shop.spec(rest=rest).encode()


def keras(change: Callable[[Any], Any]) -> Make:
    """The network's archive with another description."""
    return lambda shop: archive(shop, lambda members: {**members, "config.json": changed(members["config.json"], change)})


def changed(config: bytes, change: Callable[[Any], Any]) -> bytes:
    tree = change(json.loads(config))
    return tree if isinstance(tree, bytes) else json.dumps(tree).encode()


def archive(shop: Workshop, change: Callable[[dict[str, bytes]], dict[str, bytes]], method: int = zipfile.ZIP_STORED) -> bytes:
    with zipfile.ZipFile(shop.folder / "tiny.keras") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, data in change(members).items():
            archive.writestr(name, data)
    return file.getvalue()


def encrypted(shop: Workshop) -> bytes:
    data = bytearray(archive(shop, lambda members: members))
    for mark, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = data.find(mark)
        while at >= 0:
            data[at + flags] |= 1
            at = data.find(mark, at + 4)
    return bytes(data)


def of_method(number: int) -> Make:
    def make(shop: Workshop) -> bytes:
        data = bytearray(archive(shop, lambda members: members))
        for mark, method in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
            at = data.find(mark)
            while at >= 0:
                data[at + method : at + method + 2] = struct.pack("<H", number)
                at = data.find(mark, at + 4)
        return bytes(data)

    return make


def renamed(name: Any) -> Callable[[Any], Any]:
    def change(tree: Any) -> Any:
        return json.loads(json.dumps(tree).replace('"edges"', json.dumps(name)))

    return change


def h5(change: Callable[[Any], None]) -> Make:
    def make(shop: Workshop) -> bytes:
        file = io.BytesIO((shop.folder / "tiny.h5").read_bytes())
        with h5py.File(file, "r+") as opened:
            change(opened)
        return file.getvalue()

    return make


def without_object(shop: Workshop) -> bytes:
    """A link to an object whose header is gone."""
    data = bytearray((shop.folder / "tiny.h5").read_bytes())
    with h5py.File(io.BytesIO(bytes(data))) as file:
        address = h5py.h5o.get_info(file["model_weights/edges"].id).addr
    data[address : address + 16] = b"\xff" * 16
    return bytes(data)


def graph(change: Callable[[Any], None], source: str = "tiny.pb") -> Make:
    def make(shop: Workshop) -> bytes:
        from tensorflow.core.framework import graph_pb2

        graph = graph_pb2.GraphDef.FromString((shop.folder / source).read_bytes())
        change(graph)
        return graph.SerializeToString()

    return make


def node_of(graph: Any, op: str) -> Any:
    return next(node for node in graph.node if node.op == op)


def operation(op: str) -> Callable[[Any], None]:
    def change(graph: Any) -> None:
        node_of(graph, "Relu").op = op

    return change


def inputless(op: str) -> Callable[[Any], None]:
    def change(graph: Any) -> None:
        del node_of(graph, op).input[:]

    return change


def with_function(change: Callable[[Any], None]) -> Callable[[Any], None]:
    """A function in the graph's library, called by a node; then `change`."""

    def made(graph: Any) -> None:
        function = graph.library.function.add()
        function.signature.name = "twice"
        argument, result = function.signature.input_arg.add(), function.signature.output_arg.add()
        argument.name, argument.type, result.name, result.type = "x", 1, "y", 1
        node = function.node_def.add()
        node.name, node.op = "relu", "Relu"
        node.input.append("x")
        node.attr["T"].type = 1
        function.ret["y"] = "relu:activations:0"
        relu = node_of(graph, "Relu")
        relu.op = "PartitionedCall"
        relu.attr.clear()
        relu.attr["f"].func.name = "twice"
        relu.attr["Tin"].list.type.append(1)
        relu.attr["Tout"].list.type.append(1)
        change(graph)

    return made


def twice(graph: Any) -> None:
    graph.library.function.add().CopyFrom(graph.library.function[0])


def returns(what: str) -> Callable[[Any], None]:
    def change(graph: Any) -> None:
        graph.library.function[0].ret["y"] = what

    return change


def call_in(function: Any, called: str) -> None:
    """Make a call of a function's first operation."""
    node = function.node_def[0]
    node.op = "PartitionedCall"
    node.attr.clear()
    node.attr["f"].func.name = called
    node.attr["Tin"].list.type.append(1)
    node.attr["Tout"].list.type.append(1)


def recursive(graph: Any) -> None:
    call_in(graph.library.function[0], "twice")


def doubling(graph: Any) -> None:
    """Forty functions, each of which calls the next one twice."""
    last = graph.library.function[0]
    for depth in range(40):
        function = graph.library.function.add()
        function.CopyFrom(last)
        function.signature.name = "twice" if depth == 0 else f"twice{depth}"
        call_in(function, "relu" if depth == 39 else f"twice{depth + 1}")
        again = function.node_def.add()
        again.CopyFrom(function.node_def[0])
        again.name, again.input[0] = "again", "relu:output:0"
        function.ret["y"] = "again:output:0"
    last.signature.name = "relu"


def feeding_itself(graph: Any) -> None:
    """A call that takes what it gives, of a function that gives what it takes."""
    function = graph.library.function[0]
    function.ret["y"] = "x"
    del function.node_def[:]
    call = node_of(graph, "PartitionedCall")
    call.input[:] = [call.name]


def immense_constant(graph: Any) -> None:
    """One number that stands for 640 GB of them."""
    tensor = node_of(graph, "Const").attr["value"].tensor
    tensor.ClearField("tensor_content")
    tensor.float_val[:] = [1.0]
    del tensor.tensor_shape.dim[:]
    for _ in range(2):
        tensor.tensor_shape.dim.add().size = 400_000


def predicate(graph: Any) -> None:
    """A condition on two truths."""
    phase = next(node for node in graph.node if node.name == "phase_train/input")
    phase.attr["value"].tensor.tensor_shape.dim.add().size = 2


def receipt(change: Callable[[Any], Any]) -> Make:
    return lambda shop: json.dumps(change(json.loads((shop.job / "run.json").read_bytes()))).encode()


def keys(**values: Any) -> Make:
    return receipt(lambda tree: {**tree, **values})


def part(change: Callable[[Any, dict[str, Any]], Any], path: str = "out/tiny/scan.part") -> Make:
    """A part whose header and arrays are changed."""

    def make(shop: Workshop) -> bytes:
        with np.load(io.BytesIO((shop.folder / path).read_bytes())) as archive:
            arrays = {name: archive[name] for name in archive.files}
        header = json.loads(bytes(arrays.pop("header")))
        header = change(header, arrays) or header
        file = io.BytesIO()
        np.savez(file, header=np.frombuffer(json.dumps(header).encode(), np.uint8), **arrays)
        return file.getvalue()

    return make


def header(**values: Any) -> Make:
    return part(lambda header, arrays: {**header, **values})


def rows(**columns: Any) -> Make:
    def make(shop: Workshop) -> bytes:
        rows, features = workshop.table()
        return workshop.parquet({**rows, **columns}, features)

    return make


def paths(path: str) -> Make:
    return rows(image=[{"bytes": None, "path": path}] * workshop.PICTURES)


def label(name: str, data: bytes) -> Make:
    return lambda shop: workshop.archive([("a.png", workshop.pictures()["png"]), (name, data)])


def constant(data: bytes) -> Make:
    return lambda shop: data


def own_input(graph: Any) -> None:
    """A node of its own input."""
    relu = node_of(graph, "Relu")
    relu.input[0] = relu.name
