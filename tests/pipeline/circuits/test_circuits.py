"""Circuits: weights equal the Jacobian of the linear stretch, paths end where they must, and the page links both ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from zlib import crc32

import keras
import numpy as np
import pandas as pd
import pytest

from pipeline import run
from pipeline.circuits.ranking import Circuit
from pipeline.circuits.stretch import Stretch, nearest_sources
from pipeline.errors import WrongSpec
from pipeline.load import load_spec
from pipeline.models.keras.model import keras_network
from pipeline.models.registry import open_network
from pipeline.receipt import read_receipt
from pipeline.spec.model import ModelSpec
from pipeline.store.direction_sets import DirectionSet

layers = keras.layers


def build(linear: bool) -> Any:
    """Batch normalisation, 1 x 1 chains, depthwise, a sum, a concatenation, three pools, a gate behind them, and Dense layers.

    Args:
        linear: without activations, and with averages in place of maxima.
    """

    def activation(kind: str, x: Any) -> Any:
        return x if linear else layers.Activation(kind)(x)

    pool = layers.AveragePooling2D if linear else layers.MaxPooling2D
    x = inputs = keras.Input((16, 16, 3))
    x = base = layers.Activation("linear", name="base")(layers.Conv2D(5, 3, name="first")(x))
    x = layers.BatchNormalization(name="norm")(layers.Conv2D(6, 1, name="expand")(x))
    x = layers.DepthwiseConv2D(3, padding="same", name="deep")(activation("relu6", x))
    x = layers.Conv2D(5, 1, name="project")(activation("swish", x))
    x = layers.Add()([x, base])
    y = activation("gelu", layers.Conv2D(4, 3, padding="same", dilation_rate=2, groups=1, name="side")(base))
    x = layers.Concatenate()([x, layers.LeakyReLU(0.3)(y) if not linear else y])
    x = layers.Activation("relu" if not linear else "linear", name="joined")(pool(3, 2, padding="same")(x))
    gate = layers.Dense(9, activation="sigmoid", name="gate")(layers.GlobalAveragePooling2D(keepdims=True)(x))
    gated = layers.Conv2D(3, 1, name="gated")(layers.Multiply(name="excite")([x, gate]))
    x = layers.Dense(4, name="units")(layers.Flatten()(gated if not linear else x))
    model = keras.Model(inputs, [x, gated], name="linear" if linear else "bent")
    for variable in model.weights:
        values = np.random.default_rng(crc32(variable.path.encode())).normal(0, 0.5, variable.shape)
        variable.assign(np.abs(values) + 0.5 if "variance" in variable.path else values)
    return model


@pytest.fixture(scope="module")
def bent() -> Any:
    return keras_network(build(linear=False), "bent", None, "unit")


def stretch(network: Any, target: str, *sources: str) -> Any:
    known = {layer.name: layer for layer in network.layers()}
    return Stretch(network, known[target], [known[source] for source in sources])


def jacobian(model: Any, target: str, source: str, row: int, col: int) -> Any:
    """Of a linear stretch by finite differences in float64, one input value at a time: (channels, h, w, source channels)."""
    inner = keras.Model(model.get_layer(source).output, model.get_layer(target).output)
    shape = model.get_layer(source).output.shape[1:]
    size = int(np.prod(shape))
    zero = np.zeros((1, *shape), np.float32)
    values = inner(np.concatenate([zero, np.eye(size, dtype=np.float32).reshape(size, *shape)])).numpy()
    values = (values[1:] - values[:1]).astype(np.float64)
    values = values[:, row, col] if values.ndim == 4 else values
    return np.moveaxis(values, -1, 0).reshape(-1, *shape)


def test_weights_are_the_jacobian_of_the_stretch_without_activations(bent: Any) -> None:
    actual = stretch(bent, "joined", "base")
    (weights,) = actual.weights(np.arange(9))
    expected = jacobian(build(linear=True), "joined", "base", *actual.middle)
    np.testing.assert_allclose(weights, expected, atol=1e-5 * np.abs(expected).max())
    assert np.count_nonzero(weights.any(axis=3)[0]) == 25  # 3 x 3 depthwise behind a pool of 3 x 3
    assert dict(actual.between.passed)["MaxPool as a mean"] == 1 and not actual.between.ended
    assert sum(count for _, count in actual.between.passed) >= 6


@pytest.mark.parametrize("form", ["frozen", "onnx"])
def test_graphs_and_onnx_files_give_the_same_weights(bent: Any, form: str, tmp_path: Path) -> None:
    expected = stretch(bent, "joined", "first").weights(np.arange(3))[0]
    network, names = other_form(form, tmp_path)
    (weights,) = stretch(network, names["joined"], names["first"]).weights(np.arange(3))
    np.testing.assert_allclose(weights, expected, atol=1e-5 * np.abs(expected).max())


def other_form(form: str, folder: Path) -> Any:
    """The bent network as a frozen graph or an ONNX file, and its names of two layers."""
    import tensorflow as tf

    model = build(linear=False)
    if form == "onnx":
        tf2onnx = pytest.importorskip("tf2onnx")
        tf2onnx.convert.from_keras(model, output_path=str(folder / "bent.onnx"))
    from pipeline.compiled.tf_private import graph_with_constants

    concrete = tf.function(lambda x: model(x)).get_concrete_function(tf.TensorSpec((None, 16, 16, 3), tf.float32))
    (folder / "bent.pb").write_bytes(graph_with_constants(concrete).SerializeToString())
    source = f"{form}:{folder / 'bent'}.{'pb' if form == 'frozen' else 'onnx'}"
    network = open_network(ModelSpec(source=source, layers=["*"], preprocess="unit"))
    known = [layer.name for layer in network.layers()]
    return network, {name: next(other for other in reversed(known) if f"/{name}" in other) for name in ("first", "joined")}


def test_a_dense_layer_has_a_weight_for_every_position_of_the_map_before_it(bent: Any) -> None:
    (weights,) = stretch(bent, "units", "gated").weights(np.arange(4))
    kernel = bent.reader.model.get_layer("units").kernel.numpy().reshape(7, 7, 3, 4)
    np.testing.assert_allclose(weights, kernel.transpose(3, 0, 1, 2), atol=1e-6)


def test_a_path_through_a_gate_ends_and_is_named(bent: Any) -> None:
    actual = stretch(bent, "gated", "joined")
    (weights,) = actual.weights(np.arange(3))
    assert not weights.any() and actual.between.ended[0].startswith("Mul (") and "excite" in actual.between.ended[0]


def test_activations_of_activations_are_looked_through_however_many() -> None:
    x = inputs = keras.Input((4, 4, 3))
    x = layers.Conv2D(2, 1, name="first")(x)
    for _ in range(40):  # each of two values: together, 2 ** 40 ways back
        x = layers.Multiply()([x, layers.Activation("sigmoid")(x)])
    model = keras.Model(inputs, layers.Conv2D(3, 1, name="last")(x), name="deep")
    found = stretch(keras_network(model, "deep", None, "unit"), "last", "first")
    (weights,) = found.weights(np.arange(3))
    np.testing.assert_allclose(weights[:, 2, 2], model.get_layer("last").kernel.numpy()[0, 0].T, atol=1e-6)
    assert dict(found.between.passed) == {"Mul of one value": 40} and not found.between.ended


def test_the_branches_of_a_layer_are_cut_where_another_source_lies_on_them(bent: Any) -> None:
    known = [layer for layer in bent.layers() if layer.name in ("first", "base", "project", "side", "joined")]
    sources = nearest_sources(bent, "joined", known)
    assert [source.name for source in sources] == ["base", "side", "project"]
    of_base, of_side, of_project = stretch(bent, "joined", *(source.name for source in sources)).weights(np.arange(9))
    pooled = np.eye(5) / 9  # only the skip connection is left: the mean of 3 x 3
    np.testing.assert_allclose(of_base[:5, 7, 7], pooled, atol=1e-6)
    assert not of_base[5:].any() and not of_project[5:].any() and not of_side[:5].any() and of_side[5:].any()


def test_gradient_times_activation_adds_up_to_the_unit_of_a_piecewise_linear_stretch(tiny_model: Any) -> None:
    network = keras_network(tiny_model, "tiny", None, "none")
    actual = stretch(network, "shapes", "edges")
    images = np.random.default_rng(0).integers(0, 4, (3, 16, 16, 3), dtype=np.uint8)
    units = np.array([[0, 0, 1], [3, 4, 2], [5, 5, 4]])
    (added,) = actual.contributions(actual.maps(images), units)
    edges = keras.Model(tiny_model.input, tiny_model.get_layer("edges").output)(images.astype(np.float32)).numpy()
    kernel = tiny_model.get_layer("shapes").kernel.numpy()
    for at, (row, col, channel) in enumerate(units):
        window = edges[at, 2 * row : 2 * row + 3, 2 * col : 2 * col + 3]
        np.testing.assert_allclose(added[at], (window * kernel[..., channel]).sum(axis=(0, 1)), rtol=1e-5)


def circuit(norms: Any, contributions: Any, top_k: int = 2) -> Any:
    """A circuit of kernels of 1 x 1."""
    norms = np.asarray(norms, np.float32)
    made = Circuit.of(np.arange(len(norms)), top_k, np.asarray(contributions, float))
    for first in range(len(norms)):
        made.add(first, norms[first : first + 1, np.newaxis, np.newaxis])
    return made


def test_what_has_the_largest_weights_and_what_adds_most_are_both_listed() -> None:
    made = circuit([[3, -2, 1, 0.5], [0, 0, 4, 0]], [[0, 0, 0, 9], [np.nan] * 4])
    rows = pd.DataFrame(made.rows("late", "early"))
    first = rows[(rows["side"] == "made from") & (rows["channel"] == 0)]
    assert first["other_channel"].tolist() == [0, 1, 3] and first["rank"].tolist() == [0, 1, 3]
    assert first["contribution_rank"].tolist() == [1, 2, 0] and first["weight"].tolist() == [3, -2, 0.5]
    assert first["share"].iloc[0] == pytest.approx(9 / 14.25)
    second = rows[(rows["side"] == "made from") & (rows["channel"] == 1)]
    assert second["other_channel"].tolist() == [2] and second["contribution"].isna().all() and second["agreement"].isna().all()
    users = rows[(rows["side"] == "used by") & (rows["channel"] == 2)]
    assert users["layer"].tolist() == ["early"] * 2 and users["other_channel"].tolist() == [1, 0]


def test_agreement_is_the_rank_correlation_of_weights_and_contributions() -> None:
    assert circuit([[3, -2, 1]], [[-30, 20, 10]]).agreement()[0] == pytest.approx(1)
    assert circuit([[3, -2, 1]], [[1, 2, 3]]).agreement()[0] == pytest.approx(-1)
    assert np.isnan(circuit([[3, 1, 0]], [[1, 2, 3]]).agreement()[0])


def test_the_order_in_which_channels_come_does_not_change_what_is_listed() -> None:
    random = np.random.default_rng(0)
    norms, added = random.normal(size=(2, 12, 7))
    whole = Circuit.of(np.arange(12), 3, added)
    whole.add(0, norms[:, np.newaxis, np.newaxis].astype(np.float32))
    assert list(whole.rows("b", "a")) == list(circuit(norms, added, 3).rows("b", "a"))


@pytest.fixture(scope="module")
def traced(write_spec: Any, quiet: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The folder of a job of the tiny network's three layers, with circuits and a page."""
    folder = tmp_path_factory.mktemp("circuits")
    model = {"layers": ["edges", "shapes", "classes"]}
    spec = load_spec(write_spec(folder / "spec.toml", model=model), ['stages=["activations", "circuits", "report"]'])
    return run(spec, folder, reporter=quiet)


def test_the_stage_lists_both_ends_of_every_stretch(traced: Any, tiny_model: Any) -> None:
    rows = pd.read_parquet(traced / "index" / "circuits.parquet")
    made = rows[(rows["layer"] == "shapes") & (rows["side"] == "made from") & (rows["channel"] == 2)].set_index("other_channel")
    kernel = tiny_model.get_layer("shapes").kernel.numpy()[..., 2]
    for channel, row in made.iterrows():
        np.testing.assert_array_equal(np.reshape(row["kernel"], row["kernel_shape"]), kernel[..., channel])
    assert made["share"].sum() == pytest.approx(1) and made["agreement"].nunique() == 1
    used = rows[(rows["layer"] == "edges") & (rows["side"] == "used by")]
    assert set(used["other_layer"]) == {"shapes"} and set(used["other_channel"]) <= set(range(5))
    stretches = pd.read_parquet(traced / "index" / "stretches.parquet")
    assert stretches[["layer", "other_layer"]].values.tolist() == [["shapes", "edges"], ["classes", "shapes"]]
    assert read_receipt(traced).stages["circuits"].model_extra["without_sources"] == ["edges"]


def test_the_page_has_the_kernels_of_a_channels_circuit(traced: Any) -> None:
    details = next((traced / "report" / "data" / "shapes").glob("0.js")).read_text()
    assert '"circuits": [{' in details or '"circuits":[{' in details
    assert "data:image/png;base64," in details and "made from" in details and "used by" in details


def test_a_job_of_one_layer_has_nothing_to_take_apart(write_spec: Any, quiet: Any, tmp_path: Path) -> None:
    spec = load_spec(write_spec(tmp_path / "spec.toml", model={"layers": ["shapes"]}), ['stages=["circuits"]'])
    with pytest.raises(WrongSpec, match="before 'shapes' there is no other layer of this job"):
        run(spec, tmp_path, reporter=quiet)


@pytest.mark.parametrize("form", ["linear", "jumprelu"])
def test_winners_of_directions_of_tokens_are_made_of_the_tokens_channels(form: str) -> None:
    """The map of a layer of tokens is computed once for the directions, and once for the layer itself."""
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((16, 16, 3))
    x = layers.Reshape((16, 6))(layers.Conv2D(6, 4, strides=4, name="embed")(x))
    tokens = layers.Dense(6, name="tokens")(layers.LayerNormalization()(x))
    tokens = layers.Add(name="sum")([x, tokens])
    model = keras.Model(inputs, layers.Dense(3)(layers.GlobalAveragePooling1D()(tokens)), name="transformer")
    random = np.random.default_rng(1)
    encoder = random.normal(size=(6, 2)).astype(np.float32)
    zeros = np.zeros(2, np.float32)
    made = DirectionSet("sum", "pca2", "pca", form, encoder, zeros, encoder.T.copy(), np.zeros(6, np.float32), zeros - 1e6)
    network = keras_network(model, "transformer", None, "none").with_directions({made.layer: made})
    actual = stretch(network, "sum@pca2", "sum")
    images, units = random.integers(0, 256, (2, 16, 16, 3), dtype=np.uint8), np.array([[0, 3, 1], [2, 1, 0]])
    (added,) = actual.contributions(actual.maps(images), units)
    sums = keras.Model(inputs, tokens)(images.astype(np.float32)).numpy().reshape(2, 4, 4, 6)
    for at, (row, col, channel) in enumerate(units):
        np.testing.assert_allclose(added[at], sums[at, row, col] * encoder[:, channel], rtol=1e-4)
