"""Kinds: broken inputs that once made convscope fail, one of each kind, by door and by name."""

from __future__ import annotations

import json
import zipfile
from typing import Any

import h5py
import making
import numpy as np
import workshop
from making import DEEP, Make, added, constant, graph, h5, header, keras, keys, label, part, paths, receipt, renamed, rows, spec

LONG = 70_000  # characters


def _without_kernel(file: Any) -> None:
    file["model_weights/edges"].clear()
    file.create_group("model_weights/edges/kernel:0")


def _replaced(old: str, new: str) -> Make:
    return keras(lambda tree: json.loads(json.dumps(tree).replace(old, new)))


def _of_shard(**values: Any) -> Make:
    return part(lambda tree, arrays: {**tree, "shard": {**tree["shard"], **values}}, "shards/tiny/parts/1-of-2.part")


def _in_spec(**values: Any) -> Make:
    return receipt(lambda tree: {**tree, "spec": {**tree["spec"], **values}})


def _of_stage(**values: Any) -> Make:
    return receipt(lambda tree: {**tree, "stages": {"activations": {**tree["stages"]["activations"], **values}}})


def _with_array(name: str, array: Any) -> Make:
    def change(tree: Any, arrays: dict[str, Any]) -> None:
        arrays[name] = array if not callable(array) else array(arrays[name])

    return part(change)


def _without(start: str) -> Make:
    def change(tree: Any, arrays: dict[str, Any]) -> None:
        for name in [name for name in arrays if name.startswith(start)]:
            del arrays[name]

    return part(change)


KINDS: dict[str, dict[str, Make]] = {
    "spec": {
        "an integer of 5,000 digits": spec("batch = 4", f"batch = {'9' * 5000}"),
        "a hexadecimal integer of 5,000 digits": spec("batch = 4", f"batch = 0x{'f' * 5000}"),
        "a float of 5,000 digits": spec("max_bad = 1", f"max_bad = 1.{'9' * 5000}e{'9' * 50}"),
        "thousands of brackets": added(f"x = {'[' * 5000}"),
        "thousands of closed brackets": added(f"[dream]\nlayers = {'[' * 5000}{']' * 5000}"),
        "thousands of braces": added(f"x = {'{a = ' * 5000}"),
        "a table in a list of layers": added("[dream]\nlayers = [{}]"),
        "a list in a list of layers": added("[dream]\nlayers = [[]]"),
        "a table for a layer": spec('layers = ["edges", "shapes"]', "layers = [{}]"),
        "a job's name of 300 characters": spec('name = "tiny"', f'name = "{"n" * 300}"'),
        "a layer's name of 300 characters": spec('"edges"', f'"{"n" * 300}"'),
        "a value of 70,000 characters": spec('head = "linear"', f'head = "{"x" * LONG}"'),
        "a key of 70,000 characters": added(f"{'k' * LONG} = 1"),
        "zero bytes in a path of labels": spec('head = "linear"', 'head = "linear"\nlabels = "a\\u0000b"'),
        "zero bytes in a path of data": spec("/pictures", "/pictures\\u0000"),
        "zero bytes in a path of a network": spec("/tiny.keras", "/tiny.keras\\u0000"),
        "a path of 70,000 characters": spec("/pictures", f"/{'p' * LONG}"),
        "a window of 10**19": added(f"[data.window]\nsize = {10**19}\nstride = 8"),
        "a stride of 10**19": added(f"[data.window]\nsize = 8\nstride = {10**19}"),
        "a batch of 10**19": spec("batch = 4", f"batch = {10**19}"),
        "a batch of 10**9": spec("batch = 4", f"batch = {10**9}"),
        "a size of 10**19": spec('head = "linear"', f'head = "linear"\nsize = {10**19}'),
        "a size of 2**30": spec('head = "linear"', f'head = "linear"\nsize = {2**30}'),
        "a limit of 10**19": spec("batch = 4", f"batch = 4\nlimit = {10**19}"),
        "sizes that are not numbers": added("[activations]\ntop_k = nan\ncrop_size = inf"),
        "a list of tables where a table belongs": spec("[model]", "[[model]]"),
        "a table of inputs": spec('head = "linear"', "head = 'linear'\ninputs = { a = { b = 1 } }"),
    },
    "set": {
        "a key of thousands of points": constant(f"{'a.' * 5000}b=1".encode()),
        "a value of thousands of brackets": constant(f"data.batch={'[' * 5000}".encode()),
        "a value of 5,000 digits": constant(f"data.batch={'9' * 5000}".encode()),
        "a value over the whole model": constant(b"model=1\ndata=[]"),
        "a key below a value": constant(b"model.source.x=1\ndata.batch.x.y=2"),
        "a line in a value": constant(b"data.batch=1\r\nx=2"),
    },
    "params": {
        "a table": constant(b"octaves = {1: 2}\nclasses = {}\n"),
        "a complex number": constant(b"classes = [1 + 2j]\nbackground_color = (1j, 2, 3)\nx = 3j\n"),
        "a complex number in another name": constant(b"classes = [1]\nx = {'a': 1 + 2j}\n"),
        "a thousand minus signs": constant(b"classes = [" + b"-" * 1000 + b"1]\n"),
        "ten thousand minus signs in another name": constant(b"classes = [1]\nx = " + b"-" * 10_000 + b"1\n"),
        "thousands of brackets": constant(b"classes = " + b"[" * 5000 + b"]" * 5000),
        "thousands of points in another name": constant(
            b"classes = [1]\nx = " + b"[" * 150 + b"]" * 150 + b"\ny = x" + b".x" * 3000
        ),
        "sets, bytes and an ellipsis": constant(b"classes = {1, 2}\nx = b'\\xff'\ny = ...\nz = {(1, 2): {3}}\n"),
        "an integer of 5,000 digits": constant(b"classes = [" + b"9" * 5000 + b"]\n"),
        "a hexadecimal integer of 5,000 digits": constant(b"classes = [0x" + b"f" * 5000 + b"]\nx = 0x" + b"f" * 5000 + b"\n"),
        "a sum without end": constant(b"classes = [1]\nx = 1" + b"+1" * 5000 + b"\n"),
        "a surrogate": constant(b"classes = [1]\nx = '\\ud800'\n"),
    },
    "keras": {
        "encrypted": making.encrypted,
        "of an unknown method": making.of_method(99),
        "of another method": lambda shop: making.archive(shop, lambda members: members, zipfile.ZIP_LZMA),
        "nested 100,000 deep": keras(lambda tree: b'{"a": ' + b"[" * DEEP + b"]" * DEEP + b"}"),
        "layers nested 1,000 deep": keras(lambda tree: b'{"config": ' * 1000 + b"1" + b"}" * 1000),
        "a space in a layer's name": keras(renamed("a b")),
        "a layer's name that is no scope": keras(renamed("-edges?*")),
        "a layer's name of 70,000 characters": keras(renamed("n" * LONG)),
        "a layer's name of a line": keras(renamed("a\nb\u2028c\x1b[31m")),
        "a layer's name that is empty": keras(renamed("")),
        "a layer's name that is a number": keras(renamed(7)),
        "filters of 10**19": _replaced('"filters": 4', f'"filters": {10**19}'),
        "an input of 10**9": _replaced("[null, 16, 16, 3]", f"[null, {10**9}, {10**9}, 3]"),
        "no description": lambda shop: making.archive(shop, lambda members: {"metadata.json": b"{}"}),
        "no weights": lambda shop: making.archive(shop, lambda members: {k: v for k, v in members.items() if k.endswith("json")}),
        "nothing": constant(b""),
    },
    "h5": {
        "an object that cannot be opened": making.without_object,
        "a group where an array belongs": h5(_without_kernel),
        "names of weights that are numbers": h5(lambda file: file["model_weights/edges"].attrs.update(weight_names=[1, 2])),
        "no text in the description": h5(lambda file: file.attrs.update(model_config=np.arange(9))),
        "a description 60,000 deep": h5(lambda file: file.attrs.update(model_config="[" * 60_000)),
        "a link to itself": h5(lambda file: file["model_weights"].update(edges2=h5py.SoftLink("/model_weights/edges2"))),
    },
    "frozen": {
        "an operation that was removed": graph(making.operation("BatchNormWithGlobalNormalizationV9")),
        "an operation that old files have": graph(making.operation("BatchNormWithGlobalNormalization")),
        "a function twice": graph(making.with_function(making.twice)),
        "a function that calls itself": graph(making.with_function(making.recursive)),
        "calls that double forty times": graph(making.with_function(making.doubling)),
        "a call that takes what it gives": graph(making.with_function(making.feeding_itself)),
        "a constant of 640 GB": graph(making.immense_constant),
        "a return that names nothing": graph(making.with_function(making.returns("nowhere:y:0"))),
        "a return without a name": graph(making.with_function(making.returns(""))),
        "a return of the tenth output": graph(making.with_function(making.returns("relu:activations:9"))),
        "a Switch without inputs": graph(making.inputless("Switch"), "old.pb"),
        "a Merge without inputs": graph(making.inputless("Merge"), "old.pb"),
        "a normalization without inputs": graph(making.inputless("FusedBatchNormV3"), "old.pb"),
        "a predicate that is no scalar": graph(making.predicate, "old.pb"),
        "a node of its own input": graph(making.own_input),
        "nothing": constant(b""),
    },
    "savedmodel": {"nothing": constant(b""), "no graph": constant(b"\x08\x01")},
    "classes": {
        "zero bytes": constant(b"a\0\nb\nc"),
        "empty": constant(b""),
        "a line of 70,000 characters": constant(b"x" * LONG),
    },
    "parquet": {
        "zero bytes in a path": paths("a\0b.png"),
        "a path of 70,000 characters": paths("p" * LONG),
        "a path out of the folder": paths("../../../etc/passwd"),
        "an address": paths("http://127.0.0.1:9/latest/meta-data"),
        "labels of control characters": rows(label=["a", "b\u2028c", "\x1b[31m", "x" * LONG]),
        "labels of 2**63 - 1": rows(label=[2**63 - 1, -(2**63), 0, 1]),
        "names of labels nested deep": lambda shop: workshop.parquet(
            workshop.table()[0], {"image": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": [[["cat"]]]}}
        ),
        "a table that is no Parquet": constant(b"PAR1" + b"\0" * 100 + b"PAR1"),
    },
    "tar": {
        "a label in JSON 100,000 deep": label("a.json", b"[" * DEEP),
        "a label of a table": label("a.json", b'{"label": {"a": [1]}}'),
        "a label of zero bytes": label("a.cls", b"a\0b"),
        "a label of 5,000 digits": label("a.cls", b"9" * 5000),
        "a label in JSON of 5,000 digits": label("a.json", b'{"label": ' + b"9" * 5000 + b"}"),
    },
    "list": {
        "zero bytes": constant(b"a\0b.png\tcat\n"),
        "U+2028": constant("a\u2028b.png\tx\u2028y\n".encode()),
        "a path of 70,000 characters": constant(b"p" * LONG + b".png"),
        "an address": constant(b"http://127.0.0.1:9/x.png\n"),
    },
    "labels": {"zero bytes": constant(b"a\0\nb"), "one name": constant(b"cat")},
    "receipt": {
        "layers that are numbers": keys(layers=[1, 2]),
        "stages that are a list": keys(stages=[]),
        "a stage that is null": keys(stages={"activations": None}),
        "a time of text": keys(stages={"activations": {"seconds": "long"}}),
        "NaN values of text": _of_stage(nans="x"),
        "NaN values of a negative layer": _of_stage(nans={"x\x1b[31m" * 300: -1}),
        "a spec of another type": keys(spec=[]),
        "a spec of nothing": keys(spec={}),
        "a source of zero bytes": _in_spec(model={"source": "file:\0", "layers": ["*"]}),
        "stages of the spec that are numbers": _in_spec(stages=[1, {}]),
        "an unknown stage": keys(stages={"no stage": {}}),
        "an input of text": keys(input=["a"]),
        "an input of nothing": keys(input=[]),
        "a format of text": keys(format="x" * LONG),
        "examples of 10**400": keys(examples=10**400),
        "nested 100,000 deep": constant(b"[" * DEEP),
        "a list": constant(b"[]"),
        "a name of a line": keys(name="a\nb\x1b[31m"),
        "a name of another folder": keys(name="../../x"),
    },
    "scan": {
        "channels that are a list": header(channels=[["edges", 4]]),
        "channels of text": header(channels={"edges": "4", "shapes": None}),
        "channels of others": header(channels={"edges": 4, "shapes": 500}),
        "skipped that is text": header(skipped="none"),
        "skipped that are numbers": header(skipped=[["a", 1, 2]]),
        "a negative count": header(seen=-1),
        "a count of text": header(seen="4"),
        "a shard of text": header(shard={"index": "0", "count": "1", "unit": 4, "begin": 0}),
        "a shard of none": header(shard={"index": 0, "count": 0, "unit": 0, "begin": 0}),
        "a provenance of nothing": header(provenance={}),
        "a provenance of other types": header(provenance={"model": 1, "data": [], "examples": "4", "settings": [], "spec": 7}),
        "a header that is a list": part(lambda tree, arrays: [1, 2]),
        "members that are null": header(members=None),
        "an array of text": _with_array("0.strongest.scores", np.array(["a"] * 4)),
        "an array of another shape": _with_array("0.strongest.scores", np.zeros((1, 1, 1))),
        "an array that is missing": _without("0.strongest.scores"),
        "a member that is missing": _without("0.statistics"),
        "a layer that is missing": _without("1."),
        "examples that are not there": _with_array("0.strongest.examples", lambda array: np.full_like(array, 10**9)),
        "positions outside of the map": _with_array("0.strongest.rows", lambda array: np.full_like(array, 10**6)),
        "labels without sums": _with_array("0.distribution.labels", np.array(["a", "b"])),
    },
    "shard": {
        "a shard of others": _of_shard(count=2**40),
        "a shard of many others": _of_shard(count=900_000),
        "a shard beyond the last": _of_shard(index=7),
        "a spec that is none": part(
            lambda tree, arrays: {**tree, "provenance": {**tree["provenance"], "spec": {"name": 1}}},
            "shards/tiny/parts/1-of-2.part",
        ),
    },
}
