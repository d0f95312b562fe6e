"""The graph inside a Keras model, nested models included: the calls it is made of, and how to reach their outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import keras

from pipeline.compiled.keras_private import ends_of, has_graph, inputs_of, nodes_of


@dataclass(frozen=True)
class LayerCall:
    """The first call of an operation in a graph: which operation, its output, and the graph inside it.

    feed: the tensor that a nested model is given; nested: its graph.
    """

    operation: keras.Operation
    output: keras.KerasTensor
    feed: keras.KerasTensor | None = None
    nested: KerasGraph | None = None

    @property
    def kind(self) -> str:
        return type(self.operation).__name__


@dataclass(frozen=True)
class KerasGraph:
    """The operations between one input and everything computed from it.

    calls: by name, in forward order; input layers and operations of several outputs are left out.
    """

    input: keras.KerasTensor
    output: keras.KerasTensor  # the first, where there are several
    calls: dict[str, LayerCall]

    @classmethod
    def of(cls, model: keras.Model) -> KerasGraph:
        """The graph of a functional or sequential model of one input."""
        calls: dict[str, LayerCall] = {}
        for node in nodes_of(model):
            operation = node.operation
            if len(node.outputs) != 1 or operation.name in calls:
                continue
            if is_readable(operation) and len(node.inputs) == 1:
                calls[operation.name] = LayerCall(operation, node.outputs[0], node.inputs[0], cls.of(operation))
            else:
                calls[operation.name] = LayerCall(operation, node.outputs[0])
        inputs, outputs = ends_of(model)
        return cls(inputs[0], outputs[0], calls)

    def walk(self) -> Iterator[tuple[str, LayerCall]]:
        """Every call by name, those of a nested model as `outer/inner`, before the nested model itself."""
        for name, call in self.calls.items():
            if call.nested:
                yield from ((f"{name}/{inner}", deep) for inner, deep in call.nested.walk())
            yield name, call

    def feeds(self, name: str) -> list[str | None]:
        """The calls, as `walk` names them, whose outputs a call takes; None for the graph's own input."""
        head, _, rest = name.partition("/")
        call = self.calls[head]
        if call.nested is None:
            return self._makers(inputs_of(call.output))
        # The output of a nested model is that of its last call.
        inside = call.nested.feeds(rest) if rest else call.nested._makers([call.nested.output])
        feeds: list[str | None] = [f"{head}/{inner}" for inner in inside if inner is not None]
        return [*feeds, *(self._makers([call.feed]) if call.feed is not None and None in inside else [])]

    def reach(self, value: Any, names: Iterable[str], run: Callable[[keras.Model, Any], Any]) -> dict[str, Any]:
        """The outputs of the named calls for one input value; what lies past the deepest of them is not run.

        Args:
            value: what `run` takes: a tensor, or a KerasTensor that stands for one.
            names: as `walk` gives them.
            run: runs a model on a value and returns its outputs.
        """
        own: dict[str, keras.KerasTensor] = {}
        inside: dict[str, list[str]] = {}
        for name in names:
            head, _, rest = name.partition("/")
            if rest:
                inside.setdefault(head, []).append(rest)
            else:
                own[name] = self.calls[name].output
        feeds = {head: self.calls[head].feed for head in inside}
        # Keras allows a tensor that is both input and output, but runs an identity for it: it is the value itself.
        targets = {id(tensor): tensor for tensor in [*own.values(), *feeds.values()] if tensor is not self.input}
        values = {id(self.input): value}
        if targets:
            part = keras.Model(self.input, list(targets.values()))
            values |= zip(targets, keras.tree.flatten(run(part, value)), strict=True)
        outputs = {name: values[id(tensor)] for name, tensor in own.items()}
        for head, deeper in inside.items():
            nested = self.calls[head].nested
            assert nested is not None
            for name, output in nested.reach(values[id(feeds[head])], deeper, run).items():
                outputs[f"{head}/{name}"] = output
        return outputs

    def _makers(self, tensors: Iterable[keras.KerasTensor]) -> list[str | None]:
        """The calls that gave some tensors; operations of several outputs are passed through."""
        names = {id(call.output): name for name, call in self.calls.items()}
        makers: dict[str | None, None] = {}
        queue = list(tensors)
        for tensor in queue:
            if tensor is self.input:
                makers[None] = None
            elif id(tensor) in names:
                makers[names[id(tensor)]] = None
            else:
                queue += [source for source in inputs_of(tensor) if all(source is not known for known in queue)]
        return list(makers)


def is_readable(operation: keras.Operation) -> bool:
    """Whether it is a model whose graph is known, with one input: functional, or sequential and built."""
    return has_graph(operation) and len(ends_of(operation)[0]) == 1
