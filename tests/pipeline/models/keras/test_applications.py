"""`keras:NAME`: every builder found, its preprocessing and size inferred, its weights loaded or refused."""

from __future__ import annotations

import random
import shutil
import urllib.error
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest

from pipeline.errors import MissingInput, UnknownName, UnusableModel, WrongSpec
from pipeline.models.keras.applications import builders, default_size, inferred_mode, recognised
from pipeline.models.registry import open_network
from pipeline.spec.model import ModelSpec

RESCALED_INSIDE = ("EfficientNet", "ConvNeXt", "MobileNetV3")
SMALL = {"source": "keras:MobileNet", "layers": ["*"], "size": 32}


def opened(**keys: Any) -> Any:
    return open_network(ModelSpec(**{**SMALL, **keys}))


@pytest.fixture(scope="module")
def small() -> Any:
    return opened(weights="none")


@pytest.fixture(scope="module")
def saved(small: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A function: the file of a network, the small one, with the classifier or without, as Keras writes a suffix; once."""
    folder, bare = tmp_path_factory.mktemp("weights"), opened(weights="none", top=False)

    def file(suffix: Any, top: Any = True) -> Any:
        path = folder / f"{'full' if top else 'bare'}{suffix}"
        if not path.exists():
            getattr((small if top else bare).reader.model, "save_weights" if "weights" in suffix else "save")(path)
        return path

    return file


def test_all_forty_builders_of_keras_applications_are_found() -> None:
    assert len(builders()) >= 40
    assert {"VGG16", "ResNet50", "MobileNetV3Small", "NASNetLarge", "ConvNeXtXLarge"} <= builders().keys()


@pytest.mark.parametrize("name", builders())
def test_the_preprocessing_and_the_size_of_every_builder_are_inferred(name: Any) -> None:
    families = {
        "caffe": ("VGG16", "VGG19", "ResNet50", "ResNet101", "ResNet152"),
        "torch": ("DenseNet121", "DenseNet169", "DenseNet201"),
        "none": tuple(other for other in builders() if other.startswith(RESCALED_INSIDE)),
    }
    expected = next((mode for mode, names in families.items() if name in names), "symmetric")
    assert inferred_mode(builders()[name]) == expected
    sizes = {"Xception": 299, "InceptionV3": 299, "NASNetLarge": 331, "EfficientNetB3": 300, "EfficientNetB7": 600, "VGG16": 224}
    size = default_size(builders()[name])
    assert size == (sizes[name],) * 2 if name in sizes else 224 <= size[0] == size[1] <= 600


@pytest.mark.parametrize(
    "name",
    [
        "MobileNetV3Small",
        "EfficientNetB0",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("EfficientNetV2B0", "EfficientNetV2S", "ConvNeXtTiny")),
    ],
)
def test_networks_whose_pixels_are_left_alone_do_rescale_inside(name: Any) -> None:
    kinds = [layer.kind for layer in opened(source=f"keras:{name}", weights="none", top=False).layers()]
    first_weights = next(index for index, kind in enumerate(kinds) if kind == "Conv2D")
    assert {"Rescaling", "Normalization"} & set(kinds[:first_weights])


def test_a_network_is_preprocessed_as_its_builder_wants(small: Any, pixels: Any) -> None:
    images = pixels(2, 32, 32)
    expected = keras.applications.mobilenet.preprocess_input(images.astype(np.float32))
    np.testing.assert_allclose(small.preprocess(images), expected, atol=1e-6)


def test_the_classifier_ends_in_logits(small: Any, pixels: Any) -> None:
    model = keras.applications.MobileNet(weights=None, input_shape=(32, 32, 3))
    model.set_weights(small.reader.model.get_weights())
    images = small.preprocess(pixels(2, 32, 32))
    outputs = small.trace(images, ["logits", "predictions"])
    logits = outputs["logits"]
    np.testing.assert_array_equal(outputs["predictions"][:, 0, 0], logits)
    np.testing.assert_allclose(keras.ops.softmax(logits), model(images), rtol=1e-4, atol=1e-7)


def test_case_may_differ_but_unknown_networks_are_named_with_the_nearest(small: Any) -> None:
    assert opened(source="keras:mobilenet", weights="none").name == small.name == "MobileNet"
    with pytest.raises(UnknownName, match="'MobileNetV5' is not a network.*nearest: .*MobileNetV2"):
        opened(source="keras:MobileNetV5")


def test_names_and_random_weights_are_the_same_at_every_opening_and_disturb_nothing() -> None:
    keras.layers.Conv2D(1, 1)  # a process in which Keras has counted before
    random.seed(5)
    expected = random.random()
    random.seed(5)
    first = opened(source="keras:MobileNetV3Small", weights="none", top=False)
    assert random.random() == expected
    second = opened(source="keras:MobileNetV3Small", weights="none", top=False)
    assert first.layers() == second.layers() and first.layers()[0].name == "rescaling"
    assert first.digest() == second.digest()


@pytest.mark.parametrize("suffix", [".weights.h5", ".keras", ".h5"])
def test_weights_come_from_every_format_keras_has_written(small: Any, saved: Any, suffix: Any) -> None:
    assert opened(weights=str(saved(suffix))).digest() == small.digest()


def test_weights_files_are_recognised_by_content_not_by_name(small: Any, saved: Any, tmp_path: Path) -> None:
    for file, suffix in (("old.weights.h5", ".h5"), ("new.h5", ".weights.h5")):
        (tmp_path / file).symlink_to(saved(suffix))
        assert opened(weights=str(tmp_path / file)).digest() == small.digest()


@pytest.mark.parametrize("suffix", [".weights.h5", pytest.param(".h5", marks=pytest.mark.slow), ".keras"])
def test_weights_with_and_without_the_classifier_are_distinguished(saved: Any, suffix: Any) -> None:
    with pytest.raises(UnusableModel, match="holds no classifier. Set model.top = false"):
        opened(weights=str(saved(suffix, top=False)))
    with pytest.raises(UnusableModel, match="holds the classifier too. Set model.top = true"):
        opened(weights=str(saved(suffix)), top=False)


def test_weights_of_another_network_are_refused_in_one_line(saved: Any) -> None:
    with pytest.raises(UnusableModel, match="do not fit keras:MobileNetV2: .*Name the file") as caught:
        opened(source="keras:MobileNetV2", weights=str(saved(".weights.h5")))
    assert "\n" not in str(caught.value)


def test_missing_truncated_and_foreign_weights_files_give_different_errors(tmp_path: Path) -> None:
    (tmp_path / "a.h5").write_bytes(b"\x89HDF\r")
    (tmp_path / "a.keras").write_bytes(b"PK")
    (tmp_path / "a.ckpt").write_bytes(b"")
    for file, kind, reason in [
        ("none.h5", MissingInput, "are missing"),
        ("", MissingInput, "a folder"),
        ("a.h5", UnusableModel, "cut short"),
        ("a.keras", UnusableModel, "cut short"),
        ("a.ckpt", UnusableModel, "no known format"),
    ]:
        with pytest.raises(kind, match=reason):
            opened(weights=f"{tmp_path}/{file}".rstrip("/"))


def test_weights_that_cannot_be_downloaded_say_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def offline(*_args: Any, **_kwargs: Any) -> None:
        raise urllib.error.URLError("no network")

    monkeypatch.setattr("keras.src.utils.file_utils.urlretrieve", offline)
    monkeypatch.setattr("keras.src.backend.config._KERAS_DIR", str(tmp_path))
    with pytest.raises(
        UnusableModel, match=r'could not be fetched.*set model.weights = PATH, or set model.weights = "none"'
    ) as caught:
        opened(weights="imagenet", size=None)
    assert "\n" not in str(caught.value)


def test_sizes_that_the_network_cannot_have_are_refused_with_a_way_out() -> None:
    with pytest.raises(WrongSpec, match="at 20x20: Input size must be at least 32x32.*Set another model.size"):
        opened(weights="none", size=20)
    with pytest.raises(WrongSpec, match="at 50x50.*model.top = false"):
        opened(weights="imagenet", size=50)


def test_an_efficientnet_with_imagenet_weights_from_a_file_divides_twice_as_keras_does(tmp_path: Path, pixels: Any) -> None:
    plain = opened(source="keras:EfficientNetB0", weights="none", top=False)
    norm = next(layer for layer in plain.reader.model.layers if layer.name == "normalization")
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    norm.variables[0].assign(mean)
    norm.variables[1].assign(deviation)  # as the ImageNet weights have it: deviations in the variances' place
    plain.reader.model.save_weights(tmp_path / "imagenet.weights.h5")
    network = opened(source="keras:EfficientNetB0", weights=str(tmp_path / "imagenet.weights.h5"), top=False)
    images = pixels(1, 32, 32)
    outputs = network.trace(network.preprocess(images), ["imagenet_rescaling", "stem_conv"])
    expected = (images / 255 - mean) / deviation
    np.testing.assert_allclose(outputs["imagenet_rescaling"], expected, rtol=1e-3, atol=1e-3)
    untouched = plain.trace(plain.preprocess(images), ["stem_conv"])
    assert not np.allclose(outputs["stem_conv"], untouched["stem_conv"], rtol=0.1)


def test_a_saved_application_is_recognised_by_name_and_layers(small: Any) -> None:
    assert recognised(small.reader.model) is builders()["MobileNet"]
    impostor = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Conv2D(2, 3)], name="mobilenet_1.00_224")
    assert recognised(impostor) is None
    stranger = keras.models.clone_model(small.reader.model)
    stranger.name = "mine"
    assert recognised(stranger) is None


def test_a_keras_three_file_that_holds_more_than_the_network_does_not_pass(saved: Any, tmp_path: Path) -> None:
    shutil.copy(saved(".weights.h5"), tmp_path / "more.weights.h5")
    with h5py.File(tmp_path / "more.weights.h5", "a") as file:
        file["layers/conv2d_99/vars/0"] = np.zeros((3, 3), np.float32)
    with pytest.raises(UnusableModel, match="numbers, the network"):
        opened(weights=str(tmp_path / "more.weights.h5"))
