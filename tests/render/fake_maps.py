"""Photos and maps whose pixels are known."""

import math

import numpy as np

from attnvis.types import Box, Placement

H, W = 48, 112  # wide, and no multiple of the other: a transposed axis cannot pass unnoticed
TOPS = {  # matplotlib's tables, last entry, 0 ... 255
    "turbo": (122, 4, 3),
    "jet": (128, 0, 0),
    "viridis": (253, 231, 37),
    "magma": (252, 253, 191),
    "inferno": (252, 255, 164),
    "plasma": (240, 249, 33),
    "cividis": (254, 232, 56),
}


def ramp(height=H, width=W, low=1 / 32, high=256.0):
    """Grows from left to right, beyond both limits of the default style."""
    return np.exp2(np.linspace(math.log2(low), math.log2(high), width, dtype=np.float32))[None].repeat(
        height, 0
    )


def noise(height=H, width=W, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def plain(colour, height=H, width=W):
    return np.full((height, width, 3), colour, np.uint8)


def uniform(height=H, width=W, value=1.0):
    return np.full((height, width), value, np.float32)


def placed(grid, size, first=None, step=None):
    """Cells that tile the photo; `first` and `step` move them."""
    step = step or (size[0] / grid[0], size[1] / grid[1])
    return Placement(
        first or (step[0] / 2, step[1] / 2), step, grid, size, Box(0.0, 0.0, float(size[0]), float(size[1]))
    )


def cells_of(grid=(5, 7), seed=3):
    return np.exp2(np.random.default_rng(seed).uniform(-2, 6, grid)).astype(np.float32)
