"""attnvis: where a CNN looks, and why.

    import attnvis
    result = attnvis.explain("cat.jpg", query="tabby")

explain         one photo and one question -> an Explanation
Explanation     scores, logits, weights, context, diagnostics and pictures of one answer
Backbone        any torch.nn.Module, cut at layers;  load_backbone: one by name, with its weights
Style           how maps are drawn;  read_maps: a run's raw numbers, back from their file
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attnvis.api import Explanation, explain
    from attnvis.backbone.backbone import Backbone
    from attnvis.backbone.sources import load_backbone
    from attnvis.pipeline.maps import read_maps
    from attnvis.render.overlays import Style

__all__ = ["Backbone", "Explanation", "Style", "explain", "load_backbone", "read_maps"]

HOMES = {
    "Backbone": "attnvis.backbone.backbone",
    "Explanation": "attnvis.api",
    "Style": "attnvis.render.overlays",
    "explain": "attnvis.api",
    "load_backbone": "attnvis.backbone.sources",
    "read_maps": "attnvis.pipeline.maps",
}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """torch is imported when work starts, so that --help and completion answer at once."""
        if name == "__version__":
            from importlib.metadata import version

            return version("attnvis")
        if name in HOMES:
            return getattr(import_module(HOMES[name]), name)
        raise AttributeError(f"module 'attnvis' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__, "__version__"])
