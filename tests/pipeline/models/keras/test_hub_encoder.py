"""Encoders of keras-hub, with random weights: texts, images, names from words, search. Runs where keras-hub is installed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from pipeline import run
from pipeline.errors import MissingInput, UnusableModel
from pipeline.load import load_spec
from pipeline.models.network import EMBEDDING


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The folder of a CLIP for images of 16 x 16, and the model and preprocessor that were saved into it."""
    hub = pytest.importorskip("keras_hub")
    import keras

    letters = [*"abcdefghijklmnopqrstuvwxyz"]
    tokens = ["!", "ab", *letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = hub.models.CLIPTokenizer({token: number for number, token in enumerate(tokens)}, ["a b"])
    converter = hub.layers.CLIPImageConverter(image_size=(16, 16), scale=[1 / 60, 1 / 50, 1 / 70], offset=[-2.0, -1.5, -1.0])
    preprocessor = hub.models.CLIPPreprocessor(tokenizer, converter, sequence_length=12)
    vision = hub.models.CLIPVisionEncoder(8, 16, 2, 2, 32, image_shape=(16, 16, 3))
    text = hub.models.CLIPTextEncoder(len(tokens), 16, 16, 2, 2, 32, max_sequence_length=12)
    backbone = hub.models.CLIPBackbone(vision, text, 8)
    for seed, variable in enumerate(backbone.weights):
        if "position_ids" not in variable.path:
            variable.assign(keras.random.normal(variable.shape, stddev=0.3, seed=seed))
    folder = tmp_path_factory.mktemp("clip")
    backbone.save_to_preset(str(folder))
    preprocessor.save_to_preset(str(folder))
    return folder, backbone, preprocessor


def test_texts_and_images_are_embedded_as_keras_hub_does(encoder: Any) -> None:
    from pipeline.compiled.compile import compile_tap
    from pipeline.models.keras.hub_encoder import TextImageEncoder

    folder, backbone, preprocessor = encoder
    opened = TextImageEncoder.open(str(folder))
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), dtype=np.uint8)
    given = preprocessor({"prompts": ["a cat", "two dogs", "x"], "images": images.astype(np.float32)})
    expected = backbone.get_text_embeddings(given["token_ids"]).numpy(), backbone.get_vision_embeddings(given["images"]).numpy()
    np.testing.assert_allclose(opened.texts(["a cat", "two dogs", "x"]), expected[0], atol=1e-5)
    assert opened.network.input_shape == (16, 16, 3)
    vectors = compile_tap(opened.network, [EMBEDDING], 3)(images)[EMBEDDING][:, 0, 0]
    np.testing.assert_allclose(vectors, expected[1], atol=1e-5 * np.abs(expected[1]).max())


def test_a_job_compares_channels_with_words_and_finds_them_by_text(
    encoder: Any, write_spec: Any, quiet: Any, tmp_path: Path, capsys: Any
) -> None:
    from jobs.cli import main

    (tmp_path / "words.txt").write_text("cat\n dog \n\nblue  sky\ncat\n")
    table = {"encoder": str(encoder[0]), "words": str(tmp_path / "words.txt"), "prompt": "a photo of {}"}
    path = write_spec(tmp_path / "spec.toml", concepts={"labels": False})
    given = [f"concepts.embeddings.{key}={value}" for key, value in table.items()]
    spec = load_spec(path, ['stages=["activations", "concepts"]', *given])
    folder = run(spec, tmp_path, reporter=quiet)
    rows = pd.read_parquet(folder / "index" / "concepts.parquet")
    assert set(rows["concept"]) == {"cat", "dog", "blue sky"} and set(rows["source"]) == {"embeddings"}
    channels = pd.read_parquet(folder / "index" / "embeddings.parquet")
    assert len(channels) == 12
    lengths = [float(np.linalg.norm(vector)) for vector in channels["embedding"]]
    assert channels["embedding"].map(len).eq(8).all() and np.allclose(lengths, 1)
    assert main(["search", str(folder), "red stripes", "--text"]) == 0
    assert "cosine" in capsys.readouterr().out


def test_what_is_no_encoder_is_refused_in_one_line(encoder: Any, tmp_path: Path) -> None:
    from pipeline.models.keras.hub_encoder import TextImageEncoder

    with pytest.raises(MissingInput, match="is no folder"):
        TextImageEncoder.open(str(tmp_path / "missing"))
    with pytest.raises(MissingInput, match=r"holds no config\.json"):
        TextImageEncoder.open(str(tmp_path))
    (tmp_path / "config.json").write_text((encoder[0] / "config.json").read_text())
    with pytest.raises(UnusableModel, match="It needs a backbone and a preprocessor"):
        TextImageEncoder.open(str(tmp_path))
