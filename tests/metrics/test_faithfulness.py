"""Faithfulness metrics on networks whose answer is known by arithmetic, and the imputation against scipy."""

import math
from functools import partial

import numpy as np
import pytest
import torch
from scipy.sparse import lil_matrix
from scipy.sparse.linalg import spsolve

from attnvis.metrics import faithfulness
from attnvis.metrics.faithfulness import (
    Evidence,
    Examined,
    average_drop,
    confidence_increase,
    deletion,
    imputed,
    insertion,
    latent_deletion,
    latent_insertion,
    road,
)

C, H, W = 5, 6, 7
PIXELS = ("deletion", "insertion", "road", "average_drop", "confidence_increase")


def bright_share(images):
    """Two classes; the probability of the first is the share of bright pixels (of 1, the others are 0)."""
    share = images[:, 0].mean((1, 2)).clamp(1e-9, 1 - 1e-9)
    return torch.stack([share.log(), (1 - share).log()], 1)


def bright_image(pixels):
    """All dark but for `pixels`, the first row by row."""
    image = torch.zeros(3, H, W, dtype=torch.float64)
    image.view(3, -1)[:, :pixels] = 1
    return image


def ordered_map(reverse=False):
    values = torch.arange(H * W, 0, -1).double().view(1, H, W)
    return values.flip(1, 2) if reverse else values


def random_examined(seed=0):
    chance = torch.Generator().manual_seed(seed)
    weights = torch.randn(C, 3 * H * W, generator=chance, dtype=torch.float64)
    image = torch.randn(3, H, W, generator=chance, dtype=torch.float64)
    return Examined(image, logits=lambda images: images.flatten(1) @ weights.T / 5, target=2), chance


def test_deletion_falls_along_a_line_while_bright_pixels_go():
    examined = Examined(bright_image(20), logits=bright_share, target=0)
    shares = np.array([max(0, 20 - count) / (H * W) for count in range(H * W + 1)])
    best = deletion(ordered_map(), examined, steps=H * W).item()
    worst = deletion(ordered_map(reverse=True), examined, steps=H * W).item()
    assert best == pytest.approx(np.trapezoid(shares) / (H * W), abs=1e-6)
    later = np.array([min(20, H * W - count) / (H * W) for count in range(H * W + 1)])
    assert worst == pytest.approx(np.trapezoid(later) / (H * W), abs=1e-6)


def test_insertion_into_grey_is_deletion_from_behind():
    examined = Examined(bright_image(20), logits=bright_share, target=0)
    inserted = insertion(ordered_map(), examined, steps=6, substitute="mean")
    deleted = deletion(ordered_map(reverse=True), examined, steps=6)
    torch.testing.assert_close(inserted, deleted)


def test_black_stands_where_it_is_asked_for_and_is_refused_where_unknown():
    image = bright_image(H * W)
    seen = []

    def logits(images):
        seen.append(images[-1].clone())
        return bright_share(images)

    deletion(
        ordered_map(),
        Examined(image, logits, target=0, black=(-1.0, -2.0, -3.0)),
        steps=2,
        substitute="black",
    )
    assert seen[-1][:, 0, 0].tolist() == [-1, -2, -3]
    with pytest.raises(ValueError, match="not known; give mean or blur"):
        deletion(ordered_map(), Examined(image, logits, target=0), substitute="black")
    with pytest.raises(ValueError, match="'noise'; give mean, black, blur"):
        insertion(ordered_map(), Examined(image, logits, target=0), substitute="noise")


def test_the_imputed_pixels_solve_the_published_equations():
    chance = torch.Generator().manual_seed(1)
    image = torch.randn(3, 23, 31, generator=chance, dtype=torch.float64)
    masks = torch.rand(3, 23, 31, generator=chance) < torch.tensor([0.2, 0.6, 0.9])[:, None, None]
    masks[2, 3:20, 4:29] = True  # a large hole
    found = imputed(image, masks)
    for mask, filled in zip(masks.tolist(), found):
        unknown = {
            place: n for n, place in enumerate((i, j) for i in range(23) for j in range(31) if mask[i][j])
        }
        matrix, right = lil_matrix((len(unknown), len(unknown))), np.zeros((len(unknown), 3))
        for (i, j), n in unknown.items():
            for a in (i - 1, i, i + 1):
                for b in (j - 1, j, j + 1):
                    if (a, b) == (i, j) or not (0 <= a < 23 and 0 <= b < 31):
                        continue
                    weight = 1 / 6 if a == i or b == j else 1 / 12
                    matrix[n, n] += weight
                    if (a, b) in unknown:
                        matrix[n, unknown[a, b]] -= weight
                    else:
                        right[n] += weight * image[:, a, b].numpy()
        expected = spsolve(matrix.tocsc(), right)
        values = np.array([filled[:, i, j].numpy() for i, j in unknown])
        np.testing.assert_allclose(values, expected, atol=1e-6)
        assert torch.equal(filled[:, ~torch.tensor(mask)], image[:, ~torch.tensor(mask)])


def test_road_removes_exact_counts_though_most_values_tie():
    """pytorch-grad-cam removes all pixels at once where a map has many zeros."""
    maps = torch.zeros(1, H, W, dtype=torch.float64)
    maps[0, 0, :3] = torch.tensor([3.0, 2, 1])
    kept = []

    def logits(images):
        kept.extend((images == examined.image).all(1).flatten(1).sum(1).tolist())
        return images.flatten(1)[:, :2]

    examined = Examined(torch.randn(3, H, W, dtype=torch.float64), logits, target=0)
    road(maps, examined, percents=(10.0, 50.0, 80.0))
    expected = [H * W - round(H * W * share) for share in (0.1, 0.5, 0.8)]
    assert kept == expected + expected


def test_road_takes_three_channels_and_prefers_the_map_that_is_right():
    """Quantus' ROAD raises IndexError for pictures in colour."""
    chance = torch.Generator().manual_seed(2)
    image = torch.randn(3, 16, 20, generator=chance, dtype=torch.float64)
    strip = image[:, 5:9, 6:12].clone()

    def logits(images):
        match = -((images[:, :, 5:9, 6:12] - strip) ** 2).mean((1, 2, 3))
        return torch.stack([3 * match, torch.full_like(match, -1.5)], 1)

    right = torch.zeros(1, 16, 20, dtype=torch.float64)
    right[0, 5:9, 6:12] = 1
    maps = torch.cat([right, 1 - right]) + 1e-3 * torch.rand(2, 16, 20, generator=chance)
    good, bad = road(maps, Examined(image, logits, target=0)).tolist()
    assert good > 0.1 and bad == pytest.approx(-good, abs=0.02)


def test_average_drop_and_increase_are_shares_of_the_probability():
    examined = Examined(bright_image(20), logits=bright_share, target=0)
    half = torch.zeros(1, H, W, dtype=torch.float64)
    half.view(-1)[:10] = 1
    assert average_drop(half, examined).item() == pytest.approx(0.5, abs=1e-6)
    assert confidence_increase(half, examined).item() == 0
    inverse = Examined(bright_image(20), logits=bright_share, target=1)
    assert average_drop(half, inverse).item() == 0
    assert confidence_increase(half, inverse).item() == 1


def test_the_latent_curves_are_the_head_on_the_kept_cells():
    chance = torch.Generator().manual_seed(3)
    scores, constants = torch.randn(C, 2, 3, generator=chance), torch.randn(C, generator=chance)
    maps = torch.randn(4, 2, 3, generator=chance)
    evidence = Evidence(scores, constants, target=1)
    for metric, is_insertion in ((latent_insertion, True), (latent_deletion, False)):
        for values, found in zip(maps, metric(maps, evidence).tolist()):
            order = sorted(range(6), key=lambda cell: -values.flatten()[cell])
            curve = []
            for count in range(6):
                kept = order[: count + 1] if is_insertion else order[count:]
                logits = [
                    sum(scores[c].flatten()[cell].item() for cell in kept) / len(kept) for c in range(C)
                ]
                powers = [math.exp(logit + constants[c].item()) for c, logit in enumerate(logits)]
                curve.append(powers[1] / sum(powers))
            assert found == pytest.approx(np.trapezoid(curve) / 5, abs=1e-6)


@pytest.mark.parametrize("name", PIXELS)
def test_neither_the_batch_nor_the_other_maps_change_a_number(name):
    examined, chance = random_examined()
    metric = getattr(faithfulness, name)
    maps = torch.rand(3, H, W, generator=chance, dtype=torch.float64)
    together = metric(maps, examined)
    torch.testing.assert_close(metric(maps, examined, batch=2), together, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(torch.cat([metric(each[None], examined) for each in maps]), together)


@pytest.mark.parametrize("name", PIXELS)
def test_a_map_with_an_infinity_is_undefined_and_the_image_is_left_as_it_was(name):
    examined, chance = random_examined()
    maps = torch.rand(2, H, W, generator=chance, dtype=torch.float64)
    maps[1, 0, 0] = math.inf
    before = examined.image.clone(), maps.clone()
    values = getattr(faithfulness, name)(maps, examined)
    assert values.isnan().tolist() == [False, True]
    assert torch.equal(examined.image, before[0]) and torch.equal(maps, before[1])


def test_a_level_map_has_no_better_order_than_any_other():
    examined = Examined(bright_image(H * W), logits=bright_share, target=0)
    level = partial(torch.full, (1, H, W), dtype=torch.float64)
    assert deletion(level(0.5), examined, steps=7).item() == pytest.approx(0.5, abs=1e-6)
