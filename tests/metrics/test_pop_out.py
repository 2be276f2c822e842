"""Pop-out metrics by hand, and on arrays whose target is known."""

import numpy as np
import pytest
import torch

from attnvis.metrics.pop_out import found_first, gsi
from attnvis.types import Truth

TARGET = np.array([[True, True, False, False, False]])
OTHERS = np.array([[False, False, True, True, False]])
TRUTH = Truth((1, 5), mask=TARGET, distractors=OTHERS)


def test_gsi_compares_the_means_of_the_stretched_map():
    maps = torch.tensor([[[3.0, 2, 1, 2, 0]], [[0.0, 0, 4, 2, 1]], [[5.0, 5, 5, 5, 5]]])
    # stretched: (1, 2/3) against (1/3, 2/3); (0, 0) against (1, 1/2); all 0
    assert gsi(maps, TRUTH).tolist() == pytest.approx([(5 / 6 - 1 / 2) / (5 / 6 + 1 / 2), -1, -1])


def test_the_target_is_found_where_its_hottest_pixel_has_most():
    maps = torch.tensor([[[0.0, 3, 2, 2, 9]], [[2.0, 0, 2, 0, 0]], [[1.0, 1, 0, 2, 0]]])
    assert found_first(maps, TRUTH).tolist() == [1, 0, 0]


@pytest.mark.parametrize("metric", [gsi, found_first])
def test_without_distractors_or_target_it_is_undefined(metric):
    maps = torch.rand(2, 1, 5)
    nothing = np.zeros((1, 5), bool)
    for truth in (Truth((1, 5), mask=TARGET), Truth((1, 5), mask=nothing, distractors=OTHERS)):
        assert metric(maps, truth).isnan().all()
