"""What 8-bit integers would do to attention: python scripts/measure_int8.py DIR/osie/images

The trunk of EfficientNet-Lite0 with its weights rounded to 8 bits (symmetric, by channel) and its activations
too (by tensor, their range taken from other photos), in float32 otherwise: an engine that computes in int8
rounds at least as much.
"""

import argparse
import copy
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from attnvis.backbone.agreement import compare_with_float32
from attnvis.backbone.engines import folded
from attnvis.backbone.sources import load_backbone
from attnvis.data.decoding import load
from attnvis.data.preprocessing import collate, shape_key
from attnvis.types import Preprocessing


def images_of(paths: Sequence[Path], how: Preprocessing, count: int) -> Tensor:
    """[count, 3, H, W]: the first photos of the first one's shape."""
    photos = [load(path, short=how.size) for path in paths]
    alike = [photo for photo in photos if shape_key(photo, how) == shape_key(photos[0], how)]
    return collate(alike[:count], how).images


def convolutions(trunk: nn.Module) -> list[nn.Conv2d]:
    return [module for module in trunk.modules() if isinstance(module, nn.Conv2d)]


def round_weights(trunk: nn.Module) -> None:
    """127 steps to either side of 0, a step for every output channel."""
    for layer in convolutions(trunk):
        step = layer.weight.data.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-12) / 127
        layer.weight.data = (layer.weight.data / step).round() * step


def round_activations(trunk: nn.Module, images: Tensor) -> None:
    """What goes into every convolution, in 256 steps between the least and the largest that `images` give."""
    ranges = {layer: [0.0, 0.0] for layer in convolutions(trunk)}

    def watch(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        low, high = ranges[layer]  # type: ignore[index]
        ranges[layer] = [min(low, float(inputs[0].min())), max(high, float(inputs[0].max()))]  # type: ignore[index]

    handles = [layer.register_forward_pre_hook(watch) for layer in ranges]
    with torch.inference_mode():
        for batch in images.split(8):
            trunk(batch)
    for handle in handles:
        handle.remove()
    for layer, (low, high) in ranges.items():
        layer.register_forward_pre_hook(partial(rounded, low=low, step=(high - low) / 255))


def rounded(layer: nn.Module, inputs: tuple[Tensor, ...], low: float, step: float) -> tuple[Tensor, ...]:
    zero = round(-low / step)
    return ((((inputs[0] / step).round() + zero).clamp(0, 255) - zero) * step,)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photos", type=Path)
    paths = sorted(parser.parse_args().photos.glob("*.jpg"))
    backbone = load_backbone("efficientnet_lite0", precision="fp32", engine="eager")
    tested = images_of(paths[:50], backbone.preprocessing, 50)
    others = images_of(paths[100:170], backbone.preprocessing, 32)
    exact = folded(backbone.network.trunk)
    print("| rounded to 8 bits | what it says of photos |\n|---|---|")
    for name in ("weights", "activations", "weights and activations"):
        trunk = copy.deepcopy(exact)
        if "activations" in name:
            round_activations(trunk, others)
        if "weights" in name:
            round_weights(trunk)
        found = compare_with_float32(trunk, exact, tested, torch.float32, head=backbone.heads[-1])
        print(f"| {name} | {found} |", flush=True)


if __name__ == "__main__":
    main()
