"""`layers`: the table of a network's layers, with their receptive fields or without, and the graph for TensorBoard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.framework import graph_pb2
from tensorflow.core.util import event_pb2

from jobs.cli import main


@pytest.fixture
def spec(tmp_path: Path) -> Any:
    """A spec beside the frozen graph it names by a relative path."""
    with tf.Graph().as_default() as graph:
        image = tf.compat.v1.placeholder(tf.float32, (None, 16, 16, 3), name="input")
        kernel = np.random.default_rng(0).normal(0, 1, (3, 3, 3, 16)).astype(np.float32)
        with tf.name_scope("block"):
            x = tf.nn.relu(tf.nn.conv2d(image, kernel, 2, "SAME", name="conv"), name="relu")
        tf.reduce_mean(x, (1, 2), name="pool")
    (tmp_path / "net.pb").write_bytes(graph.as_graph_def().SerializeToString())
    path = tmp_path / "job.toml"
    path.write_text(
        'name = "job"\n[model]\nsource = "frozen:net.pb"\nlayers = ["*"]\npreprocess = "unit"\n'
        'inputs = { image = "input:0" }\n[data]\nsource = "folder:photos"\n'
    )
    return path


def test_the_layers_of_a_frozen_graph_are_listed_with_their_fields(spec: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["layers", str(spec)]) == 0
    lines = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
    rows = [[cell.strip() for cell in line if cell.strip()] for line in lines]
    assert ["preprocess: unit (as asked)"] in rows
    assert [row for row in rows if len(row) > 1] == [
        ["layer", "kind", "map", "channels", "field", "stride"],
        ["block/conv", "Conv2D", "8 x 8", "16", "3 x 3", "2 x 2"],
        ["block/relu", "Relu", "8 x 8", "16", "3 x 3", "2 x 2"],
        ["pool", "Mean", "1 x 1", "16", "whole image"],
    ]


def test_layers_that_cannot_be_looked_at_are_listed_with_the_reason_and_strides_that_are_not_whole_as_ratios(
    spec: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x = inputs = keras.Input((48, 48, 3))
    x = keras.layers.Conv2D(4, 3, padding="same", name="conv")(x)
    x = keras.layers.MaxPooling2D(name="pool")(x)
    x = keras.layers.UpSampling2D(name="up")(x)
    x = keras.layers.UpSampling2D(3, interpolation="bilinear", name="more")(x)
    x = keras.layers.Resizing(31, 31, name="odd")(x)
    x = keras.layers.Reshape((31 * 31, 4), name="tokens")(x)
    x = keras.layers.Dense(9, name="half")(keras.layers.Permute((2, 1), name="turned")(x))
    keras.Model(inputs, keras.layers.Dense(2, name="mixed")(x)).save(tmp_path / "net.keras")
    spec.write_text(
        'name = "job"\n[model]\nsource = "file:net.keras"\nlayers = "*"\npreprocess = "unit"\n[data]\nsource = "folder:photos"\n'
    )
    assert main(["layers", str(spec)]) == 0
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert rows["pool"].endswith("2 x 2") and rows["up"].endswith("1 x 1") and rows["more"].endswith("1/3 x 1/3")
    assert "/" in rows["odd"].split()[-1] and "." not in rows["odd"]
    assert rows["tokens"].split()[2:6] == ["31", "x", "31", "4"] and rows["turned"].split()[2:6] == ["31", "x", "31", "4"]
    assert "tokens without a grid: 4 x 9" in rows["half"] and "tokens without a grid: 4 x 2" in rows["mixed"]
    assert main(["check", str(spec), "--set", "model.layers=mixed"]) == 2
    assert "'mixed' of net cannot be looked at: tokens without a grid: 4 x 2" in capsys.readouterr().err


@pytest.mark.parametrize("source", ["frozen:net.pb", "keras:MobileNetV2"])
def test_the_graph_is_written_for_tensorboard_without_the_weights(
    spec: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], source: Any
) -> None:
    if source != "frozen:net.pb":
        text = spec.read_text().replace("frozen:net.pb", source).replace('inputs = { image = "input:0" }', "size = 32")
        spec.write_text(text.replace('layers = ["*"]', 'weights = "none"\nlayers = ["*"]'))
    assert main(["layers", str(spec), "--fast", "--tensorboard", str(tmp_path / "board")]) == 0
    assert "tensorboard --logdir" in capsys.readouterr().out
    (file,) = (tmp_path / "board").iterdir()
    events = [event_pb2.Event.FromString(record.numpy()) for record in tf.data.TFRecordDataset(str(file))]
    (graph,) = [graph_pb2.GraphDef.FromString(event.graph_def) for event in events if event.graph_def]
    kinds = {node.name.rpartition("/")[2]: node for node in graph.node}
    assert {node.op for node in graph.node} >= {"Conv2D", "Placeholder"}
    assert file.stat().st_size < 2_000_000
    if source == "frozen:net.pb":
        assert kinds["conv"].op == "Conv2D" and kinds["relu"].input[0].endswith("block/conv")
        assert b"bytes left out" in file.read_bytes()


def test_a_graph_that_cannot_be_written_is_a_fault_in_one_line(
    spec: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "board").write_text("a file stands where the folder should")
    assert main(["layers", str(spec), "--fast", "--tensorboard", str(tmp_path / "board")]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("StoreFailed: the graph could not be written to")


def test_layers_goes_on_past_a_layer_whose_field_cannot_be_solved(command: Any, tmp_path: Path) -> None:
    inputs = keras.Input((12, 12, 3))
    x = keras.layers.Conv2D(2, 3, name="before")(inputs)
    x = keras.layers.Conv2D(2, 3, name="after")(keras.ops.log(x))
    keras.Model(inputs, x).save(tmp_path / "log.keras")
    status, out, _ = command("layers", tmp_path / "log.keras", "--set", 'model.preprocess="unit"')
    rows = {row[0]: row[1:] for line in out.splitlines() if (row := line.split())}
    assert status == 0 and rows["before"][-6:] == ["3", "x", "3", "1", "x", "1"]
    assert rows["after"][-1] == rows["log"][-1] == "unsolved"
    assert "the field of after could not be solved: forward_func returned NaN or infinity in log" in out


def test_layers_lists_every_layer_with_its_receptive_field(command: Any, write_spec: Any, tmp_path: Path) -> None:
    status, out, _ = command("layers", write_spec(tmp_path / "tiny.toml"))
    assert status == 0
    rows = [line.split("  ") for line in out.splitlines()]
    table = [[cell.strip() for cell in row if cell.strip()] for row in rows]
    assert table[0] == ["preprocess: none (as asked)"]
    assert table[1][0].startswith("head: softmax (assumed: the network ends in 3 numbers")
    assert table[2] == ["layer", "kind", "map", "channels", "field", "stride", "cannot be looked at"]
    assert table[3][1:] == ["InputLayer", "the input"]
    assert table[4] == ["edges", "Conv2D", "14 x 14", "4", "3 x 3", "1 x 1"]
    assert table[5] == ["shapes", "Conv2D", "6 x 6", "5", "5 x 5", "2 x 2"]
    assert [row[0] for row in table[6:]] == ["flat", "classes"]


def test_layers_fast_leaves_the_fields_out(command: Any, write_spec: Any, tmp_path: Path) -> None:
    status, out, _ = command("layers", write_spec(tmp_path / "tiny.toml"), "--fast")
    assert status == 0 and out.splitlines()[2].split()[:4] == ["layer", "kind", "map", "channels"]
    assert out.splitlines()[4].split() == ["edges", "Conv2D", "14", "x", "14", "4"]
