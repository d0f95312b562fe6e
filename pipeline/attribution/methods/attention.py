"""Attention as an explanation: what the token that is read out looked at through all blocks, plain or weighed by gradients."""

from __future__ import annotations

from pipeline.attribution.methods.method import AtAttention, Method

ATTENTION_ROLLOUT = Method(
    name="attention_rollout",
    title="attention rollout",
    paper="Abnar and Zuidema, 2020",
    looks_at="pixels",
    draws="heat",
    needs=lambda layer: (AtAttention(),),
    explain=lambda evidence, layer: evidence.of(AtAttention()),
)
ATTENTION_GRADIENTS = Method(
    name="attention_gradients",
    title="attention and gradients",
    paper="Chefer et al., 2021",
    looks_at="pixels",
    draws="heat",
    needs=lambda layer: (AtAttention(by_gradients=True),),
    explain=lambda evidence, layer: evidence.of(AtAttention(by_gradients=True)),
)
