"""Directions found in a sample of vectors: principal, independent and non-negative components, centroids, discriminants."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from pipeline.errors import WrongSpec, require_module
from pipeline.store.direction_sets import DirectionSet

_Parts = tuple[str, np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # form, encoder, offset, decoder, mean
_NO_VARIANCE = 1e-12  # of the largest: what float32 rounds
_SHRINKAGE = 0.3  # of the covariance of discriminants; results hardly depend on it between 0.1 and 0.6


@dataclass(frozen=True, eq=False)
class SetPlan:
    """A set to be found: so many directions of a layer, by a method.

    name: of the set, the method and the number: "nmf64". network: its digest.
    """

    layer: str
    name: str
    network: str
    seed: int = 0

    @property
    def method(self) -> str:
        return self.name.rstrip("0123456789")

    @property
    def count(self) -> int:
        return int(re.sub("^[a-z]+", "", self.name))


def check_size(asked: SetPlan, n: int, channels: int) -> None:
    """Raises: WrongSpec, for a sample of `n` vectors that is too small or has too few channels for a method."""
    count, where = asked.count, _where(asked)
    if n <= count:
        raise WrongSpec(f"{where} needs more than {count} vectors; the sample has {n}. Raise directions.vectors, or add images.")
    if asked.method in ("pca", "ica", "nmf") and count > channels:
        raise WrongSpec(f"{where}: its {channels} channels have no more components. Name {asked.method}{channels} or fewer.")


def check_sample(asked: SetPlan, vectors: np.ndarray) -> None:
    """Raises: WrongSpec, for a sample as `check_size` does, or one that the method cannot take."""
    check_size(asked, *vectors.shape)
    if asked.method == "nmf" and (low := float(vectors.min(initial=0))) < 0:
        raise WrongSpec(
            f"{_where(asked)}: non-negative components need a layer without negative values, such as one behind a ReLU; "
            f"the least in the sample is {low:.4g}. Name such a layer, or another method."
        )


def _where(asked: SetPlan) -> str:
    return f"directions.methods: {asked.name!r} of {asked.layer}"


def fit_directions(asked: SetPlan, vectors: np.ndarray) -> DirectionSet:
    """Find directions by scikit-learn: pca, ica, nmf, kmeans or lda, strongest first. For the formulas see docs/directions.md.

    Args:
        vectors: float32 (n, channels), finite.

    Raises: WrongSpec, as `check_sample` does; UnusableModel, without scikit-learn.
    """
    check_sample(asked, vectors)
    require_scikit_learn()
    form, *arrays = _FITS[asked.method](asked, vectors)
    encoder, offset, decoder, mean = (np.ascontiguousarray(array, np.float32) for array in arrays)
    return DirectionSet(asked.layer, asked.name, asked.method, form, encoder, offset, decoder, mean, network=asked.network)


def require_scikit_learn() -> None:
    """Raises: UnusableModel, where it is not installed."""
    require_module("sklearn", "directions need the package scikit-learn")


def _pca(asked: SetPlan, vectors: np.ndarray) -> _Parts:
    from sklearn.decomposition import PCA

    solver = "covariance_eigh" if len(vectors) >= vectors.shape[1] else "full"
    with np.errstate(invalid="ignore"):  # the shares of no variance at all, which nothing reads
        fitted = PCA(asked.count, svd_solver=solver).fit(vectors.astype(np.float64))
    varied = _varies(fitted.explained_variance_ * (len(vectors) - 1), vectors)[:, np.newaxis]
    components = np.where(varied, _signs(fitted.components_, vectors, fitted.mean_) * fitted.components_, 0)
    return _affine(components.T, components, fitted.mean_)


def _ica(asked: SetPlan, vectors: np.ndarray) -> _Parts:
    from sklearn.decomposition import FastICA

    solver = "eigh" if len(vectors) >= vectors.shape[1] else "svd"
    dimensions = min(asked.count, _dimensions(vectors))
    unmixing, mixing = np.zeros((2, asked.count, vectors.shape[1]))
    if not dimensions:
        return _affine(unmixing.T, mixing, vectors.mean(axis=0, dtype=np.float64))
    ica = FastICA(dimensions, whiten="unit-variance", whiten_solver=solver, random_state=asked.seed, max_iter=400, tol=1e-3)
    with _quiet():
        ica.fit(vectors.astype(np.float64))
    order = np.argsort(-(ica.mixing_**2).sum(axis=0), kind="stable")
    unmixing[:dimensions], mixing[:dimensions] = ica.components_[order], ica.mixing_.T[order]
    signs = _signs(unmixing, vectors, ica.mean_)
    return _affine((signs * unmixing).T, signs * mixing, ica.mean_)


def _dimensions(vectors: np.ndarray) -> int:
    """In how many dimensions the vectors vary: fewer than they have channels where some are dead, or the same as others."""
    centred = vectors - vectors.mean(axis=0, dtype=np.float64)
    scatter = np.linalg.eigvalsh(centred.T @ centred if len(vectors) >= vectors.shape[1] else centred @ centred.T)
    return int(_varies(scatter, vectors).sum())


def _varies(scatter: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """Along which components vectors vary, by their sums of squares along them, and not only because float32 rounds."""
    return scatter > max(_NO_VARIANCE * scatter.max(), np.finfo(np.float32).eps ** 2 * np.square(vectors).sum(dtype=np.float64))


def _nmf(asked: SetPlan, vectors: np.ndarray) -> _Parts:
    from sklearn.decomposition import NMF

    nmf = NMF(asked.count, init="nndsvda", random_state=asked.seed, max_iter=200, tol=1e-3)
    with _quiet():
        weights = nmf.fit_transform(vectors)
    lengths = np.linalg.norm(nmf.components_, axis=1)
    used = np.where(lengths > 0, lengths, 1)
    order = np.argsort(-((weights * lengths) ** 2).sum(axis=0), kind="stable")
    components = (nmf.components_ / used[:, np.newaxis])[order].astype(np.float64)
    none = np.zeros(asked.count), np.zeros(vectors.shape[1])
    return "nonnegative", components.T, none[0], components, none[1]


def _kmeans(asked: SetPlan, vectors: np.ndarray) -> _Parts:
    centres, _ = _clusters(asked, vectors)
    centres /= np.maximum(np.linalg.norm(centres, axis=1, keepdims=True), 1e-12)
    none = np.zeros(asked.count), np.zeros(vectors.shape[1])
    return "cosine", centres.T, none[0], centres, none[1]


def _clusters(asked: SetPlan, vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """k-means of the vectors scaled to length 1: the centres, largest cluster first, and each vector's cluster, -1 for zeros."""
    from sklearn.cluster import KMeans

    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    units = (vectors / np.where(lengths > 0, lengths, 1))[lengths[:, 0] > 0]
    if len(units) <= asked.count:
        raise WrongSpec(
            f"directions.methods: {asked.name!r} of {asked.layer} needs more than {asked.count} vectors that are not "
            f"zero, but the sample has {len(units)}. Raise directions.vectors, or name fewer."
        )
    with _quiet():
        fitted = KMeans(asked.count, n_init=1, max_iter=100, random_state=asked.seed).fit(units)
    order = np.argsort(-np.bincount(fitted.labels_, minlength=asked.count), kind="stable")
    clusters = np.full(len(vectors), -1)
    clusters[lengths[:, 0] > 0] = np.argsort(order)[fitted.labels_]
    return fitted.cluster_centers_[order].astype(np.float64), clusters


def _lda(asked: SetPlan, vectors: np.ndarray) -> _Parts:
    """Linear discriminants (Fisher 1936) of the clusters that k-means finds: what tells each of them from all vectors."""
    _, clusters = _clusters(asked, vectors)
    mean, channels = vectors.mean(axis=0, dtype=np.float64), vectors.shape[1]
    covariance = np.zeros((channels, channels))
    for part in np.array_split(vectors, max(1, len(vectors) // 4096)):
        covariance += (part - mean).T @ (part - mean) / len(vectors)
    means = np.zeros((asked.count, channels))
    for number in np.unique(clusters[clusters >= 0]):
        means[number] = vectors[clusters == number].mean(axis=0, dtype=np.float64) - mean
    spread = np.trace(covariance) / channels or 1.0
    shrunk = (1 - _SHRINKAGE) * covariance + _SHRINKAGE * spread * np.eye(channels)
    encoder = np.linalg.solve(shrunk, means.T)
    encoder /= np.maximum(np.linalg.norm(encoder, axis=0), 1e-12)
    along = covariance @ encoder
    decoder = np.linalg.pinv(encoder.T @ along, hermitian=True) @ along.T  # the least squares from responses back to vectors
    return _affine(encoder, decoder, mean)


_FITS: dict[str, Callable[[SetPlan, np.ndarray], _Parts]] = {
    "pca": _pca,
    "ica": _ica,
    "nmf": _nmf,
    "kmeans": _kmeans,
    "lda": _lda,
}


def _affine(encoder: np.ndarray, decoder: np.ndarray, mean: np.ndarray) -> _Parts:
    return "linear", encoder, -mean @ encoder, decoder, mean


def _signs(components: np.ndarray, vectors: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """For each component 1 where the sample reaches further along it than against it, else -1: (directions, 1)."""
    along = (vectors - mean) @ components.T
    return np.where((along**3).sum(axis=0) < 0, -1.0, 1.0)[:, np.newaxis]


@contextmanager
def _quiet() -> Iterator[None]:
    """scikit-learn does not warn that it stopped before it converged, for what it reached is measured; nor of dead channels."""
    from sklearn.exceptions import ConvergenceWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", "There are some small singular values")  # of dimensions that are left out
        yield


def unsettled(directions: DirectionSet, vectors: np.ndarray) -> float:
    """How far the responses of non-negative components are from the least squares that their steps lead to: the difference, as
    a share of the vector's strongest response, that one vector in twenty exceeds. Components that are much alike take more steps.

    Args:
        vectors: float32 (n, channels), of which up to 200 are looked at.
    """
    from scipy.optimize import nnls

    some = vectors[np.linspace(0, len(vectors) - 1, min(len(vectors), 200)).round().astype(int)]
    components = directions.decoder.T.astype(np.float64)
    try:
        exact = np.array([nnls(components, vector.astype(np.float64), maxiter=100 * directions.count)[0] for vector in some])
    except RuntimeError:  # components so alike that the solver does not settle either
        return 1.0
    strongest = exact.max(axis=1)
    differences = np.abs(directions.respond(some) - exact).max(axis=1)
    return float(np.quantile(differences / np.where(strongest > 0, strongest, 1), 0.95))


def explained(directions: DirectionSet, vectors: np.ndarray) -> float:
    """The share of the vectors' variance that a set keeps: 1 - |x - restored|² / |x - mean|²; NaN where there is none.

    Args:
        vectors: float32 (n, channels).
    """
    mean = vectors.mean(axis=0, dtype=np.float64).astype(np.float32)  # in float32, vectors that are all the same would vary
    total = float(((vectors - mean) ** 2).sum(dtype=np.float64))
    rest = sum(
        float(((part - directions.restore(part)) ** 2).sum(dtype=np.float64))
        for part in np.array_split(vectors, max(1, len(vectors) // 4096))
    )
    return 1 - rest / total if total > 0 else float("nan")
