"""The graph inside a Keras model, nested models included: which tensors it has, and how to reach them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import keras

from pipeline.compiled.keras_private import ends_of, has_graph, inputs_of, nodes_of


@dataclass(frozen=True)
class Step:
    """One operation of a graph, at its first call: what it is, what it gives, and the graph inside it."""

    operation: keras.Operation
    output: keras.KerasTensor
    feed: keras.KerasTensor | None = None  # what a nested model is given
    nested: Graph | None = None

    @property
    def kind(self) -> str:
        return type(self.operation).__name__


@dataclass(frozen=True)
class Graph:
    """The operations between one input and everything computed from it.

    steps: by name, in forward order; input layers and operations of several outputs are left out.
    """

    input: keras.KerasTensor
    output: keras.KerasTensor  # the first, where there are several
    steps: dict[str, Step]

    @classmethod
    def of(cls, model: keras.Model) -> Graph:
        """The graph of a functional or sequential model of one input."""
        steps: dict[str, Step] = {}
        for node in nodes_of(model):
            operation = node.operation
            if len(node.outputs) != 1 or operation.name in steps:
                continue
            if is_readable(operation) and len(node.inputs) == 1:
                steps[operation.name] = Step(operation, node.outputs[0], node.inputs[0], cls.of(operation))
            else:
                steps[operation.name] = Step(operation, node.outputs[0])
        inputs, outputs = ends_of(model)
        return cls(inputs[0], outputs[0], steps)

    def walk(self) -> Iterator[tuple[str, Step]]:
        """Every step by name, those of a nested model as `outer/inner`, before the nested model itself."""
        for name, step in self.steps.items():
            if step.nested:
                yield from ((f"{name}/{inner}", deep) for inner, deep in step.nested.walk())
            yield name, step

    def feeds(self, name: str) -> list[str | None]:
        """The steps, as `walk` names them, whose outputs a step takes; None for the graph's own input."""
        head, _, rest = name.partition("/")
        step = self.steps[head]
        if step.nested is None:
            return self._makers(inputs_of(step.output))
        # What a nested model gives is what its last step gives.
        inside = step.nested.feeds(rest) if rest else step.nested._makers([step.nested.output])
        found = [f"{head}/{inner}" for inner in inside if inner is not None]
        return [*found, *(self._makers([step.feed]) if step.feed is not None and None in inside else [])]

    def _makers(self, tensors: Iterable[keras.KerasTensor]) -> list[str | None]:
        """The steps that gave some tensors; operations that are no steps are looked through."""
        names = {id(step.output): name for name, step in self.steps.items()}
        found: dict[str | None, None] = {}
        queue = list(tensors)
        for tensor in queue:
            if tensor is self.input:
                found[None] = None
            elif id(tensor) in names:
                found[names[id(tensor)]] = None
            else:
                queue += [taken for taken in inputs_of(tensor) if all(taken is not known for known in queue)]
        return list(found)

    def reach(self, value: Any, names: Iterable[str], call: Callable[[keras.Model, Any], Any]) -> dict[str, Any]:
        """The outputs of the named steps for one input value; what lies past the deepest of them is not run.

        Args:
            value: what `call` takes: a tensor, or a KerasTensor that stands for one.
            names: as `walk` gives them.
            call: runs a model on a value and returns its outputs.
        """
        own: dict[str, keras.KerasTensor] = {}
        inside: dict[str, list[str]] = {}
        for name in names:
            head, _, rest = name.partition("/")
            if rest:
                inside.setdefault(head, []).append(rest)
            else:
                own[name] = self.steps[name].output
        feeds = {head: self.steps[head].feed for head in inside}
        # Keras allows a tensor that is both input and output, but runs an identity for it: it is the value itself.
        wanted = {id(tensor): tensor for tensor in [*own.values(), *feeds.values()] if tensor is not self.input}
        values = {id(self.input): value}
        if wanted:
            part = keras.Model(self.input, list(wanted.values()))
            values |= zip(wanted, keras.tree.flatten(call(part, value)), strict=True)
        found = {name: values[id(tensor)] for name, tensor in own.items()}
        for head, rest_of in inside.items():
            nested = self.steps[head].nested
            assert nested is not None
            for name, deep in nested.reach(values[id(feeds[head])], rest_of, call).items():
                found[f"{head}/{name}"] = deep
        return found


def is_readable(operation: keras.Operation) -> bool:
    """Whether it is a model whose graph is known, with one input: functional, or sequential and built."""
    return has_graph(operation) and len(ends_of(operation)[0]) == 1
