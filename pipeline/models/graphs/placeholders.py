"""What a frozen graph is fed: which tensor takes the images, and a value for every other placeholder."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import tensorflow as tf
from tensorflow.core.framework import node_def_pb2

from pipeline.errors import UnknownName, UnusableModel, WrongSpec, one_line
from pipeline.models.graphs.constants import check_constants
from pipeline.models.graphs.graphdef import Operations, canonical, constant, owner, short
from pipeline.models.layout import CHANNELS
from pipeline.models.other_inputs import IMAGE, Given, OtherInput, as_array, bound
from pipeline.spec.model import InputSpec, ModelSpec

_MUST_BE_FED = ("Placeholder", "PlaceholderV2")
_PLACEHOLDERS = (*_MUST_BE_FED, "PlaceholderWithDefault")
_VARIABLES = ("Variable", "VariableV2", "VarHandleOp", "AutoReloadVariable", "TemporaryVariable")

Shape = tuple[int | None, ...]


def find_image(operations: Operations, spec: ModelSpec, where: str) -> str:
    """The tensor that takes the images: the one named, or the one placeholder that can.

    A named one may be any tensor of floats: what is before it is cut away. Where whole numbers are fed and cast,
    it is the floats that they are cast to.

    Raises: WrongSpec, UnknownName, UnusableModel.
    """
    named = spec.inputs.get(IMAGE)
    if named is None:
        image = _infer(operations, spec, where)
    else:
        if not isinstance(named, str):
            raise WrongSpec(f'model.inputs.image = {named!r} is not the name of a tensor. Write it as "input:0".')
        image = canonical(named)
        if owner(image) not in operations.nodes:
            raise UnknownName.among(named, _described(operations), where=f"an operation of {where} (model.inputs.image)")
    dtype, _ = look(operations, image, where)
    if dtype.is_floating:
        return image
    takers = [operations.nodes[name] for name in operations.consumers().get(image, [])]
    if len(takers) == 1 and takers[0].op == "Cast":
        return f"{takers[0].name}:0"
    raise UnusableModel(
        f"{where} takes its images as {dtype.name} at {short(image)!r}, which no gradient can pass. "
        "Name the tensor of floats that follows it: model.inputs.image."
    )


def look(operations: Operations, tensor: str, where: str) -> tuple[tf.DType, Shape | None]:
    """Type and static shape of one tensor; None where even the rank is open. Raises: UnusableModel, UnknownName."""
    part = operations.part(operations.ancestors([tensor]))
    check_constants(part, where, unlisted=True)
    with tf.Graph().as_default():
        try:
            (operation,) = tf.graph_util.import_graph_def(part.graph(), return_elements=[owner(tensor)], name="")
        except ValueError as error:
            raise UnusableModel(f"{where} is not a graph that TensorFlow can read ({one_line(error)}). Freeze it anew.") from None
    index = int(tensor.rpartition(":")[2])
    if index >= len(operation.outputs):
        known = [short(output.name) for output in operation.outputs]
        raise UnknownName.among(tensor, known, where=f"a tensor of {where}")
    output = operation.outputs[index]
    return output.dtype, None if output.shape.rank is None else tuple(output.shape)


def settled(operations: Operations, spec: ModelSpec, image: str, where: str) -> tuple[Operations, dict[str, Given]]:
    """The graph with the placeholders of one value made constants; what those are given that have a value for each example.

    A placeholder has one for each example where its first axis is open, or is the batch that the graph was frozen for.

    Raises: WrongSpec, UnknownName.
    """
    nodes = dict(operations.nodes)
    given: dict[str, Given] = {}
    batch = (look(operations, image, where)[1] or (None,))[0]
    known = [name for name, node in nodes.items() if node.op in _PLACEHOLDERS and f"{name}:0" != image]
    for key, value in spec.inputs.items():
        if key == IMAGE:
            continue
        name = key.removesuffix(":0")
        if name not in known:
            raise UnknownName.among(key, known, where=f"a placeholder of {where} (model.inputs)")
        dtype, shape = look(operations, f"{name}:0", where)
        has_batch = shape is not None and len(shape) > 0 and (shape[0] is None or (shape[0] == batch and len(shape) > 1))
        array = None if isinstance(value, InputSpec) else as_array(value, dtype.name, f"model.inputs.{key} = {value!r}", where)
        if array is not None and not (has_batch and shape and (array.ndim < len(shape) or array.shape[0] == 1)):
            if not tf.TensorShape(shape).is_compatible_with(array.shape):
                raise WrongSpec(
                    f"model.inputs.{key} = {value!r} has the shape {array.shape}, but {where} takes {shape} there. "
                    "Write a list of that shape."
                )
            nodes[name] = constant(name, array)
            continue
        if not has_batch or not shape:
            raise WrongSpec(
                f"model.inputs.{key} takes one value for all examples in {where}, of the shape {shape}. Give it a constant."
            )
        given[name] = bound(OtherInput(name, shape[1:], dtype.name), value, f"model.inputs.{key}", where)
        nodes[name] = node_def_pb2.NodeDef(name=name, op="Placeholder")
        nodes[name].attr["dtype"].type = dtype.as_datatype_enum
        nodes[name].attr["shape"].shape.CopyFrom(tf.TensorShape((None, *shape[1:])).as_proto())
    return operations.replace(nodes), given


def cut(operations: Operations, image: str, given: Collection[str], where: str) -> Operations:
    """What the images can change and what that needs, nothing before the image.

    Args:
        given: the placeholders that have a value for each example.

    Raises: UnusableModel, WrongSpec.
    """
    changed = operations.dependents(image)
    if not changed:
        raise UnusableModel(f"in {where} nothing depends on {short(image)!r}. Name the tensor that takes the images.")
    needed = operations.ancestors([f"{name}:0" for name in changed], image)
    part = operations.part(needed)
    forgotten = [name for name, node in part.nodes.items() if node.op in _MUST_BE_FED and name not in given]
    if forgotten:
        raise WrongSpec(
            f"{where} has placeholders without a value: {', '.join(_described(part, forgotten))}. "
            f"Give each one in model.inputs, such as {{ {forgotten[0]} = {_example(part, forgotten[0])} }}."
        )
    variables = [name for name, node in part.nodes.items() if node.op in _VARIABLES]
    if variables:
        raise UnusableModel(
            f"{where} is not frozen: {variables[0]!r}"
            + (f" and {len(variables) - 1} more" if len(variables) > 1 else "")
            + " are variables without values. Freeze the graph, or write savedmodel:DIR for a SavedModel."
        )
    return part


def _infer(operations: Operations, spec: ModelSpec, where: str) -> str:
    placeholders = {name: node for name, node in operations.nodes.items() if node.op in _PLACEHOLDERS}
    takers = operations.consumers()
    placeholders = {name: node for name, node in placeholders.items() if f"{name}:0" in takers} or placeholders
    given = {key.removesuffix(":0") for key in spec.inputs}
    shapes = {name: look(operations, f"{name}:0", where) for name in placeholders if name not in given}
    sure = [name for name, (_, shape) in shapes.items() if shape is not None and len(shape) == 4 and _may_be_images(shape)]
    sure = sure or [name for name, (_, shape) in shapes.items() if shape is not None and len(shape) == 4]
    open_ = [name for name, (dtype, shape) in shapes.items() if shape is None and dtype.is_floating]
    candidates = sure or open_
    if len(candidates) == 1:
        return f"{candidates[0]}:0"
    if candidates:
        raise WrongSpec(
            f"{where} has several placeholders that may take the images: {', '.join(_described(operations, candidates))}. "
            f'Name one, and say what the others are given: model.inputs = {{ image = "{candidates[0]}:0", '
            f'"{candidates[1]}" = {{ image = "same" }} }}.'
        )
    raise WrongSpec(
        f"{where} has no placeholder for images (batch, height, width, bands), but: "
        f"{', '.join(_described(operations, list(placeholders))) or 'none at all'}. "
        'Name the tensor that takes them: model.inputs = { image = "op:0" }.'
    )


def _may_be_images(shape: Shape) -> bool:
    return shape[3] in (*CHANNELS, None) or shape[1] in CHANNELS


def _described(operations: Operations, names: Sequence[str] | None = None) -> list[str]:
    """Placeholders with their types and shapes; or, for names to compare with, the names of all operations."""
    if names is None:
        return list(operations.nodes)
    described = []
    for name in names:
        dtype, shape = look(operations, f"{name}:0", name)
        sizes = "any shape" if shape is None else f"({', '.join('?' if size is None else str(size) for size in shape)})"
        described.append(f"{name} ({dtype.name}, {sizes})")
    return described


def _example(operations: Operations, name: str) -> str:
    if len(operations.nodes[name].attr["shape"].shape.dim) == 4:
        return '{ image = "same" }'
    return "false" if tf.as_dtype(operations.nodes[name].attr["dtype"].type).is_bool else "1"
