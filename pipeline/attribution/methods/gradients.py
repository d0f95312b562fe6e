"""Gradients by the pixels: plain, times the pixels, and with ReLUs that let nothing negative back."""

from __future__ import annotations

from typing import Literal

import numpy as np

from pipeline.attribution.methods.method import AtPixels, Evidence, Method


def _gradient(name: str, title: str, paper: str, relus: Literal["plain", "guided", "deconvnet"]) -> Method:
    quantity = AtPixels(relus)
    return Method(
        name, title, paper, "pixels", "colours", lambda layer: (quantity,), lambda evidence, layer: evidence.of(quantity)
    )


def _times_the_input(evidence: Evidence, layer: str | None) -> np.ndarray:
    """The gradient times the pixels, summed over the bands."""
    return np.einsum("nthwc,nhwc->nthw", evidence.of(AtPixels()), evidence.images[..., : evidence.bands])


GRADIENT = _gradient("gradient", "gradient", "Simonyan et al., 2014", "plain")
GUIDED_BACKPROP = _gradient("guided_backprop", "guided backprop", "Springenberg et al., 2015", "guided")
DECONVNET = _gradient("deconvnet", "deconvnet", "Zeiler and Fergus, 2014", "deconvnet")
INPUT_X_GRADIENT = Method(
    name="input_x_gradient",
    title="input x gradient",
    paper="Shrikumar et al., 2016",
    looks_at="pixels",
    draws="signed",
    needs=lambda layer: (AtPixels(),),
    explain=_times_the_input,
)
