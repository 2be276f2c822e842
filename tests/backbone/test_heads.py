"""What a classifier asks of the patches: heads and certificates in plain loops, and networks of one's own.

B photos, D channels, C classes and the h x w cells are different numbers,
so that no exchanged axis passes unnoticed.
"""

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from conftest import fake_backbone
from torch import nn

from attnvis.attention.dot_product import attend
from attnvis.attention.query import class_, several
from attnvis.attention.query.language import parse
from attnvis.backbone import Backbone, build_backbone
from attnvis.backbone.certificates import Certificate, certify
from attnvis.backbone.heads import FrozenNorm, Gated, Gradient, Linear
from attnvis.data.preprocessing import collate
from attnvis.geometry import ReceptiveField
from attnvis.methods.attention import AttentionMethod
from attnvis.types import Batch, Box, Features, Photo, Placement, Preprocessing

B, C, D, h, w = 2, 5, 7, 3, 4
EPS = 1e-6


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


MAPS, WEIGHT, BIAS, SCALE, SHIFT = (
    normal(B, D, h, w),
    normal(C, D, seed=1),
    normal(C, seed=2),
    normal(D, seed=3),
    normal(D, seed=4),
)
CELLS = [(row, column) for row in range(h) for column in range(w)]


def product(a, b) -> float:
    return math.fsum(float(x) * float(y) for x, y in zip(a, b, strict=True))


def mean_patch(photo: int) -> list[float]:
    return [math.fsum(float(MAPS[photo, d, i, j]) for i, j in CELLS) / len(CELLS) for d in range(D)]


def said_by_linear(photo: int, index: int) -> float:
    return product(WEIGHT[index], mean_patch(photo)) + float(BIAS[index])


def said_by_norm(photo: int, index: int) -> float:
    """LayerNorm as its paper has it, of the mean patch, then the linear layer."""
    patch = mean_patch(photo)
    middle = math.fsum(patch) / D
    sigma = math.sqrt(math.fsum((value - middle) ** 2 for value in patch) / D + EPS)
    normed = [(value - middle) / sigma * float(SCALE[d]) + float(SHIFT[d]) for d, value in enumerate(patch)]
    return product(WEIGHT[index], normed) + float(BIAS[index])


def said_by_convolution(photo: int, index: int) -> float:
    return math.fsum(
        max(0.0, product(WEIGHT[index], MAPS[photo, :, i, j]) + float(BIAS[index])) for i, j in CELLS
    ) / len(CELLS)


HEADS = {
    "linear": (Linear(WEIGHT, BIAS), said_by_linear),
    "layer_norm": (FrozenNorm(WEIGHT, BIAS, SCALE, SHIFT, EPS), said_by_norm),
    "conv_relu": (Gated(WEIGHT, BIAS), said_by_convolution),
}


# ------------------------------------------------------------------------------------------------------ heads


@pytest.mark.parametrize("kind", HEADS)
def test_logits_and_the_evidence_of_the_scores_are_what_plain_loops_say(kind):
    head, said = HEADS[kind]
    expected = [[said(photo, index) for index in range(C)] for photo in range(B)]
    np.testing.assert_allclose(head.logits(MAPS), expected, rtol=1e-12)
    for classes in ([3, 0], [1, 4]):  # another one for each photo
        vectors, constants = head.ask(MAPS, torch.tensor(classes))
        scores = [[product(vectors[photo], MAPS[photo, :, i, j]) for i, j in CELLS] for photo in range(B)]
        evidence = head.evidence(torch.tensor(scores, dtype=torch.float64), constants)
        np.testing.assert_allclose(
            evidence, [expected[photo][index] for photo, index in enumerate(classes)], rtol=1e-9
        )
        if kind != "conv_relu":
            by_hand = [
                math.fsum(row) / len(CELLS) + float(constant) for row, constant in zip(scores, constants)
            ]
            np.testing.assert_allclose(evidence, by_hand, rtol=1e-12)


def test_the_frozen_norms_query_is_the_gradient_with_the_divisor_held():
    classes = torch.tensor([2, 4])
    queries = {}
    for held in (True, False):
        mean = MAPS.mean((2, 3)).requires_grad_()
        sigma = (mean.var(1, correction=0) + EPS).sqrt()
        normed = (mean - mean.mean(1, keepdim=True)) / (sigma.detach() if held else sigma).unsqueeze(1)
        logits = (normed * SCALE + SHIFT) @ WEIGHT.T + BIAS
        queries[held] = torch.autograd.grad(logits.gather(1, classes.unsqueeze(1)).sum(), mean)[0]
    vectors, _ = HEADS["layer_norm"][0].ask(MAPS, classes)
    torch.testing.assert_close(vectors, queries[True])
    mean = MAPS.mean((2, 3))
    assert ((queries[False] * mean).sum(1).abs() < 1e-4).all() and (
        (vectors * mean).sum(1).abs() > 0.1
    ).all()  # Euler's theorem


def bent(maps: torch.Tensor) -> torch.Tensor:
    """A classifier that is linear in nothing."""
    return (torch.tanh(maps * normal(h, w, seed=5)).sum((2, 3)) @ WEIGHT.T + BIAS) ** 2


def test_the_gradients_query_is_how_fast_the_logit_grows_with_each_channel():
    vectors, constants = Gradient(bent).ask(MAPS, torch.tensor([1, 3]))
    step = 1e-6
    for photo, index in enumerate((1, 3)):
        for channel in range(D):
            up, down = MAPS.clone(), MAPS.clone()
            up[photo, channel] += step
            down[photo, channel] -= step
            slope = float(bent(up)[photo, index] - bent(down)[photo, index]) / (2 * step)
            assert float(vectors[photo, channel]) == pytest.approx(slope, rel=1e-6, abs=1e-6)
        assert float(constants[photo]) == pytest.approx(float(BIAS[index]) ** 2)  # of maps that are 0


def test_the_gradients_query_of_a_mean_and_a_linear_layer_is_its_row():
    vectors, constants = Gradient(HEADS["linear"][0].logits).ask(MAPS, torch.tensor([1, 3]))
    torch.testing.assert_close(vectors, WEIGHT[[1, 3]])
    torch.testing.assert_close(constants, BIAS[[1, 3]])


def test_the_gradient_can_be_asked_where_gradients_are_off():
    with torch.inference_mode():
        vectors, _ = Gradient(bent).ask(MAPS.clone(), torch.tensor([1, 3]))
    torch.testing.assert_close(vectors.clone(), Gradient(bent).ask(MAPS, torch.tensor([1, 3]))[0])


class Counted:
    """What follows the maps, and how often it was run."""

    def __init__(self, rest) -> None:
        self.rest, self.passes = rest, 0

    def __call__(self, maps: torch.Tensor) -> torch.Tensor:
        self.passes += 1
        return self.rest(maps)


def autograd_query(rest, maps: torch.Tensor, classes: list[int]) -> torch.Tensor:
    """A pass of its own, forth and back."""
    inputs = maps.clone().requires_grad_()
    chosen = rest(inputs)[range(len(classes)), classes].sum()
    return torch.autograd.grad(chosen, inputs)[0].sum((2, 3))


def test_the_pass_that_gave_the_logits_answers_every_class_query():
    rest = Counted(bent)
    with torch.inference_mode():
        logits, ask = Gradient(rest).read(MAPS.clone())
        vectors = {classes: ask(torch.tensor(classes)) for classes in ((1, 3), (0, 0), (1, 3))}
    assert rest.passes == 1 and not logits.requires_grad
    torch.testing.assert_close(logits, bent(MAPS))
    for classes, found in vectors.items():
        torch.testing.assert_close(found, autograd_query(bent, MAPS, list(classes)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", HEADS)
def test_a_head_whose_query_needs_no_pass_leaves_none(kind):
    logits, ask = HEADS[kind][0].read(MAPS)
    assert torch.equal(logits, HEADS[kind][0].logits(MAPS)) and ask is None


def features_of(head, maps: torch.Tensor, **more) -> Features:
    tokens = maps.flatten(2).mT.contiguous()
    placement = Placement((1.0, 1.0), (2.0, 2.0), (h, w), (2 * h, 2 * w), Box(0.0, 0.0, 2.0 * h, 2.0 * w))
    return Features(tokens, (h, w), (placement,) * len(maps), head, **more)


def test_a_class_query_of_an_earlier_layer_runs_the_rest_once():
    rest = Counted(bent)
    query = class_(features_of(Gradient(rest), MAPS))
    assert rest.passes == 1
    best = bent(MAPS).argmax(1).tolist()
    torch.testing.assert_close(query.vectors[:, 0], autograd_query(bent, MAPS, best))


def test_a_run_with_class_queries_makes_one_pass_of_the_classifier_a_batch():
    torch.manual_seed(0)
    rest = Counted(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 6), nn.Tanh()))
    backbone = fake_backbone(nn.AvgPool2d(8), Preprocessing(size=32), head=Gradient(rest))
    photos = [Photo(name, np.full((32, 32, 3), 90, np.uint8), (32, 32), name) for name in "ab"]
    method = AttentionMethod(backbone, partial(several, of=["class", "class:2", "class:5"]))
    rest.passes = 0
    answers = method(collate(photos, backbone.preprocessing))
    assert rest.passes == 1 and [len(of_photo) for of_photo in answers] == [3, 3]
    alone = replace(method, query=parse("class:2"))(collate(photos, backbone.preprocessing))
    assert rest.passes == 2 and torch.equal(answers[1][1].vector, alone[1][0].vector)


def test_other_tokens_are_not_asked_by_the_pass_of_the_first():
    head = Gradient(bent)
    logits, ask = head.read(MAPS)
    features = features_of(head, MAPS, logits=logits)
    object.__setattr__(features, "ask", ask)
    other = replace(features, tokens=2 * features.tokens)
    torch.testing.assert_close(
        class_(other, 1).vectors[:, 0], autograd_query(bent, 2 * MAPS, [1] * len(MAPS))
    )
    torch.testing.assert_close(class_(features, 1).vectors[:, 0], autograd_query(bent, MAPS, [1] * len(MAPS)))


# ----------------------------------------------------------------------------------------------- certificates


def test_a_certificates_residual_is_the_largest_miss_in_plain_loops():
    truth = normal(B, C, seed=6)
    missed = [
        abs(said_by_linear(photo, index) - float(truth[photo, index]))
        for photo in range(B)
        for index in range(C)
    ]
    without = [abs(float(truth[photo, index] - BIAS[index])) for photo in range(B) for index in range(C)]
    found = certify(HEADS["linear"][0], MAPS, truth)
    assert found.kind == "linear" and not found.exact
    assert found.absolute == pytest.approx(max(missed), rel=1e-12)
    assert found.relative == pytest.approx(max(missed) / max(without), rel=1e-12)


@pytest.mark.parametrize("kind", HEADS)
def test_a_head_that_says_what_the_network_says_is_certified_exact(kind):
    head, said = HEADS[kind]
    truth = torch.tensor(
        [[said(photo, index) for index in range(C)] for photo in range(B)], dtype=torch.float64
    )
    assert certify(head, MAPS, truth).relative < 1e-9
    truth[1, 2] += 0.01
    assert certify(head, MAPS, truth).absolute == pytest.approx(0.01, rel=1e-6)


def test_of_many_classes_the_best_and_the_worst_are_looked_at():
    classes = 100
    head = Linear(normal(classes, D, seed=7), normal(classes, seed=8))
    for extreme in ("argmax", "argmin"):
        truth = head.logits(MAPS)
        index = int(getattr(truth[0], extreme)())
        truth[0, index] += 0.5 if extreme == "argmax" else -0.5
        assert certify(head, MAPS, truth).absolute == pytest.approx(0.5)


@pytest.mark.parametrize("relative", [0.0, 1e-7, 0.99e-4, 1e-4, 1.01e-4, 0.5, 25.0, 3e9, math.inf, math.nan])
def test_only_below_a_ten_thousandth_is_it_a_class_activation_map(relative):
    certificate = Certificate("linear", 0.125, relative)
    assert certificate.exact == ("class activation map" in str(certificate)) == (relative < 1e-4)
    assert ("approximate" in str(certificate)) != certificate.exact
    assert certificate.exact or "0.12" in str(certificate)
    assert "\n" not in str(certificate)


def test_a_network_that_says_nothing_finite_is_not_certified_exact():
    assert not certify(HEADS["linear"][0], MAPS, torch.full((B, C), math.nan, dtype=torch.float64)).exact


# ------------------------------------------------------------------------------------- a network of one's own


class Own(nn.Module):
    """Cannot be traced: which stem sees the images depends on the images."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.bright, self.dark = nn.Conv2d(3, 6, 3, 2, 1), nn.Conv2d(3, 6, 3, 2, 1)
        self.body = nn.Sequential(nn.Conv2d(6, D, 2, 2), nn.ReLU())  # cell i at 0 + 2 * .5 + 4 i
        self.spare, self.fc, self.narrow = nn.Linear(D, C), nn.Linear(D, C), nn.Linear(C, C)

    def forward(self, images):
        stem = self.bright if float(images.mean()) > 0 else self.dark
        return self.fc(self.body(stem(images).relu()).mean((2, 3)))


def show(brightness: int, height: int = 64, width: int = 96) -> Batch:
    pixels = np.random.default_rng(0).integers(0, 60, (height, width, 3), dtype=np.uint8) + np.uint8(
        brightness
    )
    return collate([Photo("noise", pixels, (height, width), "")], Preprocessing(64))


def own(**settings) -> Backbone:
    return build_backbone(
        Own(), **{"layer": "body", "size": 64, "precision": "fp32", "device": "cpu"} | settings
    )


def test_the_network_of_these_tests_cannot_be_traced():
    with pytest.raises(TypeError, match="Proxy"):
        torch.fx.symbolic_trace(Own())


@pytest.mark.parametrize("head", ["linear:fc", "gradient"])
@pytest.mark.parametrize("brightness", [0, 190])
def test_a_network_that_cannot_be_traced_says_what_its_parts_say(brightness, head):
    net, batch = Own(), show(brightness)
    stem = net.bright if brightness else net.dark
    with torch.no_grad():
        maps = net.body(torch.relu(stem(batch.images)))
        logits = maps.mean((2, 3)) @ net.fc.weight.T + net.fc.bias
        rows = torch.einsum("d,bdhw->bhw", net.fc.weight[3], maps)
    found = own(head=head)
    (features,) = found(batch)
    torch.testing.assert_close(features.maps, maps)
    torch.testing.assert_close(features.logits, logits)
    torch.testing.assert_close(
        attend(class_(features, 3).vectors, features.tokens).scores.unflatten(2, features.grid)[:, 0], rows
    )
    torch.testing.assert_close(found.classify(features.maps), logits)
    assert found.certificates[0].exact  # the gradient's too: a mean and a linear layer follow
    assert (
        found.cells.receptive_field(batch.views[0].size) == ReceptiveField((1.0, 1.0), (4.0, 4.0))
        and not found.cells.unplaced
    )
    assert features.placements[0].centre(0, 0) == (1.5, 1.5)


def test_what_lies_behind_the_layer_is_not_run():
    found, called = own(head="none", placement="stretch"), []
    for name, module in found.engine.eager.named_modules():
        module.register_forward_hook(
            lambda module, inputs, output, name=name: called.append(name.rpartition(".")[2])
        )
    found(show(190))
    assert called.count("bright") == 1 and not {"dark", "fc", "spare", "narrow"} & set(called)


@pytest.mark.parametrize("layers", [["bright", "body"], ["body", "bright"]])
def test_several_layers_of_an_untraceable_network_come_in_order(
    layers,
):
    features = own(head="none", placement="stretch", layer=layers)(show(190))
    found = {one.layer: tuple(one.maps.shape[1:]) for one in features}
    assert list(found) == layers
    assert found == {"bright": (6, 32, 48), "body": (D, 16, 24)}


def complaint(**settings) -> str:
    with pytest.raises(ValueError, match=r"\A.+\Z") as raised:  # one line
        own(**settings)
    assert len(str(raised.value)) < 300
    return str(raised.value)


def test_a_wrong_layer_is_refused_with_names_like_it():
    assert (
        "no layer 'brigt'" in (said := complaint(layer="brigt")) and "bright" in said.partition("such as")[2]
    )
    assert "not maps" in complaint(layer="fc")


@pytest.mark.parametrize("head", ["linear:spare", "conv_relu:fc"])
def test_a_head_that_is_not_the_networks_is_refused(head):
    said = complaint(head=head)
    assert "is not what head says" in said and "head=gradient" in said


@pytest.mark.parametrize(
    "head", ["linear:nowhere", "linear", "linear:fc,spare", "layer_norm:fc,spare", "gradient:fc", "cam"]
)
def test_a_head_that_names_no_layer_that_could_be_one_is_refused(head):
    assert head in complaint(head=head)


@pytest.mark.parametrize("head", ["linear:narrow", "linear:bright", "conv_relu:bright"])
def test_a_head_of_another_shape_is_refused(head):
    assert "head=gradient" in complaint(head=head)


class Fixed(nn.Module):
    """Takes one size of input only, for it adds something learned to every cell."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.body, self.fc = nn.Conv2d(3, 6, 4, 4), nn.Conv2d(6, D, 2, 2), nn.Linear(D, C)
        self.where = nn.Parameter(torch.randn(6, 16, 16))

    def forward(self, images):
        return self.fc(self.body(self.stem(images) + self.where).mean((2, 3)))


def test_a_network_of_one_size_keeps_its_maps_stretched_and_says_why(capfd):
    found = build_backbone(Fixed(), layer="body", head="gradient", size=64, precision="fp32", device="cpu")
    batch = show(190, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(found(batch)[0].logits, Fixed()(batch.images))
    assert "could not be probed" in found.describe().placement


def test_a_network_of_one_size_may_have_a_linear_head():
    assert (
        build_backbone(Fixed(), layer="body", head="linear:fc", size=64, precision="fp32", device="cpu")
        .certificates[0]
        .exact
    )


def test_a_network_of_one_size_is_loaded_without_a_word(capfd):
    build_backbone(Fixed(), layer="body", head="gradient", size=64, precision="fp32", device="cpu")
    assert "Traceback" not in capfd.readouterr().err


class ChannelsLast(nn.Module):
    """Maps [B, h, w, D], as Swin's."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.turn, self.norm, self.fc = (
            nn.Conv2d(3, D, 4, 4),
            Turn(),
            nn.LayerNorm(D),
            nn.Linear(D, C),
        )

    def forward(self, images):
        return self.fc(self.norm(self.turn(self.stem(images))).mean((1, 2)))


class Turn(nn.Module):
    def forward(self, maps):
        return maps.permute(0, 2, 3, 1)


@pytest.mark.parametrize("head", ["linear:fc", "gradient"])
def test_maps_with_their_channels_last_are_turned(head):
    net, batch = ChannelsLast(), show(190)
    found = build_backbone(ChannelsLast(), layer="norm", head=head, size=64, precision="fp32", device="cpu")
    (features,) = found(batch)
    with torch.no_grad():
        expected = net.norm(net.stem(batch.images).permute(0, 2, 3, 1))
        torch.testing.assert_close(features.logits, net(batch.images))
    assert features.grid == (16, 24) and found.certificates[0].exact
    torch.testing.assert_close(features.tokens.unflatten(1, features.grid), expected)
    torch.testing.assert_close(found.classify(features.maps), features.logits)
    assert found.cells.receptive_field(batch.views[0].size) == ReceptiveField((1.5, 1.5), (4.0, 4.0))


class ByColumn(ChannelsLast):
    """Reads the columns from the left, so that rows and columns cannot be exchanged."""

    def forward(self, images):
        return self.fc(self.norm(self.turn(self.stem(images))).cumsum(2).mean((1, 2)))


def test_turned_maps_are_turned_back_for_the_rest_of_the_network():
    found = build_backbone(ByColumn(), layer="norm", head="gradient", size=64, precision="fp32", device="cpu")
    batch = show(190)
    with torch.no_grad():
        expected = ByColumn()(batch.images)
    torch.testing.assert_close(found.classify(found(batch)[0].maps), expected, rtol=1e-5, atol=1e-5)
    assert not found.certificates[0].exact
