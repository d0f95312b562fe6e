"""The stage `filters` in a job: which kernels it takes, what it leaves, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from pipeline import run
from pipeline.drawing.pixels import decode_png
from pipeline.errors import UnknownLayer, WrongSpec
from pipeline.load import load_spec
from pipeline.receipt import read_receipt

LAYERS = keras.layers


@pytest.fixture(scope="module")
def branched() -> Any:
    """Every kind of convolution, and two branches that meet: 12x12 RGB."""
    keras.utils.set_random_seed(4)
    inputs = keras.Input((12, 12, 3))
    first = LAYERS.Conv2D(8, 3, name="first")(inputs)
    x = LAYERS.ReLU(name="relu")(LAYERS.BatchNormalization(name="norm")(first))
    left = LAYERS.DepthwiseConv2D(3, padding="same", name="left")(x)
    right = LAYERS.Conv2D(8, 3, padding="same", groups=2, name="right")(x)
    x = LAYERS.Add(name="sum")([LAYERS.ReLU(name="left_relu")(left), LAYERS.ReLU(name="right_relu")(right)])
    x = LAYERS.SeparableConv2D(6, 3, name="separable")(x)
    x = LAYERS.Conv2DTranspose(4, 2, strides=2, name="transposed")(x)
    x = LAYERS.GlobalAveragePooling2D(name="pool")(LAYERS.Conv2D(5, 1, name="last")(x))
    return keras.Model(inputs, LAYERS.Dense(3, name="classes")(x), name="branched")


@pytest.fixture(scope="module")
def job_of(branched: Any, write_spec: Any, quiet: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A function: run a job of the stage alone. Returns: its folder."""
    path = tmp_path_factory.mktemp("branched") / "branched.keras"
    branched.save(path)

    def start(chosen: Any = "*", out: Any = None, source: Any = f"file:{path}", **filters: Any) -> Any:
        folder = tmp_path_factory.mktemp("out") if out is None else out
        model = {"source": source, "layers": [chosen] if isinstance(chosen, str) else chosen}
        spec = load_spec(write_spec(folder / "spec.toml", model=model, filters=filters), ['stages=["filters"]'])
        return run(spec, folder, reporter=quiet)

    return start


def index(folder: Any) -> Any:
    return pd.read_parquet(folder / "index" / "filters.parquet")


def test_the_stage_runs_alone_and_leaves_pictures_its_table_and_its_receipt(job_of: Any, branched: Any, tree_of: Any) -> None:
    folder = job_of()
    pictures = ["first", "last", "left", "right", "separable-depthwise", "separable-pointwise", "transposed"]
    names = [name for name in tree_of(folder) if name not in (".lock", "spec.toml")]
    assert sorted(names) == sorted(["run.json", "index/filters.parquet", *(f"mosaics/filters/{name}.png" for name in pictures)])
    rows = index(folder)
    assert rows.groupby(["layer", "part"], sort=False).size().to_dict() == {
        ("first", "kernel"): 8,
        ("left", "kernel"): 8,
        ("right", "kernel"): 8,
        ("separable", "depthwise"): 8,
        ("separable", "pointwise"): 6,
        ("transposed", "kernel"): 4,
        ("last", "kernel"): 5,
    }
    assert dict(zip(rows.layer + rows.part, rows.kind, strict=True)) == {
        "firstkernel": "standard",
        "leftkernel": "depthwise",
        "rightkernel": "grouped",
        "separabledepthwise": "depthwise",
        "separablepointwise": "pointwise",
        "transposedkernel": "transposed",
        "lastkernel": "pointwise",
    }
    right = rows[rows.layer == "right"]
    assert right.inputs.tolist() == [4] * 8 and right.first_input.tolist() == [0] * 4 + [4] * 4
    weights = np.asarray(branched.get_layer("transposed").kernel)
    np.testing.assert_allclose(rows[rows.layer == "transposed"].norm, np.sqrt(np.square(weights).sum(axis=(0, 1, 3))), rtol=1e-6)
    inputs = {"first": None, "left": "relu", "right": "relu", "transposed": "separable", "last": "transposed"}
    actual = rows.inputs_of.astype(object).where(rows.inputs_of.notna(), None)
    of = dict(zip(rows.layer + rows.part.where(rows.part != "kernel", ""), actual, strict=True))
    assert of == inputs | {"separabledepthwise": "sum", "separablepointwise": None}
    assert rows[rows.layer == "left"].strongest_inputs.tolist() == [[number] for number in range(8)]
    assert rows.drawn.all() and all((folder / picture).is_file() for picture in rows.picture)
    assert rows[rows.part == "pointwise"].picture.unique().tolist() == ["mosaics/filters/separable-pointwise.png"]
    assert decode_png((folder / "mosaics/filters/first.png").read_bytes()).std() > 10
    assert read_receipt(folder).stages["filters"].summary == "47 filters of 6 layers, 47 of them drawn"


@pytest.mark.parametrize(
    ("chosen", "named", "expected"),
    [
        ("first", None, ["first"]),
        ("relu", None, ["first"]),
        ("sum", None, ["right", "left"]),
        (["classes", "left"], None, ["left", "last"]),
        ("first", "*", ["first", "left", "right", "separable", "transposed", "last"]),
        ("first", ["l*", "right"], ["left", "right", "last"]),
    ],
)
def test_without_names_the_convolutions_that_the_layers_are_or_come_from_are_taken(
    job_of: Any, chosen: Any, named: Any, expected: Any
) -> None:
    folder = job_of(chosen, **({} if named is None else {"layers": named}))
    table = index(folder).layer.unique().tolist()
    assert sorted(table) == sorted(expected) and table[-1] == expected[-1]
    assert read_receipt(folder).stages["filters"].layers == table  # type: ignore[attr-defined]


def test_another_choice_replaces_the_pictures_of_the_one_before(job_of: Any, tree_of: Any, tmp_path: Path) -> None:
    job_of("first", tmp_path)
    folder = job_of("left", tmp_path)
    assert [name for name in tree_of(folder) if name.endswith(".png")] == ["mosaics/filters/left.png"]
    limited = index(job_of("left", tmp_path, filters=3))
    strongest = limited.sort_values("norm", ascending=False).channel[:3]
    assert set(limited[limited.drawn].channel) == set(strongest)


def test_a_frozen_graph_leaves_the_same_table_as_its_keras_twin(job_of: Any, branched: Any, tmp_path: Path) -> None:
    concrete = tf.function(lambda x: branched(x, training=False)).get_concrete_function(tf.TensorSpec((None, 12, 12, 3)))
    path = tmp_path / "twin.pb"
    path.write_bytes(convert_variables_to_constants_v2(concrete).graph.as_graph_def().SerializeToString())
    # Two branches may stand in either order.
    ours, twins = (
        index(job_of(**source)).sort_values("norm", ignore_index=True) for source in ({}, {"source": f"frozen:{path}"})
    )
    values = ["height", "width", "inputs", "first_input", "norm", "mean", "share_near_zero", "twin", "twin_cosine", "kind"]
    pd.testing.assert_frame_equal(ours[values], twins[values])
    assert twins.layer.nunique() == 7  # a separable convolution is two of a graph's


@pytest.mark.parametrize(
    ("filters", "kind", "words"),
    [
        ({"layers": ["first", "pool"]}, WrongSpec, "'pool' (GlobalAveragePooling2D) has no kernel"),
        ({"layers": ["sum"]}, WrongSpec, "the nearest before it: "),
        ({"layers": ["*relu"]}, WrongSpec, "branched has: first, "),
        ({"layers": ["frist"]}, UnknownLayer, "'frist' is not in branched; nearest: first"),
        ({"layers": []}, WrongSpec, "filters.layers = []"),
        ({"sort": "size"}, WrongSpec, "filters.sort = 'size'"),
        ({"filters": 0}, WrongSpec, "filters.filters = 0"),
    ],
)
def test_impossible_settings_are_reported_before_anything_is_written(
    job_of: Any, tmp_path: Path, filters: Any, kind: Any, words: Any
) -> None:
    with pytest.raises(kind) as caught:
        job_of("*", tmp_path, **filters)
    assert words in str(caught.value) and "\n" not in str(caught.value) and caught.value.exit_code == 2
    assert not (tmp_path / "tiny" / "run.json").exists()


def test_a_network_without_convolutions_is_an_error(job_of: Any, tmp_path: Path) -> None:
    model = keras.Sequential([keras.Input((8, 8, 3)), LAYERS.Flatten(name="flat"), LAYERS.Dense(4, name="dense")])
    model.save(tmp_path / "flat.keras")
    with pytest.raises(WrongSpec, match=r"such as 'flat' \(Flatten\), is or comes from a convolution.* has: none"):
        job_of("*", tmp_path, source=f"file:{tmp_path / 'flat.keras'}")
