"""The graph inside a Keras model, nested models included: the calls it is made of, and how to reach their outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import keras

from pipeline.compiled.keras_private import ends_of, has_graph, layers_inside, maker_of, nodes_of


@dataclass(frozen=True)
class LayerCall:
    """One call of an operation in a graph: which operation, what it takes and gives, and the graph inside it.

    nested: of a model whose graph is known; it takes `inputs` in order.
    """

    operation: keras.Operation
    outputs: tuple[keras.KerasTensor, ...]
    inputs: tuple[keras.KerasTensor, ...] = ()
    nested: KerasGraph | None = None

    @property
    def kind(self) -> str:
        return type(self.operation).__name__

    @property
    def output(self) -> keras.KerasTensor:
        """The first of the outputs."""
        return self.outputs[0]


@dataclass(frozen=True)
class KerasGraph:
    """The operations between the inputs of a model and everything computed from them.

    calls: in forward order, by the operation's name; its second call is `name:1`, as Keras counts calls.
    """

    inputs: tuple[keras.KerasTensor, ...]
    outputs: tuple[keras.KerasTensor, ...]
    calls: dict[str, LayerCall]

    @classmethod
    def of(cls, model: keras.Model) -> KerasGraph:
        """The graph of a functional or sequential model."""
        calls: dict[str, LayerCall] = {}
        graphs: dict[int, KerasGraph] = {}
        for node in nodes_of(model):
            operation = node.operation
            if has_graph(operation) and len(ends_of(operation)[0]) == len(node.inputs):
                graphs.setdefault(id(operation), cls.of(operation))
            name = f"{operation.name}:{node.number}" if node.number else operation.name
            calls[name] = LayerCall(operation, node.outputs, node.inputs, graphs.get(id(operation)))
        inputs, outputs = ends_of(model)
        return cls(tuple(inputs), tuple(outputs), calls)

    def walk(self) -> Iterator[tuple[str, LayerCall]]:
        """Every call by name, those of a nested model as `outer/inner`, before the nested model itself."""
        for name, call in self.calls.items():
            if call.nested:
                yield from ((f"{name}/{inner}", deep) for inner, deep in call.nested.walk())
            yield name, call

    def input_layers(self) -> Iterator[tuple[str, keras.Operation]]:
        """The input layers, those of nested models too, named as `walk` names calls."""
        yield from ((maker.name, maker) for maker in map(maker_of, self.inputs))
        for name, call in self.calls.items():
            if call.nested:
                yield from ((f"{name}/{inner}", layer) for inner, layer in call.nested.input_layers())

    def feeds(self, name: str) -> list[str | int]:
        """The calls, as `walk` names them, whose outputs a call takes; a number stands for one of the graph's inputs."""
        head, _, rest = name.partition("/")
        call = self.calls[head]
        if call.nested is None:
            return self.makers(call.inputs)
        # The output of a nested model is that of its last call.
        return self._outside(head, call.nested.feeds(rest) if rest else call.nested.makers(call.nested.outputs))

    def makers(self, tensors: Iterable[keras.KerasTensor]) -> list[str | int]:
        """The calls that gave some of the graph's own tensors, or inputs by number; of a nested model with several outputs,
        the call inside."""
        makers: dict[str | int, None] = {}
        for tensor in tensors:
            number = next((number for number, given in enumerate(self.inputs) if given is tensor), None)
            if number is not None:
                makers[number] = None
                continue
            name, position = self._owners[id(tensor)]
            nested = self.calls[name].nested
            if nested is None or len(nested.outputs) == 1:
                makers[name] = None
            else:
                makers |= dict.fromkeys(self._outside(name, nested.makers([nested.outputs[position]])))
        return list(makers)

    def composites(self) -> dict[str, LayerCall]:
        """The layers that hold layers in a way that their own code alone knows, and are called once; wrappers aside."""
        calls = dict(self.walk())
        return {
            name: call
            for name, call in calls.items()
            if call.nested is None and layers_inside(call.operation) and not isinstance(call.operation, keras.layers.Wrapper)
            if ":" not in name and f"{name}:1" not in calls
        }

    def reach(
        self, values: Sequence[Any], names: Iterable[str], run: Callable[[keras.Model, list[Any]], tuple[Any, Mapping[str, Any]]]
    ) -> dict[str, Any]:
        """The outputs of the named calls, the first of each, for some input values; what lies past the deepest is not run.

        Args:
            values: one for each input, such as `run` takes: tensors, or KerasTensors that stand for them.
            names: as `walk` gives them, and of what composite layers call, as `run` names it.
            run: runs a model of a list of inputs on a list of values. Returns its outputs, and those of the layers inside it.
        """
        captured: dict[str, keras.KerasTensor] = {}
        inside: dict[str, list[str]] = {}
        for name in names:
            head, _, rest = name.partition("/")
            if rest and self.calls[head].nested is not None:
                inside.setdefault(head, []).append(rest)
            else:  # a composite layer is run as a whole
                captured[name] = self.calls[head].output
        tensors = {id(given): value for given, value in zip(self.inputs, values, strict=True)}
        # Keras allows a tensor that is both input and output, but runs an identity for it: it is the value itself.
        needed = [*captured.values(), *(given for head in inside for given in self.calls[head].inputs)]
        targets = {id(tensor): tensor for tensor in needed if id(tensor) not in tensors}
        seen: Mapping[str, Any] = {}
        if targets:
            part = keras.Model(list(self.inputs), list(targets.values()))
            results, seen = run(part, list(values))
            tensors |= zip(targets, keras.tree.flatten(results), strict=True)
        outputs = {name: seen[name] if "/" in name else tensors[id(tensor)] for name, tensor in captured.items()}
        for head, deeper in inside.items():
            nested = self.calls[head].nested
            assert nested is not None
            given = [tensors[id(tensor)] for tensor in self.calls[head].inputs]
            outputs |= {f"{head}/{name}": output for name, output in nested.reach(given, deeper, run).items()}
        return outputs

    @cached_property
    def _owners(self) -> dict[int, tuple[str, int]]:
        """The call that gave each tensor, and which of its outputs it is."""
        return {id(output): (name, position) for name, call in self.calls.items() for position, output in enumerate(call.outputs)}

    def _outside(self, head: str, inside: Iterable[str | int]) -> list[str | int]:
        """Calls and inputs of a nested model, as this graph knows them."""
        makers: dict[str | int, None] = {}
        for name in inside:
            makers |= dict.fromkeys([f"{head}/{name}"] if isinstance(name, str) else self.makers([self.calls[head].inputs[name]]))
        return list(makers)
