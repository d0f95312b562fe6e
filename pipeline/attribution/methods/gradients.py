"""Gradients by the pixels: plain, and guided, where ReLUs let nothing negative back."""

from __future__ import annotations

from pipeline.attribution.methods.method import AtPixels, Method

GRADIENT = Method(
    name="gradient",
    title="gradient",
    paper="Simonyan et al., 2014",
    looks_at="pixels",
    draws="colours",
    needs=lambda layer: (AtPixels(),),
    explain=lambda evidence, layer: evidence.of(AtPixels()),
)
GUIDED_BACKPROP = Method(
    name="guided_backprop",
    title="guided backprop",
    paper="Springenberg et al., 2015",
    looks_at="pixels",
    draws="colours",
    needs=lambda layer: (AtPixels(guided=True),),
    explain=lambda evidence, layer: evidence.of(AtPixels(guided=True)),
)
