"""Networks of keras-hub, with random weights: as presets in a folder, and as saved tasks. Runs where keras-hub is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import tensorflow as tf

from pipeline.errors import ConvscopeError, MissingInput, UnusableModel, WrongSpec
from pipeline.models.keras.hub import judge_preset
from pipeline.models.registry import open_network
from pipeline.spec.model import ModelSpec


def opened(source: Any, **keys: Any) -> Any:
    return open_network(ModelSpec(source=f"hub:{source}", layers=["*"], **keys))


def test_without_keras_hub_the_error_says_what_to_install() -> None:
    try:
        import keras_hub  # noqa: F401
    except ModuleNotFoundError:
        with pytest.raises(UnusableModel, match=r'hub:vit takes the package keras-hub: pip install "convscope\[hub\]"'):
            opened("vit")
    else:
        pytest.skip("keras-hub is installed")


_HOSTILE = {
    "deep": ({"config.json": b"[" * 100_000}, "nested more than 200 deep"),
    "no JSON": ({"config.json": b"{"}, "broken JSON"),
    "no text": ({"config.json": b'"\xff"'}, "broken JSON|cannot be read"),
    "code": ({"config.json": b'{"class_name": "Lambda", "module": "keras.layers", "config": {}}'}, "Lambda"),
    "cut short": ({"config.json": b"{}", "model.weights.h5": b"\x89HDF\r\n\x1a\n" + b"\0" * 9}, "cannot be read"),
}


@pytest.mark.parametrize("hostile", _HOSTILE)
def test_presets_of_strangers_are_held_against_the_bounds_of_model_files(tmp_path: Path, hostile: str) -> None:
    files, reason = _HOSTILE[hostile]
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    with pytest.raises(UnusableModel, match=reason) as caught:
        judge_preset(tmp_path, trusted=False)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_weights_of_a_preset_that_lie_in_another_file_are_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b"{}")
    with h5py.File(tmp_path / "model.weights.h5", "w") as file:
        file["layers"] = h5py.ExternalLink("/etc/passwd", "/")
    with pytest.raises(UnusableModel, match="layers"):
        judge_preset(tmp_path, trusted=False)


@pytest.fixture(scope="module")
def task() -> Any:
    models = pytest.importorskip("keras_hub").models
    import keras_hub

    backbone = models.ViTBackbone((32, 32, 3), 8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, use_class_token=True)
    converter = keras_hub.layers.ViTImageConverter(image_size=(32, 32), scale=1 / 127.5, offset=-1.0)
    preprocessor = models.ViTImageClassifierPreprocessor(image_converter=converter)
    return models.ViTImageClassifier(backbone=backbone, num_classes=3, preprocessor=preprocessor)


@pytest.mark.parametrize("form", ["preset", "task.keras"])
def test_a_classifier_brings_its_preprocessing_and_its_encoder_is_looked_into(task: Any, tmp_path: Path, form: str) -> None:
    (task.save_to_preset if form == "preset" else task.save)(str(tmp_path / form))
    network = opened(tmp_path / form)
    assert str(network.settings["preprocess"]) == "symmetric (as the network's own preprocessor does)"
    assert network.settings["tokens"].value == "4 x 4 + 1"
    shapes = {layer.name: layer.shape for layer in network.layers()}
    assert shapes["vi_t_backbone/vit_encoder/encoder_layers/1/mha"] == (4, 4, 16)
    assert shapes["vi_t_backbone/vit_encoder/encoder_layers/1/mha#heads"] == (4, 4, 2)
    images = np.random.default_rng(0).uniform(-1, 1, (2, 32, 32, 3)).astype(np.float32)
    inner = task.backbone.get_layer("vit_encoder").encoder_layers[1].mha
    assert inner is not None
    tokens = task.backbone.get_layer("vit_encoder")(task.backbone.get_layer("vit_patching_and_embedding")(images))
    own = network.trace(tf.constant(images), ["vi_t_backbone/vit_encoder", "vi_t_backbone/vit_encoder#tokens"])
    np.testing.assert_allclose(own["vi_t_backbone/vit_encoder"], np.asarray(tokens)[:, 1:].reshape(2, 4, 4, 16), atol=1e-5)
    np.testing.assert_allclose(own["vi_t_backbone/vit_encoder#tokens"][:, 0, 0], np.asarray(tokens)[:, 0], atol=1e-5)


def test_what_is_no_preset_is_refused(task: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "net.txt").write_text("no network")
    with pytest.raises(MissingInput, match="holds no config.json"):
        opened(tmp_path / "empty")
    with pytest.raises(MissingInput, match="neither a .keras task nor a preset's folder"):
        opened(tmp_path / "net.txt")
    (tmp_path / "empty" / "config.json").write_text('{"module": "os", "class_name": "system", "config": {}}')
    with pytest.raises(ConvscopeError):
        opened(tmp_path / "empty")
    task.backbone.save_to_preset(str(tmp_path / "alone"))
    with pytest.raises(WrongSpec, match="brings no preprocessor"):
        opened(tmp_path / "alone")
