"""Workshop: one whole input of every kind, of which the fuzzer makes broken ones."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import load_spec, run
from pipeline.progress import Reporter

PICTURES = 4


class Silent(Reporter):
    """A reporter that says nothing."""

    def say(self, text: str, **facts: Any) -> None:
        pass


@dataclass(frozen=True)
class Workshop:
    """A folder of whole inputs. `build` fills it in a process of its own: it starts TensorFlow, and the fuzzer must not."""

    folder: Path

    def spec(self, model: str = "", data: str = "", rest: str = "") -> str:
        """A spec in TOML; `model` and `data` replace the sources, or are further keys."""
        network = model if "source" in model else f'source = "file:{self.folder}/tiny.keras"\n{model}'
        images = data if "source" in data else f'source = "folder:{self.folder}/pictures"\n{data}'
        return (
            f'name = "tiny"\nstages = ["activations", "report"]\n[model]\nlayers = ["edges", "shapes"]\npreprocess = "none"\n'
            f'head = "linear"\n{network}\n[data]\nbatch = 4\nmax_bad = 1\n{images}\n{rest}'
        )

    @cached_property
    def job(self) -> Path:
        """A finished job of two layers and four pictures, whose spec is `spec()`."""
        return self.folder / "out" / "tiny"

    def build(self, graphs: bool) -> None:
        """Write everything; `graphs`: also those that only the doors of graphs open."""
        (self.folder / "pictures" / "a").mkdir(parents=True)
        for number, (suffix, data) in enumerate(list(pictures().items())[:PICTURES]):
            (self.folder / "pictures" / "a" / f"{number}.{suffix}").write_bytes(data)
        _networks(self.folder, graphs)
        _prepared(self.folder / "tfds" / "small" / "1.0.0")
        (self.folder / "classes.txt").write_text("one\ntwo\nthree\n")
        (self.folder / "base.toml").write_text(self.spec())
        run(load_spec(self.folder / "base.toml"), self.folder / "out", reporter=Silent("fuzz"))
        shards = self.folder / "shards"
        from pipeline.shards import run_shard

        run_shard(load_spec(self.folder / "base.toml"), (0, 2), shards, reporter=Silent("fuzz"))
        run_shard(load_spec(self.folder / "base.toml"), (1, 2), shards, reporter=Silent("fuzz"))

    def copy_of_job(self, to: Path) -> Path:
        """A copy of the finished job, at TO/tiny."""
        return shutil.copytree(self.job, to / "tiny")


def pictures() -> dict[str, bytes]:
    """A small picture in every format that is decoded, by suffix."""
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (18, 20, 3), np.uint8)
    encoded = {suffix: cv2.imencode(f".{suffix}", pixels)[1].tobytes() for suffix in ("png", "jpg", "webp", "bmp", "tiff")}
    encoded["png16.png"] = cv2.imencode(".png", pixels.astype(np.uint16) * 257)[1].tobytes()
    encoded["alpha.png"] = cv2.imencode(".png", random.integers(0, 256, (18, 20, 4), np.uint8))[1].tobytes()
    import PIL.Image

    for suffix, form in (("gif", "GIF"), ("avif", "AVIF")):
        file = io.BytesIO()
        PIL.Image.fromarray(pixels).save(file, form)
        encoded[suffix] = file.getvalue()
    file = io.BytesIO()
    np.save(file, pixels)
    encoded["npy"] = file.getvalue()
    return encoded


def parquet(rows: dict[str, Any], features: Any) -> bytes:
    """A table with what Hugging Face `datasets` says of its columns."""
    table = pa.table(rows).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    file = io.BytesIO()
    pq.write_table(table, file)
    return file.getvalue()


def table() -> tuple[dict[str, Any], Any]:
    """The rows and features of a small data set."""
    images = [{"bytes": data, "path": None} for data in list(pictures().values())[:PICTURES]]
    features = {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": ["cat", "dog"]}}
    return {"image": images, "label": [0, 1, -1, 1]}, features


def archive(members: list[tuple[str, bytes]]) -> bytes:
    """A tar of members."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return file.getvalue()


def members() -> list[tuple[str, bytes]]:
    """The members of a small data set."""
    encoded = pictures()
    return [
        *(("a.png", encoded["png"]), ("a.cls", b"0"), ("b.jpg", encoded["jpg"]), ("b.json", b'{"label": 1}')),
        *(("c.webp", encoded["webp"]), ("c.txt", b"cat"), ("d.png", encoded["alpha.png"])),
    ]


def records() -> list[bytes]:
    """The records of a small prepared data set of TensorFlow Datasets."""
    import tensorflow as tf

    kinds = tf.train
    return [
        kinds.Example(
            features=kinds.Features(
                feature={
                    "image": kinds.Feature(bytes_list=kinds.BytesList(value=[data])),
                    "label": kinds.Feature(int64_list=kinds.Int64List(value=[number % 2])),
                }
            )
        ).SerializeToString()
        for number, data in enumerate(list(pictures().values())[:PICTURES])
    ]


def _prepared(folder: Path) -> None:
    """What TensorFlow Datasets says of a data set whose one file is yet to be written."""
    import tensorflow_datasets as tfds

    folder.mkdir(parents=True)
    classes = tfds.features.ClassLabel(names=["cat", "dog"])
    tfds.features.FeaturesDict({"image": tfds.features.Image(), "label": classes}).save_config(str(folder))
    split = {"name": "train", "shardLengths": [str(PICTURES)], "numBytes": "1000"}
    split["filepathTemplate"] = "{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}"
    info = {"name": "small", "version": "1.0.0", "fileFormat": "tfrecord", "splits": [split]}
    (folder / "dataset_info.json").write_text(json.dumps(info))


def _networks(folder: Path, graphs: bool) -> None:
    """The same network in every format: 16x16 RGB, `edges`, `shapes`, three outputs."""
    import keras
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    x = inputs = keras.Input((16, 16, 3), name="input")
    x = keras.layers.Conv2D(4, 3, activation="relu", name="edges")(x)
    x = keras.layers.BatchNormalization(name="norm")(x)
    x = keras.layers.Conv2D(5, 3, strides=2, name="shapes")(x)
    x = keras.layers.Flatten(name="flat")(x)
    model = keras.Model(inputs, keras.layers.Dense(3, name="classes")(x), name="tiny")
    model.save(folder / "tiny.keras")
    model.save(folder / "tiny.h5")
    if not graphs:
        return
    model.export(folder / "saved", verbose=False)
    call = tf.function(lambda images: model(images, training=False), autograph=False)
    frozen = convert_variables_to_constants_v2(call.get_concrete_function(tf.TensorSpec((None, 16, 16, 3), tf.float32, "input")))
    (folder / "tiny.pb").write_bytes(frozen.graph.as_graph_def().SerializeToString())
    (folder / "old.pb").write_bytes(_old_graph())
    (folder / "tiny.onnx").write_bytes(_onnx())


def _onnx() -> bytes:
    """The network in ONNX, with a condition, a loop, a function of its own and an array in another file."""
    from onnx import TensorProto, helper, numpy_helper

    def value(name: str, *shape: Any) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape or None)

    random = np.random.default_rng(1)
    sizes = {"w1": (4, 3, 3, 3), "w2": (5, 4, 3, 3), "w3": (5, 3)}
    arrays = [numpy_helper.from_array(random.normal(size=size).astype(np.float32), name) for name, size in sizes.items()]
    for name, number in (("condition", True), ("turns", 2), ("going", True)):
        arrays.append(numpy_helper.from_array(np.array(number), name))
    outside = helper.make_tensor("bias", TensorProto.FLOAT, (3,), np.zeros(3, np.float32))
    outside.ClearField("float_data")
    outside.data_location = TensorProto.EXTERNAL
    for key, said in (("location", "bias.bin"), ("offset", "0"), ("length", "12")):
        outside.external_data.add(key=key, value=said)
    branch = [helper.make_graph([helper.make_node(kind, ["f"], [kind])], kind, [], [value(kind)]) for kind in ("Relu", "Neg")]
    turn = [value("i"), value("c"), value("v")]
    turn[0].type.tensor_type.elem_type, turn[1].type.tensor_type.elem_type = TensorProto.INT64, TensorProto.BOOL
    going = value("c2")
    going.type.tensor_type.elem_type = TensorProto.BOOL
    body = helper.make_graph(
        [helper.make_node("Identity", ["c"], ["c2"]), helper.make_node("Add", ["v", "v"], ["v2"])],
        "body",
        turn,
        [going, value("v2")],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], name="edges", kernel_shape=[3, 3]),
        helper.make_node("Half", ["a"], ["b"], domain="own"),
        helper.make_node("Conv", ["b", "w2"], ["c"], name="shapes", strides=[2, 2]),
        helper.make_node("GlobalAveragePool", ["c"], ["d"]),
        helper.make_node("Flatten", ["d"], ["e"]),
        helper.make_node("Gemm", ["e", "w3", "bias"], ["f"]),
        helper.make_node("If", ["condition"], ["g"], then_branch=branch[0], else_branch=branch[1]),
        helper.make_node("Loop", ["turns", "going", "g"], ["y"], body=body),
    ]
    half = helper.make_function("own", "Half", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])], opsets)
    graph = helper.make_graph(nodes, "tiny", [value("x", "n", 3, 16, 16)], [value("y", "n", 3)], [*arrays, outside])
    return bytes(helper.make_model(graph, opset_imports=opsets, functions=[half]).SerializeToString())


def _old_graph() -> bytes:
    """A TF1 graph with a condition, dropout's placeholder and batch normalization, as old files have them."""
    import tensorflow as tf

    v1 = tf.compat.v1
    random = np.random.default_rng(1)
    with tf.Graph().as_default() as graph:
        v1.disable_control_flow_v2()
        image = v1.placeholder(tf.float32, (None, 16, 16, 3), name="input")
        phase = v1.placeholder_with_default(False, (), name="phase_train")
        kernel = tf.constant(random.normal(size=(3, 3, 3, 4)).astype(np.float32), name="kernel")
        x = tf.nn.conv2d(image, kernel, 1, "SAME", name="edges")
        ones, zeros = tf.ones(4), tf.zeros(4)
        x, _, _ = v1.nn.fused_batch_norm(x, ones, zeros, zeros, ones, is_training=False, name="norm")
        x = v1.cond(phase, lambda: tf.nn.relu(x) * 0.5, lambda: tf.nn.relu(x), name="cond")
        x = tf.identity(x, name="shapes")
        weights = tf.constant(random.normal(size=(4, 3)).astype(np.float32))
        tf.nn.softmax(tf.matmul(tf.reduce_mean(x, (1, 2)), weights, name="logits"), name="end")
        return graph.as_graph_def().SerializeToString()
