"""The toy of docs/metrics.md, and where the published maps lie."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from attnvis.types import Truth

MATERIAL = Path(os.environ.get("ATTNVIS_MATERIAL") or Path(__file__).parents[3] / "shared" / "material")
REFERENCE = MATERIAL / "metric_reference"
published = [
    pytest.mark.material,
    pytest.mark.skipif(not REFERENCE.is_dir(), reason="no folder ATTNVIS_MATERIAL of published maps"),
]


def toy():
    """A map of 6 x 8, and where five people looked: one pixel twice."""
    y, x = np.mgrid[:6, :8]
    scores = 10 - abs(x - 5) - 2 * abs(y - 2) + 0.5 * (x * y % 3)
    looks = np.exp(-((x - 5) ** 2 + (y - 2) ** 2) / 4)
    places = np.array([(2, 5), (2, 4), (3, 6), (5, 1), (2, 5)], float)
    others = np.array([(3, 4), (2, 4), (3, 3), (2, 4), (0, 0), (5, 7)], float)
    return torch.from_numpy(scores)[None], Truth((6, 8), fixations=places, others=others, looks=looks)


def read_grey(path):
    return cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
