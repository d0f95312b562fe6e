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


def test_a_predicate_that_would_take_for_ever_or_all_memory_is_not_computed(tmp_path: Path) -> None:
    began = time.monotonic()
    path = switched(tmp_path, lambda: tf.reduce_all(tf.fill([400_000, 400_000], 1.0) > 0))
    opened(path)  # the Switch stays, as if the image decided
    random = switched(tmp_path, lambda: tf.reduce_all(tf.random.uniform([4]) >= 0))
    opened(random)
    assert time.monotonic() - began < 60


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
