"""Raw maps -> pictures, plots and pages: the only room that rescales for the eye."""

from typing import TYPE_CHECKING

from attnvis.lazy import lazily

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
    __getattr__, __dir__ = lazily(__name__, HOMES)
