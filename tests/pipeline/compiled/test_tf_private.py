"""The contracts with TensorFlow: what convscope relies on beyond the documented API, one test for each function."""

from __future__ import annotations

import gc
import sys
import textwrap
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import function_pb2, graph_pb2, node_def_pb2

from pipeline.compiled.tf_private import (
    function_body,
    gradient_name,
    graph_with_constants,
    intra_op_threads,
    is_registered,
    is_stateful,
    optimized,
    register_function,
    registered_gradient,
    set_gradient,
    without_gpu_kernel,
)

GRADIENT_OF_GROUPS = """
import os
os.environ["TF_ENABLE_ONEDNN_OPTS"] = "{onednn}"
import tensorflow as tf
from pipeline.compiled.tf_private import differentiates_groups

@tf.function
def gradient(images):
    return tf.gradients(tf.nn.conv2d(images, tf.ones([3, 3, 2, 4]), 1, "SAME"), images)[0]

try:
    gradient(tf.ones([1, 8, 8, 4]))
    has = True
except tf.errors.OpError:
    has = False
print(differentiates_groups(), has)
"""


def concrete(function: Any, *specs: Any) -> Any:
    return tf.function(function, autograph=False).get_concrete_function(*specs)


def library_of(function: object, *specs: tf.TensorSpec) -> function_pb2.FunctionDef:
    """A tf.function of one call of another, as the graph's library holds the other."""
    inner = tf.function(function, autograph=False)
    graph = concrete(lambda *tensors: inner(*tensors), *specs).graph.as_graph_def()
    (call,) = [node for node in graph.node if node.op in ("PartitionedCall", "StatefulPartitionedCall")]
    return next(actual for actual in graph.library.function if actual.signature.name == call.attr["f"].func.name)


def run_graph(function: Any, graph: graph_pb2.GraphDef, *given: Any) -> list[Any]:
    """The outputs of a function by a graph whose tensors have the function's names, for its first inputs."""
    inputs, outputs = ([tensor.name for tensor in tensors] for tensors in (function.inputs, function.outputs))
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        tf.graph_util.import_graph_def(graph, name="")
        return [value.tolist() for value in session.run(outputs, dict(zip(inputs, given, strict=False)))]


def test_variables_become_constants_their_reads_and_calls_go_and_inputs_and_outputs_keep_their_names() -> None:
    variable, inner = tf.Variable([1.0, 2.0]), tf.function(lambda x: 2 * x, autograph=False)
    function = concrete(lambda x, y: (inner(x) * variable, x + y), tf.TensorSpec((2,)), tf.TensorSpec(()))
    graph = graph_with_constants(function)
    variable.assign([5.0, 5.0])
    kinds = {node.op for node in graph.node}
    assert not kinds & {"ReadVariableOp", "VarHandleOp", "PartitionedCall", "StatefulPartitionedCall"} and "Const" in kinds
    assert run_graph(function, graph, [3.0, 4.0], 1.0) == [[6, 16], [4, 5]]


@pytest.mark.parametrize("kind", ["inlined", "compiled by XLA", "compiled by XLA, calling another", "loop"])
def test_gradients_by_what_functions_and_loops_read_from_variables_become_constant(kind: Any) -> None:
    kernel, scale = tf.Variable([[0.5, -1.0], [2.0, 0.25]]), tf.Variable([2.0, 3.0])
    inner = tf.function(lambda x: tf.nn.relu(x @ kernel) * scale, autograph=False)
    called = {
        "inlined": inner,
        "compiled by XLA": tf.function(lambda x: tf.nn.relu(x @ kernel) * scale, autograph=False, jit_compile=True),
        "compiled by XLA, calling another": tf.function(lambda x: inner(x) + scale, autograph=False, jit_compile=True),
        "loop": lambda x: tf.while_loop(lambda i, x: i < 2, lambda i, x: (i + 1, inner(x)), (0, x), maximum_iterations=2)[1],
    }[kind]

    def gradients(x: Any) -> Any:
        y = called(x)
        return y, tf.gradients(y**2, x)[0]

    function = concrete(gradients, tf.TensorSpec((3, 2)))
    graph = graph_with_constants(function)
    x = tf.constant([[1.0, 2.0], [-1.0, 0.5], [3.0, -2.0]])
    expected = [value.numpy() for value in function(x)]
    for variable in (kernel, scale):
        variable.assign(tf.zeros_like(variable))
    assert [node.op for node in graph.node].count("Placeholder") == 1
    for value, own in zip(run_graph(function, graph, x.numpy()), expected, strict=True):
        np.testing.assert_allclose(value, own, rtol=1e-6)
        assert np.abs(own).max() > 1
    assert any(node.op == "StatefulPartitionedCall" for node in graph.node) == ("XLA" in kind)


def test_every_read_of_a_variable_that_a_function_with_a_gradient_returns_becomes_constant() -> None:
    variables = [tf.Variable(float(number)) for number in range(40)]
    inner = tf.function(lambda x: tf.add_n([x * variable for variable in variables]), autograph=False, jit_compile=True)
    function = concrete(lambda x: tf.gradients(inner(x), x)[0], tf.TensorSpec(()))
    for _ in range(3):  # the order of a protocol buffer's map is another each time
        assert run_graph(function, graph_with_constants(function), 2.0) == [sum(range(40))]


@pytest.mark.parametrize(("lower", "kinds"), [(True, {"Switch", "Merge"}), (False, {"StatelessIf"})])
def test_conditions_are_lowered_only_where_that_is_asked_for(lower: Any, kinds: Any) -> None:
    function = concrete(lambda x: tf.cond(x > 0, lambda: 2 * x, lambda: -x), tf.TensorSpec(()))
    graph = graph_with_constants(function, lower_control_flow=lower)
    assert {node.op for node in graph.node} & {"Switch", "Merge", "If", "StatelessIf"} == kinds


def test_what_cannot_be_a_constant_stays_a_placeholder() -> None:
    keys = tf.lookup.KeyValueTensorInitializer(tf.range(3, dtype=tf.int64), tf.range(3, dtype=tf.int64))
    table = tf.lookup.StaticHashTable(keys, -1)
    graph = graph_with_constants(concrete(table.lookup, tf.TensorSpec((1,), tf.int64)))
    given = [node.attr["dtype"].type for node in graph.node if node.op == "Placeholder"]
    assert given == [tf.int64.as_datatype_enum, tf.resource.as_datatype_enum]


def test_an_operation_in_a_graph_takes_another_gradient_and_gradients_asked_for_before_stay() -> None:
    tf.RegisterGradient("ContractTimesSeven")(lambda operation, above: 7 * above)
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        x = tf.constant([-1.0, 2.0])
        rectified = tf.nn.relu(x)
        assert gradient_name(rectified.op) == "Relu"
        (before,) = tf.gradients(rectified, x)
        set_gradient(rectified.op, "ContractTimesSeven")
        assert gradient_name(rectified.op) == "ContractTimesSeven"
        (after,) = tf.gradients(rectified, x)
        values = session.run([before, after, rectified])
    assert [value.tolist() for value in values] == [[0, 1], [7, 7], [0, 2]]


def test_the_gradient_under_an_operations_name_is_the_one_that_tf_gradients_calls() -> None:
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        x = tf.constant([-1.0, 2.0, 8.0])
        operation = tf.nn.relu6(x).op
        ours = registered_gradient(gradient_name(operation))(operation, tf.constant([3.0, 3.0, 3.0]))
        assert session.run(ours).tolist() == [0, 3, 0]
        with pytest.raises(LookupError):
            registered_gradient("Bucketize")


def test_types_of_tensorflow_one_are_registered_and_invented_ones_are_not() -> None:
    assert is_registered("Conv2D") and is_registered("RefSwitch") and not is_registered("Conv2DOfNobody")


def test_an_operation_says_whether_it_has_effects() -> None:
    assert is_stateful("RandomUniform") and is_stateful("Conv2DOfNobody") and not is_stateful("Conv2D")


def test_a_function_of_a_library_becomes_a_graph_with_its_arguments_as_placeholders_and_its_results_named() -> None:
    function = library_of(lambda x, y: (tf.split(x, 2)[1], x + y), tf.TensorSpec((4,)), tf.TensorSpec(()))
    with tf.Graph().as_default():
        graph, flat = function_body(function)
    arguments = [argument.name for argument in function.signature.input_arg]
    assert [node.name for node in graph.node if node.op == "Placeholder"] == arguments
    results = [function.ret[argument.name] for argument in function.signature.output_arg]
    names = [flat.get(name, name) for name in results]
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        ends = tf.graph_util.import_graph_def(graph, return_elements=names, name="")
        half, total = session.run(ends, {f"{arguments[0]}:0": [1, 2, 3, 4], f"{arguments[1]}:0": 10})
    assert half.tolist() == [3, 4] and total.tolist() == [11, 12, 13, 14]


def called_by_name(name: str, value: float) -> float:
    """What a function that this process knows returns, of one number."""
    call = node_def_pb2.NodeDef(name="call", op="StatefulPartitionedCall", input=["x"])
    call.attr["f"].func.name = name
    for kinds in ("Tin", "Tout"):
        call.attr[kinds].list.type.append(tf.float32.as_datatype_enum)
    placeholder = node_def_pb2.NodeDef(name="x", op="Placeholder")
    placeholder.attr["dtype"].type = tf.float32.as_datatype_enum
    graph = graph_pb2.GraphDef(node=[placeholder, call])
    graph.versions.producer = tf.version.GRAPH_DEF_VERSION

    def by_name(x: Any) -> Any:
        return tf.graph_util.import_graph_def(graph, {"x:0": x}, ["call:0"], name="")

    return float(tf.compat.v1.wrap_function(by_name, [tf.TensorSpec(())])(tf.constant(value))[0])


def test_a_registered_function_can_be_called_by_name_and_registering_it_again_changes_nothing() -> None:
    function = library_of(lambda x: 3 * x, tf.TensorSpec(()))
    function.signature.name = "contract_triple"
    register_function(function)
    register_function(function)
    assert called_by_name("contract_triple", 2.0) == 6.0


@pytest.mark.parametrize("registered", [False, True])
def test_a_registered_function_outlives_the_python_object_that_made_it(registered: bool) -> None:
    function = library_of(lambda x: x - 1 - registered, tf.TensorSpec(()))  # whose tf.function is gone
    if registered:
        register_function(function)
    gc.collect()
    if registered:
        assert called_by_name(function.signature.name, 5.0) == 3.0
    else:  # TensorFlow takes it away, or registering would not be needed
        with pytest.raises(tf.errors.NotFoundError):
            called_by_name(function.signature.name, 5.0)


def test_grappler_runs_only_the_named_optimizer_and_keeps_the_named_tensors() -> None:
    function = concrete(lambda x: tf.identity(x + (tf.constant(2.0) + 3.0)), tf.TensorSpec((2,)))
    graph, kept = graph_with_constants(function), [tensor.name for tensor in (*function.inputs, *function.outputs)]
    before = sum(node.op == "AddV2" for node in graph.node)
    after = optimized(graph, kept, "constfold")
    assert sum(node.op == "AddV2" for node in after.node) == before - 1
    assert {name.partition(":")[0] for name in kept} <= {node.name for node in after.node}
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        (end,) = tf.graph_util.import_graph_def(after, return_elements=kept[-1:], name="")
        assert session.run(end, {kept[0]: np.float32([1, 2])}).tolist() == [6, 7]


def test_the_number_of_threads_is_the_programs_then_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "3")
    assert intra_op_threads() == (tf.config.threading.get_intra_op_parallelism_threads() or 3)
    monkeypatch.delenv("TF_NUM_INTRAOP_THREADS")
    assert intra_op_threads() == tf.config.threading.get_intra_op_parallelism_threads()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="threads are counted as Linux lists them")
@pytest.mark.parametrize("owned", [True, False])
def test_a_session_has_threads_of_its_own_only_where_they_are_asked_for_before_the_first_device(program: Any, owned: Any) -> None:
    code = f"""
        import os
        import tensorflow as tf
        from pipeline.compiled.tf_private import let_sessions_own_threads

        if {owned}:
            let_sessions_own_threads()
        tf.zeros(1)
        before = len(os.listdir("/proc/self/task"))
        with tf.Graph().as_default():
            product = tf.matmul(tf.ones((2, 2)), tf.ones((2, 2)))
        options = dict(intra_op_parallelism_threads=5, inter_op_parallelism_threads=1, use_per_session_threads=True)
        session = tf.compat.v1.Session(graph=product.graph, config=tf.compat.v1.ConfigProto(device_count={{"GPU": 0}}, **options))
        session.run(product)
        print(len(os.listdir("/proc/self/task")) - before)
    """
    # What this process has set for its own sessions is not the child's.
    child = program(textwrap.dedent(code), environment={"TF_OVERRIDE_GLOBAL_THREADPOOL": None})
    assert child.out.strip() == ("6" if owned else "1"), child.err


def test_a_process_that_computed_nothing_has_not_started(program: Any) -> None:
    code = """
import tensorflow as tf
from pipeline.compiled.tf_private import has_started
assert not has_started() and not has_started()
tf.config.list_physical_devices("GPU")
with tf.Graph().as_default():
    tf.constant(1)
assert not has_started()
tf.constant(1)
assert has_started()
"""
    ended = program(code)
    assert ended.status == 0, ended.err


def test_operations_without_a_gpu_kernel_are_named_with_their_types() -> None:
    def both(whole: tf.Tensor, real: tf.Tensor) -> tuple[tf.Tensor, ...]:
        return tf.linalg.matmul(whole, whole), tf.linalg.matmul(real, real), tf.argmax(tf.cast(real, tf.int8), axis=1)

    specs = tf.TensorSpec((2, 2), tf.int64), tf.TensorSpec((2, 2), tf.float32)
    missing = without_gpu_kernel(concrete(both, *specs).graph.as_graph_def())
    assert missing == ["ArgMax(T=int8, Tidx=int32, output_type=int64)", "MatMul(T=int64)"]
    inside = tf.function(both, autograph=False)
    nested = concrete(lambda *tensors: inside(*tensors), *specs).graph.as_graph_def()
    assert without_gpu_kernel(nested) == missing, "the bodies of functions count"


@pytest.mark.parametrize("onednn", ["0", "1"])
def test_convolutions_in_groups_have_gradients_where_it_says_so(process: Any, onednn: str) -> None:
    child = process("-c", GRADIENT_OF_GROUPS.format(onednn=onednn))
    out, error = child.communicate(timeout=120)
    says, has = out.split()
    assert says == has, error
