"""ExplainedParts: what is said of finished batches, in parts/gradcam, so that a stage that was killed goes on after them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.attribution.explainer import Explained, Explainer, ImageBatch
from pipeline.store.arrays import load, save
from pipeline.store.places import Place

_LAYOUT = 2  # of the files: another version's are not read


@dataclass(frozen=True)
class ExplainedParts:
    """A file for each batch, named for all that its maps depend on.

    folder: of the files. depends: what maps depend on beside the images and their targets: values that JSON can hold.
    """

    folder: Place
    depends: Any

    def explain(self, explainer: Explainer, batch: ImageBatch) -> Explained:
        """Explain a batch and keep the result, or return what an earlier run has kept. Raises: StoreFailed."""
        path = self.folder / f"{self._key(batch)}.npz"
        arrays = load(path)
        if arrays is not None:
            return _explained(batch, arrays)
        explained = explainer.explain(batch)
        save(path, _arrays(explained))
        return explained

    def _key(self, batch: ImageBatch) -> str:
        digest = hashlib.sha256(json.dumps([_LAYOUT, self.depends, batch.asked]).encode())
        digest.update(np.ascontiguousarray(batch.images).tobytes())
        return digest.hexdigest()[:20]


def remove_parts(folder: Place) -> None:
    """Remove all files of a folder, once the results are in place."""
    for path in [*folder.glob("*.npz")]:
        path.unlink()


def _arrays(explained: Explained) -> list[Any]:
    """The arrays of a batch behind the names of what they are, as JSON."""
    named: dict[str, Mapping[Any, np.ndarray]] = {"maps": explained.maps, "gaps": explained.gaps, "sums": explained.sums}
    named |= {"channels": explained.channels, "broken": explained.broken}
    keys = [[name, key] for name, values in named.items() for key in values]
    arrays = [array for values in named.values() for array in values.values()]
    rows = [[[int(slot) for slot in row] for row in several] for several in (explained.slots, explained.nowhere)]
    return [json.dumps([*rows, keys]), explained.logits, explained.classes, explained.regions, *arrays]


def _explained(batch: ImageBatch, arrays: list[np.ndarray]) -> Explained:
    slots, nowhere, keys = json.loads(str(arrays[0]))
    logits, classes, regions = arrays[1:4]
    named: dict[str, dict[Any, np.ndarray]] = {"maps": {}, "gaps": {}, "sums": {}, "channels": {}, "broken": {}}
    for (name, key), array in zip(keys, arrays[4:], strict=True):
        named[name][tuple(key) if isinstance(key, list) else key] = array
    return Explained(batch, logits, classes, slots, nowhere=nowhere, regions=regions, **named)
