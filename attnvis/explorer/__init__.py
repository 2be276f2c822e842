"""Click a patch, see its attention: one photo's features in one HTML file that computes the rest itself."""

from attnvis.explorer.page import Explorer, Origin, explorer

__all__ = ["Explorer", "Origin", "explorer"]
