from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import token_networks
from frozen_graphs import freeze_v2, opened

from pipeline.attribution.explainer import Explainer
from pipeline.attribution.methods import METHODS
from pipeline.attribution.plan import ExplainPlan
from pipeline.attribution.targets import Classes, ClassTarget
from pipeline.compiled.default_layer import default_layer
from pipeline.errors import UnknownLayer, WrongSpec
from pipeline.models.image_network import ImageNetwork
from pipeline.models.keras.model import keras_network
from pipeline.models.network import LayerInfo, UnreadableLayer
from pipeline.spec.model import TokensSpec

IMAGES = np.random.default_rng(0).uniform(0, 1, (3, 16, 16, 3)).astype(np.float32)
FUNCTIONAL = ("vit", "swin", "mixer", "cct")


def traced(network: ImageNetwork, layers: list[str], images: Any = IMAGES) -> dict[str, np.ndarray]:
    return {layer: np.asarray(value) for layer, value in network.trace(tf.constant(images), layers).items()}


@pytest.fixture(scope="module")
def models() -> dict[str, keras.Model]:
    keras.utils.set_random_seed(0)
    return {name: getattr(token_networks, name)() for name in (*FUNCTIONAL, "convmixer", "subclassed")}


@pytest.fixture(scope="module")
def networks(models: dict[str, keras.Model]) -> dict[str, ImageNetwork]:
    return {name: keras_network(model, name, None, "none") for name, model in models.items()}


@pytest.fixture(scope="module")
def frozen(models: dict[str, keras.Model], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], ImageNetwork]:
    folder = tmp_path_factory.mktemp("frozen")

    @cache
    def of(name: str) -> ImageNetwork:
        spec = tf.TensorSpec((None, 16, 16, 3), tf.float32, name="image")
        network: ImageNetwork = opened(freeze_v2(folder, lambda x: models[name](x, training=False), spec, name=name))
        return network

    return of


@pytest.mark.parametrize("name", FUNCTIONAL)
def test_every_layer_of_tokens_is_what_keras_computes_row_by_row(
    models: dict[str, keras.Model], networks: dict[str, ImageNetwork], name: str
) -> None:
    model, network = models[name], networks[name]
    images = IMAGES if name != "cct" else np.concatenate([IMAGES, IMAGES[:, :, :8]], axis=2)
    tokens = [layer for layer in network.layers() if layer.of_tokens and "/" not in layer.name]
    plain = keras.Model(model.input, [model.get_layer(layer.name).output for layer in tokens])(images)
    maps = traced(network, [layer.name for layer in network.layers() if "#heads" not in layer.name], images)
    assert len(tokens) >= 3
    for layer, expected in zip(tokens, keras.tree.flatten(plain), strict=True):
        rows, columns, channels = layer.shape
        own = np.asarray(expected)
        own = own if own.shape[-1] == channels else own.transpose(0, 2, 1)  # what Permute turned
        extra = own.shape[1] - rows * columns
        np.testing.assert_allclose(maps[layer.name], own[:, extra:].reshape(-1, rows, columns, channels), atol=1e-5)
        if extra:
            np.testing.assert_allclose(maps[f"{layer.name}#tokens"][:, 0], own[:, :extra], atol=1e-5)


def test_tokens_lie_where_their_patch_does(networks: dict[str, ImageNetwork]) -> None:
    """One patch is changed: only its token changes, until attention."""
    other = IMAGES.copy()
    other[:, 4:8, 8:12] += 1
    for name in ("vit", "mixer", "subclassed"):
        before, after = (traced(networks[name], ["patches", "embed"], images) for images in (IMAGES, other))
        for layer in ("patches", "embed"):
            changed = np.abs(before[layer] - after[layer]).max(axis=(0, 3)) > 1e-6
            assert np.argwhere(changed).tolist() == [[1, 2]]


def test_windows_shifted_or_not_are_put_back_where_they_lie(
    models: dict[str, keras.Model], networks: dict[str, ImageNetwork], frozen: Callable[[str], ImageNetwork]
) -> None:
    network, model = frozen("swin"), models["swin"]
    norms = [layer.name for layer in model.layers if layer.name.startswith("layer_normalization")]
    for number, norm in enumerate(norms):
        weights = model.get_layer(f"windows{number}").qkv
        inside = [
            layer
            for layer in network.layers()
            if f"windows{number}" in layer.name and layer.shape == (4, 4, 24) and "qkv" in layer.name and "Add" in layer.kind
        ]
        assert inside
        maps = traced(networks["swin"], [norm])[norm]
        expected = maps @ np.asarray(weights.kernel) + np.asarray(weights.bias)
        np.testing.assert_allclose(traced(network, [inside[-1].name])[inside[-1].name], expected, atol=1e-5)


def test_the_attention_of_each_head_is_that_of_the_class_token(models: dict[str, keras.Model], networks: Any) -> None:
    model = models["vit"]
    norm = keras.Model(model.input, model.get_layer("norm0a").output)
    tokens = norm(IMAGES)
    _, scores = model.get_layer("mha0")(tokens, tokens, return_attention_scores=True)
    expected = np.asarray(scores)[:, :, 0, 1:].transpose(0, 2, 1).reshape(3, 4, 4, 2)
    np.testing.assert_allclose(traced(networks["vit"], ["mha0#heads"])["mha0#heads"], expected, atol=1e-5)
    inner = traced(networks["subclassed"], ["attentions/0#heads"])["attentions/0#heads"]
    assert inner.shape == (3, 4, 4, 2) and (inner > 0).all() and (inner.sum(axis=(1, 2)) < 1).all()


def test_what_each_head_gives_has_a_norm_and_all_heads_together_are_channels(frozen: Callable[[str], ImageNetwork]) -> None:
    network = frozen("vit")
    names = [layer.name for layer in network.layers()]
    norms = [name for name in names if name.endswith("#heads") and "oftmax" not in name]
    assert len(norms) == 2
    maps = traced(network, [norms[0], norms[0].removesuffix("#heads")])
    whole, norm = maps[norms[0].removesuffix("#heads")], maps[norms[0]]
    assert whole.shape == (3, 4, 4, 8) and norm.shape == (3, 4, 4, 2)
    np.testing.assert_allclose(np.linalg.norm(whole.reshape(3, 4, 4, 2, 4), axis=-1), norm, rtol=1e-5)


def test_what_mixes_tokens_is_left_out_by_name_and_what_comes_after_lies_on_the_image_again(networks: Any) -> None:
    layers = {layer.name: layer for layer in networks["mixer"].every_layer()}
    assert isinstance(layers["mixing"], UnreadableLayer) and "none of its rows belongs to a" in layers["mixing"].reason
    assert layers["sum"].shape == (4, 4, 8) and layers["turned"].shape == (4, 4, 8)


def test_composite_layers_of_functional_models_are_looked_into(models: dict[str, keras.Model], networks: Any) -> None:
    """What windows compute inside, in their own order, is put back; the same numbers as the layer's weights by hand give."""
    network, model = networks["swin"], models["swin"]
    norms = [layer.name for layer in model.layers if layer.name.startswith("layer_normalization")]
    for number, norm in enumerate(norms):
        dense = model.get_layer(f"windows{number}").qkv
        maps = traced(network, [norm, f"windows{number}/qkv"])
        expected = maps[norm] @ np.asarray(dense.kernel) + np.asarray(dense.bias)
        np.testing.assert_allclose(maps[f"windows{number}/qkv"], expected, atol=1e-5)
    assert network.feeds("windows0/qkv") == (norms[0],) and network.feeds("windows0/proj") == ("windows0/qkv",)
    names = [layer.name for layer in network.every_layer()]
    assert len(set(names)) == len(names) and "mha0/_value_dense" in [layer.name for layer in networks["vit"].layers()]


def test_what_was_inferred_is_said(networks: dict[str, ImageNetwork], frozen: Callable[[str], ImageNetwork]) -> None:
    setting = networks["vit"].settings["tokens"]
    assert setting.value == "4 x 4 + 1" and setting.reason.startswith("followed from the image; 1 beside them")
    assert networks["swin"].settings["tokens"].value == "4 x 4, 2 x 2"
    assert "'embed'" in networks["swin"].settings["tokens"].reason
    assert networks["cct"].settings["tokens"].value == "4 x 6" and "'pool'" in networks["cct"].settings["tokens"].reason
    assert "tokens" not in networks["convmixer"].settings
    assert frozen("vit").settings["tokens"].value == "4 x 4 + 1"


def test_layers_are_made_from_layers_of_tokens(networks: dict[str, ImageNetwork]) -> None:
    assert networks["vit"].feeds("sum0a") == ("places", "mha0") == networks["vit"].feeds("sum0a#tokens")
    assert networks["mixer"].feeds("sum") == ("embed", "turned")


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("vit", "norm1a"),
        ("swin", "norm"),
        ("mixer", "channels"),
        ("cct", "sum"),
        ("convmixer", "pointwise"),
        ("subclassed", "norms/1"),
    ],
)
def test_gradcam_explains_the_last_layer_whose_tokens_reach_the_logits(networks: Any, name: str, layer: str) -> None:
    assert default_layer(networks[name]).name == layer


def test_tokens_are_no_part_of_the_convolution_that_cut_the_patches() -> None:
    assert default_layer(keras_network(token_networks.vit(convolved=True), "vit", None, "none")).name == "norm1a"


def test_gradcam_of_tokens_is_what_keras_gradients_give(models: dict[str, keras.Model], networks: Any) -> None:
    pixels = (255 * IMAGES).astype(np.uint8)
    model, layer = models["vit"], "norm1a"
    with tf.GradientTape() as tape:
        outputs = [model.get_layer(layer).output, model.layers[-1].input]
        tokens, last = keras.Model(model.input, outputs)(pixels.astype(np.float32))
        logits = last @ model.layers[-1].kernel + model.layers[-1].bias
        best = tf.reduce_max(logits, axis=1)
    gradient, patches = tape.gradient(best, tokens)[:, 1:], tokens[:, 1:]
    weights = tf.reduce_mean(gradient, axis=1, keepdims=True)
    expected = tf.nn.relu(tf.reduce_sum(weights * patches, axis=-1)).numpy()
    plan = ExplainPlan(((METHODS["gradcam"], layer),), (ClassTarget(Classes(logits.shape[1], None), 0),), 3)
    maps = Explainer.of(networks["vit"], plan).maps(pixels, logits.numpy().argmax(1)[:, np.newaxis])["gradcam", layer]
    assert expected.max() > 0
    np.testing.assert_allclose(maps.reshape(expected.shape), expected, atol=1e-5 * expected.max(), rtol=1e-4)


def test_tokens_of_every_second_row_and_column_are_a_map_of_their_own() -> None:
    images = keras.Input((16, 16, 3))
    maps = keras.layers.Conv2D(4, 4, 4, name="patches")(images)
    rows = keras.layers.Reshape((4, 4))(maps[:, ::2, ::2])
    model = keras.Model(images, keras.layers.Dense(3)(keras.layers.Dense(5, name="tokens")(rows)[:, 0]))
    network = keras_network(model, "thinned", None, "none")
    plain = keras.Model(images, model.get_layer("tokens").output)(IMAGES)
    np.testing.assert_allclose(traced(network, ["tokens"])["tokens"], np.asarray(plain).reshape(3, 2, 2, 5), atol=1e-5)


def hidden(tokens: int) -> ImageNetwork:
    images = keras.Input((16, 16, 3))

    class Opaque(keras.layers.Layer):
        def call(self, given: Any) -> Any:
            run = tf.function(lambda x: tf.reshape(x[:, :, :, 0], (-1, 256))[:, : tokens * 4], autograph=False)
            return tf.reshape(run(given), (-1, tokens, 4))

    x = Opaque(name="opaque")(images)
    return keras_network(
        keras.Model(images, keras.layers.Dense(2)(keras.layers.Dense(4, name="more")(x)[:, 0])), "hidden", None, "none"
    )


def test_where_nothing_can_be_followed_the_number_of_tokens_tells_the_grid_or_the_job_does() -> None:
    assert hidden(16).every_layer()[1] == LayerInfo("opaque", "Opaque", (4, 4, 4), of_tokens=True)
    assert hidden(16).settings["tokens"].reason == "followed from the number of tokens"
    assert hidden(17).settings["tokens"].value == "4 x 4 + 1"
    network = hidden(31)
    unplaced = network.every_layer()[1]
    assert isinstance(unplaced, UnreadableLayer)
    assert "tokens without a grid: 31 x 4" in unplaced.reason and "say it in model.tokens" in unplaced.reason
    asked = network.with_tokens(TokensSpec(grid=(5, 6), extra=1))
    assert [layer.shape for layer in asked.layers()[:3]] == [(5, 6, 4), (1, 1, 4), (5, 6, 4)]
    assert str(asked.settings["tokens"]).startswith("5 x 6 + 1 (as asked")
    plain = np.asarray(traced(asked, ["opaque", "opaque#tokens"])["opaque"])
    np.testing.assert_array_equal(plain, IMAGES[..., 0].reshape(3, -1)[:, 4:124].reshape(3, 5, 6, 4))


def test_a_grid_that_does_not_fit_is_refused_with_the_numbers_there_are(networks: dict[str, ImageNetwork]) -> None:
    with pytest.raises(WrongSpec, match="3 x 5 and 1 extra are 16 tokens, but the layers of hidden have 31"):
        hidden(31).with_tokens(TokensSpec(grid=(3, 5), extra=1)).layers()
    with pytest.raises(
        WrongSpec, match="4 x 4 and 3 extra are 19 tokens, .* shows the grids: 4 x 4, 2 x 2. Leave model.tokens out"
    ):
        networks["swin"].with_tokens(TokensSpec(grid=(4, 4), extra=3)).layers()
    with pytest.raises(WrongSpec, match="has no layer of tokens. Leave it out"):
        networks["convmixer"].with_tokens(TokensSpec(grid=(4, 4))).layers()
    with pytest.raises(UnknownLayer):
        networks["cct"].trace(tf.constant(IMAGES), ["sum#tokens"])


def test_what_is_the_same_for_every_image_is_left_out_with_the_reason() -> None:
    """The learned query of a pooling head, (batch, 1, heads, width), would look like a map of 1 x heads."""

    class Query(keras.layers.Layer):
        def build(self, shape: Any) -> None:
            self.query = self.add_weight(shape=(1, 1, 2, 4), name="query")

        def call(self, tokens: Any) -> Any:
            return tf.repeat(self.query, tf.shape(tokens)[0], axis=0)

    images = keras.Input((16, 16, 3))
    tokens = keras.layers.Dense(8, name="embed")(token_networks.Patches(name="patches")(images))
    query = keras.layers.Reshape((8,))(Query(name="query")(tokens))
    pooled = keras.layers.Dot(-1)([tokens, query])
    network = keras_network(keras.Model(images, keras.layers.Dense(2)(pooled)), "pooled", None, "none")
    layers = {layer.name: layer for layer in network.every_layer()}
    assert layers["embed"].shape == (4, 4, 8)
    assert isinstance(layers["query"], UnreadableLayer) and layers["query"].reason.startswith("the same for every image")


def test_attention_between_maps_is_found_though_no_tensor_has_three_axes() -> None:
    """As in CoAtNet, whose (batch, heads, width, tokens) would look like maps of width x tokens."""

    class Scores(keras.layers.Layer):
        def call(self, tokens: Any) -> Any:
            return tf.nn.softmax(tf.matmul(tokens, tokens, transpose_b=True))

    class Mixed(keras.layers.Layer):
        def call(self, tokens: Any, scores: Any) -> Any:
            return tf.matmul(tf.transpose(tokens, (0, 1, 3, 2)), tf.transpose(scores, (0, 1, 3, 2)))

    images = keras.Input((16, 16, 3))
    maps = keras.layers.Conv2D(8, 4, 4, name="embed")(images)
    heads = keras.layers.Permute((2, 1, 3), name="heads")(keras.layers.Reshape((16, 2, 4), name="rows")(maps))
    scores = Scores(name="scores")(heads)
    mixed = Mixed(name="mixed")(heads, scores)
    ends = keras.layers.Conv2D(2, 1)(keras.layers.Reshape((4, 4, 8))(keras.layers.Permute((3, 1, 2))(mixed)))
    model = keras.Model(images, keras.layers.GlobalAveragePooling2D()(ends))
    network = keras_network(model, "coatnet", None, "none")
    layers = {layer.name: layer for layer in network.every_layer()}
    assert [getattr(layers[name], "shape", None) for name in ("rows", "heads", "scores", "mixed")] == [(4, 4, 8)] * 2 + [
        None,
        (4, 4, 8),
    ]
    inner = keras.Model(images, [maps, scores, mixed])
    plain, attention, output = map(np.asarray, inner(IMAGES))
    traces = traced(network, ["heads", "scores#heads", "mixed", "mixed#heads"])
    np.testing.assert_allclose(traces["heads"], plain, atol=1e-5)
    np.testing.assert_allclose(traces["scores#heads"], attention.mean(2).transpose(0, 2, 1).reshape(3, 4, 4, 2), atol=1e-5)
    np.testing.assert_allclose(traces["mixed"], output.transpose(0, 3, 1, 2).reshape(3, 4, 4, 8), atol=1e-5)
    np.testing.assert_allclose(
        traces["mixed#heads"], np.linalg.norm(output, axis=2).transpose(0, 2, 1).reshape(3, 4, 4, 2), atol=1e-5
    )


def test_attention_between_channels_is_no_map() -> None:
    """As in DaViT and XCiT: (batch, heads, width, width), each number a sum over all tokens."""

    class Scores(keras.layers.Layer):
        def call(self, tokens: Any) -> Any:
            return tf.nn.softmax(tf.matmul(tokens, tokens, transpose_a=True))

    images = keras.Input((16, 16, 3))
    rows = keras.layers.Reshape((16, 2, 4))(keras.layers.Conv2D(8, 4, 4, name="embed")(images))
    heads = keras.layers.Permute((2, 1, 3), name="heads")(rows)
    ends = keras.layers.Flatten()(Scores(name="scores")(heads))
    network = keras_network(keras.Model(images, keras.layers.Dense(2)(ends)), "davit", None, "none")
    layers = {layer.name: layer for layer in network.every_layer()}
    assert layers["heads"].shape == (4, 4, 8)
    assert isinstance(layers["scores"], UnreadableLayer) and "none of its rows belongs to a" in layers["scores"].reason


def test_a_grid_that_contradicts_the_graph_is_refused_with_the_grid_there_is(networks: dict[str, ImageNetwork]) -> None:
    with pytest.raises(WrongSpec, match="17 tokens are 2 x 8 and 1 extra, but at .* from 4 x 4 parts of the image"):
        networks["vit"].with_tokens(TokensSpec(grid=(2, 8), extra=1)).layers()
    with pytest.raises(WrongSpec, match="17 tokens are 17 x 1 and 0 extra, but at .* from 4 x 4 parts of the image"):
        networks["vit"].with_tokens(TokensSpec(grid=(17, 1))).layers()
    agreeing = networks["vit"].with_tokens(TokensSpec(grid=(4, 4), extra=1))
    assert agreeing.layers() == networks["vit"].layers()
    assert agreeing.settings["tokens"].value == "4 x 4 + 1"


@pytest.mark.slow  # 5 s, of which most is the export
def test_a_savedmodel_of_a_transformer_has_the_tokens_and_the_heads_of_its_keras_model(
    models: dict[str, keras.Model], networks: dict[str, ImageNetwork], tmp_path: Path
) -> None:
    models["vit"].export(tmp_path / "vit", verbose=False)
    network: ImageNetwork = opened(tmp_path / "vit", "savedmodel")
    assert network.settings["tokens"].value == "4 x 4 + 1"
    model = models["vit"]
    plain = np.asarray(keras.Model(model.input, model.get_layer("sum0a").output)(IMAGES))
    for operation, expected in (
        (r"sum0a\w*/Add", plain[:, 1:].reshape(3, 4, 4, 8)),
        (r"sum0a\w*/Add#tokens", plain[:, np.newaxis, :1]),
        (r"mha0\w*/Softmax#heads", traced(networks["vit"], ["mha0#heads"])["mha0#heads"]),
    ):
        (name,) = [layer.name for layer in network.layers() if re.search(f"/{operation}$", layer.name)]
        np.testing.assert_allclose(traced(network, [name])[name], expected, atol=1e-5)
