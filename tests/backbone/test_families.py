"""Every family of networks: its class scores beside captum's and torch-cam's, its cells beside arithmetic,
its weights by name.

The weights are random but lively: every normalisation has a scale and a shift of its own and the statistics
of its input, so that no layer dies, explodes, or could be left out unnoticed.

Photos are 96 pixels high and wide: what holds of class scores holds at every size, and 96 leaves the same
remainder as 224 in the probe of where cells lie.  What several tests ask of a network is computed once.
"""

import re
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from captum.attr import LayerGradCam
from safetensors.torch import save_file
from torch import nn
from torchcam.methods import CAM, GradCAM
from torchvision import models

from attnvis import backbone, catalogue
from attnvis.attention.dot_product import attend
from attnvis.attention.query import class_
from attnvis.backbone import Backbone, engines, sources
from attnvis.data.preprocessing import collate
from attnvis.types import Batch, Features, Photo, Preprocessing

slow = pytest.mark.slow


@dataclass(frozen=True)
class Member:
    """What SCIENCE 2.3 and 2.4 say of a network: the module whose output its classifier reads, by which
    layer, and where the cells lie."""

    name: str
    node: str
    layer: str  # "" where no single linear layer reads the mean patch
    offset: float = 0.0  # of cell 0 from the first pixel's centre
    stride: float = 32.0
    size: int = 96  # of its photos


EXACT = (
    Member("resnet18", "layer4", "fc"),
    Member("resnext50_32x4d", "layer4", "fc"),
    Member("wide_resnet50_2", "layer4", "fc"),
    Member("densenet121", "maps", "classifier", 14.0),  # `maps`: see `with_module`
    Member("mobilenet_v2", "features", "classifier.1"),
    Member("mnasnet0_5", "layers", "classifier.1"),
    Member("efficientnet_b0", "features", "classifier.1"),
    Member("regnet_x_400mf", "trunk_output", "fc"),
    Member("shufflenet_v2_x0_5", "conv5", "fc"),
    Member("googlenet", "inception5b", "fc", 22.0),
    Member("inception_v3", "Mixed_7c", "fc", 37.0, size=299),
    Member("swin_t", "permute", "head", 15.5),
)
NORMED = (Member("convnext_tiny", "features", "", 15.5),)
GATED = (
    Member(
        "squeezenet1_0", "features", "classifier.1", 17.0, 16.0
    ),  # 3 + 2 + 4 + 8: a 7 wide kernel, then three times 3, at steps 2, 2, 4, 8
    Member("squeezenet1_1", "features", "classifier.1", 15.0, 16.0),  # 1 + 2 + 4 + 8
)
APPROXIMATE = (
    Member("mobilenet_v3_small", "features", ""),
    Member("vgg11", "features", "", 15.5),
    Member("alexnet", "features", "", 31.0),
)
MEMBERS = {member.name: member for member in (*EXACT, *NORMED, *GATED, *APPROXIMATE)}
# ConvNeXt's kind of head stays quick in the convnext_femto of timm below.
HEAVY = ("resnext50_32x4d", "wide_resnet50_2", "inception_v3", "vgg11", "convnext_tiny")


def each(members: tuple[Member, ...]):
    """Test with each of these networks, made once for the file; those that take seconds are slow."""
    params = [pytest.param(one.name, marks=slow if one.name in HEAVY else ()) for one in members]
    return pytest.mark.parametrize("network", params, indirect=True)


@dataclass(frozen=True, eq=False)
class Network:
    """A backbone of attnvis, and torchvision's own network with the same weights; both in float64."""

    member: Member
    backbone: Backbone
    folded: nn.Module  # the trunk of the backbone as it was before `precise`, in float32
    net: nn.Module
    batch: Batch

    @property
    def node(self) -> nn.Module:
        return self.net.get_submodule(self.member.node)

    @cached_property
    def images(self) -> torch.Tensor:
        return self.batch.images.double()

    @cached_property
    def logits(self) -> torch.Tensor:
        return self.net(self.images).detach()

    @cached_property
    def answers(self) -> list[int]:
        """The network's own, photo by photo."""
        return self.logits.argmax(1).tolist()

    @cached_property
    def grad_cam(self) -> torch.Tensor:
        """Captum's, of the network's own answers: [B, h, w]."""
        attribution = LayerGradCam(self.net, self.node).attribute(self.images, target=self.answers)
        return attribution[:, 0].detach()

    @cached_property
    def features(self) -> Features:
        (features,) = self.backbone(self.batch)
        return features

    @cached_property
    def scores(self) -> torch.Tensor:
        """Of the class that was predicted: [B, h, w]."""
        attention = attend(class_(self.features).vectors, self.features.tokens)
        return attention.scores[:, 0].unflatten(1, self.features.grid)


@pytest.fixture(scope="module")
def network(request) -> Network:
    member = MEMBERS[request.param]
    net = lively(made(member.name), member.size)
    found = named(member.name, net)
    folded = found.engine.eager
    precise(found)
    return Network(member, found, folded, with_module(member, net).double(), photos(member.size))


def precise(found: Backbone) -> None:
    """Maps in float64, and batch norm as it is: rounding and folding are left to other tests."""
    found.engine.forward = found.engine.eager = deepcopy(found.network.trunk).double()
    found.engine.dtype = torch.float64


def made(name: str) -> nn.Module:
    torch.manual_seed(0)
    return models.get_model(name, weights=None, **sources.arguments(name))


def named(name: str, net: nn.Module, **settings) -> Backbone:
    """As `load_backbone` makes it, never remembered, and with the state of `net` instead of a download."""
    config = {
        key: value
        for key, value in catalogue.settings(f"backbone/{catalogue.family(name)}").items()
        if key != "_target_"
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "downloaded", lambda enum, name: net.state_dict())
        return backbone.torchvision(
            **config | {"name": name, "precision": "fp32", "device": "cpu"} | settings
        )


def lively(net: nn.Module, size: int = 96, seed: int = 0) -> nn.Module:
    """Scales, shifts and classifiers at random, and of every batch norm the statistics of noise."""
    torch.manual_seed(seed)
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.2)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=module.in_features**-0.5)
            if module.bias is not None:
                nn.init.normal_(module.bias, std=0.3)
    for name, parameter in net.named_parameters():
        if name.endswith(("layer_scale", "gamma")):  # ConvNeXt's own start is 1e-6: next to nothing
            nn.init.uniform_(parameter, 0.2, 0.6)
    usual = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        net.train()(torch.randn(4, 3, size, size))
    for norm, momentum in zip(norms, usual):
        norm.momentum = momentum
    return net.eval()


def with_module(member: Member, net: nn.Module) -> nn.Module:
    """DenseNet calls its last ReLU as a function, where no hook can see it: here it is a module."""
    if not member.name.startswith("densenet"):
        return net
    whole = nn.Sequential()
    whole.add_module("maps", nn.Sequential(net.features, nn.ReLU()))
    whole.add_module("pool", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()))
    whole.add_module("classifier", net.classifier)
    return whole.eval()


def photos(side: int, count: int = 2) -> Batch:
    """Of noise."""
    return collate([picture(side, side, seed) for seed in range(count)], Preprocessing(side))


def picture(height: int, width: int, seed: int = 0) -> Photo:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Photo(f"noise {seed}", pixels, (height, width), "")


def close(found: torch.Tensor, expected: torch.Tensor, relative: float = 1e-5) -> None:
    """To so much of the largest value."""
    torch.testing.assert_close(
        found, expected.to(found.dtype), rtol=0, atol=relative * float(expected.abs().max())
    )


# ------------------------------------------------------------------------------------ class scores, elsewhere


def test_every_family_has_a_member_here_and_its_config_names_its_head():
    kinds = {"linear": EXACT, "layer_norm": NORMED, "conv_relu": GATED, "gradient": APPROXIMATE}
    told = {option: catalogue.settings(f"backbone/{option}") for option in catalogue.options("backbone")}
    named_after = {
        option: config["head"].partition(":")[0]
        for option, config in told.items()
        if config["_target_"].endswith(".torchvision") and config["stages"]  # tokens: test_tokens.py
    }
    assert named_after == {
        catalogue.family(member.name): kind for kind, members in kinds.items() for member in members
    }


@each(EXACT)
def test_class_scores_are_captums_grad_cam_times_n(network):
    expected = network.grad_cam
    assert network.backbone.certificates[0].exact
    close(network.scores, expected * expected[0].numel())


@each(EXACT)
def test_class_scores_are_torch_cams_cam(network):
    with CAM(network.net, network.member.node, network.member.layer) as cam, torch.no_grad():
        network.net(network.images)
        (expected,) = cam(class_idx=network.answers, normalized=False)
    close(network.scores, expected)


@each(EXACT)
def test_class_scores_above_0_are_torch_cams_grad_cam_times_n(network):
    """torch-cam's Grad-CAM drops what is below 0."""
    with GradCAM(network.net, network.member.node) as cam:
        logits = network.net(network.images)
        (expected,) = cam(class_idx=network.answers, scores=logits, normalized=False)
    assert (expected > 0).any()
    close(network.scores.clamp_min(0), expected.detach() * expected[0].numel())


@each((*EXACT, *NORMED))
def test_the_mean_class_score_and_the_constant_make_the_logit(network):
    features, scores = network.features, network.scores
    _, constants = features.head.ask(features.maps, torch.tensor(network.answers))
    close(features.logits, network.logits)
    close(scores.mean((1, 2)) + constants, network.logits.max(1).values)


@each(NORMED)
def test_grad_cam_of_convnext_has_mean_0_and_ours_has_not(network):
    theirs, ours = network.grad_cam, network.scores
    for map_, mean in ((theirs, 0.0), (ours, None)):
        share = map_.mean((1, 2)).abs() / map_.abs().amax((1, 2))
        assert (share < 1e-4).all() if mean == 0.0 else (share > 1e-2).all(), share
    assert network.backbone.certificates[0].exact and network.backbone.heads[0].kind == "layer_norm"


@each(GATED)
def test_squeezenets_class_scores_are_its_last_convolution_before_the_relu(network):
    features = network.features
    with torch.no_grad():
        said = network.net.classifier[1](network.net.features(network.images))
    for index in (int(said[0].mean((1, 2)).argmax()), int(said[0].mean((1, 2)).argmin())):
        scores = (
            attend(class_(features, index).vectors, features.tokens).scores[:, 0].unflatten(1, features.grid)
        )
        _, constants = features.head.ask(features.maps, torch.full((2,), index))
        close(scores + constants[:, None, None], said[:, index])
    assert (said[0, index] < 0).any()  # of the worst class: the ReLU has something to do
    close(features.logits, network.logits)
    assert network.backbone.certificates[0].exact


@each(APPROXIMATE)
def test_where_no_head_is_exact_the_query_is_grad_cams(network):
    features, scores = network.features, network.scores
    spoken = {}
    handle = network.node.register_forward_hook(lambda module, inputs, output: spoken.update(maps=output))
    logits = network.net(network.images)
    handle.remove()
    chosen = logits[range(len(logits)), network.answers].sum()
    weights = torch.autograd.grad(chosen, spoken["maps"])[0].mean((2, 3))  # Grad-CAM's alpha
    close(class_(features).vectors[:, 0], weights * scores[0].numel())
    expected = network.grad_cam
    close(scores, expected * expected[0].numel())


@each(APPROXIMATE)
def test_where_no_head_is_exact_the_certificate_says_so_and_by_how_much(network):
    certificate = network.backbone.certificates[0]
    said = network.backbone.describe().class_scores
    assert not certificate.exact and certificate.relative > 0.01
    assert said == str(certificate) and said.startswith("approximate, by the gradient")
    assert f"{certificate.absolute:.2g}" in said and "class activation map" not in said


# -------------------------------------------------------------------------------------------------- placement


@each((*EXACT, *NORMED, *GATED, *APPROXIMATE))
def test_cells_lie_where_the_table_says(network):
    member = network.member
    reach = network.backbone.cells.receptive_field((member.size, member.size))
    assert reach.offset == pytest.approx((member.offset,) * 2, abs=0.05)
    assert reach.stride == pytest.approx((member.stride,) * 2, abs=0.005)


# -------------------------------------------------------------------------------------------- weights by name

OTHERS = {"maxvit_t"}  # has no family
CLASSIFIERS = [name for name in models.list_models(module=models) if name not in OTHERS]
WEIGHTS = [(name, enum.name) for name in CLASSIFIERS for enum in models.get_model_weights(name)]


class Found(Exception):
    """Carries what a backbone was to be made of, instead of making it."""


def source_of(load) -> sources.SourceNetwork:
    """What `load` would have made a backbone of."""

    def stop(source, *settings, **more):
        raise Found(source)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "assemble", stop)
        with pytest.raises(Found) as caught:
            load()
    return caught.value.args[0]


def test_every_classifier_but_one_has_a_family():
    assert {name for name in models.list_models(module=models) if catalogue.family(name) is None} == OTHERS


@pytest.mark.parametrize("name, weights", WEIGHTS)
def test_all_weights_of_torchvision_come_by_name_with_their_preprocessing(name, weights, monkeypatch):
    """The network itself is left out, so that the largest cost nothing."""
    fetched = []
    monkeypatch.setattr(models, "get_model", lambda name, **settings: nn.Identity())
    monkeypatch.setattr(sources, "find_grid", lambda net, size: None)
    monkeypatch.setattr(sources, "downloaded", lambda enum, name: fetched.append(enum) or {})
    config = {
        key: value
        for key, value in catalogue.settings(f"backbone/{catalogue.family(name)}").items()
        if key != "_target_"
    }
    found = source_of(lambda: backbone.torchvision(**config | {"name": name, "weights": weights}))
    enum = models.get_model_weights(name)[weights]
    how = enum.transforms()
    assert fetched == [enum] and found.weights == str(enum)
    assert ([found.preprocessing.size], [found.preprocessing.resize]) == (how.crop_size, how.resize_size)
    assert (list(found.preprocessing.mean), list(found.preprocessing.std)) == (list(how.mean), list(how.std))
    assert list(found.categories) == (enum.meta["categories"] or [])
    assert found.head == (
        config["head"] if enum.meta["categories"] else "none"
    )  # VGG16 has weights without a classifier


@each((MEMBERS["resnet18"], MEMBERS["efficientnet_b0"], MEMBERS["swin_t"], MEMBERS["inception_v3"]))
def test_what_was_downloaded_is_what_the_network_says(network):
    how = models.get_model_weights(network.member.name).DEFAULT.transforms()
    settings = network.backbone.preprocessing
    assert ([settings.size], [settings.resize], list(settings.mean)) == (
        how.crop_size,
        how.resize_size,
        how.mean,
    )
    close(network.backbone.network.net(network.images.float()), network.logits, 1e-3)


def test_densenets_weights_load_with_the_names_of_torchvisions_files():
    """Its files say denselayer1.norm.1.weight; torchvision's builder makes that denselayer1.norm1.weight."""
    net = made("densenet121")
    old = {
        re.sub(r"\.(norm|conv)([12])\.", r".\1.\2.", key): value for key, value in net.state_dict().items()
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    source = source_of(lambda: named("densenet121", SimpleNamespace(state_dict=lambda: old)))
    loaded = source.net.state_dict()
    last = "features.denseblock4.denselayer16.conv2.weight"
    assert torch.equal(loaded[last], net.state_dict()[last])


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("name", ["mnasnet0_5", "shufflenet_v2_x0_5", "squeezenet1_1", "mobilenet_v3_small"])
def test_weights_from_a_file_are_those_of_the_network_that_was_saved(name, suffix, tmp_path):
    net, path = made(name), tmp_path / f"saved{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(net.state_dict(), path)
    loaded = source_of(lambda: named(name, net, weights=str(path))).net.state_dict()
    assert loaded.keys() == net.state_dict().keys()
    assert all(torch.equal(loaded[key], tensor) for key, tensor in net.state_dict().items())


# --------------------------------------------------------------------------------- several layers in one pass

LAYERS = {  # layers, what every photo goes through first, what lies behind the deepest of them
    "resnet18": (["stage1", "stage2", "stage3"], "conv1", "layer4"),
    "densenet121": (["stage2", "stage3"], "features.conv0", "features.transition3"),
    "swin_t": (["stage1", "stage2", "stage3"], "features.0.0", "features.6"),
    "efficientnet_lite0": (["stage2", "stage3"], "features.0.convolution", "features.12"),
}


def several(name: str, net: nn.Module | None, **settings) -> Backbone:
    """Stretched: nothing is probed.  Without a head where that can be said: nothing behind is asked."""
    if net is None:
        return backbone.efficientnet_lite(precision="fp32", device="cpu", placement="stretch", **settings)
    return named(name, net, head="none", placement="stretch", **settings)


def heard(net: nn.Module, nodes: tuple[str, ...], images: torch.Tensor) -> list[torch.Tensor]:
    """What these modules say while the whole network runs: maps, whatever their axes."""
    outputs: dict[str, torch.Tensor] = {}
    for node in nodes:
        net.get_submodule(node).register_forward_hook(
            lambda module, inputs, output, node=node: outputs.update({node: output})
        )
    with torch.no_grad():
        net(images)
    return [outputs[node] for node in nodes]


@pytest.mark.parametrize("name", LAYERS)
def test_several_layers_in_one_pass_say_what_each_says_alone(name):
    layers, first, behind = LAYERS[name]
    net = None if name == "efficientnet_lite0" else lively(made(name), 97)
    together, batch, called = several(name, net, layer=layers), photos(97), []
    precise(together)
    for path, module in together.engine.eager.named_modules():
        module.register_forward_hook(
            lambda module, inputs, output, path=path: called.append(path.removeprefix("encode."))
        )
    features = together(batch)
    assert [layer.layer for layer in features] == layers
    assert called.count(first) == 1
    assert not [path for path in called if f"{path}.".startswith(f"{behind}.")]
    whole = deepcopy(together.network.net).double()
    for layer, maps in zip(
        features, heard(whole, together.network.nodes, batch.images.double()), strict=True
    ):
        expected = maps.permute(0, 3, 1, 2) if name == "swin_t" else maps
        assert layer.grid == expected.shape[2:]
        close(layer.maps, expected, 1e-6)


def test_a_layer_is_the_same_alone_and_among_several():
    net, batch = lively(made("resnet18"), 97), photos(97)
    for features in several("resnet18", net, layer=["stage1", "stage3"])(batch):
        (alone,) = several("resnet18", net, layer=features.layer)(batch)
        assert alone.grid == features.grid
        close(features.tokens, alone.tokens, 1e-6)


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_lite0"])
def test_layers_come_in_the_order_in_which_they_were_asked_for(name):
    together = several(name, None if name == "efficientnet_lite0" else made(name), layer=["stage3", "stage2"])
    features = together(photos(97, 1))
    assert [(one.layer, one.grid) for one in features] == [
        ("stage3", (7, 7)),
        ("stage2", (13, 13)),
    ]


# --------------------------------------------------------------------------------------- batch norm folded in


def is_folded(trunk: nn.Module, unfolded: nn.Module) -> None:
    """No batch norm is left, and the maps are what they were: in float32, and more nearly in float64."""
    norms = [module for module in unfolded.modules() if isinstance(module, nn.BatchNorm2d)]
    assert norms and not [module for module in trunk.modules() if isinstance(module, nn.BatchNorm2d)]
    images = photos(97).images
    with torch.no_grad():
        close(trunk(images)[0], unfolded(images)[0], 1e-4)
        exact = deepcopy(unfolded).double()
        close(engines.folded(exact)(images.double())[0], exact(images.double())[0], 1e-10)


@each((MEMBERS["resnet18"], MEMBERS["mobilenet_v2"], MEMBERS["googlenet"]))
def test_no_batch_norm_is_left_where_one_follows_a_convolution(network):
    is_folded(network.folded, network.backbone.network.trunk)


def test_no_batch_norm_is_left_in_the_default_network():
    found = backbone.efficientnet_lite(precision="fp32", device="cpu")
    is_folded(found.engine.eager, found.network.trunk)


# -------------------------------------------------------------------------------------------------- letterbox


@pytest.mark.parametrize(
    "network, height, width",
    [
        ("resnet18", 100, 400),
        ("resnet18", 400, 150),
        pytest.param("convnext_tiny", 400, 150, marks=slow),
        ("squeezenet1_1", 100, 400),
    ],
    indirect=["network"],
)
def test_logits_of_a_letterboxed_photo_come_from_the_cells_that_touch_it(network, height, width):
    member, net, found = network.member, network.net, network.backbone
    batch = collate([picture(height, width)], Preprocessing(224, fit="letterbox"))
    (features,), images = found(batch), batch.images.double()
    scale = 224 / max(height, width)
    inside = []  # rows, then columns
    for length in (height, width):
        start = (224 - round(length * scale)) / 2
        cells = range((224 // 16 - 1) if member.stride == 16 else 7)  # SqueezeNet pads nothing: 13
        centres = {cell: member.offset + 0.5 + member.stride * cell for cell in cells}
        first, last = start - member.stride / 2, 224 - start + member.stride / 2
        inside.append([cell for cell, centre in centres.items() if first < centre < last])
    rows, columns = inside
    assert features.grid == (len(rows), len(columns)) != found.encode(images).shape[2:]
    with torch.no_grad():
        maps = net.features(images) if member.name != "resnet18" else found.encode(images)
        maps = maps[:, :, rows][:, :, :, columns]
        if member.name == "resnet18":
            expected = net.fc(maps.mean((2, 3)))
        elif member.name == "convnext_tiny":
            expected = net.classifier(net.avgpool(maps))
        else:
            expected = net.classifier(maps).flatten(1)
        whole = net(images)
    close(features.logits, expected, 1e-4)
    assert (expected - whole).abs().max() > 1e-2 * whole.abs().max()  # the bars would have had their say


# ------------------------------------------------------------------------------------------------------- timm


@pytest.mark.parametrize(
    "name, node, kind",
    [
        ("resnet18", "layer4", "linear"),
        ("convnext_femto", "stages.3", "layer_norm"),
        ("mobilenetv3_small_050", "", "gradient"),
    ],
)
@pytest.mark.slow
def test_a_network_of_timm_says_what_timm_says(name, node, kind, tmp_path):
    net = lively(timm.create_model(name, pretrained=False))
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    found = backbone.timm(
        name, weights=str(tmp_path / "net.safetensors"), precision="fp32", device="cpu", placement="stretch"
    )
    precise(found)
    batch, net = photos(96), net.double()
    images = batch.images.double()
    (features,), truth = found(batch), net(images)
    answers = truth.argmax(1)
    scores = attend(class_(features).vectors, features.tokens).scores[:, 0].unflatten(1, features.grid)
    _, constants = features.head.ask(features.maps, answers)
    close(features.logits, truth.detach())
    close(found.classify(features.maps), truth.detach())
    assert (found.heads[0].kind, found.certificates[0].exact) == (kind, kind != "gradient")
    if kind == "gradient":
        return
    close(scores.mean((1, 2)) + constants, truth.detach().max(1).values)
    grad_cam = (
        LayerGradCam(net, net.get_submodule(node)).attribute(images, target=answers.tolist())[:, 0].detach()
    )
    if kind == "linear":
        close(scores, grad_cam * grad_cam[0].numel())
    else:
        assert (grad_cam.mean((1, 2)).abs() < 1e-4 * grad_cam.abs().amax((1, 2))).all()


@pytest.fixture(scope="module")
def resnet_of_timm() -> Backbone:
    return backbone.timm("resnet18", weights="random", layer="all", precision="fp32", device="cpu")


@pytest.mark.parametrize("stage, stride", [("stage1", 4), ("stage2", 8), ("stage3", 16), ("last", 32)])
def test_the_stages_of_timm_are_those_of_its_feature_info(resnet_of_timm, stage, stride):
    info = timm.create_model("resnet18", pretrained=False).feature_info[-4:]
    number = ["stage1", "stage2", "stage3", "last"].index(stage)
    assert resnet_of_timm.layers[number] == stage
    assert (
        resnet_of_timm.network.nodes[number] == info[number]["module"] and info[number]["reduction"] == stride
    )
    assert resnet_of_timm.cells.receptive_field((224, 224), number).stride == (stride, stride)


def test_an_unknown_network_of_timm_is_refused_with_names_like_it():
    with pytest.raises(ValueError, match=r"no network called 'resnet1888'; did you mean .*resnet18"):
        backbone.timm("resnet1888", weights="random")
