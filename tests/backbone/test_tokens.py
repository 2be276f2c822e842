"""Networks of tokens: patches are cells, class and register tokens are none, classes are asked as ever."""

import threading

import numpy as np
import pytest
import timm
import torch
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torchvision.models import VisionTransformer as TorchvisionTransformer

import attnvis
from attnvis import backbone
from attnvis.backbone.cache import Cached
from attnvis.backbone.cutting import Hooked
from attnvis.data.preprocessing import collate
from attnvis.types import Photo, Preprocessing

SIDE, PATCH, WIDTH, CLASSES = 40, 8, 24, 7
QUIET = {"size": SIDE, "device": "cpu", "precision": "fp32"}
SMALL = {"img_size": SIDE, "patch_size": PATCH, "embed_dim": WIDTH, "depth": 3, "num_heads": 2}
TIMM = SMALL | {"num_classes": CLASSES, "dynamic_img_size": True}


class Blocks(nn.Module):
    """A transformer as somebody writes it: registers after the class token, and no names that tell."""

    def __init__(self, read=lambda tokens: tokens[:, 0], order=slice(None)) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.extra = nn.Parameter(torch.randn(1, 3, WIDTH))
        layer = nn.TransformerEncoderLayer(WIDTH, 2, 32, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
        self.classifier = nn.Linear(WIDTH, CLASSES)
        self.read, self.order = read, order

    def forward(self, images):
        patches = self.embed(images).flatten(2).mT[:, self.order]
        tokens = self.layers(torch.cat([self.extra.expand(len(patches), -1, -1), patches], 1))
        return self.classifier(self.read(tokens))


def vit(**settings):
    return VisionTransformer(**TIMM | settings)


# what makes the network, how many tokens are no patches, the last layer whose patches the classifier reads
NETWORKS = {
    "vit": (vit, 1, "blocks.1"),
    "dinov2": (lambda: vit(reg_tokens=4, init_values=1.0, no_embed_class=True), 5, "blocks.1"),
    "pooled": (lambda: vit(class_token=False, global_pool="avg"), 0, "norm"),
    "dinov3": (
        lambda: Eva(
            **TIMM, num_reg_tokens=4, use_rot_pos_emb=True, use_abs_pos_emb=False, rope_type="dinov3",
            global_pool="token", use_fc_norm=False,
        ),
        5,
        "blocks.1",
    ),
    "torchvision": (
        lambda: TorchvisionTransformer(
            image_size=SIDE, patch_size=PATCH, num_layers=3, num_heads=2, hidden_dim=WIDTH, mlp_dim=32,
            num_classes=CLASSES,
        ),
        1,
        "encoder.layers.encoder_layer_1",
    ),
    "own": (Blocks, 3, "layers.layers.1"),
}  # fmt: skip
EACH = pytest.mark.parametrize("name", NETWORKS)


def make(name):
    """The network, with numbers everywhere, a classifier of zeros too."""
    torch.manual_seed(0)
    net = NETWORKS[name][0]().eval()
    for parameter in net.parameters():
        if parameter.ndim > 1 or not parameter.any():
            nn.init.normal_(parameter, std=0.2)
    return net


def batch_of(*pictures, size=SIDE, fit="crop"):
    photos = [Photo(str(number), pixels, pixels.shape[:2], "") for number, pixels in enumerate(pictures)]
    return collate(photos, Preprocessing(size, fit, multiple=PATCH))


def picture(seed=0, shape=(SIDE, SIDE)):
    return np.random.default_rng(seed).integers(0, 256, (*shape, 3), dtype=np.uint8)


def given_tokens(net, layer, images):
    """What a layer gives, by a hook of one's own."""
    seen = []
    handle = net.get_submodule(layer).register_forward_hook(lambda _, __, output: seen.append(output))
    logits = net(images)
    handle.remove()
    return seen[0], logits


@EACH
def test_cells_are_patch_tokens_and_logits_are_the_networks(name):
    net = make(name)
    _, prefix, layer = NETWORKS[name]
    found = backbone.build_backbone(net, **QUIET)
    batch = batch_of(picture(1), picture(2))
    (features,) = found(batch)
    with torch.no_grad():
        tokens, logits = given_tokens(net, layer, batch.images)
    assert found.network.nodes == (layer,) and tokens.shape[1] == prefix + 25
    torch.testing.assert_close(features.tokens, tokens[:, prefix:], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(features.logits, logits, rtol=1e-4, atol=1e-5)
    (note, *_) = found.cell_notes
    assert f"a patch of {PATCH} x {PATCH} px" in note and (f"{prefix} token" in note) == bool(prefix)
    assert note in found.describe().placement


@EACH
def test_a_patch_is_drawn_where_it_lies(name):
    """A change of one patch changes its own cell most, and that lies on it: 8 k ... 8 k + 7 px."""
    found = backbone.build_backbone(make(name), **QUIET)
    images = batch_of(picture()).images
    other = images.clone()
    other[:, :, 3 * PATCH : 4 * PATCH, PATCH : 2 * PATCH] += 1
    before, after = (found.network.split(found.engine.run(each))[0][0][0] for each in (images, other))
    change = (after - before).norm(dim=0)
    assert divmod(int(change.argmax()), 5) == (3, 1)
    field = found.cells.receptive_field((SIDE, SIDE))
    assert field.offset == (3.5, 3.5) and field.stride == (8, 8)
    tile = attnvis.explain(picture(), backbone=found, fit="crop").answer.placement.tile(3, 1)
    assert (tile.top, tile.left, tile.height, tile.width) == pytest.approx((24, 8, 8, 8))


@EACH
def test_class_queries_are_the_gradient_through_the_networks_own_tokens(name):
    """Summed over the patches alone, of two photos with class tokens of their own."""
    net = make(name)
    _, prefix, layer = NETWORKS[name]
    found = backbone.build_backbone(net, **QUIET)
    (features,) = found(batch := batch_of(picture(1), picture(2)))
    with torch.enable_grad():
        tokens, logits = given_tokens(net, layer, batch.images)
        (slope,) = torch.autograd.grad(logits[:, 3].sum(), tokens)
    expected = slope[:, prefix:].sum(1)
    vectors, constants = features.head.ask(features.maps, torch.tensor([3, 3]))
    torch.testing.assert_close(vectors, expected, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(features.ask(torch.tensor([3, 3])), expected, rtol=1e-3, atol=1e-5)
    assert expected.abs().max() > 1e-4 and not torch.allclose(expected[0], expected[1], rtol=1e-3)
    # The constant is what the network says of the photo's own class token beside patches that are all 0.
    nothing = torch.cat([tokens[:, :prefix], torch.zeros_like(tokens[:, prefix:])], 1).detach()
    handle = net.get_submodule(layer).register_forward_hook(lambda *_: nothing)
    torch.testing.assert_close(constants, net(batch.images)[:, 3].detach(), rtol=1e-3, atol=1e-5)
    handle.remove()


def test_where_the_head_pools_the_patches_class_maps_are_exact():
    found = backbone.build_backbone(make("pooled"), head="layer_norm:fc_norm,head", **QUIET)
    assert found.certificates[0].exact
    (features,) = found(batch_of(picture(1), picture(2)))
    vectors, constants = features.head.ask(features.maps, torch.tensor([3, 4]))
    scores = (features.tokens @ vectors.unsqueeze(2)).squeeze(2).mean(1)
    torch.testing.assert_close(scores + constants, features.logits[[0, 1], [3, 4]], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["vit", "dinov2", "pooled", "dinov3", "own"])
def test_photos_of_any_whole_patches_are_taken(name):
    """`own` adds no place to its tokens; the others interpolate theirs, or turn them by their place."""
    net = make(name)
    found = backbone.build_backbone(net, **QUIET)
    batch = batch_of(picture(1, (40, 56)), picture(2, (40, 56)), fit="resize")
    (features,) = found(batch)
    assert features.grid == (5, 7) and found.preprocessing.multiple == PATCH
    with torch.no_grad():
        torch.testing.assert_close(features.logits, net(batch.images), rtol=1e-4, atol=1e-5)
    with pytest.raises(
        ValueError, match=r"patches are of 8 px, and a size of 45 px is no multiple; .*size=48"
    ):
        attnvis.explain(picture(), backbone=found, size=45)


def test_a_network_of_one_size_says_how_to_fit_photos_to_it():
    found = backbone.build_backbone(make("torchvision"), **QUIET)
    with pytest.raises(ValueError, match=r"takes 40 x 40 px alone, and fit=resize, size=40 make others; use"):
        attnvis.explain(picture(0, (60, 90)), backbone=found)
    with pytest.raises(ValueError, match=r"takes 40 x 40 px alone, and fit=crop, size=48"):
        attnvis.explain(picture(0, (60, 90)), backbone=found, fit="crop", size=48)
    grids = {
        fit: attnvis.explain(picture(0, (60, 90)), "class", backbone=found, fit=fit).answer.placement.grid
        for fit in ("crop", "letterbox", "stretch")
    }
    assert grids == {"crop": (5, 5), "letterbox": (5, 5), "stretch": (5, 5)}


def test_behind_the_last_patches_that_it_reads_no_class_is_asked():
    found = backbone.build_backbone(make("vit"), ["blocks.0", "blocks.1", "norm"], **QUIET)
    assert [head is not None for head in found.heads] == [True, True, False]
    assert found.cell_notes[1] == (
        "its classifier reads no patch of norm: the last layer that it reads is blocks.1"
    )
    first, second, norm = found(batch_of(picture()))
    assert first.logits is None and second.logits is not None and norm.logits is None
    logits, _ = first.head.read(first.maps)
    torch.testing.assert_close(logits, second.logits, rtol=1e-4, atol=1e-5)


def test_a_network_that_gives_tokens_has_cells_and_no_classes():
    torch.manual_seed(0)
    net = Blocks(read=lambda tokens: tokens).eval()
    net.classifier = nn.Identity()
    found = backbone.build_backbone(net, **QUIET)
    (features,) = found(batch := batch_of(picture()))
    torch.testing.assert_close(features.tokens, net(batch.images)[:, 3:].detach(), rtol=1e-4, atol=1e-5)
    assert found.head is None and found.certificates == (None,)


def test_a_patch_that_comes_again_is_found_by_a_point():
    """Of 7 x 5 patches three are the same; the two others come next after the one that is asked of."""
    pixels = np.full((40, 56, 3), 128, np.uint8)
    pixels += np.random.default_rng(1).integers(0, 40, pixels.shape, dtype=np.uint8)
    planted = picture(5, (PATCH, PATCH))
    for row, column in ((0, 1), (3, 2), (2, 6)):
        pixels[8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = planted
    for name in ("vit", "dinov2", "dinov3", "own"):
        found = backbone.build_backbone(make(name), **QUIET)
        scores = attnvis.explain(pixels, (8 * 2 + 4, 8 * 3 + 4), "cosine", backbone=found).logits
        order = np.argsort(scores, axis=None)[::-1][:3]
        assert {divmod(int(cell), 7) for cell in order} == {(0, 1), (3, 2), (2, 6)}, name


# --------------------------------------------------------------------------------- where no grid is certain


class Overlapping(Blocks):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, WIDTH, 2 * PATCH, PATCH, PATCH // 2)


@pytest.mark.parametrize(
    ("make_net", "reason"),
    [
        (lambda: Blocks(order=torch.arange(24, -1, -1)), "no certain grid of 5 x 5 patches"),
        (lambda: Blocks(order=torch.arange(25).view(5, 5).T.flatten()), "no certain grid of 5 x 5 patches"),
        (lambda: Blocks(order=slice(0, 20)), "no part of it gives a token|no certain grid"),
        (Overlapping, r"layer layers of Overlapping gives \(1, 243, 24\), not maps"),
    ],
    ids=["backwards", "column by column", "some of them", "overlapping"],
)
def test_tokens_that_are_no_certain_grid_are_refused(make_net, reason):
    torch.manual_seed(0)
    with pytest.raises(ValueError, match=reason):
        backbone.build_backbone(make_net(), "layers", **QUIET)


def test_the_users_network_stays_as_it_is():
    net = make("own").train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    found = backbone.build_backbone(net, **QUIET)
    attnvis.explain(picture(), 3, backbone=found)
    assert net.training and all(module.training for module in net.modules())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in net.parameters())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


# ------------------------------------------------------------------------------------------ cache and threads


def test_from_the_cache_a_class_is_asked_beside_the_photos_own_tokens(tmp_path):
    layers = ["blocks.0", "blocks.1"]
    cached = Cached(backbone.build_backbone(make("vit"), layers, **QUIET), tmp_path)
    batch = batch_of(picture(1), picture(2))
    fresh, again = cached(batch), cached(batch)
    assert (cached.encoded, cached.reused) == (2, 2)
    classes = torch.tensor([3, 4])
    for one, other in zip(fresh, again, strict=True):
        for left, right in zip(
            one.head.ask(one.maps, classes), other.head.ask(other.maps, classes), strict=True
        ):
            torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(one.head.logits(one.maps), again[1].logits, rtol=1e-4, atol=1e-5)


class Pausing(nn.Module):
    """Between its two layers the thread called `slow` waits."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 1)
        self.is_waiting, self.go_on = threading.Event(), threading.Event()

    def forward(self, images):
        maps = self.first(images)
        if threading.current_thread().name == "slow":
            self.is_waiting.set()
            self.go_on.wait(timeout=120)
        return self.second(maps)


def test_threads_that_ask_at_once_get_their_own_photos_maps():
    net = Pausing()
    trunk = Hooked(net, ["first", "second"])
    images, others = torch.randn(1, 3, 4, 4), torch.randn(1, 3, 4, 4)
    maps = []
    slow = threading.Thread(target=lambda: maps.append(trunk(images)), name="slow")
    slow.start()
    assert net.is_waiting.wait(timeout=120)
    maps.append(trunk(others))
    net.go_on.set()
    slow.join()
    for (first, second), given in zip(maps, (others, images), strict=True):
        torch.testing.assert_close(first, net.first(given))
        torch.testing.assert_close(second, net.second(net.first(given)))


def test_openvino_is_refused_for_what_counts_its_patches():
    pytest.importorskip("openvino")
    found = backbone.build_backbone(make("vit"), engine="openvino", **QUIET)
    with pytest.raises(ValueError, match=r"openvino takes no network of patches, .* engine=eager"):
        found(batch_of(picture()))


# ------------------------------------------------------------------------------------------------- the doors


SIZES = {
    "vit_tiny_patch16_224": ({"depth": 2}, 16, "blocks.0"),
    "deit_tiny_distilled_patch16_224": ({"depth": 2}, 16, "blocks.0"),
    "vit_small_patch14_reg4_dinov2": ({"depth": 2, "embed_dim": 48, "num_heads": 2}, 14, "norm"),
    "vit_small_patch16_dinov3": ({"depth": 2, "embed_dim": 48, "num_heads": 2}, 16, "norm"),
    "eva02_tiny_patch14_224": ({"depth": 2}, 14, "norm"),
    "vit_medium_patch16_gap_256": ({"depth": 2, "embed_dim": 48, "num_heads": 2}, 16, "norm"),
}


@pytest.mark.parametrize("name", SIZES)
def test_transformers_of_timm_are_known_by_name(name, monkeypatch):
    """As timm makes them, with fewer and narrower blocks.  The tokens are timm's own `forward_features`."""
    smaller, patch, layer = SIZES[name]
    create = timm.create_model
    torch.manual_seed(0)
    monkeypatch.setattr(timm, "create_model", lambda name, **settings: create(name, **smaller, **settings))
    found = attnvis.load_backbone("timm", name=name, weights="random", device="cpu", precision="fp32")
    net = found.network.net
    assert found.network.nodes == (layer,) and found.preprocessing.multiple == patch
    size = 8 * patch
    (features,) = found(batch := batch_of(picture(1, (size, size + patch)), size=size, fit="stretch"))
    assert features.grid == (8, 8)
    if layer == "norm":
        with torch.no_grad():
            tokens = net.forward_features(batch.images)[:, net.num_prefix_tokens :]
        torch.testing.assert_close(features.tokens, tokens, rtol=1e-4, atol=1e-4)
    assert (found.head is None) == (net.num_classes == 0)
    if found.head:
        assert found.certificates[0].exact == ("gap" in name)
        with torch.no_grad():
            torch.testing.assert_close(features.logits, net(batch.images), rtol=1e-3, atol=1e-5)
    place = found.cells.receptive_field((size, size))
    assert place.offset == ((patch - 1) / 2,) * 2 and place.stride == (patch, patch)


def test_a_hybrid_of_timm_whose_stem_overlaps_is_refused():
    with pytest.raises(ValueError, match="does not make patches that lie side by side"):
        attnvis.load_backbone("timm", name="vit_tiny_r_s16_p8_224", weights="random", device="cpu")


@pytest.mark.slow
def test_the_transformer_of_torchvision_is_known_by_name():
    found = attnvis.load_backbone("vit_b_32", weights="random", device="cpu", precision="fp32")
    assert found.network.nodes == ("encoder.layers.encoder_layer_10",)
    result = attnvis.explain("samples/cat", "point:200,150", backbone=found, fit="crop")
    assert result.scores.shape == (7, 7)
    assert result.answer.placement.step == pytest.approx((37.5, 37.5), rel=0.01)
