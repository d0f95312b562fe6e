"""Job: the argument of every stage."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from pipeline.errors import WrongSpec
from pipeline.models.head import Head
from pipeline.models.labels import IMAGENET_CLASSES, class_names, count_classes
from pipeline.models.network import LOGITS, LayerInfo, Network, Setting, alone, outputs_of
from pipeline.options import RunOptions
from pipeline.progress import Reporter
from pipeline.sources.fit import Fit
from pipeline.sources.picking import digest_file
from pipeline.sources.readable import PassedOver, ReadableImages
from pipeline.sources.source import Source
from pipeline.spec import JobSpec
from pipeline.spec.model import ALL
from pipeline.spec.table import Table
from pipeline.store.places import Place


@dataclass(frozen=True)
class Job:
    """The argument of every stage: the spec, the network and the data that it names, and the folder for the results."""

    spec: JobSpec
    network: Network
    layers: tuple[LayerInfo, ...]
    source: Source
    fit: Fit
    folder: Place
    reporter: Reporter
    options: RunOptions = field(default_factory=RunOptions)
    # State that is read before the stages run and that one of them uses, by its type.
    prepared: dict[type, Any] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def passed_over(self) -> PassedOver:
        """The images that the stage that runs has passed over, because they cannot be read. They are named when it has ended."""
        return PassedOver(self.spec.data.on_bad)

    @property
    def readable(self) -> ReadableImages:
        """The images that can be read, as the network is given them."""
        return ReadableImages(self.source, self.fit, self.passed_over)

    @cached_property
    def of_image(self) -> Network:
        """The network as a function of the image alone: its other inputs have their constants and the first example's values."""
        return alone(self.network)

    @property
    def shown_bands(self) -> tuple[int, int, int]:
        """The bands of what the network is given that pictures show as red, green and blue."""
        form = self.source.decoder.form
        return (0, 1, 2) if form is None else form.rgb

    @cached_property
    def digests(self) -> dict[str, str]:
        """The digests of the network, as `model`, and of the examples, as `data`; computed once, since that reads all weights."""
        return {"model": self.network.digest(), "data": self.source.digest()}

    @cached_property
    def file_digests(self) -> dict[str, str]:
        """The digests of the files beside data and weights that the spec names, and of the file of class names, by path;
        computed once, before any stage reads them."""
        tables = (getattr(self.spec, name) for name in type(self.spec).model_fields)
        named = [path for table in tables if isinstance(table, Table) for path in table.read_files()]
        labels = self.spec.model.labels
        return {path: digest_file(path) for path in named + ([labels] if labels not in (None, "imagenet") else [])}

    @cached_property
    def settings(self) -> dict[str, Setting]:
        """What is in force where the spec may leave it to convscope, and why, by key: the network's, and where its classes' names
        are from."""
        labels = self._labels_of_weights
        return {**self.network.settings, **({} if labels is None else {"labels": labels})}

    @property
    def _labels_of_weights(self) -> Setting | None:
        """ImageNet's names, for a classifier of keras.applications with weights whose classes nothing else names."""
        model, of_data = self.spec.model, self.source.labels or ()
        named = model.labels is not None or len(of_data) == IMAGENET_CLASSES
        if named or not model.source.startswith("keras:") or not model.top or model.weights == "none":
            return None
        return Setting("imagenet", "the classes of keras.applications")

    def say_settings(self) -> None:
        """Tell the user what is in force where the spec may leave it to convscope, and why."""
        for key, setting in self.settings.items():
            self.reporter.say(f"{key}: {setting}", setting=key, value=setting.value, reason=setting.reason)

    def count_classes(self) -> int:
        """How many logits the network has. Raises: UnusableModel, for a network without logits."""
        return self._class_count

    def head(self) -> Head:
        """What the network's output means. Raises: UnusableModel, for a network without logits; WrongSpec."""
        return self.network.head()

    def logits_layer(self) -> LayerInfo:
        """The logits as a layer that an objective may name.

        Raises: UnusableModel, for a network without logits; WrongSpec, for a detector: its logits are rows of boxes.
        """
        if self.spec.model.boxes is not None:
            raise WrongSpec(
                f"{self.network.name} is a detector (model.boxes): its classes belong to boxes, so patterns and dreams find no "
                "logit of the whole image to raise. Name a layer instead."
            )
        return LayerInfo(LOGITS, "", (1, 1, self.count_classes()))

    def outputs(self) -> dict[str | None, Job]:
        """This job once for each output of the network that is explained, by the output's name; by None where there is but one.

        Raises: UnusableModel, for `model.logits = "all"` and a network without any.
        """
        return self._outputs

    @cached_property
    def _outputs(self) -> dict[str | None, Job]:
        if self.spec.model.logits != ALL:
            return {None: self}
        return {name: replace(self, network=network) for name, network in outputs_of(self.network).items()}

    @cached_property
    def default_layer(self) -> LayerInfo:
        """The layer that GradCAM explains where none is named; see `pipeline.compiled.default_layer`. Raises: UnusableModel."""
        from pipeline.compiled.default_layer import default_layer

        return default_layer(self.network)

    @cached_property
    def _class_count(self) -> int:
        return count_classes(self.network)  # traces the whole network

    def data_begin_with(self, count: int, digest: str) -> bool:
        """Whether the first `count` examples have this digest."""
        if count not in self._beginnings:
            self._beginnings[count] = self.source.digest(count)
        return self._beginnings[count] == digest

    @cached_property
    def _beginnings(self) -> dict[int, str]:
        return {}

    def class_names(self) -> tuple[str, ...] | None:
        """The name of each logit: from `model.labels`, else from the data set if it has as many, else those of ImageNet for a
        classifier of keras.applications; None otherwise.

        Raises: MissingInput, WrongSpec, UnusableModel for a network without logits.
        """
        return self._class_names

    @cached_property
    def _class_names(self) -> tuple[str, ...] | None:
        of_classes = self.head().kind in ("softmax", "sigmoid", "map", "boxes")  # no label names a number of a regression
        of_data = self.source.labels if of_classes else None
        count, named = self.count_classes(), self.spec.model.labels
        if self._labels_of_weights is not None:
            return class_names(self._labels_of_weights.value, self.network.name, count, None, fits=False)
        if self.spec.model.logits == ALL and named is not None:
            return class_names(named, self.network.name, count, of_data, fits=False)  # they are of one output, or of some
        return class_names(named, self.network.name, count, of_data)
