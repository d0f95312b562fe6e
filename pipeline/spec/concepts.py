"""`[concepts]`: which concepts channels are named by, and when a name is one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pipeline.spec.model import ModelSpec, Preprocess
from pipeline.spec.paths import HoldsPath, PathText
from pipeline.spec.table import Positive, Rewritten, Table, a_list

Measures = Annotated[list[Literal["cosine", "rank_reorder", "wpmi", "soft_wpmi"]], Rewritten(a_list), Field(min_length=1)]


class EmbeddingsSpec(Table):
    """`[concepts.embeddings]`: vectors of images and of concepts that can be compared.

    images: a Parquet file of them; or `layer` of a network: `model`, or the job's own where that is absent; or `encoder`, the
        folder of a keras-hub preset that embeds texts too.
    texts: a Parquet file of the concepts; absent: the mean of the images of each label.
    words: with an encoder, a text file with a concept in every line; absent: the labels. prompt: the text that is embedded.
    """

    images: PathText | None = None
    model: Annotated[str, HoldsPath(source_of="model")] | None = None
    layer: str | None = None
    preprocess: Preprocess = "auto"
    texts: PathText | None = None
    encoder: PathText | None = None
    words: PathText | None = None
    prompt: str = "{}"
    measures: Measures = ["soft_wpmi"]

    @model_validator(mode="after")
    def _images_or_layer(self) -> Self:
        if sum(origin is not None for origin in (self.images, self.layer, self.encoder)) != 1:
            raise ValueError("takes exactly one of images, layer and encoder")
        if self.encoder is not None and self.texts is not None:
            raise ValueError("takes texts, which are vectors, not with encoder; name words")
        if self.words is not None and self.encoder is None:
            raise ValueError("takes words only with encoder")
        if "{}" not in self.prompt:
            raise ValueError("takes a prompt with {} in it, where the concept stands")
        if self.model is not None and self.layer is None:
            raise ValueError("takes model only with layer")
        return self

    def network(self) -> ModelSpec | None:
        """The network that embeds, where it is none of the job's own."""
        return None if self.model is None else ModelSpec(source=self.model, preprocess=self.preprocess)


class MasksSpec(Table):
    """`[concepts.masks]`: where in the images concepts are, and on how fine a grid that is compared."""

    source: Annotated[str, HoldsPath(words=("colours",))]
    names: PathText | None = None
    step: Positive = 4


class ConceptsSpec(Table):
    """`[concepts]`: which concepts channels are named by, and when a name is one."""

    labels: bool = True
    embeddings: EmbeddingsSpec | None = None
    masks: MasksSpec | None = None
    quality: bool = False
    images: Positive = 10_000
    top_k: Annotated[int, Field(gt=0, le=100, strict=True)] = 5
    chance: Annotated[float, Field(ge=0, le=1)] = 0.05
    fits: Annotated[float, Field(ge=0, le=1)] = 0.5

    def read_files(self) -> list[str]:
        given = self.embeddings
        named = [given.images, given.texts, given.words] if given else []
        if given and given.encoder:
            named += [str(path) for path in sorted(Path(given.encoder).glob("**/*")) if path.is_file()]
        named += [self.masks.names] if self.masks else []
        return [path for path in named if path is not None]
