"""What patches are compared by, beside plain loops, numpy's linear algebra, and symmetries of the scores."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from conftest import no_network
from fake_features import B, D, N, close, complaint, normal, one_photo, tiled, two_photos

from attnvis.attention import keys, normalise, scaling
from attnvis.attention.dot_product import attend
from attnvis.attention.key_space import asked_layers
from attnvis.attention.query.language import build_queries, parse
from attnvis.attention.spec import functions
from attnvis.methods.attention import AttentionMethod
from attnvis.methods.settings import SettingGrid

FEATURES = two_photos()
VECTORS = ["mean", "class:3", "point:40,31.5", "pca:2", "random:3", "class:tabby - 0.5*mean"]
CHOICES = functions("keys", ["centred", "l2", "pca:3", "whitened:3", "shuffled:5"])
MATRIX = normal(4, D, seed=9)
CHOICES["linear"] = keys.Linear("w.npy", MATRIX)


def scores_of(text, function, features=FEATURES):
    """[B, Q, N]"""
    (asked,) = asked_layers(function, (features,))
    (query,) = asked.meet(build_queries(parse(text), asked.features))
    return query.vectors @ (asked.features.tokens if query.keys is None else query.keys).mT


def vector_of(text, features=FEATURES):
    (query,) = build_queries(parse(text), features)
    return query.vectors[:, 0]


def maps_of(text, features=FEATURES, **stages):
    answers = AttentionMethod(no_network, parse(text), **stages).answer((features,))
    return torch.stack([answer.weights for (answer,) in answers])


@pytest.mark.parametrize("text", [*VECTORS, "rarity:4"])
def test_keys_that_are_the_patches_change_no_bit(text):
    (query,) = build_queries(parse(text), FEATURES)
    values = FEATURES.tokens if query.keys is None else query.keys
    assert torch.equal(maps_of(text, keys=partial(keys.same)), attend(query.vectors, values).weights[:, 0])


@pytest.mark.parametrize("text", VECTORS)
def test_centred_keys_move_all_scores_of_a_query_by_the_same(text):
    """So that softmax gives the same map, whatever is asked; angles are others."""
    moved = scores_of(text, keys.same) - scores_of(text, keys.centred)
    close(moved, moved[..., :1].expand_as(moved))
    close(maps_of(text), maps_of(text, keys=keys.centred))
    cosines = partial(scaling.cosine, tau=1.0)
    assert (
        maps_of(text, scaling=cosines) - maps_of(text, scaling=cosines, keys=keys.centred)
    ).abs().max() > 1e-4


def test_patches_of_length_1_are_compared_by_direction():
    tokens = normal(B, N, D)
    tokens[0, 7] = 0
    features = two_photos(tokens)
    vector = vector_of("class:3", features)
    scores = scores_of("class:3", keys.l2, features)
    for photo in range(B):
        for patch in range(N):
            key = tokens[photo, patch].tolist()
            length = sum(number**2 for number in key) ** 0.5 or 1.0
            product = sum(a * b for a, b in zip(vector[photo].tolist(), key, strict=True))
            assert scores[photo, 0, patch] == pytest.approx(product / length)
    assert scores[0, 0, 7] == 0
    asked = maps_of(
        "normalise(class:3)", features, keys=keys.l2, scaling=partial(scaling.temperature, tau=0.5)
    )
    close(asked, maps_of("class:3", features, scaling=partial(scaling.cosine, tau=0.5)))


def singular(photo):
    """Centred patches, and numpy's right singular vectors with the variances along them."""
    patches = FEATURES.tokens[photo].numpy()
    patches = patches - patches.mean(0)
    _, values, rows = np.linalg.svd(patches, full_matrices=False)
    return patches, rows, values**2 / N


@pytest.mark.parametrize("text", VECTORS)
def test_principal_keys_see_the_leading_directions_alone(text):
    vector = vector_of(text).numpy()
    projected, whitened = (scores_of(text, CHOICES[name])[:, 0].numpy() for name in ("pca:3", "whitened:3"))
    for photo in range(B):
        patches, rows, variances = singular(photo)
        leading = rows[:3].T @ rows[:3]
        np.testing.assert_allclose(projected[photo], patches @ leading @ vector[photo], atol=1e-9)
        inverse = rows[:3].T @ np.diag(1 / variances[:3]) @ rows[:3]
        np.testing.assert_allclose(whitened[photo], patches @ inverse @ vector[photo], atol=1e-9)
    close(scores_of(text, partial(keys.pca, components=D)), scores_of(text, keys.centred))


def test_whitened_keys_have_variance_1_and_no_correlation():
    (asked,) = asked_layers(CHOICES["whitened:3"], (FEATURES,))
    for photo in range(B):
        covariance = np.cov(asked.space.keys[photo].numpy(), rowvar=False, bias=True)
        np.testing.assert_allclose(covariance, np.eye(3), atol=1e-9)


@pytest.mark.parametrize("text", ["mean", "point:40,31.5", "point:40,31.5 - mean"])
def test_whitened_maps_do_not_hang_on_the_basis_of_the_channels(text):
    """A question of patches moves with the basis; q' S^-1 (v - g) stays."""
    basis = normal(D, D, seed=4)
    turned = two_photos(FEATURES.tokens @ basis)
    whitened = partial(keys.whitened, components=D)
    close(scores_of(text, whitened), scores_of(text, whitened, turned), rtol=1e-6, atol=1e-6)
    assert (scores_of(text, keys.same) - scores_of(text, keys.same, turned)).abs().max() > 0.1


@pytest.mark.parametrize("name", CHOICES)
def test_scores_stay_linear_in_the_query_under_any_keys(name):
    function = CHOICES[name]
    joined = scores_of("2*class:tabby - 3*point:40,31.5", function)
    close(joined, 2 * scores_of("class:tabby", function) - 3 * scores_of("point:40,31.5", function))


def test_a_matrix_makes_keys_and_queries():
    """The note's K != V by hand: keys V W, with scores (3, 0, 4, 0) of the query (1, 2)."""
    values = torch.tensor([[2, 0, 1, 1], [0, 1, 0, 1], [1, 1, 1, 1], [0, 0, 0, 0]], dtype=torch.float64)
    matrix = torch.tensor([[1, 0, 1, 0], [0, 1, 1, -1]], dtype=torch.float64)
    features = replace(one_photo(tiled((40, 40), (2, 2))), tokens=values[None])
    vector = torch.tensor([[[1.0, 2, 0, 0]]], dtype=torch.float64)
    space = keys.Linear("w.npy", matrix)(features)
    assert space.keys[0].tolist() == [[3, 0], [0, 0], [2, 1], [0, 0]]
    assert space.project(vector).tolist() == [[[1.0, 2.0]]]
    method = AttentionMethod(no_network, lambda features: vector, keys=keys.Linear("w.npy", matrix))
    ((answer,),) = method.answer((features,))
    golden = [0.3060105226, 0.0366824759, 0.6206245255, 0.0366824759]
    assert answer.weights.tolist() == pytest.approx(golden)
    context = [1.2326455708, 0.6573070014, 0.9266350482, 0.9633175241]
    assert answer.attention.context.flatten().tolist() == pytest.approx(context)
    message = complaint(ValueError, keys.Linear("w.npy", matrix), two_photos())
    assert "[2, 4]" in message and "have 7 numbers" in message and "[K, 7]" in message
    turned = complaint(ValueError, keys.Linear("w.npy", normal(D, 3)), two_photos())
    assert "fits transposed" in turned


def test_more_components_than_a_photo_has_are_said():
    features = one_photo(tiled((40, 60), (2, 3)))  # 6 patches: 5 directions
    for name in ("pca", "whitened"):
        space = getattr(keys, name)(features, components=9)
        assert space.keys.shape == (1, 6, 5)
        assert space.notes == (
            (f"keys {name}:9: the patches of this photo have 5 directions, all are taken",),
        )
        assert getattr(keys, name)(features, components=5).notes == ((),)
    grey = replace(features, tokens=torch.ones_like(features.tokens))
    space = keys.whitened(grey, components=2)
    assert "have 0 directions" in space.notes[0][0] and (space.keys == 0).all()
    assert "at least 1" in complaint(ValueError, keys.pca, features, 0)


def layered():
    """A fine layer, 4 x 6 cells of 3 channels, and a coarse one, 2 x 3 of 7, of the same photo."""
    size = (40, 60)
    fine, coarse = one_photo(tiled(size, (4, 6))), one_photo(tiled(size, (2, 3)))
    fine = replace(fine, tokens=normal(1, 24, 3, seed=6), layer="fine", head=None, logits=None)
    return fine, replace(coarse, layer="coarse")


def test_keys_of_a_finer_layer_are_means_over_each_coarse_cell():
    fine, coarse = layered()
    (asked,) = asked_layers(partial(keys.layer, name="fine"), (fine, coarse))
    assert asked.values is coarse and asked.features is fine  # the question is made where the keys are
    for row in range(2):
        for column in range(3):
            cells = [(2 * row + down) * 6 + 2 * column + across for down in (0, 1) for across in (0, 1)]
            mean = sum(fine.tokens[0, cell] for cell in cells) / 4
            close(asked.space.keys[0, 3 * row + column], mean)


def test_keys_of_a_coarser_layer_are_interpolated():
    """A ramp over the cells' centres stays a ramp, flat beyond the outer ones."""
    fine, coarse = layered()
    ramp = torch.arange(3.0, dtype=torch.float64).expand(2, 3).reshape(1, 6, 1)
    source = replace(coarse, tokens=ramp)
    expected = torch.tensor([0, 0.25, 0.75, 1.25, 1.75, 2], dtype=torch.float64).expand(4, 6).reshape(24)
    close(keys.on_grid_of(fine, source)[0, :, 0], expected)


def test_values_stay_those_of_the_layer_that_is_answered():
    fine, coarse = layered()
    method = AttentionMethod(no_network, parse("point:15,5"), keys=partial(keys.layer, name="fine"))
    ((answer,),) = method.answer((fine, coarse))
    assert (answer.layer, answer.label, len(answer.weights)) == ("coarse", "point 15,5", 6)
    vector = vector_of("point:15,5", fine)[0]
    logits = keys.on_grid_of(coarse, fine)[0] @ vector / 3**0.5
    close(answer.weights, logits.softmax(0))
    close(answer.attention.context[0, 0], answer.weights @ coarse.tokens[0])
    message = complaint(ValueError, method.answer, (coarse,))
    assert "backbone.layer=[fine,coarse]" in message
    message = complaint(ValueError, replace(method, query=parse("class:3")).answer, (fine, coarse))
    assert "classifier" in message  # what the keys' layer cannot be asked


def test_shuffled_keys_destroy_the_map_and_keep_its_mass():
    """A planted square: the map finds it; of its shuffled ones none but by chance."""
    grid = (9, 11)
    truth = torch.zeros(grid, dtype=torch.float64)
    truth[2:6, 3:7] = 1
    tokens = normal(1, 99, D, seed=8)
    tokens[0, truth.flatten() == 1, 0] += 6
    features = replace(one_photo(tiled((90, 110), grid)), tokens=tokens)
    stages = {"scaling": partial(scaling.temperature, tau=9.0)}
    found = maps_of("point:50,40", features, **stages)[0]
    assert np.corrcoef(found, truth.flatten())[0, 1] > 0.8
    correlations = []
    for seed in range(20):
        shuffled = maps_of("point:50,40", features, keys=partial(keys.shuffled, seed=seed), **stages)[0]
        close(shuffled.sort().values, found.sort().values)
        correlations.append(np.corrcoef(shuffled, truth.flatten())[0, 1])
    assert max(correlations) < 0.4 and abs(np.mean(correlations)) < 0.1
    assert torch.equal(
        maps_of("mean", features, keys=keys.shuffled), maps_of("mean", features, keys=keys.shuffled)
    )


def test_what_has_keys_of_its_own_goes_with_shuffled_ones_alone():
    method = AttentionMethod(no_network, parse("norm"), keys=keys.l2)
    message = complaint(ValueError, method.answer, (FEATURES,))
    assert "norm has keys of its own" in message and "keys=l2" in message
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    close(maps_of("norm", keys=keys.shuffled), maps_of("norm")[:, order])


def test_p_values_are_those_of_the_patches_themselves():
    message = complaint(
        ValueError, partial(AttentionMethod, no_network, random_classes=10, keys=keys.centred)
    )
    assert "random_classes" in message and "keys=same" in message


def test_a_sweep_measures_the_map_that_a_run_draws():
    scalings, normalisers = {"none": scaling.none}, {"softmax": normalise.softmax}
    for function in CHOICES.values():
        grid = SettingGrid(no_network, {"mean": parse("mean")}, scalings, normalisers, keys=function)
        ((result,), _) = grid.answer((FEATURES,))
        expected = maps_of("mean", scaling=scaling.none, keys=function)[0]
        torch.testing.assert_close(result.weights[0], expected.float(), rtol=1e-4, atol=1e-6)


def test_a_function_of_ones_own_may_give_the_keys_alone():
    close(maps_of("mean", keys=lambda features: features.tokens.flip(1)), maps_of("mean").flip(1))
    method = AttentionMethod(no_network, parse("mean"), keys=lambda features: features.tokens[:, :3])
    assert f"give [B, N, D], here [{B}, {N}, {D}]" in complaint(ValueError, method.answer, (FEATURES,))


def test_a_question_of_nothing_and_an_angle_of_one_number_are_said():
    for text, function, remark in (
        ("mean - mean", scaling.inv_sqrt_d, "no question"),
        ("norm", scaling.cosine, "no angle"),
        ("norm - rarity", partial(scaling.cosine, tau=1.0), "no angle"),
    ):
        (answer,), _ = AttentionMethod(no_network, parse(text), function).answer((FEATURES,))
        assert [words.partition(":")[0] for words in answer.remarks] == [remark]
        assert answer.remarks[0] in answer.warnings
    (answer,), _ = AttentionMethod(no_network, parse("rarity"), scaling.cosine).answer((FEATURES,))
    assert answer.remarks == ()
