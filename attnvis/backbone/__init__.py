"""Any CNN cut at layers: a batch of photos in, patch features out."""

from typing import TYPE_CHECKING

from attnvis.lazy import lazily

if TYPE_CHECKING:
    from attnvis.backbone.backbone import Backbone
    from attnvis.backbone.build import build_backbone
    from attnvis.backbone.sources import efficientnet_lite, timm, torchvision

__all__ = ["Backbone", "build_backbone", "efficientnet_lite", "timm", "torchvision"]

HOMES = {
    "Backbone": "attnvis.backbone.backbone",
    "build_backbone": "attnvis.backbone.build",
    "efficientnet_lite": "attnvis.backbone.sources",
    "timm": "attnvis.backbone.sources",
    "torchvision": "attnvis.backbone.sources",
}

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazily(__name__, HOMES)
