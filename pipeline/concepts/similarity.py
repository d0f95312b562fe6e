"""The measures of CLIP-Dissect: how similar a channel's responses to images are to those of a concept.

Oikarinen & Weng 2023, "CLIP-Dissect: Automatic Description of Neuron Representations in Deep Vision Networks". All take the
concepts' matrix, float64 (images, concepts): the cosine of each image's embedding and each concept's, and the responses,
float64 (images, channels). All return float64 (concepts, channels), higher for more similar.
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np

Measure = Literal["cosine", "rank_reorder", "wpmi", "soft_wpmi"]

_LEAST = 1e-7  # added to probabilities before their logarithm
_POWER = 3  # of the norm of rank_reorder


def cosine(concepts: np.ndarray, responses: np.ndarray) -> np.ndarray:
    """The cosine of a concept's column and a channel's; NaN for a column of zeros."""
    norms = np.linalg.norm(concepts, axis=0)[:, None] * np.linalg.norm(responses, axis=0)
    return concepts.T @ responses / np.where(norms > 0, norms, np.nan)


def rank_reorder(concepts: np.ndarray, responses: np.ndarray) -> np.ndarray:
    """Less the norm, of power 3, of what changes when a channel's responses are put into the order of a concept's column.

    It scales with the responses, so that channels compare only if they are standardised.
    """
    ranks = concepts.argsort(axis=0, kind="stable").argsort(axis=0, kind="stable")
    values = np.empty((concepts.shape[1], responses.shape[1]))
    for channel, column in enumerate(responses.T):
        reordered = np.sort(column)[ranks]
        values[:, channel] = -((np.abs(reordered - column[:, None]) ** _POWER).sum(axis=0) ** (1 / _POWER))
    return values


def wpmi(concepts: np.ndarray, responses: np.ndarray, strongest: int = 28, others: np.ndarray | None = None) -> np.ndarray:
    """Weighted pointwise mutual information of a concept and the `strongest` images of a channel: log p(t|B) - 0.6 log p(t).

    p(t|x) is the softmax, over concepts, of twice the concepts' matrix; p(t|B) its product over the strongest images; p(t)
    the mean of p(t|B) over the channels.

    Args:
        others: the responses of the channels over which p(t) is the mean, where they are not these: (images, others).
    """
    logs = np.log(np.exp(_log_softmax(2 * concepts)) + _LEAST)

    def given(responses: np.ndarray) -> np.ndarray:
        return sum((logs[images] for images in _strongest(responses, strongest)), np.zeros(()))

    return _less_prior(given(responses), given(responses if others is None else others), 0.6)


def soft_wpmi(concepts: np.ndarray, responses: np.ndarray, strongest: int = 100, others: np.ndarray | None = None) -> np.ndarray:
    """The same with images that belong to the strongest by a probability: 0.998 for the first, down to 0.97 for the last.

    log p(t|B) is the sum over the strongest images of log(1 + p(x in B) (p(t|x) - 1)), with p(t|x) the softmax of ten times
    the concepts' matrix; the prior weighs 1.
    """
    probabilities = np.exp(_log_softmax(10 * concepts))

    def given(responses: np.ndarray) -> np.ndarray:
        total, chosen = np.zeros((responses.shape[1], concepts.shape[1])), _strongest(responses, strongest)
        for rank, images in enumerate(chosen):
            belongs = 0.998 - rank / len(chosen) * (0.998 - 0.97)
            total += np.log(1 + belongs * (probabilities[images] - 1) + _LEAST)
        return total

    return _less_prior(given(responses), given(responses if others is None else others), 1.0)


def _log_softmax(values: np.ndarray) -> np.ndarray:
    from scipy.special import log_softmax  # which takes long to import

    logs: np.ndarray = log_softmax(values, axis=1)
    return logs


def _strongest(responses: np.ndarray, count: int) -> np.ndarray:
    """The images with the strongest responses of each channel, strongest first, the earlier among equals: (count, channels)."""
    return np.argsort(-responses, axis=0, kind="stable")[:count]


def _less_prior(conditional: np.ndarray, of_others: np.ndarray, weight: float) -> np.ndarray:
    """log p(t|B) of every channel and concept, less the weighted logarithm of its mean over others."""
    from scipy.special import logsumexp  # which takes long to import

    prior = logsumexp(of_others, axis=0) - np.log(len(of_others))
    values: np.ndarray = (conditional - weight * prior).T
    return values


def strongest_of(measure: Measure, images: int) -> int | None:
    """How many strongest images a measure looks at: as in the paper, but a tenth of the images at most; None: all images."""
    paper = {"wpmi": 28, "soft_wpmi": 100}.get(measure)
    return None if paper is None else max(1, min(paper, images // 10))


def similarity(measure: Measure, concepts: np.ndarray, responses: np.ndarray, others: np.ndarray | None = None) -> np.ndarray:
    """A measure of finite responses, standardised for the one that needs it; NaN for channels that do not vary.

    Args:
        others: the responses of the channels that the prior of a mutual information is the mean over; absent: these.

    Raises: ValueError, for an unknown measure.
    """
    if measure not in get_args(Measure):
        raise ValueError(f"{measure!r} is no measure")
    varied = np.ptp(responses, axis=0) > 0
    values = np.full((concepts.shape[1], responses.shape[1]), np.nan)
    if not varied.any():
        return values
    varying, strongest = responses[:, varied], strongest_of(measure, len(responses))
    if strongest is not None:
        others = varying if others is None else others[:, np.ptp(others, axis=0) > 0]
        values[:, varied] = (wpmi if measure == "wpmi" else soft_wpmi)(concepts, varying, strongest, others)
    elif measure == "cosine":
        values[:, varied] = cosine(concepts, varying)
    else:
        values[:, varied] = rank_reorder(concepts, (varying - varying.mean(axis=0)) / varying.std(axis=0))
    return values
