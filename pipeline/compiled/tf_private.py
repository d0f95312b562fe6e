"""Every private or undocumented part of TensorFlow that convscope uses, one small function for each.

Nothing else in the tree may import `tensorflow.python` or touch an underscored attribute of TensorFlow's. Each function
has a contract test in tests/pipeline/compiled/test_tf_private.py, which names what a new TensorFlow has broken. The
classes under `tensorflow.core` are not private: they are the messages of documented file formats.

All of it is as in TensorFlow 2.21, the one minor version that setup.cfg allows.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2, function_pb2, graph_pb2, node_def_pb2
from tensorflow.core.protobuf import config_pb2, meta_graph_pb2, rewriter_config_pb2
from tensorflow.python.eager import context
from tensorflow.python.eager.polymorphic_function import atomic_function
from tensorflow.python.framework import config as framework_config
from tensorflow.python.framework import convert_to_constants, kernels, op_def_registry, ops
from tensorflow.python.framework.function_def_to_graph import function_def_to_graph_def
from tensorflow.python.grappler import tf_optimizer
from tensorflow.python.util import _pywrap_util_port

# The node attribute that names an operation's gradient function, where it is not that of the operation's type.
GRADIENT_ATTRIBUTE = "_gradient_op_type"


def graph_with_constants(concrete: Any, lower_control_flow: bool = True) -> graph_pb2.GraphDef:
    """The graph of a tf.function's concrete function, its variables read once and made constants, and its calls inlined.

    A call that XLA compiles stays a call, which is given the constants. Gradients are made constant too, which
    `convert_variables_to_constants_v2_as_graph`, whose steps these are, cannot always do. It turns reads of variables into
    identities, but a function that returns a read, as functions with gradients do, then refers to an operation that no
    longer exists; and the gradients of loops ask for the shape of a variable that is now a constant. It also makes a
    function of the graph again, which takes most of its time.

    Relies on the first two of its three steps, which TensorFlow does not export.

    Args:
        lower_control_flow: whether conditions and loops become the Switch and Merge of TensorFlow 1.

    Returns: a graph whose inputs and outputs keep the names that they have in `concrete.graph`. What cannot be made a
        constant, such as a table, stays a placeholder.
    """
    plain = concrete.graph.as_graph_def()
    if not concrete.captured_inputs and not plain.library.function:
        return plain
    conversion = convert_to_constants._FunctionConverterDataInEager(
        func=concrete, lower_control_flow=lower_control_flow, aggressive_inlining=False
    )
    for function in conversion.graph_def.library.function:
        _return_identities_of_reads(function)
    graph, _ = convert_to_constants._replace_variables_by_constants(converter_data=conversion)
    _take_shapes_of_constants(graph.node, {})
    for function in graph.library.function:
        _take_shapes_of_constants(function.node_def, {argument.name: argument.type for argument in function.signature.input_arg})
    return graph


def set_gradient(operation: tf.Operation, name: str) -> None:
    """Give one operation of a graph the gradient that is registered under a name, for every tf.gradients from now on.

    `tf.Graph.gradient_override_map` is the documented way, but only for operations that are yet to be added.
    Relies on `Operation._set_attr` and on the attribute that the map sets.
    """
    operation._set_attr(GRADIENT_ATTRIBUTE, attr_value_pb2.AttrValue(s=name.encode()))


def gradient_name(operation: tf.Operation) -> str:
    """The name under which an operation's gradient is registered: usually its type.

    Relies on the attribute that `tf.Graph.gradient_override_map` and `tf.custom_gradient` set.
    """
    return operation.node_def.attr[GRADIENT_ATTRIBUTE].s.decode() or operation.type


def registered_gradient(name: str) -> Any:
    """The function (operation, *gradients by its outputs) -> gradients by its inputs that is registered under a name.

    Relies on `ops.gradient_registry`. Raises: LookupError, where there is none.
    """
    return ops.gradient_registry.lookup(name)


def is_registered(kind: str) -> bool:
    """Whether this process has an operation type, whether or not Python has a function for it.

    Relies on `op_def_registry.get`. `tf.raw_ops` lacks the stateful types of TensorFlow 1.
    """
    return op_def_registry.get(kind) is not None


def is_stateful(kind: str) -> bool:
    """Whether an operation type has effects or a state; True for one that this process does not have.

    TensorFlow computes operations without, of constants, while it infers shapes.
    Relies on `op_def_registry.get`.
    """
    definition = op_def_registry.get(kind)
    return definition is None or bool(definition.is_stateful)


def function_body(function: function_pb2.FunctionDef) -> tuple[graph_pb2.GraphDef, dict[str, str]]:
    """A function of a graph's library as a graph: its arguments as placeholders, its operations as `op:index` refers to them.

    Every function that the body calls must be in the library of the default graph.
    Relies on `function_def_to_graph_def`.

    Returns: the graph, and {name of a tensor as in `function.ret`, such as `op:output:0`: its name in the graph, `op:0`}.
    """
    return function_def_to_graph_def(function)


def register_function(function: function_pb2.FunctionDef) -> None:
    """Make a function of a graph's library known to this process under its name, for good, unless one of that name is.

    tf.graph_util.import_graph_def registers them in the default graph alone, and not in eager execution. One that is known
    already may be that of a Python object, which takes it away when the object is collected: it is counted once more.
    Relies on `context.context()` with `has_function`, `add_function_def` and `function_scope_id`, and on
    `atomic_function.RUNTIME_FUNCTION_REFS`, the number of such objects.
    """
    known, name = context.context(), function.signature.name
    if not known.has_function(name):
        known.add_function_def(function)
    elif (key := (known.function_scope_id, name.encode())) in atomic_function.RUNTIME_FUNCTION_REFS:
        atomic_function.RUNTIME_FUNCTION_REFS[key] += 1


def optimized(graph: graph_pb2.GraphDef, kept: Sequence[str], optimizer: str) -> graph_pb2.GraphDef:
    """A graph after one pass of one of Grappler's optimizers.

    Relies on `tf_optimizer.OptimizeGraph`, which TensorFlow does not export, and on the optimizer's name.

    Args:
        kept: the names of the tensors that must stay as they are: the inputs and the outputs.
        optimizer: as `RewriterConfig.optimizers` names it.
    """
    meta = meta_graph_pb2.MetaGraphDef(graph_def=graph)
    meta.collection_def["train_op"].node_list.value.extend(kept)
    config = config_pb2.ConfigProto()
    rewriting = config.graph_options.rewrite_options
    rewriting.optimizers.append(optimizer)
    rewriting.min_graph_nodes = -1  # small networks too
    rewriting.meta_optimizer_iterations = rewriter_config_pb2.RewriterConfig.ONE
    return tf_optimizer.OptimizeGraph(config, meta)


def intra_op_threads() -> int:
    """How many threads compute one operation on the CPU, as the program or the environment says; 0 where neither does.

    Relies on the variable TF_NUM_INTRAOP_THREADS, which TensorFlow reads where the program sets nothing.
    """
    return tf.config.threading.get_intra_op_parallelism_threads() or int(os.environ.get("TF_NUM_INTRAOP_THREADS") or 0)


def differentiates_groups() -> bool:
    """Whether convolutions in groups have gradients on this CPU: oneDNN's do.

    Relies on `tensorflow.python.util._pywrap_util_port.IsMklEnabled`, which reads TF_ENABLE_ONEDNN_OPTS too.
    """
    return bool(_pywrap_util_port.IsMklEnabled())


def let_sessions_own_threads() -> None:
    """Let each tf.compat.v1.Session on the CPU compute with as many threads as its own configuration says.

    Relies on the variable TF_OVERRIDE_GLOBAL_THREADPOOL; it is read when the first device is made.
    """
    os.environ.setdefault("TF_OVERRIDE_GLOBAL_THREADPOOL", "1")


def _return_identities_of_reads(function: function_pb2.FunctionDef) -> None:
    """Make a function return an identity of a variable's value instead of the value itself."""
    reads = {node.name: node.attr["dtype"].type for node in function.node_def if node.op == "ReadVariableOp"}
    # A list, because setting a key moves it in a protocol buffer's map, and a loop over the map itself would then skip others.
    for result, tensor in list(function.ret.items()):
        read = tensor.partition(":")[0]
        if read in reads:
            identity = function.node_def.add(name=f"{read}/{result}", op="Identity", input=[tensor])
            identity.attr["T"].type = reads[read]
            function.ret[result] = f"{identity.name}:output:0"


def _take_shapes_of_constants(nodes: Sequence[node_def_pb2.NodeDef], arguments: Mapping[str, int]) -> None:
    """Replace each operation that gives the shape of a variable, where the variable has become a constant.

    Args:
        nodes: of a graph or of a function.
        arguments: the function's, with their types.
    """
    # Asked for an attribute that a node lacks, a protocol buffer would add it, empty.
    types = {
        node.name: node.attr[key].type for node in nodes for key in ("T", "dtype") if key in node.attr and node.attr[key].type
    }
    for node in nodes:
        if node.op == "VariableShape":
            dtype = (types | dict(arguments))[node.input[0].partition(":")[0]]
            if dtype != tf.resource.as_datatype_enum:
                node.op = "Shape"
                node.attr["T"].type = dtype


@contextmanager
def deterministic_operations() -> Iterator[None]:
    """Every operation is deterministic while the block runs, or is an error; afterwards all is as before.

    `tf.config.experimental.enable_op_determinism` has no public counterpart.
    Relies on `is_op_determinism_enabled` and `disable_op_determinism`.
    """
    before = framework_config.is_op_determinism_enabled()
    tf.config.experimental.enable_op_determinism()
    try:
        yield
    finally:
        if not before:
            framework_config.disable_op_determinism()


def has_started() -> bool:
    """Whether TensorFlow has made its devices and their threads in this process.

    Relies on `context.context()._initialized`. Asking does not start anything.
    """
    return bool(context.context()._initialized)


def without_gpu_kernel(graph: graph_pb2.GraphDef) -> list[str]:
    """The operations of a graph and of its functions that have no GPU kernel for their types: `MatMul(T=int64)`, sorted.

    Those that oneDNN's rewriting has put in the place of others, as it does on CPUs alone, are left out.

    TensorFlow computes them on the CPU and copies what they take and give. Kernels for devices of the kind DEFAULT serve
    every device. The Linux wheel lists its GPU kernels on machines without a GPU too.

    Relies on `get_registered_kernels_for_op`, which TensorFlow does not export.
    """
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    functions = {function.signature.name for function in graph.library.function}
    operations = (node for node in nodes if node.op not in functions and not node.op.startswith("_Mkl"))
    return sorted({_with_types(node) for node in operations if not _has_gpu_kernel(node)})


@contextmanager
def executed_graphs() -> Iterator[list[graph_pb2.GraphDef]]:
    """The graphs of all functions that run in eager execution while the block does, before optimisation; once it has ended.

    Those of tf.data, which run on the CPU, are left out; graphs of sessions are not among them.
    Relies on `context.collect_graphs`.
    """
    graphs: list[graph_pb2.GraphDef] = []
    with context.collect_graphs(optimized=False) as collected:
        yield graphs
    graphs += [graph for graph in collected if not any("Dataset" in node.op or node.op == "PyFunc" for node in graph.node)]


def _has_gpu_kernel(node: node_def_pb2.NodeDef) -> bool:
    registered = kernels.get_registered_kernels_for_op(node.op).kernel
    return any(
        kernel.device_type in ("GPU", "DEFAULT")
        and not kernel.label  # kernels with a label are for those who ask for it
        and all(_allows(node, limit.name, limit.allowed_values.list.type) for limit in kernel.constraint)
        for kernel in registered
    )


def _allows(node: node_def_pb2.NodeDef, name: str, allowed: Sequence[int]) -> bool:
    if not allowed:  # a constraint of texts, such as GatherNd's policy for bad indices
        return True
    if name not in node.attr:  # graphs that were saved leave out what is the default
        return any(attr.name == name and attr.default_value.type in allowed for attr in op_def_registry.get(node.op).attr)
    value = node.attr[name]
    return all(kind in allowed for kind in (value.list.type or [value.type]))


def _with_types(node: node_def_pb2.NodeDef) -> str:
    types = [f"{name}={tf.as_dtype(node.attr[name].type).name}" for name in sorted(node.attr) if node.attr[name].type]
    return f"{node.op}({', '.join(types)})" if types else node.op
