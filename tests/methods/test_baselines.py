"""Saliency methods that are not attention, beside captum, torch-cam, SciPy and sums by hand."""

import inspect

import numpy as np
import pytest
import scipy.ndimage
import torch
from captum.attr import IntegratedGradients, LayerGradCam, Occlusion
from conftest import make_photo, records
from torch import nn
from torchcam.methods import LayerCAM, ScoreCAM

from attnvis.attention.query import class_
from attnvis.backbone import build_backbone
from attnvis.data.decoding import load
from attnvis.data.preprocessing import collate
from attnvis.methods import baselines
from attnvis.methods.baselines import METHODS, parse_method
from attnvis.methods.saliency import Inputs, SaliencyMethod, as_weights
from attnvis.types import Photo, PhotoError

CLASSES = 5


class Small(nn.Module):
    """Two convolutions, the mean, a classifier; `deep` puts a layer between the mean and the classifier."""

    def __init__(self, deep: bool = False) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 6, 5, 4, 2), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 7, 3, 2, 1), nn.Softplus()
        )
        self.bend = nn.Sequential(nn.Linear(7, 7), nn.Tanh()) if deep else nn.Identity()
        self.fc = nn.Linear(7, CLASSES)

    def forward(self, images):
        return self.fc(self.bend(self.body(images).mean((2, 3))))


def made(deep: bool, placement: str = "stretch"):
    torch.manual_seed(3)
    net = Small(deep).eval()
    head = "gradient" if deep else "linear:fc"
    names = ["ant", "bee", "cat", "dog", "elk"]
    return net, build_backbone(
        net, layer="body", head=head, size=64, placement=placement, categories=names, device="cpu"
    )


@pytest.fixture(scope="module", params=[False, True], ids=["linear", "deep"])
def network(request):
    return made(request.param)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    return [load(make_photo(folder / f"{seed}.png", (70, 96), seed), short=64) for seed in (1, 2)]


def asked(network, photos, function, fit="resize"):
    net, backbone = network
    batch = collate(photos, backbone.preprocessing.changed(fit, None))
    inputs = Inputs(batch, backbone, backbone)
    (maps,) = function(inputs)
    return net, batch, maps


def shaped(maps):
    return maps.values.detach().unflatten(1, maps.placements[0].grid)


def test_cam_is_the_class_query_where_the_classifier_reads_the_mean(photos):
    network = made(deep=False)
    _, batch, maps = asked(network, photos, parse_method("cam:bee"))
    (features,) = network[1](batch)
    query = class_(features, "bee")
    scores = (query.vectors @ features.tokens.mT).squeeze(1)
    torch.testing.assert_close(maps.values, scores, rtol=0, atol=1e-5)
    logits = network[0](batch.images)[:, 1] - network[0].fc.bias[1]
    torch.testing.assert_close(maps.values.mean(1), logits.detach(), rtol=0, atol=1e-5)
    assert maps.labels == ("bee", "bee") and maps.classes[0].index == 1


def test_cam_is_refused_where_the_classifier_is_not_exact(photos):
    with pytest.raises(ValueError, match="take method=gradcam"):
        asked(made(deep=True), photos, parse_method("cam"))


def test_grad_cam_is_captums(network, photos):
    net, batch, maps = asked(network, photos, parse_method("gradcam:2"))
    expected = LayerGradCam(net, net.body).attribute(batch.images, target=2, relu_attributions=True)
    torch.testing.assert_close(shaped(maps), expected[:, 0].detach(), rtol=1e-4, atol=1e-6)


def test_grad_cam_plus_is_the_papers_formula_in_loops(network, photos):
    """Not torch-cam's: version 0.5 divides a copy of its alpha, and so not at all."""
    net, batch, maps = asked(network, photos, parse_method("gradcam_plus:4"))
    activations = net.body(batch.images).detach().requires_grad_()
    net.fc(net.bend(activations.mean((2, 3))))[:, 4].sum().backward()
    values = activations.detach().double()
    for photo, slopes in enumerate(activations.grad.double()):
        expected = torch.zeros(slopes.shape[1:], dtype=torch.float64)
        for channel, of_channel in enumerate(slopes):
            weight, total = 0.0, float(values[photo, channel].sum())
            for g in of_channel.flatten().tolist():
                weight += max(g, 0) * (g**2 / (2 * g**2 + total * g**3) if g else 0)
            expected += weight * values[photo, channel]
        torch.testing.assert_close(shaped(maps)[photo].double(), expected.relu(), rtol=1e-3, atol=1e-6)
    assert maps.values.max() > 0


def test_layer_cam_is_torch_cams(network, photos):
    net, batch, maps = asked(network, photos, parse_method("layercam:4"))
    with LayerCAM(net, "body") as extractor:
        images = batch.images.clone().requires_grad_()
        (expected,) = extractor([4, 4], net(images), normalized=False)
    expected = expected.detach()
    assert expected.max() > 0
    torch.testing.assert_close(shaped(maps), expected, rtol=1e-3, atol=1e-6)


def test_score_cam_is_torch_cams(network, photos):
    net, batch, maps = asked(network, photos, parse_method("scorecam:0"))
    with ScoreCAM(net, "body", input_shape=(3, 64, 96)) as extractor, torch.no_grad():
        net(batch.images)
        (expected,) = extractor([0, 0], normalized=False)
    torch.testing.assert_close(shaped(maps), expected, rtol=1e-3, atol=1e-6)


def test_score_cam_of_few_channels_takes_those_that_answer_most(photos):
    net, batch, maps = asked(made(deep=False), photos, parse_method("scorecam:0,1"))
    activations = net.body(batch.images).detach()
    strongest = activations.amax((2, 3)).argmax(1)
    expected = torch.stack([of_photo[k] for of_photo, k in zip(activations, strongest, strict=True)])
    torch.testing.assert_close(shaped(maps), expected, rtol=1e-4, atol=1e-6)


def test_integrated_gradients_are_captums(network, photos):
    net, batch, maps = asked(network, photos, parse_method("integrated_gradients:1,7"))
    expected = IntegratedGradients(net).attribute(batch.images, target=1, n_steps=7, method="riemann_middle")
    torch.testing.assert_close(shaped(maps), expected.abs().sum(1).float(), rtol=1e-3, atol=1e-6)
    assert maps.placements[0].centre(0, 0) == pytest.approx((0.5 * 70 / 64, 0.5))


def test_occlusion_is_captums_where_windows_do_not_overlap(network, photos):
    net, batch, maps = asked(network, photos, parse_method("occlusion:3,16,16"))
    expected = Occlusion(net).attribute(
        batch.images, target=3, sliding_window_shapes=(3, 16, 16), strides=(3, 16, 16), baselines=0
    )
    expected = expected[:, 0, 8::16, 8::16].relu().float()
    torch.testing.assert_close(shaped(maps), expected, rtol=1e-3, atol=1e-5)
    height, width = photos[0].size
    first = maps.placements[0].centre(0, 0)
    assert first == pytest.approx((8 * height / 64, 8 * width / 96)), "a window's middle"


def test_eigencam_is_numpys_first_direction(network, photos):
    net, batch, maps = asked(network, photos, parse_method("eigencam"))
    tokens = net.body(batch.images).detach().flatten(2).mT.double().numpy()
    for values, patches in zip(maps.values, tokens, strict=True):
        _, _, directions = np.linalg.svd(patches, full_matrices=False)
        scores = patches @ directions[0]
        expected = np.maximum(scores if scores.sum() > 0 else -scores, 0)
        assert np.allclose(values, expected, rtol=1e-4, atol=1e-5)


def test_feature_norm_and_random_query_are_sums_by_hand(photos):
    net, batch, maps = asked(made(deep=False), photos, parse_method("feature_norm"))
    tokens = net.body(batch.images).detach().flatten(2).mT
    torch.testing.assert_close(maps.values, (tokens**2).sum(-1).sqrt())
    _, _, once = asked(made(deep=False), photos, parse_method("random_query:5"))
    _, _, again = asked(made(deep=False), photos[1:], parse_method("random_query:5"))
    _, _, other = asked(made(deep=False), photos, parse_method("random_query:6"))
    torch.testing.assert_close(once.values[1:], again.values)
    assert not torch.allclose(once.values, other.values)


def test_random_weights_are_not_those_that_were_learned_and_stay(photos):
    network = made(deep=False)
    _, _, learned = asked(network, photos, parse_method("feature_norm"))
    _, _, once = asked(network, photos, parse_method("random_weights:1"))
    _, _, alone = asked(network, photos[1:], parse_method("random_weights:1"))
    assert not torch.allclose(once.values, learned.values)
    torch.testing.assert_close(once.values[1:], alone.values)
    _, _, after = asked(network, photos, parse_method("feature_norm"))
    torch.testing.assert_close(after.values, learned.values)


def test_spectral_residual_is_the_authors_formula(photos):
    _, _, maps = asked(made(deep=False), photos[:1], parse_method("spectral_residual"))
    height, width = photos[0].size
    rows = round(64 * height / width)
    grey = torch.nn.functional.interpolate(
        torch.from_numpy(photos[0].pixels).double().mean(-1)[None, None] / 255, (rows, 64), mode="area"
    )[0, 0].numpy()
    spectrum = np.fft.fft2(grey)
    logarithm = np.log(np.abs(spectrum))
    residual = logarithm - scipy.ndimage.uniform_filter(logarithm, 3, mode="nearest")
    energy = np.abs(np.fft.ifft2(np.exp(residual + 1j * np.angle(spectrum)))) ** 2
    expected = scipy.ndimage.gaussian_filter(energy, 2.5, mode="nearest", truncate=4)
    assert np.allclose(shaped(maps)[0], expected, rtol=1e-5, atol=1e-9)


def test_a_photo_of_one_grey_has_a_finite_spectral_residual():
    grey = Photo("grey", np.full((40, 64, 3), 128, np.uint8), (40, 64), "")
    _, backbone = made(deep=False)
    ((answer,),) = SaliencyMethod(backbone, backbone, parse_method("spectral_residual"))(
        collate([grey], backbone.preprocessing)
    )
    assert answer.weights.isfinite().all()


def test_the_centre_is_a_gaussian_over_the_sides(photos):
    _, _, maps = asked(made(deep=False), photos, parse_method("centre:0.2"))
    values, place = shaped(maps)[0], maps.placements[0]
    height, width = photos[0].size
    for cell in ((0, 0), (10, 50), (31, 32), (63, 1)):
        row, column = place.centre(*cell)
        expected = np.exp(-((row / height - 0.5) ** 2 + (column / width - 0.5) ** 2) / (2 * 0.2**2))
        assert float(values[cell]) == pytest.approx(expected, rel=1e-5)
    with pytest.raises(ValueError, match="width above 0"):
        asked(made(deep=False), photos, parse_method("centre:0"))


def test_weights_keep_the_order_and_sum_to_one():
    values = torch.tensor([[3.0, 1.0, 0.0], [1.0, -1.0, 0.0], [0.0, 0.0, 0.0], [-2.0, -2.0, -2.0]])
    expected = [[0.75, 0.25, 0], [2 / 3, 0, 1 / 3], [1 / 3] * 3, [1 / 3] * 3]
    torch.testing.assert_close(as_weights(values), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("name", METHODS)
def test_every_method_gives_an_answer_for_each_photo_where_the_photo_is(name, photos):
    _, backbone = made(deep=False)
    batch = collate(photos, backbone.preprocessing.changed("letterbox", None))
    answers = SaliencyMethod(backbone, backbone, parse_method(name))(batch)
    for photo, (answer,) in zip(photos, answers, strict=True):
        assert answer.query == name and answer.weights.sum() == pytest.approx(1, rel=1e-5)
        assert (answer.weights >= 0).all() and len(answer.weights) == np.prod(answer.placement.grid)
        drawn = answer.density()
        assert drawn.shape == photo.size and np.nansum(drawn) == pytest.approx(1, rel=1e-4)
        has_class = "category" in inspect.signature(METHODS[name]).parameters
        assert (answer.class_score is not None) == bool(answer.predicted) == has_class


def test_a_class_that_there_is_not_is_named(photos):
    for name in ("cam", "gradcam", "occlusion", "integrated_gradients", "scorecam"):
        with pytest.raises(ValueError, match="unknown class 'yak'"):
            asked(made(deep=False), photos, parse_method(f"{name}:yak"))
    with pytest.raises(ValueError, match=r"unknown method 'gradcan'.*did you mean gradcam"):
        parse_method("gradcan")


def test_a_map_that_is_not_finite_fails_its_photo(photos):
    _, backbone = made(deep=False)

    def broken(inputs):
        (maps,) = baselines.uniform(inputs)
        maps.values[1, 0] = torch.nan
        return [maps]

    with pytest.raises(PhotoError, match=r"2\.png: 1 of 4096 values"):
        SaliencyMethod(backbone, backbone, broken)(collate(photos, backbone.preprocessing))


def test_a_run_takes_any_method(attnvis, cat):
    assert attnvis("run", "cat.png", "method=gradcam:tabby").code == 0
    (row,) = records()
    assert (row["query"], row["scaling"], row["normalise"]) == ("gradcam:tabby", "", "")
    assert row["label"] == "tabby" and row["class_index"] == "281" and row["status"] == "done"


def test_a_question_of_attention_is_not_passed_over_by_another_method(attnvis, cat):
    complaint = attnvis("run", "cat.png", "method=gradcam", "query=class:tabby").complaint
    assert "method=gradcam has no query" in complaint and "method=gradcam:tabby" in complaint
