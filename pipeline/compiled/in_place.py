"""Clamps that write over what they read: a map that is read both before its clamp and behind it is in memory once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from tensorflow.core.framework.graph_pb2 import GraphDef
from tensorflow.core.framework.node_def_pb2 import NodeDef

from pipeline.compiled.graph_parts import operation_of, readers_in

_CLAMPS = {"Relu", "Relu6", "Minimum", "Maximum", "ClipByValue"}
_VIEWS = {"Identity", "Reshape", "Squeeze", "ExpandDims"}  # whose output is the memory of their first input
_LOOPS = {"Enter", "Exit", "Switch", "Merge", "NextIteration"}

Readers = Mapping[str, Sequence[NodeDef]]


def let_clamps_wait(graph: GraphDef) -> None:
    """Change a graph so that each clamp runs after all others that read its input: it computes the same.

    TensorFlow writes an output over an input that nothing reads any more. A clamp that comes first takes as much memory
    again instead, which on a CPU lies outside the cache. A clamp whose input is read by what needs the clamp itself, such as
    the sum of a residual block, does not wait; nor does any in a graph with loops, where nothing may wait for another frame.
    """
    if any(node.op in _LOOPS for node in graph.node):
        return
    nodes = {node.name: node for node in graph.node}
    readers = readers_in(graph)
    for clamp in graph.node:
        if clamp.op not in _CLAMPS:
            continue
        maps = {_memory(nodes, operation_of(name)) for name in clamp.input}
        others = {reader.name for name in maps if nodes[name].op != "Const" for reader in _readers(readers, name)} - {clamp.name}
        if others.isdisjoint(_after(readers, clamp.name) if others else ()):
            clamp.input.extend(f"^{name}" for name in sorted(others))
            for name in others:
                readers.setdefault(name, []).append(clamp)


def _memory(nodes: Mapping[str, NodeDef], name: str) -> str:
    """The operation that has written what an operation's output holds."""
    while nodes[name].op in _VIEWS:
        name = operation_of(nodes[name].input[0])
    return name


def _readers(readers: Readers, name: str) -> Iterator[NodeDef]:
    """What reads the output of an operation, through its views too."""
    for reader in readers.get(name, ()):
        if reader.op in _VIEWS:
            yield from _readers(readers, reader.name)
        else:
            yield reader


def _after(readers: Readers, name: str) -> set[str]:
    """All operations that need this one."""
    after: set[str] = set()
    waiting = [name]
    while waiting:
        more = {reader.name for reader in readers.get(waiting.pop(), ())} - after
        after |= more
        waiting += more
    return after
