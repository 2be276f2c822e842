"""Where cells lie, against arithmetic by hand, and spots painted at known places."""

import math
from functools import cache

import numpy as np
import pytest
import torch
from conftest import fake_backbone
from fake_grids import FITS, quick, reaching, seen_as
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch import nn
from torch.nn import functional as F
from torchvision import models
from torchvision.models.feature_extraction import create_feature_extractor

from attnvis.backbone import Backbone
from attnvis.backbone.lite import EfficientNetLite, load_weights
from attnvis.backbone.receptive_field import probe
from attnvis.data.preprocessing import collate
from attnvis.geometry import ReceptiveField, to_pixels
from attnvis.types import Photo, Preprocessing

# A spot painted on a photo is drawn back where it was painted


def brightness(*layers: tuple[int, int, int]) -> nn.Module:
    """Every cell is a mean over its receptive field; layers: (kernel, stride, padding)."""
    net = nn.Sequential(
        *(
            nn.Conv2d(3 if first else 1, 1, k, s, p, bias=False)
            for first, (k, s, p) in zip([True] + [False] * 9, layers)
        )
    )
    for layer in net:
        nn.init.constant_(layer.weight, 1 / layer.weight.numel())
    return net


NETS = {
    "k3 s2 p1": [(3, 2, 1)] * 5,
    "k2 s2": [(2, 2, 0)] * 5,
    "k11 s4 p2": [(11, 4, 2), (3, 2, 0), (3, 2, 1), (3, 2, 1)],
}


@cache  # a backbone is probed once
def fake(name: str, placement: str = "rf") -> Backbone:
    return fake_backbone(brightness(*NETS[name]), Preprocessing(225), placement=placement)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("size", [(240, 720), (720, 240), (160, 190)])
@pytest.mark.parametrize("how", FITS)
def test_a_bright_spot_is_drawn_where_it_was_painted(name, size, how):
    how = Preprocessing(225, how, resize=257 if how == "crop" else None)
    view = seen_as(size, how.fit, resize=how.resize)
    grey = np.full((*size, 3), [round(255 * mean) for mean in how.mean], np.uint8)
    height, width = (
        max(1, round(8 / scale)) for scale in view.scale
    )  # half the spot: 16 x 16 pixels of the input
    rng = np.random.default_rng(0)
    photos, spots = [], []
    for number, (down, across) in enumerate(
        [(0.25, 0.3), (0.5, 0.5), (0.7, 0.35), *rng.uniform(0.2, 0.8, (2, 2))]
    ):
        row, column = (
            round(view.seen.top + down * view.seen.height),
            round(view.seen.left + across * view.seen.width),
        )
        pixels = grey.copy()
        pixels[row - height : row + height, column - width : column + width] = 255
        photos.append(Photo(str(number), pixels, size, str(number)))
        spots.append((row, column))
    (features,) = fake(name)(collate(photos, how))
    for tokens, placement, spot in zip(features.tokens, features.placements, spots):
        drawn = to_pixels(tokens.reshape(features.grid).numpy(), placement)
        centres = np.array(
            [placement.centre(0, 0), placement.centre(placement.grid[0] - 1, placement.grid[1] - 1)]
        )
        brightest = np.clip(
            np.add(np.unravel_index(np.nanargmax(drawn), size), 0.5), *centres
        )  # the map is level beyond the outer centres
        slack = 1 + 1.5 / np.array(view.scale)  # whole pixels of the photo and of the input
        assert (np.abs(brightest - np.clip(spot, *centres)) <= np.array(placement.step) / 2 + slack).all(), (
            spot,
            brightest,
            placement,
        )


def test_where_the_usual_placement_misses_the_spot_rf_finds_it():
    how = Preprocessing(225, "resize")
    pixels = np.full((225, 225, 3), [round(255 * mean) for mean in how.mean], np.uint8)
    pixels[120:137, 88:105] = 255  # centred on 128.5, 96.5, as cell (4, 3) is
    batch = collate([Photo("spot", pixels, (225, 225), "")], how)
    centres = {}
    for placement in ("rf", "stretch"):
        (features,) = fake("k3 s2 p1", placement)(batch)
        drawn = to_pixels(features.tokens[0].reshape(features.grid).numpy(), features.placements[0])
        centres[placement] = ndimage.center_of_mass(drawn**3)
    assert centres["rf"] == pytest.approx((128, 96), abs=1)
    assert np.hypot(*np.subtract(centres["stretch"], centres["rf"])) > 2


# probe: the reach of networks known by arithmetic


def arithmetic(layers: list[tuple[int, int, int, int]]) -> tuple[float, int]:
    """(offset, stride) of a chain of (kernel, stride, padding, dilation)."""
    offset, jump = 0.0, 1
    for kernel, stride, padding, dilation in layers:
        offset, jump = offset + jump * ((kernel - 1) * dilation / 2 - padding), jump * stride
    return offset, jump


KNOWN = {
    "k3 s2 p1 five times": ([nn.Conv2d(3, 3, 3, 2, 1)] * 5, 0, 32),  # one layer that serves five times
    "k2 s2": ([nn.Conv2d(3, 4, 2, 2)], 0.5, 2),
    "k7 s4 p3": ([nn.Conv2d(3, 4, 7, 4, 3)], 0, 4),
    "k3 s2": ([nn.Conv2d(3, 4, 3, 2)], 1, 2),
    "a ResNet's stem": (
        [nn.Conv2d(3, 4, 7, 2, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(3, 2, 1)],
        0,
        4,
    ),
    "max pooling": ([nn.MaxPool2d(2)] * 5, 15.5, 32),
    "max pooling at the ceiling": ([nn.MaxPool2d(3, 2, ceil_mode=True)] * 2, 3, 4),
    "mean pooling": ([nn.Conv2d(3, 4, 3, 1, 1), nn.AvgPool2d(2, 2)], 0.5, 2),
    "AlexNet's first layers": (
        [nn.Conv2d(3, 4, 11, 4, 2), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Conv2d(4, 5, 5, 1, 2)],
        7,
        8,
    ),
    "dilation": ([nn.Conv2d(3, 4, 3, 2, 1, dilation=2)], 1, 2),
    "groups": ([nn.Conv2d(3, 6, 3, 2, 1, groups=3), nn.Conv2d(6, 6, 2, 2, groups=6)], 1, 4),
    "gates by class": (
        [
            nn.Conv2d(3, 4, 3, 2, 1),
            nn.SiLU(),
            nn.Hardswish(),
            nn.Dropout(0.9),
            nn.Conv2d(4, 4, 3, 2, 0),
            nn.SiLU(),
        ],
        2,
        4,
    ),
}


@pytest.mark.parametrize("name", KNOWN)
def test_probe_finds_the_reach_of_chains(name):
    layers, offset, stride = KNOWN[name]
    assert probe(nn.Sequential(*layers)) == reaching(offset, stride)


@st.composite
def chains(draw) -> list[tuple[str, int, int, int, int]]:
    layers = []
    for _ in range(draw(st.integers(1, 3))):
        kind, kernel = draw(st.sampled_from(["conv", "max", "mean", "ceiling"])), draw(st.integers(1, 5))
        dilation = draw(st.integers(1, 2)) if kind == "conv" else 1
        layers.append((kind, kernel, draw(st.integers(1, 3)), draw(st.integers(0, kernel // 2)), dilation))
    return layers


def layer(kind: str, kernel: int, stride: int, padding: int, dilation: int) -> nn.Module:
    match kind:
        case "conv":
            return nn.Conv2d(3, 3, kernel, stride, padding, dilation)
        case "mean":
            return nn.AvgPool2d(kernel, stride, padding)
    return nn.MaxPool2d(kernel, stride, padding, ceil_mode=kind == "ceiling")


@given(layers=chains())
@settings(quick, max_examples=15)
def test_probe_finds_the_reach_of_any_chain(layers):
    offset, stride = arithmetic([numbers for _, *numbers in layers])
    assert probe(nn.Sequential(*(layer(*one) for one in layers)), length=512, breadth=128) == reaching(
        offset, stride
    )


@pytest.mark.parametrize(
    "net, offset", [(nn.Conv2d(3, 4, 3, 2, 1), 0), (nn.MaxPool2d(2), 0.5), (nn.AvgPool2d(2), 0.5)]
)
def test_probe_takes_a_single_layer(net, offset):
    assert probe(net) == reaching(offset, 2)


def test_probe_takes_out_every_use_of_a_layer_that_serves_twice():
    pool, act = nn.MaxPool2d(2), nn.SiLU()
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1), act, pool, nn.Conv2d(4, 4, 3, 1, 1), act, pool, pool)
    assert probe(net) == reaching(3.5, 8)


def test_probe_tells_rows_from_columns():
    net = nn.Sequential(nn.Conv2d(3, 4, (3, 5), (2, 4), (1, 0)), nn.MaxPool2d((2, 1)))
    assert probe(net) == ReceptiveField(
        (1.0, 2.0), (4.0, 4.0)
    )  # rows: 0, then half of 2; columns: (5 - 1) / 2
    assert probe(nn.Conv2d(3, 4, (1, 2), (1, 2))) == ReceptiveField((0.0, 0.5), (1.0, 2.0))


class Residual(nn.Module):
    """Two ways from input to output; ReLU is called as a function, as in ResNet, Inception and DenseNet."""

    def __init__(self, main: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.main, self.shortcut = main, shortcut

    def forward(self, images):
        return F.relu(F.relu(self.main(images)) + self.shortcut(images))


class Branches(nn.Module):
    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, images):
        return torch.cat([F.relu(branch(images)) for branch in self.branches], 1)


class SqueezeExcitation(nn.Module):
    """A gate that sees the whole picture: torchvision's class of this name."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Conv2d(channels, channels, 1)

    def forward(self, maps):
        return maps * torch.sigmoid(self.fc(maps.mean((2, 3), keepdim=True) / 100))


def test_probe_follows_residuals_with_strided_shortcuts():
    block = Residual(
        nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, 1, 1)),
        nn.Conv2d(3, 8, 1, 2),
    )
    deeper = Residual(nn.Conv2d(8, 8, 3, 2, 1), nn.Conv2d(8, 8, 1, 2))
    assert probe(nn.Sequential(block, deeper)) == reaching(0, 4)
    lopsided = Residual(nn.Conv2d(3, 8, 2, 2), nn.Conv2d(3, 8, 1, 2))  # centres .5 and 0, of equal weight
    assert probe(lopsided) == reaching(0.25, 2)


def test_probe_follows_branches():
    level = Branches(nn.Conv2d(3, 5, 1), nn.Conv2d(3, 2, 5, 1, 2), nn.MaxPool2d(3, 1, 1))
    assert probe(nn.Sequential(level, nn.MaxPool2d(3, 2, ceil_mode=True))) == reaching(1, 2)
    uneven = Branches(nn.Conv2d(3, 6, 3, 2, 1), nn.Conv2d(3, 2, 2, 2))  # six channels at 0, two at .5
    assert probe(uneven, breadth=256).offset == pytest.approx(
        (0.125, 0.125), abs=0.001
    )  # the rim of the strip weighs a little


def test_probe_looks_through_gates_that_see_the_whole_picture():
    assert probe(
        nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), SqueezeExcitation(4), nn.Conv2d(4, 4, 2, 2))
    ) == reaching(1, 4)


def test_probe_does_not_care_what_was_learned():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 5, 2, 2), nn.BatchNorm2d(8), nn.ReLU6(), nn.Conv2d(8, 8, 4, 2, 1))
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=3)
    nn.init.normal_(net[1].running_mean, std=9)
    for precision in (torch.float32, torch.bfloat16):
        assert probe(net.to(precision)) == reaching(1, 4)  # 0, then 1.5 - 1 steps of 2


def same_padded(maps, kernel: int):
    """TensorFlow's padding before a stride of 2, in arithmetic that torch.fx can trace."""
    rows, columns = (kernel - 2 + maps.shape[axis] % 2 for axis in (2, 3))
    return F.pad(maps, [columns // 2, columns - columns // 2, rows // 2, rows - rows // 2])


class FunctionalConv(nn.Conv2d):
    """A layer of its own making, which torch.fx does not know to be one.

    Its kernel becomes a bare parameter of the graph.
    """

    def forward(self, maps):
        maps = same_padded(maps, self.kernel_size[0]) if self.stride[0] == 2 else maps
        return F.conv2d(
            maps,
            self.weight,
            self.bias,
            self.stride,
            self.padding if self.stride[0] == 1 else 0,
            1,
            self.groups,
        )


class BareKernel(nn.Module):
    def __init__(self, kernel: int) -> None:
        super().__init__()
        self.kernel = nn.Parameter(torch.zeros(3, 3, kernel, kernel))

    def forward(self, maps):
        return F.conv2d(same_padded(maps, self.kernel.shape[-1]), self.kernel, stride=2)


def lopsided(layers: nn.Sequential) -> nn.Sequential:
    """Weights that look at the upper left corner of every kernel, and a little elsewhere."""
    for kernel in layers.parameters():
        nn.init.constant_(kernel, 0.001)
        if kernel.ndim == 4:
            kernel.data[:, :, 0, 0] = 5.0
    return layers


CALLED_AS_FUNCTIONS = {
    "a subclass of Conv2d": lambda: nn.Sequential(
        *(FunctionalConv(3, 3, kernel, 2) for kernel in (3, 3, 5, 3, 5))
    ),
    "a bare parameter": lambda: nn.Sequential(*(BareKernel(kernel) for kernel in (3, 3, 5, 3, 5))),
}


@pytest.mark.parametrize("kind", CALLED_AS_FUNCTIONS)
def test_no_weight_of_a_convolution_called_as_a_function_moves_the_cells(kind):
    """At 225 = 7 * 32 + 1 pixels every layer pads alike on both sides, so that cell 0 lies on pixel 0."""
    net = lopsided(CALLED_AS_FUNCTIONS[kind]())
    cut = Only(create_feature_extractor(net, {"4": "maps"}))  # traced by torch.fx
    assert not any(isinstance(module, FunctionalConv | BareKernel) for module in cut.modules())
    assert probe(cut, (225, 225)) == reaching(0, 32)
    assert probe(cut, (224, 224)) == reaching(
        31, 32
    )  # the smaller half first: each layer adds its stride's worth to the right


@torch.no_grad()
def test_real_weights_called_as_functions_are_placed_by_geometry_alone():
    """EfficientNet-Lite0 as another would write it.

    It says what attnvis' says, and its cells lie where attnvis' do.
    """
    net = EfficientNetLite()
    net.load_state_dict(load_weights("efficientnet_lite0"))
    trunk = net.features[:6].eval()
    images = torch.rand(1, 3, 65, 97, generator=torch.Generator().manual_seed(0))
    expected, known = trunk(images), {size: probe(trunk, (size, size)) for size in (224, 225)}
    for block in list(trunk.modules()):
        if isinstance(block, nn.Sequential) and "convolution" in block._modules:
            plain = block.convolution
            own = FunctionalConv(
                plain.in_channels,
                plain.out_channels,
                plain.kernel_size,
                plain.stride,
                plain.kernel_size[0] // 2,
                groups=plain.groups,
            )
            own.weight, own.bias = plain.weight, plain.bias
            block.convolution = own
            block._modules.pop("padding", None)
    cut = Only(create_feature_extractor(trunk, {"5.project.norm": "maps"}, suppress_diff_warning=True))
    torch.testing.assert_close(trunk(images), expected)
    assert probe(cut, (225, 225)) == reaching(0, 8) == known[225]
    assert probe(cut, (224, 224)) == reaching(7, 8) == known[224]


def test_a_learned_scale_weighs_no_branch():
    """LayerScale: two branches centred at 0 and .5 count alike, whatever was learned of their worth."""

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.main, self.shortcut = nn.Conv2d(3, 8, 2, 2), nn.Conv2d(3, 8, 1, 2)
            self.layer_scale = nn.Parameter(torch.full((8, 1, 1), -40.0))

        def forward(self, images):
            return self.layer_scale * self.main(images) + self.shortcut(images)

    assert probe(Scaled()) == reaching(0.25, 2)
    assert probe(Only(create_feature_extractor(Scaled(), {"add": "maps"}))) == reaching(0.25, 2)


@pytest.mark.parametrize("layer", ["maxpool", "layer1", "layer2", "layer3", "layer4"])
def test_what_a_cell_can_see_is_what_the_kernels_before_it_span(layer):
    """resnet18: r grows by (k - 1) j with every convolution, j by its stride."""
    kernels = {"maxpool": [(7, 2), (3, 2)], "layer1": [(3, 1)] * 4} | {
        f"layer{n}": [(3, 2), (3, 1), (3, 1), (3, 1)] for n in (2, 3, 4)
    }
    field, jump = 1, 1
    for name, chain in kernels.items():
        for kernel, stride in chain:
            field, jump = field + (kernel - 1) * jump, jump * stride
        if name == layer:
            break
    cut = create_feature_extractor(models.resnet18(), {layer: "maps"})
    assert probe(Only(cut)).field == (field, field)


class Only(nn.Module):
    def __init__(self, cut):
        super().__init__()
        self.cut = cut

    def forward(self, images):
        return self.cut(images)["maps"]


def test_probe_is_not_silenced_by_a_relu_called_as_a_function():
    class Dark(nn.Module):
        """As DenseNet and Inception: convolution, normalisation, F.relu.

        Nothing positive would be left of a small input.
        """

        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.last = (
                nn.Conv2d(3, 4, 3, 2, 1),
                nn.BatchNorm2d(4),
                nn.Conv2d(4, 4, 2, 2),
            )
            nn.init.constant_(self.norm.running_mean, 700)
            nn.init.constant_(self.last.bias, -700)

        def forward(self, images):
            return F.relu(self.last(F.relu(self.norm(self.conv(images)))))

    assert probe(Dark()) == reaching(1, 4)


@pytest.mark.parametrize("training", [True, False])
def test_the_probed_network_is_left_as_it_was(training):
    pool = nn.MaxPool2d(2)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3, 2, 1),
        nn.BatchNorm2d(4),
        nn.SiLU(),
        Residual(nn.Conv2d(4, 4, 3, 1, 1), SqueezeExcitation(4)),
        pool,
    )
    net.train(training)
    net[0].weight.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    layers, learned = list(net.modules()), [parameter.requires_grad for parameter in net.parameters()]
    probe(net)
    assert all(
        torch.equal(tensor, before[name]) and tensor.dtype == before[name].dtype
        for name, tensor in net.state_dict().items()
    )
    assert all(one is other for one, other in zip(net.modules(), layers, strict=True)) and net[-1] is pool
    assert all(module.training == training for module in net.modules())
    assert [parameter.requires_grad for parameter in net.parameters()] == learned
    assert math.isfinite(float(net(torch.rand(2, 3, 32, 32)).detach().sum()))
