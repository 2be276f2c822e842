"""Raw maps -> pictures, plots and pages: the only room that rescales for the eye."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from attnvis.render.overlays import Style, encode, heatmap, overlay, write
    from attnvis.render.panels import colour_bar, contact_sheet, panel

__all__ = ["Style", "colour_bar", "contact_sheet", "encode", "heatmap", "overlay", "panel", "write"]

HOMES = {
    "Style": "attnvis.render.overlays",
    "encode": "attnvis.render.overlays",
    "heatmap": "attnvis.render.overlays",
    "overlay": "attnvis.render.overlays",
    "write": "attnvis.render.overlays",
    "colour_bar": "attnvis.render.panels",
    "contact_sheet": "attnvis.render.panels",
    "panel": "attnvis.render.panels",
}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        """Imported when it is asked for, so that --help and configs need no torch."""
        if name in HOMES:
            return getattr(import_module(HOMES[name]), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
