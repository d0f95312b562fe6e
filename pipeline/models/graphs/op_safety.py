"""Which operations a graph from elsewhere may not hold: those that reach beyond their tensors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from typing import Any

from tensorflow.core.framework import function_pb2, graph_pb2

from pipeline.compiled.tf_private import is_registered
from pipeline.errors import UnusableModel

# Globs over operation types, and what such operations do.
FORBIDDEN: dict[str, tuple[str, ...]] = {
    "reads files": (
        *("ReadFile", "MatchingFiles", "*Reader", "*ReaderV2", "Reader*", "RecordInput", "ImmutableConst", "DecodeProto*"),
        *("Restore*", "*Checkpoint*", "LoadAndRemapMatrix", "GenerateVocabRemapping", "*FromTextFile*"),
    ),
    "reads data of its own": ("*Dataset*", "*Iterator*"),
    "writes files": ("Write*", "Save*", "*SummaryWriter*", "*SummaryFileWriter*", "*SummaryDbWriter*", "Debug*"),
    "runs Python": ("*PyFunc*",),
    "reaches other machines": (
        *("RemoteCall", "*Rpc*", "_Send", "_Recv", "_Host*", "Collective*", "BigQuery*", "*Distribute*", "*TPU*"),
    ),
}

# What every SavedModel holds to load and save itself, outside of its signatures.
SAVING = ("Restore*", "Save*", "*Checkpoint*")


def check_operations(graph: graph_pb2.GraphDef, where: str, allowed: tuple[str, ...] = ()) -> None:
    """Refuse a graph for an operation that is forbidden, or that this TensorFlow does not have, functions included.

    An Assert is harmless: it can but stop the run. A PrintV2 is, unless it prints to a file.

    Args:
        allowed: globs over types that may stand there all the same.

    Raises: UnusableModel, naming the operation.
    """
    known = {function.signature.name for function in graph.library.function}
    for node in _nodes(graph):
        deed = _deed(node)
        if deed and not _matches(node.op, allowed):
            raise UnusableModel(
                f"{where} holds the operation {node.name!r} of type {node.op}, which {deed}. "
                "Such graphs are never run: freeze the network alone, without it."
            )
    for node in _nodes(graph):
        if node.op not in known and not is_registered(node.op):
            raise UnusableModel(
                f"{where} holds the operation {node.name!r} of type {node.op!r}, which this TensorFlow does not have: "
                "a custom operation. Freeze the network without it."
            )


def _nodes(graph: graph_pb2.GraphDef) -> Iterator[Any]:
    yield from graph.node
    functions: Iterable[function_pb2.FunctionDef] = graph.library.function
    for function in functions:
        yield from function.node_def


def _deed(node: Any) -> str | None:
    """What is forbidden about a node; None if nothing is."""
    if node.op == "PrintV2":
        return "writes files" if "output_stream" in node.attr and node.attr["output_stream"].s.startswith(b"file:") else None
    return next((deed for deed, globs in FORBIDDEN.items() if _matches(node.op, globs)), None)


def _matches(kind: str, globs: Iterable[str]) -> bool:
    return any(fnmatchcase(kind, glob) for glob in globs)
