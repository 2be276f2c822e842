"""What is asked of the patches.  The functions here are those that a config may call."""

from attnvis.attention.query.kinds import box, class_, distance, mean, norm, pca, point, random, rarity
from attnvis.attention.query.language import formula, several

__all__ = ["box", "class_", "distance", "formula", "mean", "norm", "pca", "point", "random", "rarity", "several"]
