"""The table of attribution methods: to add one, write a file that declares it and name it here."""

from __future__ import annotations

from pipeline.attribution.methods.ablation_cam import ABLATION_CAM
from pipeline.attribution.methods.attention import ATTENTION_GRADIENTS, ATTENTION_ROLLOUT
from pipeline.attribution.methods.class_activation import GRADCAM, GRADCAM_PLUS_PLUS, HIRESCAM, LAYERCAM, XGRADCAM
from pipeline.attribution.methods.eigen_cam import EIGEN_CAM
from pipeline.attribution.methods.expected_gradients import EXPECTED_GRADIENTS
from pipeline.attribution.methods.gradients import DECONVNET, GRADIENT, GUIDED_BACKPROP, INPUT_X_GRADIENT
from pipeline.attribution.methods.guided_gradcam import GUIDED_GRADCAM
from pipeline.attribution.methods.integrated_gradients import INTEGRATED_GRADIENTS
from pipeline.attribution.methods.method import Baseline, Method, Side
from pipeline.attribution.methods.noise import KINDS, around
from pipeline.attribution.methods.occlusion import OCCLUSION
from pipeline.attribution.methods.relevance import LRP
from pipeline.attribution.methods.rise import RISE
from pipeline.attribution.methods.score_cam import SCORE_CAM
from pipeline.attribution.methods.superpixel_models import KERNEL_SHAP, LIME

__all__ = ["METHODS", "Baseline", "Side", "method_named"]

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        GRADCAM,
        HIRESCAM,
        GRADCAM_PLUS_PLUS,
        XGRADCAM,
        LAYERCAM,
        SCORE_CAM,
        ABLATION_CAM,
        EIGEN_CAM,
        GRADIENT,
        INPUT_X_GRADIENT,
        GUIDED_BACKPROP,
        DECONVNET,
        GUIDED_GRADCAM,
        INTEGRATED_GRADIENTS,
        EXPECTED_GRADIENTS,
        OCCLUSION,
        RISE,
        KERNEL_SHAP,
        LIME,
        *LRP,
        ATTENTION_ROLLOUT,
        ATTENTION_GRADIENTS,
    )
}
METHODS |= {method.name: method for method in (around(kind, GRADIENT) for kind in KINDS)}


def method_named(name: str) -> Method:
    """A method of the table, or one of those that average over noise around it: "smoothgrad-gradcam". Raises: KeyError."""
    kind, _, inner = name.partition("-")
    return METHODS[name] if name in METHODS or kind not in KINDS else around(kind, METHODS[inner])
