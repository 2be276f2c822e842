"""Saliency methods: a batch of photos in, answers out.  The names here are those that a config may call."""

from typing import TYPE_CHECKING

from attnvis.lazy import lazily

if TYPE_CHECKING:
    from attnvis.methods.attention import AttentionMethod
    from attnvis.methods.baselines import (
        cam,
        centre,
        eigencam,
        feature_norm,
        gradcam,
        gradcam_plus,
        integrated_gradients,
        layercam,
        occlusion,
        random_query,
        random_weights,
        scorecam,
        spectral_residual,
        uniform,
    )

__all__ = [
    "AttentionMethod",
    "cam",
    "centre",
    "eigencam",
    "feature_norm",
    "gradcam",
    "gradcam_plus",
    "integrated_gradients",
    "layercam",
    "occlusion",
    "random_query",
    "random_weights",
    "scorecam",
    "spectral_residual",
    "uniform",
]

HOMES = dict.fromkeys(__all__, "attnvis.methods.baselines") | {"AttentionMethod": "attnvis.methods.attention"}

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazily(__name__, HOMES)
