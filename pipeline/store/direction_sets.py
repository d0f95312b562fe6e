"""DirectionSet: directions in the space of a layer's channels, how a vector responds to them, and the file that holds them."""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline.errors import MissingInput, WrongSpec, quoted
from pipeline.store.files import file_name, write_bytes
from pipeline.store.places import Place

FOLDER = "directions"  # of a job's folder
AT = "@"  # between the name of a layer and that of its directions
FORMS = ("linear", "nonnegative", "cosine", "topk", "jumprelu")
PROJECTION_STEPS = 50  # of the non-negative least squares
_ARRAYS = ("encoder", "offset", "decoder", "mean", "threshold")


@dataclass(frozen=True, eq=False)
class DirectionSet:
    """Directions of one layer: a layer of their own, `BASE@NAME`, with a channel for each.

    A vector x responds with z = x · encoder + offset, made into a response by the form: `linear`, z; `nonnegative`, the u of no
    negative numbers for which |x - u · decoder|² is least, by PROJECTION_STEPS steps (`projected`); `cosine`,
    (x · encoder) / |x|, or 0 where x is; `topk`, the `keep` largest of max(0, z), zero elsewhere; `jumprelu`, z where it is above
    `threshold`, else 0. What the responses stand for is response · decoder + mean.

    base: the layer. name: of the set, such as "nmf64". method: by which they were found.
    encoder: float32 (channels, directions). offset, threshold: float32 (directions,). decoder: float32 (directions, channels).
    mean: float32 (channels,). labels: a name for each direction; empty where they have none.
    network: the digest of the network that they were fitted to.
    """

    base: str
    name: str
    method: str
    form: str
    encoder: np.ndarray
    offset: np.ndarray
    decoder: np.ndarray
    mean: np.ndarray
    threshold: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    keep: int = 0
    labels: Sequence[str] = ()
    network: str = ""

    @property
    def layer(self) -> str:
        """The name of the layer that they are."""
        return f"{self.base}{AT}{self.name}"

    @property
    def count(self) -> int:
        """The number of directions."""
        return int(self.encoder.shape[1])

    def gram(self) -> np.ndarray:
        """The products of the decoder's rows with one another: float32 (directions, directions)."""
        return self.decoder @ self.decoder.T

    def respond(self, vectors: np.ndarray) -> np.ndarray:
        """The responses of vectors, (…, channels) to float32 (…, directions); the network's own pass computes the same."""
        product = vectors @ self.encoder
        if self.form == "cosine":
            length = np.sqrt((vectors**2).sum(axis=-1, keepdims=True))
            return np.divide(product, length, out=np.zeros_like(product), where=length > 0)
        z = product + self.offset
        if self.form == "linear":
            return z
        if self.form == "nonnegative":
            return np.asarray(projected(product, self.gram(), np.matmul, lambda values: np.maximum(values, 0), _uphill))
        if self.form == "jumprelu":
            return np.where(z > self.threshold, z, np.float32(0))
        z = np.maximum(z, 0)
        if self.form == "topk":
            floor = np.partition(z, -self.keep, axis=-1)[..., -self.keep :].min(axis=-1, keepdims=True)
            return np.where(z >= floor, z, np.float32(0))
        return z

    def restore(self, vectors: np.ndarray) -> np.ndarray:
        """The projection of vectors on the directions, (…, channels); for centroids, on the nearest of them."""
        responses = self.respond(vectors)
        if self.form == "cosine":
            nearest = responses >= responses.max(axis=-1, keepdims=True)
            responses = np.where(nearest, responses, 0) * np.sqrt((vectors**2).sum(axis=-1, keepdims=True))
        return np.asarray(responses @ self.decoder + self.mean)

    def digest(self) -> str:
        """16 hexadecimal digits of all that responses depend on."""
        digest = hashlib.sha256(json.dumps([self.layer, self.form, self.keep]).encode())
        for name in _ARRAYS:
            digest.update(np.ascontiguousarray(getattr(self, name)).tobytes())
        return digest.hexdigest()[:16]

    def save(self, folder: Place) -> str:
        """Write the set into the folder of a job. Returns: the path in it. Raises: StoreFailed."""
        path = f"{FOLDER}/{file_name(self.layer)}.npz"
        about = {key: getattr(self, key) for key in ("base", "name", "method", "form", "keep", "network")}
        file = io.BytesIO()
        np.savez(
            file,
            about=np.array(json.dumps({**about, "labels": list(self.labels)})),
            **{name: getattr(self, name) for name in _ARRAYS},
        )
        write_bytes(folder / path, file.getvalue())
        return path


def projected(
    products: Any,
    gram: np.ndarray,
    times: Callable[[Any, np.ndarray], Any],
    positive: Callable[[Any], Any],
    uphill: Callable[[Any], Any],
) -> Any:
    """The least squares without negative numbers, by projected gradients from zero with Nesterov's momentum, which each vector
    loses where it leads uphill (FISTA, Beck and Teboulle 2009; O'Donoghue and Candès 2015): a fixed number of steps, so that
    NumPy and the network's graph compute the same.

    Args:
        products: x · decoder transposed. gram: as of `DirectionSet.gram`.
        times, positive, uphill: for arrays such as `products`: the product of a last axis with a matrix; max(0, …); and, for
            the terms of a scalar product along the last axis, which is kept, 1.0 where their sum is above zero, else 0.0.
    """
    rate = np.float32(1 / max(float(np.linalg.eigvalsh(gram.astype(np.float64))[-1]), 1e-30))
    responses = positive(rate * products)
    ahead, momentum = responses, 1.0
    for _ in range(PROJECTION_STEPS - 1):
        before, responses = responses, positive(ahead + rate * (products - times(ahead, gram)))
        move = responses - before
        lost = uphill((ahead - responses) * move)
        following = (1 + (1 + 4 * momentum * momentum) ** 0.5) / 2
        ahead = responses + (1 - lost) * (momentum - 1) / following * move
        momentum = lost + (1 - lost) * following
    return responses


def _uphill(terms: np.ndarray) -> np.ndarray:
    return (terms.sum(axis=-1, keepdims=True) > 0).astype(np.float32)


def load_sets(folder: Place) -> list[DirectionSet]:
    """The direction sets of a job's folder, by their layers' names.

    Raises: MissingInput, where there are none; WrongSpec, for a file that is none.
    """
    paths: list[Place] = [*(folder / FOLDER).glob("*.npz")]
    if not paths:
        raise MissingInput(f"{folder} holds no directions. Name the folder of a job whose stage `directions` has run.")
    return sorted((_load(path) for path in paths), key=lambda directions: directions.layer)


def _load(path: Place) -> DirectionSet:
    try:
        data = path.read_bytes()
        if sum(member.file_size for member in zipfile.ZipFile(io.BytesIO(data)).infolist()) > len(data):
            raise ValueError("its arrays are compressed")  # `save` does not, and a few bytes may become more than there is memory
        with np.load(io.BytesIO(data), allow_pickle=False) as saved:
            arrays: dict[str, Any] = {name: np.asarray(saved[name], np.float32) for name in _ARRAYS}
            about = json.loads(str(saved["about"]))
            named = [about[name] for name in ("base", "name", "method", "form", "network")] + [*about["labels"]]
            if not all(isinstance(text, str) for text in named) or not isinstance(about["keep"], int):
                raise ValueError("what is said about them is of other types")
            loaded = DirectionSet(**about, **arrays)
        channels, count = loaded.encoder.shape
        shapes = [loaded.offset.shape, loaded.decoder.shape, loaded.mean.shape, loaded.threshold.shape]
        right = [(count,), (count, channels), (channels,), (count if loaded.form == "jumprelu" else 0,)]
        fits = (
            shapes == right and loaded.form in FORMS and 0 <= loaded.keep <= count and (loaded.form != "topk" or loaded.keep > 0)
        )
        if not fits or not all(np.isfinite(array).all() for array in arrays.values()):
            raise ValueError("its arrays do not fit together")
    except Exception as error:  # of whatever kind damage makes zipfile, zlib, NumPy or json raise
        raise WrongSpec(f"{path} holds no directions ({quoted(str(error))}). Run the stage `directions` again.") from None
    return loaded
