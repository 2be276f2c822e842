"""Any CNN cut at layers: a batch of photos in, patch features out."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attnvis.backbone.backbone import Backbone
    from attnvis.backbone.sources import efficientnet_lite, timm, torchvision

__all__ = ["Backbone", "efficientnet_lite", "timm", "torchvision"]

HOMES = {
    "Backbone": "attnvis.backbone.backbone",
    "efficientnet_lite": "attnvis.backbone.sources",
    "timm": "attnvis.backbone.sources",
    "torchvision": "attnvis.backbone.sources",
}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Imported when it is asked for, so that --help and configs need no torch."""
        if name in HOMES:
            return getattr(import_module(HOMES[name]), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
