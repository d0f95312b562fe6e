"""ExplanationResults: what is known of one image after another, as rows of the index and as pictures."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.attribution.blanks import Blanks
from pipeline.attribution.detections import Detection, detected
from pipeline.attribution.explainer import Explained, unusable
from pipeline.attribution.heat import focus
from pipeline.attribution.map_files import MapFiles, StoredMap
from pipeline.attribution.methods import method_named
from pipeline.attribution.pictures import ExplanationPictures
from pipeline.attribution.plan import MapKey
from pipeline.attribution.targets import Classes, Target, top
from pipeline.compiled.guided_relu import Guide
from pipeline.models.head import describe
from pipeline.sources.fit import Fit
from pipeline.sources.picking import Picked
from pipeline.store.columns import append_row
from pipeline.store.tables import INDEX

_LIKELIEST = 5  # classes of an image, in the index


@dataclass(frozen=True)
class ExplainedOutput:
    """One of the network's outputs, its classes and what is explained of it.

    logits: its name, where all are in turn.
    draws: of the first image that is explained, the second and so on, whether pictures are drawn.
    """

    classes: Classes
    targets: Sequence[Target]
    logits: str | None = None
    draws: Callable[[int], bool] = lambda number: True


def spread_evenly(most: int, total: int) -> Callable[[int], bool]:
    """Whether each of `total` images, by number, is among at most `most` that are spread evenly over them, the first included."""
    return lambda number: most >= total or number * most % total < most


class ExplanationResults:
    """Collects the columns of two tables, and has the pictures drawn, and the maps stored, as they come.

    classification, attributions: the columns by name.
    keys: of the images. nans: logits that were NaN or infinity. drawn: images of which there are pictures.
    blanks: the maps that show nothing.
    """

    def __init__(
        self, output: ExplainedOutput, fit: Fit, guide: Guide | None, pictures: ExplanationPictures, maps: MapFiles | None
    ) -> None:
        """The values that the rows are made from.

        Args:
            fit: by which the network is shown the images.
            guide: what guided backpropagation replaced.
            maps: where the maps go as numbers, if they are to.
        """
        self._classes, self._targets, self._logits, self._draws = output.classes, output.targets, output.logits, output.draws
        self._fit, self._guide, self._pictures, self._maps = fit, guide, pictures, maps
        self.classification: dict[str, list[Any]] = {field.name: [] for field in INDEX["classification"]}
        self.attributions: dict[str, list[Any]] = {field.name: [] for field in INDEX["attributions"]}
        self.keys: list[str] = []
        self.nans = self.drawn = 0
        self.blanks = Blanks()

    def add(self, explained: Explained) -> None:
        """Index and draw what is said of a batch; an image with a logit that is `unusable` has no classes, and no maps."""
        for index, picked in enumerate(explained.batch.picked):
            logits, drawn = explained.logits[index], self._draws(len(self.keys))
            self.keys.append(picked.image.key)
            self.drawn += int(drawn)
            self.nans += int(unusable(logits).sum())
            if unusable(logits).any():
                continue
            self.blanks.largest = max(self.blanks.largest, float(np.abs(logits).max()))
            self._classify(picked, logits)
            for slot in explained.nowhere[index] if explained.nowhere else ():
                self.blanks.leave_out(self._targets[slot].title(int(explained.classes[index, slot])), picked.image.key)
            for slot in explained.slots[index]:
                number = int(explained.classes[index, slot])
                maps = explained.maps_of(index, slot)
                gaps = {method: float(values[index, slot]) for method, values in explained.gaps.items()}
                sums = {key: values[index, slot].tolist() for key, values in explained.sums.items()}
                for key in explained.maps.keys() - maps.keys():
                    self.blanks.add_broken(key, f"{picked.image.key!r} for {self._targets[slot].title(number)!r}")
                self._explain(_Subject(picked, self._targets[slot], number, logits, drawn), maps, gaps, sums)

    def _classify(self, picked: Picked, logits: np.ndarray) -> None:
        image = (picked.example, picked.image.key, picked.image.label)
        detections = list(detected(logits, self._classes.head, _LIKELIEST)) if self._classes.head.kind == "boxes" else []
        boxes = [detection.box for detection in detections]
        for rank, answer in enumerate(self._said(logits, detections)):
            row = (*image, rank, *answer, self._classes.head.kind, self._logits, boxes[rank] if boxes else None)
            append_row(self.classification, row)

    def _said(
        self, logits: np.ndarray, detections: Sequence[Detection]
    ) -> Iterator[tuple[int, str, float, float | None, float | None]]:
        """The network's answers for one image: class numbers and names, evidence, and probabilities or outputs."""
        head, name = self._classes.head, self._classes.name
        if head.kind == "boxes":
            for detection in detections:
                yield detection.number, name(detection.number), detection.evidence, detection.probability, detection.output
            return
        if head.kind == "embedding":
            for number, target in enumerate(self._targets):
                similarity = float(target.reading(logits[np.newaxis], number).value[0])
                yield number, target.title(number), similarity, None, similarity
            return
        probabilities = head.probabilities(logits)
        if probabilities is None:
            outputs = head.activation(logits)
            yield from ((number, name(number), logits[number], None, outputs[number]) for number in range(len(logits)))
            return
        if head.kind == "map":
            logits, probabilities = logits.mean(axis=(0, 1)), probabilities.mean(axis=(0, 1))
        for number in top(probabilities if head.kind == "map" else logits, _LIKELIEST):
            yield int(number), name(number), logits[number], probabilities[number], None

    def _explain(
        self,
        subject: _Subject,
        maps: Mapping[MapKey, np.ndarray],
        gaps: Mapping[str, float],
        sums: Mapping[MapKey, Sequence[float]],
    ) -> None:
        """Draw and index the maps of one target of an image; gaps and sums as of `Explained`."""
        picked, number, target = subject.picked, subject.number, subject.target
        reading = target.reading(subject.logits[np.newaxis], number)
        probability, output = (None if values is None else float(values[0]) for values in (reading.probability, reading.output))
        title = target.title(number)
        words = describe(self._classes.head.kind, probability, output)
        paths = self._pictures.add(picked, target.key(number), f"{title}  {words}", maps) if subject.drawn else {}
        for (method, layer), values in maps.items():
            if self._maps:
                stored = StoredMap(picked.example, picked.image.key, title, number, values, self._logits)
                self._maps.add((method, layer), stored)
            centre = focus(values, self._fit.height, self._fit.width)
            guide = self._guide if method_named(method).changes_relus else None
            positive, negative = sums.get((method, layer), (None, None))
            self.blanks.add((method, layer), values, (positive, negative), f"{picked.image.key!r} for {title!r}")
            row = {
                "example": picked.example,
                "key": picked.image.key,
                "label": picked.image.label,
                "method": method,
                "layer": layer,
                "class": number,
                "name": title if self._classes.head.kind == "embedding" else self._classes.name(number),
                "probability": probability,
                "output": output,
                "head": self._classes.head.kind,
                "logits": self._logits,
                "target": title,
                "gap": gaps.get(method),
                "positive": positive,
                "negative": negative,
                "digest": hashlib.sha256(np.ascontiguousarray(values, np.float32).tobytes()).hexdigest()[:16],
                "peak": centre.peak,
                "row": centre.row,
                "col": centre.col,
                "map_height": values.shape[0],
                "map_width": values.shape[1],
                **centre.box.columns(),
                **self._fit.to_source(centre.box, picked.image.region).columns("src_"),
                "rule": guide.rule if guide else None,
                "replaced": guide.replaced if guide else None,
                "picture": paths.get((method, layer)),
            }
            for column, cells in self.attributions.items():
                cells.append(row[column])


@dataclass(frozen=True, eq=False)
class _Subject:
    """A target of one image, and the output that it is for. logits: float32, of the image. drawn: whether pictures are made."""

    picked: Picked
    target: Target
    number: int
    logits: np.ndarray
    drawn: bool
