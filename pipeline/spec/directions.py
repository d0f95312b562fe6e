"""`[directions]`: which directions to look for in the space of a layer's channels, and in which sample of vectors."""

from __future__ import annotations

import re
from typing import Annotated, Self

from pydantic import Field, field_validator, model_validator

from pipeline.spec.gradcam import AskedTargets
from pipeline.spec.paths import HoldsPath, PathText
from pipeline.spec.table import Positive, Rewritten, Table, a_list

METHODS = ("pca", "ica", "nmf", "kmeans", "lda", "topk", "jumprelu")


class ImageSetSpec(Table):
    """`directions.concepts.NAME`: the images of a concept.

    source: of its own, as `data.source` names one. label: or those of the data set with this label. files: or these.
    """

    source: Annotated[str, HoldsPath(source_of="data")] | None = None
    label: Annotated[str, Field(min_length=1)] | None = None
    files: Annotated[list[PathText], Rewritten(a_list)] = []

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        if (self.source is not None) + (self.label is not None) + bool(self.files) != 1:
            raise ValueError("takes exactly one of source, label and files")
        return self

    @property
    def words(self) -> str:
        """The set for people."""
        if self.files:
            return f"{len(self.files)} files"
        return f"label:{self.label}" if self.source is None else self.source


ConceptName = Annotated[str, Field(pattern="^[A-Za-z0-9_-]{1,40}$")]


class DirectionsSpec(Table):
    """`[directions]`: which directions to look for in the space of a layer's channels, and in which sample of vectors.

    concepts: sets of images, for each of which a concept vector is trained.
    against: the source of what they are told from; absent: the data set.
    runs: how often, each time against other images. images: the most of a set, and of a class that is tested.
    targets: whose sensitivity to the concepts is tested, as `gradcam.targets`.
    """

    layers: Annotated[list[str] | None, Rewritten(a_list)] = None
    methods: Annotated[list[str], Rewritten(a_list)] = ["pca16", "kmeans16"]
    vectors: Positive = 20_000
    per_image: Positive = 8
    seed: Annotated[int, Field(ge=0, lt=2**31, strict=True)] = 0
    sparsity: Positive = 16
    split: Positive | None = None
    steps: Annotated[int, Field(ge=1, le=1_000_000, strict=True)] = 2000
    checkpoint: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 60.0
    concepts: dict[ConceptName, ImageSetSpec] = {}
    against: Annotated[str, HoldsPath(source_of="data")] | None = None
    runs: Annotated[int, Field(ge=20, le=200, strict=True)] = 20
    images: Annotated[int, Field(ge=10, le=10_000, strict=True)] = 100
    targets: AskedTargets = []

    @field_validator("methods")
    @classmethod
    def _methods_and_numbers(cls, value: list[str]) -> list[str]:
        for method in value:
            if not re.fullmatch(rf"({'|'.join(METHODS)})[1-9][0-9]{{0,4}}", method):
                raise ValueError(f"{method!r} is not {', '.join(METHODS[:-1])} or {METHODS[-1]} with a number behind it: nmf64")
        return list(dict.fromkeys(value))

    def read_files(self) -> list[str]:
        return [path for images in self.concepts.values() for path in images.files]
