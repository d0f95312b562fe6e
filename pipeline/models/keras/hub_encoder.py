"""Texts and images as vectors of one space: CLIP, SigLIP and their like, opened by keras-hub from a preset's folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from pipeline.errors import MissingInput, UnusableModel, one_line
from pipeline.models.image_network import ImageNetwork
from pipeline.models.keras.hub import judge_preset
from pipeline.models.keras.model import keras_reader
from pipeline.models.network import EMBEDDING, Setting

_BATCH = 64  # texts that are embedded together


@dataclass(frozen=True, eq=False)
class TextImageEncoder:
    """A model that embeds images and texts into one space.

    network: of the images, whose layer `EMBEDDING` gives the vectors; it prepares pixels as the model's own converter does.
    """

    network: ImageNetwork
    _backbone: Any
    _preprocessor: Any

    @classmethod
    def open(cls, folder: str) -> TextImageEncoder:
        """Open what keras-hub saved, backbone and preprocessor, into a folder. Raises: MissingInput, UnusableModel."""
        try:
            import keras_hub
        except ModuleNotFoundError:
            raise UnusableModel(
                'concepts.embeddings.encoder takes the package keras-hub: pip install "convscope[hub]".'
            ) from None
        path = Path(folder)
        if not path.is_dir():
            raise MissingInput(f"the encoder {folder!r} is no folder. Name one that save_to_preset of keras-hub wrote.")
        judge_preset(path, trusted=False)
        try:
            backbone = keras_hub.models.Backbone.from_preset(folder)
            kind = type(backbone).__name__.removesuffix("Backbone")
            preprocessor = getattr(keras_hub.models, f"{kind}Preprocessor").from_preset(folder)
        except Exception as error:  # keras-hub fails in many types
            raise UnusableModel(
                f"keras-hub cannot open the encoder {folder!r} ({one_line(error)}). It needs a backbone and a preprocessor: "
                "save both with save_to_preset."
            ) from None
        missing = [name for name in ("get_vision_embeddings", "get_text_embeddings") if not hasattr(backbone, name)]
        converter = getattr(preprocessor, "image_converter", None)
        if missing or converter is None or getattr(preprocessor, "tokenizer", None) is None:
            raise UnusableModel(
                f"{folder} is a {type(backbone).__name__}, which does not embed images and texts alike. Name a CLIP or SigLIP."
            )
        return cls(_of_images(backbone, converter, path.name), backbone, preprocessor)

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """The vectors of some texts: float64 (texts, width)."""
        vectors = []
        for first in range(0, len(texts), _BATCH):
            part = list(texts[first : first + _BATCH])
            tokens = self._preprocessor({"prompts": part, "images": np.zeros((len(part), 8, 8, 3), np.float32)})["token_ids"]
            vectors.append(keras.ops.convert_to_numpy(self._backbone.get_text_embeddings(tokens)))
        return np.concatenate(vectors).astype(np.float64)


def _of_images(backbone: keras.Model, converter: Any, name: str) -> ImageNetwork:
    """The part of the model that embeds images, of pixels from 0 to 255."""
    shape = tuple(backbone.vision_encoder.image_shape)
    pixels = keras.Input(shape, name="pixels")
    scale, offset = (getattr(converter, key, None) for key in ("scale", "offset"))
    scaled = pixels if scale is None else pixels * np.asarray(scale, np.float32)
    moved = scaled if offset is None else scaled + np.asarray(offset, np.float32)
    vectors = keras.layers.Identity(name=EMBEDDING)(backbone.get_vision_embeddings(moved))
    model = keras.Model(pixels, vectors, name="images")
    return ImageNetwork(keras_reader(model, name, shape[:2]), name, Setting("none", "the encoder scales its pixels itself"))
