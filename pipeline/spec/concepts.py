"""`[concepts]`: which concepts channels are named by, and when a name is one."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pipeline.spec.model import Preprocess
from pipeline.spec.paths import HoldsPath, PathText
from pipeline.spec.table import Positive, Rewritten, Table, a_list

Measures = Annotated[list[Literal["cosine", "rank_reorder", "wpmi", "soft_wpmi"]], Rewritten(a_list), Field(min_length=1)]


class EmbeddingsSpec(Table):
    """`[concepts.embeddings]`: vectors of images and of concepts that can be compared.

    images: a Parquet file of them; or `layer` of a network: `model`, or the job's own where that is absent.
    texts: a Parquet file of the concepts; absent: the mean of the images of each label.
    """

    images: PathText | None = None
    model: Annotated[str, HoldsPath(source_of="model")] | None = None
    layer: str | None = None
    preprocess: Preprocess = "auto"
    texts: PathText | None = None
    measures: Measures = ["soft_wpmi"]

    @model_validator(mode="after")
    def _images_or_layer(self) -> Self:
        if (self.images is None) == (self.layer is None):
            raise ValueError("takes exactly one of images and layer")
        if self.model is not None and self.layer is None:
            raise ValueError("takes model only with layer")
        return self


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

    def read_files(self) -> list[str]:
        named = [self.embeddings.images, self.embeddings.texts] if self.embeddings else []
        named += [self.masks.names] if self.masks else []
        return [path for path in named if path is not None]
