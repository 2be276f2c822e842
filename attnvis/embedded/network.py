"""The embedded backbone: an RGB batch in, patch features out, pooled and read by one linear layer, so that class queries are exact."""

from typing import no_type_check

from torch import Tensor, nn

__all__ = ["EmbeddedNet"]


def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    """Convolution without bias, then batch norm; odd kernels padded by half, so that cell i lies at stride * i pixels."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outputs),
    )


class Residual(nn.Module):
    """x + branch(x)."""

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    @no_type_check  # backbones trace it, with what is no Tensor
    def forward(self, maps: Tensor) -> Tensor:
        return maps + self.branch(maps)


def local_block(channels: int) -> Residual:
    """Two 3x3 convolutions: edges and textures (He et al. 2016, pre-activation order)."""
    return Residual(nn.Sequential(nn.ReLU(), convolution(channels, channels, 3), nn.ReLU(), convolution(channels, channels, 3)))


def wide_block(channels: int, kernel: int, expansion: int = 3) -> Residual:
    """Depthwise, then a 1x1 bottleneck turned inside out: context at few weights (the order of Liu et al. 2022)."""
    return Residual(
        nn.Sequential(
            convolution(channels, channels, kernel, groups=channels),
            convolution(channels, expansion * channels, 1),
            nn.ReLU(),
            convolution(expansion * channels, channels, 1),
        )
    )


class EmbeddedNet(nn.Module):
    """Output stride 16.  `features` ends in [B, 512, H/16, W/16] >= 0; `forward` gives logits [B, C] = head(mean over the cells).

    Three stages, each of which ends in few channels without a ReLU: narrow enough that a stage can be taught alone, from a
    teacher's maps of the same stride to its next (`attnvis.distil`).
    """

    stages = (7, 12, 18)  # how many entries of `features` make stage2 (stride 8), stage3 (stride 16) and all of it
    widths = (32, 96, 512)  # channels where each ends

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.features = nn.Sequential(
            convolution(3, 64, 7, stride=4),
            nn.ReLU(),
            convolution(64, 96, 3, stride=2),
            local_block(96),
            local_block(96),
            nn.ReLU(),
            convolution(96, 32, 1),
            # stride 8
            convolution(32, 192, 3, stride=2),
            wide_block(192, 3),
            wide_block(192, 3),
            wide_block(192, 3),
            convolution(192, 96, 1),
            # stride 16
            convolution(96, 192, 1),
            wide_block(192, 5),
            wide_block(192, 5),
            wide_block(192, 5),
            convolution(192, 512, 1),
            nn.ReLU(),
        )
        self.head = nn.Linear(512, classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images).mean((2, 3)))
