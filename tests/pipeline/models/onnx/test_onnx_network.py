"""Networks in ONNX as stages see them: names, maps, gradients, kernels, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import tensorflow as tf
from onnx import TensorProto, helper
from onnx_models import class_attention, classifier, model, saved

from pipeline.errors import ConvscopeError, MissingInput, UnknownName, UnusableModel, WrongSpec
from pipeline.models.onnx.onnx_network import open_onnx
from pipeline.models.registry import open_network
from pipeline.spec.model import ModelSpec

PIXELS = np.random.default_rng(0).uniform(-1, 1, (3, 16, 16, 3)).astype(np.float32)


def spec(**keys: Any) -> ModelSpec:
    return ModelSpec.model_validate({"source": "onnx:X.onnx", "layers": ["*"], "preprocess": "none", **keys})


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return saved(classifier(), tmp_path_factory.mktemp("onnx"))


def test_layers_bear_the_names_of_nodes_and_hold_what_onnxruntime_computes(path: str) -> None:
    network = open_onnx(path, spec())
    assert [(layer.name, layer.kind, layer.shape) for layer in network.layers()] == [
        ("/conv1/Conv", "Conv", (16, 16, 8)),
        ("/relu/Relu", "Relu", (16, 16, 8)),
        ("/conv2/Conv", "Conv", (8, 8, 8)),
        ("/pool/GlobalAveragePool", "GlobalAveragePool", (1, 1, 8)),
        ("/Reshape", "Reshape", (1, 1, 8)),
        ("/fc/Gemm", "Gemm", (1, 1, 5)),
    ]
    file = onnx.load(path)
    for name in ("r1", "c2"):
        file.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(file.SerializeToString())
    logits, relu, conv = session.run(["y", "r1", "c2"], {"x": PIXELS.transpose(0, 3, 1, 2)})
    outputs = network.trace(tf.constant(PIXELS), ["logits", "/relu/Relu", "/conv2/Conv"])
    np.testing.assert_allclose(outputs["logits"], logits, atol=1e-4)
    np.testing.assert_allclose(outputs["/relu/Relu"], relu.transpose(0, 2, 3, 1), atol=1e-4)
    np.testing.assert_allclose(outputs["/conv2/Conv"], conv.transpose(0, 2, 3, 1), atol=1e-4)


def test_a_layer_may_be_asked_for_by_the_name_of_its_output(path: str) -> None:
    names = [layer.name for layer in open_onnx(path, spec(layers=["r1"])).layers()]
    assert "r1" in names and "/relu/Relu" not in names and "/conv1/Conv" in names


def test_gradients_pass_from_the_logits_to_the_image(path: str) -> None:
    network = open_onnx(path, spec())

    @tf.function(autograph=False)
    def slope(images: tf.Tensor) -> tf.Tensor:
        return tf.gradients(network.trace(images, ["logits"])["logits"][:, 1], images)[0]

    step = np.zeros_like(PIXELS)
    step[0, 5, 6, 1] = 1e-2
    low, high = (network.trace(tf.constant(images), ["logits"])["logits"][0, 1] for images in (PIXELS - step, PIXELS + step))
    assert float(slope(tf.constant(PIXELS))[0, 5, 6, 1]) == pytest.approx(float(high - low) / 2e-2, rel=2e-2, abs=1e-4)


def test_kernels_are_those_of_the_file(path: str) -> None:
    network = open_onnx(path, spec())
    assert network.convolutions() == ["/conv1/Conv", "/conv2/Conv"]
    kernels = network.kernels(network.convolutions())
    arrays = {array.name: onnx.numpy_helper.to_array(array) for array in onnx.load(path).graph.initializer}
    np.testing.assert_array_equal(kernels["/conv1/Conv"][0].weights, arrays["w1"].transpose(2, 3, 1, 0))
    assert kernels["/conv2/Conv"][0].groups == 8


def test_a_file_of_a_fixed_batch_runs_with_any(tmp_path: Path) -> None:
    file = classifier({"x": (1, 3, 16, 16)})
    network = open_onnx(saved(file, tmp_path), spec())
    whole = network.trace(tf.constant(PIXELS), ["logits"])["logits"]
    single = [network.trace(tf.constant(PIXELS[row : row + 1]), ["logits"])["logits"] for row in range(3)]
    np.testing.assert_allclose(whole, np.concatenate(single), atol=1e-5)


def _sequence_first() -> onnx.ModelProto:
    """Attention of two heads in PyTorch's own order, (tokens, batch, width), exported for one image."""
    rng = np.random.default_rng(4)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["maps"], strides=[4, 4], name="/Conv"),
        helper.make_node("Reshape", ["maps", "flat"], ["rows"], name="/Rows"),
        helper.make_node("Transpose", ["rows"], ["tokens"], perm=[2, 0, 1], name="/Tokens"),
        helper.make_node("Reshape", ["tokens", "split"], ["heads"], name="/Heads"),
        helper.make_node("Transpose", ["heads"], ["query"], perm=[1, 0, 2], name="/Query"),
        helper.make_node("Transpose", ["heads"], ["key"], perm=[1, 2, 0], name="/Key"),
        helper.make_node("MatMul", ["query", "key"], ["scores"], name="/Scores"),
        helper.make_node("Softmax", ["scores"], ["attention"], axis=-1, name="/Softmax"),
        helper.make_node("MatMul", ["attention", "query"], ["mixed"], name="/Mixed"),
        helper.make_node("Transpose", ["mixed"], ["back"], perm=[1, 0, 2], name="/Back"),
        helper.make_node("Reshape", ["back", "joined"], ["wide"], name="/Joined"),
        helper.make_node("Gemm", ["wide", "dense"], ["out"], name="/Gemm"),
        helper.make_node("Reshape", ["out", "whole"], ["sequence"], name="/Whole"),
        helper.make_node("ReduceMean", ["sequence"], ["y"], axes=[0], keepdims=0, name="/Mean"),
    ]
    arrays = {
        "w": rng.normal(size=(8, 3, 4, 4)).astype(np.float32) / 4,
        "dense": rng.normal(size=(8, 5)).astype(np.float32),
        "flat": np.array([1, 8, 16]),
        "split": np.array([16, 2, 4]),
        "joined": np.array([16, 8]),
        "whole": np.array([16, 1, 5]),
    }
    return model(nodes, arrays, {"x": (1, 3, 16, 16)})


def test_a_file_for_one_image_whose_batch_is_no_first_axis_runs_with_any(tmp_path: Path) -> None:
    file = saved(_sequence_first(), tmp_path)
    network = open_onnx(file, spec())
    session = onnxruntime.InferenceSession(file)
    rows = [session.run(None, {"x": image[np.newaxis]})[0] for image in PIXELS.transpose(0, 3, 1, 2)]
    np.testing.assert_allclose(network.trace(tf.constant(PIXELS), ["logits"])["logits"], np.concatenate(rows), atol=1e-4)


def test_every_head_of_a_class_token_that_alone_looks_is_a_map(tmp_path: Path) -> None:
    file = class_attention()
    network = open_onnx(saved(file, tmp_path), spec())
    shapes = {layer.name: layer.shape for layer in network.layers()}
    assert shapes["/Softmax#heads"] == (4, 4, 2)
    assert shapes["/Query"] == (1, 1, 8)
    assert "/Softmax" not in shapes
    file.graph.output.append(helper.make_empty_tensor_value_info("attention"))
    session = onnxruntime.InferenceSession(file.SerializeToString())
    _, attention = session.run(None, {"x": PIXELS.transpose(0, 3, 1, 2)})  # (images, heads, 1, 17)
    traced = network.trace(tf.constant(PIXELS), ["/Softmax#heads"])["/Softmax#heads"]
    np.testing.assert_allclose(traced, attention[:, :, 0, 1:].transpose(0, 2, 1).reshape(3, 4, 4, 2), atol=1e-5)


def test_tokens_before_heads_and_width_are_no_channels_of_a_map_of_these(tmp_path: Path) -> None:
    """(batch, 17, 2, 4) has the axes of a map of 17 channels; what lies along its axis 1 is a class token and 4 x 4 patches."""
    network = open_onnx(saved(class_attention(), tmp_path), spec())
    names = ["/Tokens", "/KeyHeads", "/KeyHeads#tokens"]
    tokens, heads, beside = (np.asarray(value) for value in network.trace(tf.constant(PIXELS), names).values())
    assert tokens.shape == heads.shape == (3, 4, 4, 8) and beside.shape == (3, 1, 1, 8)
    np.testing.assert_array_equal(heads, tokens)


def test_a_file_whose_images_would_change_each_other_is_refused(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Reshape", ["x", "joined"], ["rows"], name="/Rows"),
        helper.make_node("Softmax", ["rows"], ["shares"], axis=0, name="/Softmax"),
        helper.make_node("Reshape", ["shares", "whole"], ["y"], name="/Whole"),
    ]
    arrays = {"joined": np.array([3, 256]), "whole": np.array([1, 3, 16, 16])}
    with pytest.raises(UnusableModel, match=r"batch of one length; with another, .*'/Whole' depends on the others"):
        open_onnx(saved(model(nodes, arrays, {"x": (1, 3, 16, 16)}), tmp_path), spec())


def test_an_open_image_size_is_asked_for(tmp_path: Path) -> None:
    file = saved(classifier({"x": ("batch", 3, "height", "width")}), tmp_path)
    with pytest.raises(WrongSpec, match=r"any size.*model\.size"):
        open_onnx(file, spec())
    assert open_onnx(file, spec(size=[24, 16])).input_shape == (24, 16, 3)


def test_how_a_job_says_tokens_lie_reaches_the_network(path: str) -> None:
    asked = spec(source=f"onnx:{path}", trusted=True, tokens={"grid": [4, 4]})
    with pytest.raises(WrongSpec, match="model.tokens .* has no layer of tokens"):
        open_network(asked).layers()


def test_preprocessing_is_asked_for_with_a_hint_to_pytorch(path: str) -> None:
    with pytest.raises(WrongSpec, match='perhaps "torch"'):
        open_onnx(path, spec(preprocess="auto"))


def test_the_branch_that_a_constant_condition_chooses_is_written_out(tmp_path: Path) -> None:
    def branch(kind: str) -> onnx.GraphProto:
        value = helper.make_tensor_value_info("chosen", TensorProto.FLOAT, None)
        return helper.make_graph([helper.make_node(kind, ["x"], ["chosen"], name=f"/{kind}")], kind, [], [value])

    nodes = [helper.make_node("If", ["condition"], ["y"], then_branch=branch("Relu"), else_branch=branch("Neg"))]
    network = open_onnx(saved(model(nodes, {"condition": np.array(True)}), tmp_path), spec())
    assert [layer.name for layer in network.layers()] == ["/Relu"]


def _external(location: str, **entries: str) -> onnx.ModelProto:
    file = classifier()
    array = file.graph.initializer[0]
    array.ClearField("raw_data")
    array.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, **entries}.items():
        array.external_data.add(key=key, value=value)
    return file


def _shared(count: int) -> onnx.ModelProto:
    """Arrays that are all the same bytes of a file of 1 GiB that takes no disk."""
    file = _external("holes.bin")
    for number in range(1, count):
        file.graph.initializer.add().CopyFrom(file.graph.initializer[0])
        file.graph.initializer[-1].name = f"again{number}"
    return file


def _called(depth: int) -> onnx.ModelProto:
    """A function that calls another, which calls another."""
    file = model([helper.make_node("F0", ["x"], ["y"], domain="own")])
    for number in range(depth):
        kind, domain = (f"F{number + 1}", "own") if number + 1 < depth else ("Relu", "")
        nodes = [helper.make_node(kind, ["a"], ["b"], domain=domain)]
        file.functions.append(helper.make_function("own", f"F{number}", ["a"], ["b"], nodes, file.opset_import))
    return file


def _deep(depth: int) -> onnx.ModelProto:
    nodes = [helper.make_node("Relu", ["x"], ["y0"])]
    for level in range(depth):
        value = helper.make_tensor_value_info(f"y{level}", TensorProto.FLOAT, None)
        graph = helper.make_graph(nodes, "inner", [], [value])
        nodes = (
            [helper.make_node("If", ["c"], [f"y{level + 1}"], then_branch=graph, else_branch=graph)]
            if level < 3
            else [helper.make_node("If", ["c"], [f"y{level + 1}"], then_branch=graph)]
        )
    return model(nodes, {"c": np.array(True)}, outputs=[f"y{depth}"])


def _lying() -> onnx.ModelProto:
    file = classifier()
    file.graph.initializer[0].dims[0] = 1_000_000
    return file


def _cycle() -> onnx.ModelProto:
    return model([helper.make_node("Add", ["x", "b"], ["a"]), helper.make_node("Relu", ["a"], ["b"])], outputs=["b"])


def _bomb() -> onnx.ModelProto:
    nodes = [helper.make_node("ConstantOfShape", ["sizes"], ["big"], name="/bomb"), helper.make_node("Add", ["x", "big"], ["y"])]
    return model(nodes, {"sizes": np.array([100_000, 100_000])})


def _custom() -> onnx.ModelProto:
    return model([helper.make_node("Exec", ["x"], ["y"], name="/evil", domain="com.example")])


def _recursive() -> onnx.ModelProto:
    file = model([helper.make_node("F", ["x"], ["y"], domain="own")])
    file.functions.append(
        helper.make_function("own", "F", ["a"], ["b"], [helper.make_node("F", ["a"], ["b"], domain="own")], file.opset_import)
    )
    return file


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (_external("../outside.bin"), "outside of its own folder"),
        (_external("/etc/passwd"), "outside of its own folder"),
        (_external("link.bin"), "outside of its own folder|symbolic link"),
        (_external("inner.bin"), "symbolic link"),
        (_external("short.bin", offset="0", length="864"), "cut short"),
        (_external("short.bin", offset="-4"), "cut short"),
        (_shared(3), "keeps arrays of more than 2 GiB in other files"),
        (_called(201), "functions within functions, more than 200 deep"),
        (_lying(), "is said to be 1000000 x 3 x 3 x 3"),
        (_cycle(), "cycle"),
        (_bomb(), "'/bomb'.*ConstantOfShape.*makes an array of more than"),
        (_custom(), "com.example::Exec .node '/evil'."),
        (_recursive(), "calls itself"),
        (_deep(20), "nested too deep|more than 16 deep"),
        (model([helper.make_node("Relu", ["x"], ["y"])], opset=99), "opset 99"),
        (model([helper.make_node("NonMaxSuppression", ["x", "x"], ["y"], name="/nms")]), "NonMaxSuppression .node '/nms'."),
        (model([helper.make_node("Relu", ["x"], ["y"])], images={"x": ("n", 128)}), "not images"),
    ],
    ids=lambda value: None if isinstance(value, onnx.ModelProto) else value[:24],
)
def test_what_cannot_be_read_or_must_not_be_is_refused_by_name(file: onnx.ModelProto, message: str, tmp_path: Path) -> None:
    inside = tmp_path / "own"
    inside.mkdir()
    (tmp_path / "outside.bin").write_bytes(bytes(864))
    (inside / "short.bin").write_bytes(bytes(100))
    with (inside / "holes.bin").open("wb") as holes:
        holes.truncate(2**30)
    (inside / "link.bin").symlink_to(tmp_path / "outside.bin")
    (inside / "inner.bin").symlink_to(inside / "short.bin")
    with pytest.raises(UnusableModel, match=message):
        open_onnx(saved(file, inside), spec())


def test_a_thousand_subgraphs_are_refused(tmp_path: Path) -> None:
    """As bytes: what protobuf itself would not write."""

    def field(number: int, payload: bytes) -> bytes:
        size, length = len(payload), b""
        while size > 127:
            length, size = length + bytes([size & 127 | 128]), size >> 7
        return bytes([number << 3 | 2]) + length + bytes([size]) + payload

    graph = b""
    for _ in range(1000):  # graph.node.attribute.g
        graph = field(1, field(5, field(6, graph)))
    (tmp_path / "deep.onnx").write_bytes(field(7, graph))
    with pytest.raises(UnusableModel, match="nested too deep"):
        open_onnx(str(tmp_path / "deep.onnx"), spec())


def test_two_images_are_asked_about(tmp_path: Path) -> None:
    nodes = [helper.make_node("Add", ["left", "right"], ["y"])]
    file = saved(model(nodes, images={"left": ("n", 3, 8, 8), "right": ("n", 3, 8, 8)}), tmp_path)
    with pytest.raises(WrongSpec, match=r"several inputs that may take the images: left .*, right .*model\.inputs"):
        open_onnx(file, spec())


def test_boxes_are_no_logits(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], name="/Conv"),
        helper.make_node("Reshape", ["c", "sizes"], ["y"], name="/Boxes"),
    ]
    arrays = {"w": np.ones((4, 3, 1, 1), np.float32), "sizes": np.array([0, 4, -1])}
    network = open_onnx(saved(model(nodes, arrays), tmp_path), spec())
    with pytest.raises(ConvscopeError, match="has no logits"):
        network.head()


def test_a_missing_file_is_named() -> None:
    with pytest.raises(MissingInput, match="nowhere"):
        open_onnx("nowhere.onnx", spec())


def _gated(images: dict[str, Any] | None = None) -> onnx.ModelProto:
    """Maps scaled by numbers that each example has, beside a second image that is added."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["maps"], name="/Conv"),
        helper.make_node("Conv", ["other", "w"], ["others"], name="/Other"),
        helper.make_node("Add", ["maps", "others"], ["both"], name="/Add"),
        helper.make_node("Unsqueeze", ["gates", "axes"], ["open"]),
        helper.make_node("Mul", ["both", "open"], ["gated"], name="/Mul"),
        helper.make_node("GlobalAveragePool", ["gated"], ["pooled"], name="/Pool"),
        helper.make_node("Flatten", ["pooled"], ["flat"], name="/Flat"),
        helper.make_node("Mul", ["flat", "scale"], ["y"], name="/Scale"),
    ]
    arrays = {"w": np.random.default_rng(2).normal(size=(4, 3, 1, 1)).astype(np.float32), "axes": np.array([2, 3])}
    shapes = {"x": ("n", 3, 16, 16), "other": ("n", 3, 16, 16), "gates": ("n", 4), "scale": (1,)}
    return model(nodes, arrays, images or shapes)


GATES = np.random.default_rng(3).normal(size=(3, 4)).astype(np.float32)


def _gated_logits(file: str, gates: np.ndarray) -> np.ndarray:
    first = PIXELS.transpose(0, 3, 1, 2)
    session = onnxruntime.InferenceSession(file)
    return session.run(["y"], {"x": first, "other": first, "gates": gates, "scale": np.array([2], np.float32)})[0]


def test_other_inputs_are_given_columns_images_and_constants(tmp_path: Path) -> None:
    file = saved(_gated(), tmp_path)
    inputs = {"image": "x", "other": {"image": "same"}, "scale": 2.0}
    network = open_onnx(file, spec(inputs={**inputs, "gates": {"column": "gates"}}))
    packed = np.stack([network.packing.pack({"gates": row}) for row in GATES])
    images = tf.concat([tf.constant(PIXELS), packed], axis=3)
    np.testing.assert_allclose(network.trace(images, ["logits"])["logits"], _gated_logits(file, GATES), atol=1e-4)
    constant = open_onnx(file, spec(inputs={**inputs, "gates": GATES[0].tolist()}))
    expected = _gated_logits(file, np.tile(GATES[:1], (3, 1)))
    np.testing.assert_allclose(constant.trace(tf.constant(PIXELS), ["logits"])["logits"], expected, atol=1e-4)
    assert network.digest() != constant.digest()


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        ({"image": "x"}, WrongSpec, r"given nothing: other .*model\.inputs = \{ other = \{ image = \"same\" \} \}"),
        ({"image": "y"}, UnknownName, r"'y' is not an input of .*model\.inputs\.image"),
        ({"gate": 1.0}, WrongSpec, "several inputs that may take the images: x .*, other "),
        ({"gates": [1.0]}, WrongSpec, r"has the shape \(1,\), but .* takes gates"),
        ({"gates": {"image": "same"}}, WrongSpec, "takes no image there"),
        ({"scale": {"column": "scale"}}, WrongSpec, r"one value for all examples in .* of the shape \(1,\)"),
    ],
    ids=str,
)
def test_what_does_not_fit_another_input_is_refused_by_name(inputs: Any, error: Any, message: str, tmp_path: Path) -> None:
    whole = {"image": "x", "other": {"image": "same"}, "scale": 2.0, "gates": 1.0}
    asked = inputs if {"image", "gate"} & set(inputs) else {**whole, **inputs}
    with pytest.raises(error, match=message):
        open_onnx(saved(_gated(), tmp_path), spec(inputs=asked))
