"""Attacks by graphs: what writes, reads, hangs or crashes must be refused before any of it runs."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import graph_pb2, op_def_pb2
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow.python.client import pywrap_tf_session

sys.path.insert(0, str(Path(__file__).parent))

from frozen_graphs import convolve, freeze_v1, opened, plain, v1, weights, write

from pipeline.errors import UnusableModel
from pipeline.models.graphs.op_safety import ALL_ALLOWED, COMPUTABLE, VARIABLES, judge


def registered() -> Any:
    """Every operation that this TensorFlow has."""
    listed = op_def_pb2.OpList()
    listed.ParseFromString(pywrap_tf_session.TF_GetBuffer(pywrap_tf_session.TF_GetAllOpList()))
    return list(listed.op)


# Words of attributes and inputs that name files, machines or programs.
REACHING = ("file", "path", "url", "address", "host", "directory", "prefix", "target", "device", "server", "descriptor", "shared")


def test_every_allowed_operation_is_one_that_tensorflow_has() -> None:
    assert {operation.name for operation in registered()} >= ALL_ALLOWED | VARIABLES
    assert COMPUTABLE < ALL_ALLOWED and len(ALL_ALLOWED) > 400


def test_no_allowed_operation_has_an_attribute_that_names_a_file_or_a_machine() -> None:
    suspicious = [
        f"{operation.name}.{name}"
        for operation in registered()
        if operation.name in ALL_ALLOWED
        for name in [one.name for one in operation.attr if one.type in ("string", "list(string)")]
        if any(word in name for word in REACHING)
    ]
    assert suspicious == []


def test_every_operation_that_is_not_on_the_list_is_refused() -> None:
    passing = [operation.name for operation in registered() if judge(tf.compat.v1.NodeDef(name="x", op=operation.name)) is None]
    assert set(passing) == ALL_ALLOWED | VARIABLES


def test_stateful_operations_that_are_allowed_are_known_one_by_one() -> None:
    stateful = {operation.name for operation in registered() if operation.is_stateful and operation.name in ALL_ALLOWED}
    harmless = ("TensorArray", "Stack", "Random", "Print", "Assert", "CheckNumerics", "SampleDistorted")
    named = {"StatefulPartitionedCall", "If", "While", "Case", "_Arg", "_Retval", "Multinomial", "TruncatedNormal"}
    named |= {"ParameterizedTruncatedNormal", "StatelessRandomGetAlg"}
    assert {name for name in stateful if not name.startswith(harmless)} == named


@pytest.mark.parametrize(
    "kind",
    [
        *(
            "DumpTensor",
            "FixedUnigramCandidateSampler",
            "EncodeProto",
            "CalibrationStatisticsSaver",
            "DTensorRestoreV2",
            "Skipgram",
        ),
        *("XlaCallModule", "FileSystemSetConfiguration", "Send", "Recv", "Abort", "SleepIdentityOp", "MergeV2Checkpoints"),
    ],
)
def test_what_is_dangerous_cannot_be_allowed_by_the_spec(kind: Any) -> None:
    problem = judge(tf.compat.v1.NodeDef(name="x", op=kind), allow=[kind])
    assert problem and "never run" in problem


def test_an_unlisted_operation_is_refused_with_the_key_that_allows_it(tmp_path: Path) -> None:
    def build() -> None:
        image = v1.placeholder(tf.float32, (None, 8, 8, 3), name="input")
        sparse = tf.sparse.from_dense(tf.reduce_mean(convolve(image, weights(3, 3, 3, 4), name="conv"), (1, 2)))
        tf.identity(tf.sparse.reduce_max(sparse, axis=1), name="end")

    path = freeze_v1(tmp_path, build)
    with pytest.raises(UnusableModel, match=r'SparseReduceMax, which is not known to be harmless.*allow = \["SparseReduceMax"\]'):
        opened(path)
    assert "conv" in [layer.name for layer in opened(path, allow=["SparseReduceMax"]).layers()]


def test_what_is_cut_away_before_the_image_is_not_judged_by_the_list(tmp_path: Path) -> None:
    graph = graph_pb2.GraphDef.FromString(freeze_v1(tmp_path, plain, ["end"]).read_bytes())
    with tf.Graph().as_default() as other:
        tf.raw_ops.SobolSample(dim=1, num_results=1, skip=1)
    graph.node.extend(other.as_graph_def().node)
    assert opened(write(tmp_path, graph)).layers()


def switched(folder: Any, hide: Any) -> Any:
    """The plain network behind a Switch whose predicate is constant but for what `hide` hangs onto it."""

    def build() -> None:
        image = v1.placeholder(tf.float32, (None, 8, 8, 3), name="input")
        predicate = hide()
        _, taken = tf.raw_ops.Switch(data=image, pred=predicate)
        x = tf.nn.relu(convolve(taken, weights(3, 3, 3, 4), 2, name="conv"))
        tf.reduce_mean(x, (1, 2), name="end")

    return freeze_v1(folder, build)


def test_what_hangs_by_a_control_edge_on_a_predicate_is_refused_and_not_run(tmp_path: Path) -> None:
    proof = tmp_path / "dump"
    proof.mkdir()
    graph = graph_pb2.GraphDef.FromString(switched(tmp_path, lambda: tf.constant(True, name="pred")).read_bytes())
    dump = graph.node.add(name="dump", op="DumpTensor", input=["pred"])
    dump.attr["T"].type = tf.bool.as_datatype_enum
    dump.attr["log_dir_path"].s = str(proof).encode()
    dump.attr["tensor_name"].s = b"x"
    held = graph.node.add(name="held", op="Identity", input=["pred", "^dump"])
    held.attr["T"].type = tf.bool.as_datatype_enum
    next(node for node in graph.node if node.op == "Switch").input[1] = "held"
    with pytest.raises(UnusableModel, match="'dump' of type '?DumpTensor'?, which writes files"):
        opened(write(tmp_path, graph))
    assert list(proof.iterdir()) == []


def test_a_predicate_that_would_take_all_memory_is_not_computed(tmp_path: Path) -> None:
    with pytest.raises(UnusableModel, match="makes 640,000,000,000 bytes out of constants"):
        opened(switched(tmp_path, lambda: tf.reduce_all(tf.fill([400_000, 400_000], 1.0) > 0)))
    opened(switched(tmp_path, lambda: tf.reduce_all(tf.random.uniform([4]) >= 0)))  # the Switch stays


def test_a_shape_that_is_worked_out_from_constants_is_not_worth_all_memory(tmp_path: Path) -> None:
    """TensorFlow computes what a Reshape is given while it infers shapes."""

    def build() -> None:
        image = v1.placeholder(tf.float32, (None, 8, 8, 3), name="input")
        size = 8 * tf.reduce_max(tf.fill(tf.constant([4, 4], name="sizes"), 1))
        convolve(tf.reshape(image, tf.stack([-1, 8, size, 3])), weights(3, 3, 3, 4))

    graph = graph_pb2.GraphDef.FromString(freeze_v1(tmp_path, plain, ["end"]).read_bytes())
    splat = graph.node.add(name="splat", op="Const")
    splat.attr["dtype"].type = splat.attr["value"].tensor.dtype = tf.float32.as_datatype_enum
    splat.attr["value"].tensor.float_val.append(1)
    for _ in range(4):
        splat.attr["value"].tensor.tensor_shape.dim.add(size=4096)
    product = graph.node.add(name="product", op="Mul", input=["conv/Relu", "splat"])
    product.attr["T"].type = tf.float32.as_datatype_enum
    with tf.Graph().as_default():
        build()
        bomb = tf.compat.v1.get_default_graph().as_graph_def()
    sizes = next(node for node in bomb.node if node.name == "sizes").attr["value"].tensor
    sizes.tensor_content = np.full(2, 400_000, np.int32).tobytes()
    for file in (write(tmp_path, bomb, "fill"), write(tmp_path, graph, "splat")):
        with pytest.raises(UnusableModel, match="bytes out of constants"):
            opened(file)


def in_a_loop(folder: Any, print_to: Any) -> graph_pb2.GraphDef:
    """A network with a loop of TF2 that prints."""

    def build() -> None:
        image = v1.placeholder(tf.float32, (None, 8, 8, 3), name="input")

        def step(number: Any, x: Any) -> Any:
            tf.print("from the graph", output_stream=print_to)
            return number + 1, x * 2.0

        def repeated(x: Any) -> Any:
            return tf.while_loop(lambda number, _: number < 2, step, (tf.constant(0), x))[1]

        x = tf.function(repeated, autograph=False)(image)
        x.set_shape((None, 8, 8, 3))
        convolve(x, weights(3, 3, 3, 4), name="conv")

    return graph_pb2.GraphDef.FromString(freeze_v1(folder, build).read_bytes())


def test_a_path_that_the_call_of_a_function_hands_in_is_refused(tmp_path: Path) -> None:
    """The operation itself names no file: its attribute is a placeholder, which the call of its function sets."""
    proof, graph = tmp_path / "proof", in_a_loop(tmp_path, sys.stderr)
    bodies = set()
    for function in graph.library.function:
        for node in function.node_def:
            if node.op == "PrintV2":
                node.attr["output_stream"].placeholder = "stream"
                function.signature.attr.add(name="stream", type="string")
                bodies.add(function.signature.name)
    calls = [node for function in graph.library.function for node in function.node_def]
    for value in (value for node in (*calls, *graph.node) for value in node.attr.values() if value.func.name in bodies):
        value.func.attr["stream"].s = f"file://{proof}".encode()
    assert len(bodies) == 1
    with pytest.raises(UnusableModel, match="'output_stream' is set by what calls its function"):
        opened(write(tmp_path, graph))
    handed = tf.compat.v1.NodeDef(name="x", op="While")
    handed.attr["body"].func.attr["filename"].s = b"/etc/passwd"
    assert "names a file" in (judge(handed) or "")
    assert not proof.exists()


def test_what_prints_inside_of_a_loop_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    network = opened(write(tmp_path, in_a_loop(tmp_path, sys.stderr)))
    images = np.ones((1, 8, 8, 3), np.float32)
    np.testing.assert_allclose(network.trace(images, ["conv"])["conv"], convolve(4 * images, weights(3, 3, 3, 4)), rtol=1e-5)
    assert "from the graph" not in "".join(capfd.readouterr())


def calling(folder: Any, functions: dict[str, list[str]], given: str) -> Path:
    """The plain network, and a call of the first of some functions, each of which calls others in turn."""
    graph = graph_pb2.GraphDef.FromString(freeze_v1(folder, plain, ["end"]).read_bytes())

    def call(name: str, function: str, ref: str) -> tf.compat.v1.NodeDef:
        node = tf.compat.v1.NodeDef(name=name, op="PartitionedCall", input=[ref])
        node.attr["Tin"].list.type.append(tf.float32.as_datatype_enum)
        node.attr["Tout"].list.type.append(tf.float32.as_datatype_enum)
        node.attr["f"].func.name = function
        return node

    for name, called in functions.items():
        function = graph.library.function.add()
        function.signature.name, ref = name, "x"
        function.signature.input_arg.add(name="x", type=tf.float32.as_datatype_enum)
        function.signature.output_arg.add(name="y", type=tf.float32.as_datatype_enum)
        for number, other in enumerate(called):
            function.node_def.append(call(f"c{number}", other, ref))
            ref = f"c{number}:output:0"
        function.ret["y"] = ref
    graph.node.append(call("call", next(iter(functions)), given))
    graph.node.append(call("other", next(iter(functions)), "call"))
    return write(folder, graph)


def test_calls_that_grow_or_feed_themselves_end_at_once(tmp_path: Path) -> None:
    began = time.process_time()
    doubling = {f"f{depth}": 2 * [f"f{depth + 1}"] for depth in range(40)} | {"f40": []}
    for functions, given, words in [
        (doubling, "conv/Relu", "calls that grow to more than 200,000 operations"),
        ({"f": []}, "call", "a call that takes what it gives"),
        ({"f": []}, "other", "a call that takes what it gives"),
        ({"f": ["g"], "g": ["f", "f"]}, "conv/Relu", "a function that calls itself"),
    ]:
        with pytest.raises(UnusableModel, match=words):
            opened(calling(tmp_path, functions, given))
    assert time.process_time() - began < 20


def test_what_is_not_on_the_list_is_not_computed_for_the_shape_of_the_image(tmp_path: Path) -> None:
    graph = graph_pb2.GraphDef.FromString(freeze_v1(tmp_path, plain, ["end"]).read_bytes())
    with tf.Graph().as_default():
        tf.identity(tf.reshape(tf.raw_ops.SobolSample(dim=48, num_results=4, skip=1), (1, 8, 8, 3)), name="before")
        graph.node.extend(tf.compat.v1.get_default_graph().as_graph_def().node)
    next(node for node in graph.node if node.name == "conv/Conv2D").input[0] = "before"
    with pytest.raises(UnusableModel, match="computes the operation 'SobolSample' of type SobolSample"):
        opened(write(tmp_path, graph), inputs={"image": "before"})


def saved_with(folder: Any, poison: Any) -> Any:
    """A SavedModel of TF1 whose main_op is what `poison` builds."""
    with tf.Graph().as_default(), v1.Session() as session:
        plain()
        session.run(v1.global_variables_initializer())
        graph = v1.get_default_graph()
        builder = v1.saved_model.Builder(str(folder))
        signature = v1.saved_model.predict_signature_def(
            {"input": graph.get_tensor_by_name("input:0")}, {"prob": graph.get_tensor_by_name("end:0")}
        )
        builder.add_meta_graph_and_variables(
            session, ["serve"], {"serving_default": signature}, main_op=tf.group(poison(), name="main")
        )
        builder.save()
    return folder


def save_v2(proof: Any) -> Any:
    return tf.raw_ops.SaveV2(prefix=str(proof), tensor_names=["a"], shape_and_slices=[""], tensors=[tf.constant(1.0)])


def save_v1(proof: Any) -> Any:
    return tf.raw_ops.Save(filename=str(proof), tensor_names=["a"], data=[tf.constant(1.0)])


def merge(proof: Any) -> Any:
    return tf.raw_ops.MergeV2Checkpoints(checkpoint_prefixes=[str(proof)], destination_prefix=str(proof) + "2")


@pytest.mark.parametrize("poison", [save_v2, save_v1, merge])
def test_a_main_op_that_writes_is_refused_and_nothing_is_written(tmp_path: Path, poison: Any) -> None:
    proof = tmp_path / "proof"
    folder = saved_with(tmp_path / "net", lambda: poison(proof))
    with pytest.raises(UnusableModel, match="which writes files"):
        opened(folder, "savedmodel")
    assert {path.name for path in tmp_path.iterdir()} == {"net"}


def test_a_saver_that_claims_the_signature_as_its_own_hides_nothing(tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    folder = saved_with(tmp_path / "net", lambda: save_v2(proof))
    file = folder / "saved_model.pb"
    model = saved_model_pb2.SavedModel.FromString(file.read_bytes())
    graph = model.meta_graphs[0]
    save = next(node.name for node in graph.graph_def.node if node.op == "SaveV2" and "save" not in node.name)
    end = next(node for node in graph.graph_def.node if node.name == "end")
    end.input.append(f"^{save}")
    graph.saver_def.save_tensor_name = "end:0"
    file.write_bytes(model.SerializeToString())
    with pytest.raises(UnusableModel, match="which writes files"):
        opened(folder, "savedmodel")
    assert not list(tmp_path.glob("proof*"))


def test_variables_that_claim_more_than_the_folder_holds_are_refused(tmp_path: Path) -> None:
    folder = saved_with(tmp_path / "net", tf.no_op)
    data = next((folder / "variables").glob("variables.data-*"))
    data.write_bytes(data.read_bytes()[:10])
    with pytest.raises(UnusableModel, match="claims .* bytes of variables"):
        opened(folder, "savedmodel")


def test_the_loader_of_tensorflow_is_never_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = saved_with(tmp_path / "net", tf.no_op)
    monkeypatch.setattr(tf.saved_model, "load", lambda *given, **named: pytest.fail("it was called"))
    images = np.ones((1, 8, 8, 3), np.float32)
    assert opened(folder, "savedmodel").trace(images, ["conv/Relu"])["conv/Relu"].shape == (1, 4, 4, 4)
