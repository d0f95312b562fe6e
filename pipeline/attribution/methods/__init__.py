"""The table of attribution methods: to add one, write a file that declares it and name it here."""

from __future__ import annotations

from pipeline.attribution.methods.attention import ATTENTION_GRADIENTS, ATTENTION_ROLLOUT
from pipeline.attribution.methods.class_activation import GRADCAM, GRADCAM_PLUS_PLUS, HIRESCAM
from pipeline.attribution.methods.gradients import GRADIENT, GUIDED_BACKPROP
from pipeline.attribution.methods.guided_gradcam import GUIDED_GRADCAM
from pipeline.attribution.methods.integrated_gradients import INTEGRATED_GRADIENTS
from pipeline.attribution.methods.method import Method

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        GRADCAM,
        HIRESCAM,
        GRADCAM_PLUS_PLUS,
        GRADIENT,
        GUIDED_BACKPROP,
        GUIDED_GRADCAM,
        INTEGRATED_GRADIENTS,
        ATTENTION_ROLLOUT,
        ATTENTION_GRADIENTS,
    )
}
