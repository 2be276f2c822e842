"""One peer's own loop, as its documents show it: photos in, Grad-CAM overlays of the predicted class out.

    python -m benchmarks.peer_loop PEER NETWORK FOLDER THREADS

runs in that peer's environment and answers `benchmarks.serving`.  A mode says the batch, and whether the
network is channels_last and runs under autocast to bf16.
"""

import contextlib
import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from torchvision import models
from torchvision.transforms import v2

from benchmarks.serving import serve

IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
QUALITY = 92

Explain = Callable[[torch.Tensor], Any]  # images [B, 3, H, W] -> maps, as the peer gives them
Draw = Callable[[Image.Image, Any, Path], None]


def network(name: str) -> tuple[torch.nn.Module, torch.nn.Module, tuple]:
    """The very network that attnvis has, the layer that is explained, (mean, std) of its input."""
    if name == "efficientnet_lite0":
        from attnvis.backbone import lite

        net = lite.EfficientNetLite()
        net.load_state_dict(lite.load_weights(name))
        return net.eval(), net.features, (lite.MEAN, lite.STD)
    torch.manual_seed(0)
    net = models.get_model(name).eval()
    return net, net.layer4 if name.startswith("resnet") else net.features, IMAGENET


def grad_cam(net: torch.nn.Module, layer: torch.nn.Module) -> tuple[Explain, Draw]:
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.image import show_cam_on_image

    cam = GradCAM(model=net, target_layers=[layer])

    def draw(photo: Image.Image, heat: np.ndarray, path: Path) -> None:
        heat = cv2.resize(heat, photo.size)
        drawn = show_cam_on_image(np.asarray(photo, np.float32) / 255, heat, use_rgb=True)
        cv2.imwrite(str(path), drawn[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])

    return lambda images: cam(input_tensor=images, targets=None), draw


def torch_cam(net: torch.nn.Module, layer: torch.nn.Module) -> tuple[Explain, Draw]:
    from torchcam.methods import GradCAM

    cam = GradCAM(net, layer)

    def explain(images: torch.Tensor) -> torch.Tensor:
        logits = net(images)
        classes = logits.argmax(1).tolist()
        return cam(classes[0] if len(classes) == 1 else classes, logits)[0]

    return explain, draw_mask


def torch_cam_cam(net: torch.nn.Module, layer: torch.nn.Module) -> tuple[Explain, Draw]:
    """torch-cam's CAM, which reads the weights of the one linear layer behind and needs no gradient."""
    from torchcam.methods import CAM

    linear = [module for module in net.modules() if isinstance(module, torch.nn.Linear)]
    if len(linear) > 1:
        raise ValueError(f"CAM reads one linear layer, and this head has {len(linear)}")
    cam = CAM(net, layer, fc_layer=linear[0])

    @torch.no_grad()
    def explain(images: torch.Tensor) -> torch.Tensor:
        classes = net(images).argmax(1).tolist()
        return cam(classes[0] if len(classes) == 1 else classes)[0]

    return explain, draw_mask


def draw_mask(photo: Image.Image, heat: torch.Tensor, path: Path) -> None:
    from torchcam.utils import overlay_mask
    from torchvision.transforms.functional import to_pil_image

    mask = to_pil_image(heat.float(), mode="F")
    overlay_mask(photo, mask, alpha=0.5).save(path, quality=QUALITY)


def captum(net: torch.nn.Module, layer: torch.nn.Module) -> tuple[Explain, Draw]:
    from captum.attr import LayerAttribution, LayerGradCam

    cam = LayerGradCam(net, layer)

    def explain(images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            classes = net(images).argmax(1)
        return cam.attribute(images, target=classes)

    def draw(photo: Image.Image, heat: torch.Tensor, path: Path) -> None:
        size = photo.size[::-1]
        heat = LayerAttribution.interpolate(heat[None].float(), size, "bilinear")
        shares = np.maximum(heat[0, 0].detach().numpy(), 0)
        shares /= max(float(shares.max()), 1e-9)
        colours = cv2.applyColorMap((255 * shares).astype(np.uint8), cv2.COLORMAP_JET)[:, :, ::-1]
        drawn = (0.5 * np.asarray(photo, np.float32) + 0.5 * colours).astype(np.uint8)
        cv2.imwrite(str(path), drawn[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])

    return explain, draw


PEERS = {
    "pytorch-grad-cam": grad_cam,
    "torch-cam": torch_cam,
    "torch-cam's CAM": torch_cam_cam,
    "captum": captum,
}


class Loop:
    """A peer on one network in one mode: photos, a batch at a time, to overlays in a folder."""

    def __init__(self, peer: str, name: str, folder: Path, channels_last: bool, bf16: bool) -> None:
        net, layer, (mean, std) = network(name)
        self.folder = folder
        self.memory = torch.channels_last if channels_last else torch.contiguous_format
        self.autocast = torch.autocast("cpu", torch.bfloat16) if bf16 else contextlib.nullcontext()
        self.explain, self.draw = PEERS[peer](net.to(memory_format=self.memory), layer)
        to_float, normalise = v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, std)
        self.prepare = v2.Compose([v2.PILToTensor(), v2.Resize((224, 288)), to_float, normalise])

    def __call__(self, paths: Sequence[Path]) -> None:
        photos = [Image.open(path).convert("RGB") for path in paths]
        images = torch.stack([self.prepare(photo) for photo in photos]).to(memory_format=self.memory)
        with self.autocast:
            heats = self.explain(images)
        for path, photo, heat in zip(paths, photos, heats, strict=True):
            self.draw(photo, heat, self.folder / path.name)


def main(peer: str, name: str, folder: str, threads: str) -> None:
    torch.set_num_threads(int(threads))

    @functools.cache
    def loop(channels_last: bool, bf16: bool) -> Loop:
        return Loop(peer, name, Path(folder), channels_last=channels_last, bf16=bf16)

    def work(mode: Mapping[str, Any], paths: Sequence[str]) -> str:
        explain = loop(mode["channels_last"], mode["bf16"])
        batch = mode["batch"]
        for start in range(0, len(paths), batch):
            explain([Path(path) for path in paths[start : start + batch]])
        return ""

    serve(work)


if __name__ == "__main__":
    main(*sys.argv[1:])
