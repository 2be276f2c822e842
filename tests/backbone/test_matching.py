"""Checkpoints as training leaves them: whatever weights are wrapped in, it is the same network."""

import argparse
import itertools
import json
import os
import re
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from conftest import records
from safetensors.torch import load_file, save_file
from torch import nn

from attnvis import backbone as backbones
from attnvis.backbone import build_backbone, lite
from attnvis.backbone.class_files import class_names
from attnvis.backbone.matching import state_dict
from attnvis.backbone.sources import arguments, config_of, from_config


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 5, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(5)

    def forward(self, maps):
        return self.bn(self.conv(maps)).relu()


class Net(nn.Module):
    """Two blocks and a classifier, with the kinds of tensors that networks have."""

    def __init__(self, classes: int = 7, channels: int = 3) -> None:
        super().__init__()
        self.stem = nn.Conv2d(channels, 5, 4, 4)
        self.layers = nn.Sequential(Block(5), Block(5))
        self.fc = nn.Linear(5, classes)

    def forward(self, images):
        return self.fc(self.layers(self.stem(images)).mean((2, 3)))


def trained(seed: int = 0, **settings) -> Net:
    """Lively weights and statistics, other for every seed."""
    torch.manual_seed(seed)
    net = Net(**settings)
    for tensor in net.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand_like(tensor) + 0.1)
        else:
            tensor.fill_(100 + seed)
    return net.eval()


STATE = trained().state_dict()
OTHER = trained(1).state_dict()
IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
SETTINGS = {
    "layer": "layers",
    "head": "linear:fc",
    "size": 64,
    "device": "cpu",
    "precision": "fp32",
    "placement": "stretch",
}


def load(path, net=None, **settings):
    return build_backbone(net or Net(), weights=str(path), **SETTINGS | settings)


def logits(backbone):
    return backbone.network.net(IMAGES)


def refusal(path, net=None, **settings) -> str:
    with pytest.raises(ValueError, match=r"\A.*\Z") as caught:
        load(path, net, **settings)
    return str(caught.value)


def renamed(state, prefix):
    return OrderedDict((prefix + name, tensor.clone()) for name, tensor in state.items())


def saved(content, name="w.pth") -> str:
    torch.save(content, name)
    return name


# -------------------------------------------------------------------------------------- wrappings

PREFIXES = [
    "",
    "module.",
    "_orig_mod.",
    "_orig_mod.module.",
    "module._orig_mod.",
    "model.",
    "net.",
    "backbone.",
    "module.backbone.",
    "module.encoder_q.",
    "resnet.",
    "_fsdp_wrapped_module.",
    "encoder.model.layers.",
]
NESTINGS = [
    (),
    ("state_dict",),
    ("model",),
    ("model_state_dict",),
    ("teacher",),
    ("checkpoint", "model"),
    ("state", 0, "net"),
]


def nested(state, nesting):
    for key in reversed(nesting):
        state = {key: state}
    return state


def optimizer():
    return {"state": {0: {"exp_avg": torch.zeros(5, 3, 4, 4), "step": torch.tensor(3.0)}}, "param_groups": []}


EXTRAS = [
    {},
    {"epoch": 3, "best": 93.1, "arch": "net", "optimizer": optimizer(), "args": argparse.Namespace(lr=0.1)},
    {"n_averaged": torch.tensor(5), "queue": torch.rand(9, 4), "projector.0.weight": torch.rand(4, 5)},
]
WRAPPINGS = list(itertools.product(PREFIXES, NESTINGS, EXTRAS))


@pytest.mark.parametrize("way", ["zip", "old", "safetensors"])
def test_a_network_is_the_same_in_any_wrapping(here, way):
    """Prefix x nesting x what lies beside it: 273 files of each of torch's kinds, 39 safetensors."""
    expected = trained()(IMAGES)
    loaded = 0
    for prefix, nesting, extra in WRAPPINGS:
        content = nested(renamed(STATE, prefix), nesting) | extra
        if way != "safetensors":
            torch.save(content, "w.ckpt", _use_new_zipfile_serialization=way == "zip")
        elif nesting:
            continue
        else:
            save_file({key: value for key, value in content.items() if torch.is_tensor(value)}, "w.ckpt")
        checkpoint = state_dict(Path("w.ckpt"), Net(), "net")
        net = Net()
        net.load_state_dict(checkpoint.tensors)
        assert torch.equal(net.eval()(IMAGES), expected), (prefix, nesting, list(extra))
        assert torch.equal(checkpoint.tensors["layers.0.bn.num_batches_tracked"], torch.tensor(100))
        where = ".".join([*map(str, nesting), *prefix.split(".")]).strip(".")
        places = [note for note in checkpoint.notes if note.startswith("the weights lie under")]
        assert places == ([f"the weights lie under {where}"] if where else [])
        left = {0: 0, 5: 2, 3: 3}[len(extra)] if way != "safetensors" else len(extra) % 5
        assert any(f"{left} tensor" in note for note in checkpoint.notes) == bool(left)
        loaded += 1
    assert loaded == {"zip": 273, "old": 273, "safetensors": 39}[way]


def test_frameworks_own_files_are_the_same_network(here):
    """As DDP, SWA, torch.compile and its like write them, by their own code."""
    net = trained()
    wrapped = {
        "data parallel": nn.DataParallel(net),
        "averaged": torch.optim.swa_utils.AveragedModel(net),
        "compiled": torch.compile(net),
        "averaged compiled": torch.optim.swa_utils.AveragedModel(torch.compile(net)),
        "sequential": nn.Sequential(nn.Identity(), net),
        "inside": nn.ModuleDict({"backbone": net, "head": nn.Linear(3, 4)}),
    }
    expected = net(IMAGES)
    for name, module in wrapped.items():
        backbone = load(saved({"model": module.state_dict()}))
        assert torch.equal(logits(backbone), expected), name


def test_what_was_found_is_said_and_recorded(attnvis, cat, here):
    Path("own_net.py").write_text("from test_matching import Net\n\ndef make():\n    return Net()\n")
    saved({"state_dict": renamed(STATE, "model.") | {"loss.weight": torch.rand(3)}}, "last.ckpt")
    words = ["backbone=own", "backbone.net._target_=own_net.make", "trust=[own_net]", "query=mean"]
    words += ["backbone.layer=layers", "backbone.head=linear:fc", "backbone.weights=last.ckpt"]
    ended = attnvis("run", "cat.png", *words, "render.panel=false")
    assert ended.code == 0, ended.err
    assert "attnvis: last.ckpt: the weights lie under state_dict.model\n" in ended.err
    assert "attnvis: last.ckpt: 1 tensor left over (state_dict.loss.weight)\n" in ended.err
    text = "last.ckpt; the weights lie under state_dict.model; 1 tensor left over (state_dict.loss.weight)"
    (row,) = records()
    assert row["weights"] == text and json.loads(Path("out/run.json").read_text())["weights"] == text


# ----------------------------------------------------------------------- several networks in one file


@pytest.mark.parametrize(
    "average",
    [
        "state_dict_ema",
        "ema",
        "model_ema.module",
        "ema_state_dict",
        "EMA",
        "teacher",
        "swa_model",
        "averaged_model",
    ],
)
def test_of_networks_that_fit_the_average_over_training_is_taken(here, average):
    for content in (
        {"student": STATE, average: OTHER},
        {average: OTHER, "student": STATE},
        renamed(STATE, "student.") | renamed(OTHER, f"{average}."),
    ):
        backbone = load(saved(content))
        assert torch.equal(logits(backbone), trained(1)(IMAGES))
        assert f"the weights lie under {average}" in backbone.notes
        assert "student would fit as well (backbone.weights_key=student)" in backbone.notes
        student = load("w.pth", weights_key="student")
        assert torch.equal(logits(student), trained()(IMAGES))
        assert student.digest != backbone.digest


def test_of_equals_the_first_in_the_file_is_taken(here):
    """MoCo's query encoder stands before its key encoder, BYOL's online network before its target."""
    for first, second in (
        ("encoder_q", "encoder_k"),
        ("online_network", "target_network"),
        ("ema_rate", "b"),
    ):
        content = {"state_dict": renamed(STATE, f"module.{first}.") | renamed(OTHER, f"module.{second}.")}
        assert torch.equal(logits(load(saved(content))), trained()(IMAGES))
        assert torch.equal(logits(load("w.pth", weights_key=second)), trained(1)(IMAGES))


def test_a_network_at_the_top_of_a_file_can_be_chosen(here):
    backbone = load(saved(STATE | {"ema": OTHER}))
    assert "top would fit as well (backbone.weights_key=top)" in backbone.notes
    assert torch.equal(logits(load("w.pth", weights_key="top")), trained()(IMAGES))


def test_an_average_of_some_of_the_weights_is_not_taken(here):
    parameters = {name: tensor for name, tensor in OTHER.items() if "running" not in name}
    assert torch.equal(logits(load(saved({"ema": parameters, "model": STATE}))), trained()(IMAGES))


def test_a_key_that_means_nothing_is_refused_with_those_that_do(here):
    saved({"student": STATE, "teacher": OTHER, "optimizer": optimizer()})
    complaint = refusal("w.pth", weights_key="techer")
    assert complaint == "w.pth has no weights under 'techer'; backbone.weights_key may be student, teacher"


# ---------------------------------------------------------------------------------- other classifiers


@pytest.mark.parametrize("classes", [1, 2, 10, 1000])
def test_the_classes_are_the_files(here, classes):
    net = trained(classes=classes)
    backbone = load(saved({"model": renamed(net.state_dict(), "module.")}))
    expected = net(IMAGES)
    if classes == 1:  # no and yes, whose softmax is the sigmoid of the one logit
        expected = torch.cat([-expected / 2, expected / 2], 1)
    assert torch.equal(logits(backbone), expected)
    assert backbone.certificates[0].exact and backbone.network.net.fc.out_features == classes
    assert f"{classes} class{'es' * (classes > 1)} in place of 7" in backbone.notes


def test_names_are_as_many_as_the_files_classes(here):
    saved(trained(classes=3).state_dict())
    assert load("w.pth", categories=["a", "b", "c"]).head.categories == ("a", "b", "c")
    assert "categories has 2 names and Net has 3 classes" in refusal("w.pth", categories=["a", "b"])


def test_a_body_without_its_classifier_is_asked_no_class(here):
    body = {name: tensor for name, tensor in STATE.items() if not name.startswith("fc")}
    moco = renamed(body, "module.encoder_q.") | {"module.encoder_q.fc.0.weight": torch.rand(5, 5)}
    backbone = load(saved({"state_dict": moco}))
    assert backbone.head is None and backbone.certificates == (None,)
    assert "the classifier is missing (fc.weight, fc.bias): no class can be asked" in backbone.notes
    assert load("w.pth").digest == backbone.digest, "what is missing is no random number"
    expected = trained().layers(trained().stem(IMAGES))
    assert torch.equal(backbone.engine.run(IMAGES)[0], expected) or torch.allclose(
        backbone.engine.run(IMAGES)[0], expected, atol=1e-5
    )


@pytest.mark.parametrize(
    "body, head", [("backbone.", "head."), ("model.backbone.", "model."), ("a.b.", "a.c.")]
)
def test_a_classifier_beside_its_body_is_found(here, body, head):
    """MMPretrain: backbone.conv1 and head.fc; Lightning: self.backbone and self.fc."""
    net = trained(classes=4)
    apart = {(head if name.startswith("fc") else body) + name: t for name, t in net.state_dict().items()}
    backbone = load(saved({"state_dict": apart}))
    assert torch.equal(logits(backbone), net(IMAGES))
    assert backbone.notes[:2] == (
        f"the weights lie under state_dict.{body[:-1]}",
        f"its classifier lies under state_dict.{head[:-1]}",
    )
    two = apart | {f"{head}deep.other.fc.weight": torch.rand(2, 5), "projector.fc.weight": torch.rand(9, 4)}
    assert torch.equal(logits(load(saved({"state_dict": two}))), net(IMAGES))


def test_a_network_of_one_channel_is_given_the_luminance(here):
    net = trained(channels=1)
    backbone = load(saved(net.state_dict()))
    weights = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    expected = net((IMAGES * weights).sum(1, keepdim=True))
    torch.testing.assert_close(logits(backbone), expected, atol=1e-5, rtol=1e-5)
    assert "stem.weight reads one channel: it is given the luminance of the photo" in backbone.notes


def test_other_numbers_of_channels_and_other_stems_are_refused(here):
    four = refusal(saved(trained(channels=4).state_dict()))
    assert "stem.weight is 5 x 4 x 4 x 4 in the file and 5 x 3 x 4 x 4 in the network: it reads 4" in four
    small = STATE | {"stem.weight": torch.rand(5, 3, 3, 3)}  # of patches of 4 x 4, which lie side by side
    assert "its first convolution is another" in refusal(saved(small))


# -------------------------------------------------------------------------------------- what is refused


def without(state, pattern):
    return {name: tensor for name, tensor in state.items() if not re.search(pattern, name)}


REFUSED = {
    "half of it is missing": (
        without(STATE, r"layers\.1"),
        r"5 of its 16 tensors are missing \(layers\.1\.conv\.weight, layers\.1\.bn\.weight, lay",
    ),
    "statistics are missing": (without(STATE, "running_var"), r"2 of its 16 tensors are missing"),
    "only the classifier": (without(STATE, "stem|layers"), r"12 of its 16 tensors are missing"),
    "half of the classifier": (without(STATE, "fc.bias"), r"1 of its 16 tensors is missing \(fc\.bias\)"),
    "another network": (
        {"conv1.weight": torch.rand(3, 3)},
        r"it has stem\.weight, stem\.bias, .*, \.\.\., the file has conv1\.weight; give",
    ),
    "an optimizer": ({"state.0.exp_avg": torch.rand(5)}, r"the file has state\.0\.exp_avg; give"),
    "every tensor stacked": (
        {name: tensor.unsqueeze(0) for name, tensor in STATE.items()},
        r"its stem\.weight is 5 x 3 x 4 x 4, the file's 1 x 5 x 3 x 4 x 4; give",
    ),
    "another shape": (
        STATE | {"layers.1.bn.bias": torch.rand(6)},
        r"layers\.1\.bn\.bias is 6 in the file and 5 in the network; give",
    ),
    "many other shapes": (
        {name: torch.rand(9, 9, 9) if "conv" in name else tensor for name, tensor in STATE.items()},
        r"is 9 x 9 x 9 in the file and 5 x 5 x 3 x 3 in the network; 1 more differ",
    ),
    "a deeper network": (
        STATE | {name.replace("layers.1", "layers.2"): t for name, t in STATE.items()},
        r"5 of the file's tensors have no place in it \(layers\.2\.conv\.weight, ",
    ),
    "a layer more inside": (
        STATE | {"layers.0.se.weight": torch.rand(5)},
        r"1 of the file's .*layers\.0\.se",
    ),
    "a bias more": (STATE | {"layers.0.conv.bias": torch.rand(5)}, r"1 of the file's .*conv\.bias"),
    "classifiers of two sizes": (
        STATE | {"fc.bias": torch.rand(9)},
        r"its classifier has 7 classes by its weight and 9 by its bias",
    ),
    "integers": (
        STATE | {"fc.weight": torch.ones(7, 5, dtype=torch.int8)},
        r"fc\.weight holds int8 and no fl",
    ),
    "complex": (STATE | {"fc.weight": torch.ones(7, 5) * 1j}, r"fc\.weight holds complex64 and no floats"),
    "no classes": (
        STATE | {"fc.weight": torch.ones(0, 5), "fc.bias": torch.ones(0)},
        r"fc\.weight is 0 x 5 in",
    ),
    "other features": (STATE | {"fc.weight": torch.ones(3, 6)}, r"fc\.weight is 3 x 6 in the file and 7 x 5"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("prefix", ["", "state_dict.model."])
def test_what_is_not_this_network_is_refused_in_one_line(here, case, prefix):
    content, pattern = REFUSED[case]
    complaint = refusal(saved(renamed(content, prefix)))
    assert complaint.startswith("the weights w.pth do not fit Net: ")
    assert re.search(pattern, complaint.replace(prefix, "")), complaint


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_numbers_that_are_not_finite_are_refused_by_name(here, value, dtype):
    bias = torch.ones(7, dtype=dtype)
    bias[3] = value
    complaint = refusal(saved(STATE | {"fc.bias": bias}))
    assert "w.pth holds numbers that are not finite" in complaint and "1 tensor (fc.bias)" in complaint


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e4m3fn])
def test_weights_of_any_float_are_taken(here, dtype):
    state = {name: t.to(dtype) if t.is_floating_point() else t for name, t in STATE.items()}
    loaded = load(saved(state)).network.net.state_dict()
    assert all(torch.equal(loaded[name], tensor.to(loaded[name].dtype)) for name, tensor in state.items())


def test_counts_of_batches_may_be_missing_or_averaged(here):
    for state in (
        without(STATE, "num_batches"),
        {name: tensor.float() for name, tensor in STATE.items()},
        STATE | {"total_ops": torch.zeros(1), "layers.0.total_params": torch.zeros(1)},
    ):
        assert torch.equal(logits(load(saved(state))), trained()(IMAGES))


def test_one_shard_of_several_says_so(here):
    torch.save(without(STATE, "stem"), "pytorch_model-00002-of-00002.bin")
    assert "it is one of several shards: give their .index.json" in refusal(
        "pytorch_model-00002-of-00002.bin"
    )
    torch.save(without(STATE, "layers|fc"), "pytorch_model-00001-of-00002.bin")
    index = {name: f"pytorch_model-0000{1 + ('stem' not in name)}-of-00002.bin" for name in STATE}
    Path("pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": index}))
    assert torch.equal(logits(load("pytorch_model.bin.index.json")), trained()(IMAGES))


def test_names_in_a_file_reach_no_terminal(here):
    evil = "\x1b[2J\nattnvis: all is well" + "x" * 10_000
    notes = load(saved(STATE | {f"{evil}.weight": torch.rand(2)})).notes
    assert len(notes) == 1 and notes[0].isprintable() and len(notes[0]) < 300
    assert load(saved({evil: STATE})).notes[0].isprintable()
    assert refusal(saved({evil: torch.rand(2)})).isprintable()


# ---------------------------------------------------------------- torchvision, timm and the default

QUICK = {"device": "cpu", "precision": "fp32", "placement": "stretch"}


def of_torchvision(name):
    from torchvision import models

    return (
        lambda classes: models.get_model(name, weights=None, num_classes=classes, **arguments(name)),
        lambda **words: from_config(config_of(name) | QUICK | words),
    )


def of_timm(name):
    import timm

    return (
        lambda classes: timm.create_model(name, pretrained=False, num_classes=classes),
        lambda **words: backbones.timm(name, **QUICK, **words),
    )


def of_lite(name):
    return (
        lambda classes: lite.EfficientNetLite(classes=classes),
        lambda **words: from_config(config_of(name) | QUICK | words),
    )


DOORS = {
    "resnet18": of_torchvision,
    "squeezenet1_0": of_torchvision,
    "shufflenet_v2_x0_5": of_torchvision,
    "mobilenet_v3_small": of_torchvision,
    "googlenet": of_torchvision,
    "convnext_femto": of_timm,
    "efficientnet_lite0": of_lite,
}


@pytest.fixture(params=DOORS)
def door(request):
    """What makes a network for a number of classes, and what loads it from a file."""
    torch.manual_seed(0)
    return DOORS[request.param](request.param)


def test_a_fine_tuned_network_has_the_classes_of_its_file_by_every_door(here, door):
    make, load = door
    net = make(3)
    names = without(net.state_dict(), "^aux") if hasattr(net, "aux1") else net.state_dict()
    saved({"state_dict": renamed(names, "model."), "epoch": 3}, "last.ckpt")
    Path("names.txt").write_text("cat\ndog\nemu\n")
    backbone = load(weights="last.ckpt", categories="names.txt")
    side = backbone.preprocessing.size
    images = torch.rand(1, 3, side, side)
    with torch.inference_mode():
        expected = net.eval()(images)
        assert torch.equal(backbone.network.net(images), expected)
        (maps,) = backbone.network.trunk(images)
        torch.testing.assert_close(backbone.head.logits(maps), expected, atol=1e-4, rtol=1e-4)
    assert backbone.head.categories == ("cat", "dog", "emu")
    assert {"the weights lie under state_dict.model", "3 classes in place of 1000"} <= set(backbone.notes)


@pytest.mark.parametrize("channels", [3, 1])
@pytest.mark.parametrize("side", [3, 5, 9])
def test_the_files_first_convolution_decides_the_networks(here, side, channels):
    """A ResNet whose first layer reads another square about the same places, as one builds it by hand."""
    torch.manual_seed(side)
    net = of_torchvision("resnet18")[0](6).eval()
    net.conv1 = nn.Conv2d(channels, 64, side, stride=2, padding=side // 2, bias=False)
    torch.save(net.state_dict(), "small.pth")
    found = of_torchvision("resnet18")[1](weights="small.pth")
    images = torch.randn(2, 3, 64, 64)
    grey = (images * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)
    with torch.no_grad():
        expected = net(images if channels == 3 else grey)
        torch.testing.assert_close(found.network.net(images), expected, rtol=1e-4, atol=1e-4)
    assert f"conv1.weight is {side} x {side} in place of 7 x 7: its stride of 2 px" in "".join(found.notes)
    assert found.certificates[0].exact


@pytest.mark.parametrize("shape", [(64, 4, 3, 3), (64, 3, 4, 4), (64, 3, 3, 5), (32, 3, 3, 3), (64, 2, 7, 7)])
def test_first_convolutions_that_read_no_photo_are_refused(here, shape):
    torch.save(
        of_torchvision("resnet18")[0](6).state_dict() | {"conv1.weight": torch.rand(shape)}, "other.pth"
    )
    with pytest.raises(ValueError, match=r"do not fit resnet18: .*conv1\.weight is"):
        of_torchvision("resnet18")[1](weights="other.pth")


def test_imagenets_names_are_no_names_of_other_classes(here):
    make, load = of_torchvision("resnet18")
    saved(make(3).state_dict())
    assert load(weights="w.pth").head.categories == ()
    with pytest.raises(ValueError, match=r"categories has 1000 names and resnet18 has 3 classes"):
        load(weights="w.pth", categories="imagenet")


def test_a_body_without_its_classifier_is_loaded_by_every_door(here, door):
    make, load = door
    net = make(4)
    body = without(net.state_dict(), r"^(fc|classifier|head)\.")
    saved({"teacher": renamed(body, "module.backbone."), "student": body}, "w.pth")
    backbone = load(weights="w.pth")
    assert backbone.head is None and any("no class can be asked" in note for note in backbone.notes)
    assert backbone.notes[:2] == (
        "the weights lie under teacher.module.backbone",
        "student would fit as well (backbone.weights_key=student)",
    )


def test_a_deeper_resnet_is_no_shallower_one(here):
    from torchvision import models

    saved(models.resnet34(weights=None).state_dict(), "deep.pth")
    with pytest.raises(
        ValueError, match=r"do not fit resnet18: \d+ of the file's tensors have no place in it"
    ):
        of_torchvision("resnet18")[1](weights="deep.pth")
    saved(models.resnet18(weights=None).state_dict(), "flat.pth")
    with pytest.raises(ValueError, match=r"do not fit resnet34: \d+ of its 218 tensors are missing"):
        of_torchvision("resnet34")[1](weights="flat.pth")


@pytest.mark.slow
def test_old_densenets_by_their_old_names_in_a_wrapping(here):
    make, load = of_torchvision("densenet121")
    old = {
        re.sub(r"\.(norm|conv)([12])\.", r".\1.\2.", key): tensor
        for key, tensor in make(1000).state_dict().items()
    }
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    backbone = load(weights=saved({"state_dict": renamed(old, "module.")}))
    last = "features.denseblock4.denselayer16.conv2.weight"
    assert torch.equal(backbone.network.net.state_dict()[last], old[last.replace("conv2", "conv.2")])


def test_a_run_without_a_classifier_asks_what_needs_none(attnvis, cat, here):
    make, _ = of_torchvision("resnet18")
    queue = {"module.queue": torch.rand(4, 9), "module.queue_ptr": torch.zeros(1)}
    body = renamed(without(make(9).state_dict(), "^fc"), "module.encoder_q.")
    saved({"state_dict": body | queue}, "moco.pth.tar")
    words = ["backbone=resnet18", "backbone.weights=moco.pth.tar", "backbone.placement=stretch"]
    ended = attnvis("run", "cat.png", *words, "query=mean", "render.panel=false")
    assert ended.code == 0, ended.err
    for line in ended.err.splitlines():
        assert f"    {line}\n" in (Path(__file__).parents[2] / "docs/networks.md").read_text()
    assert ended.err.count("attnvis: moco.pth.tar: ") == 3
    assert "a class query needs a classifier" in attnvis("run", "cat.png", *words, "query=class").err


# -------------------------------------------------------------------------------- names of the classes

NAMES = ("cat", "dog, hound", "émeu")
IN_FILES = {
    "lines.txt": "cat\ndog, hound\n\némeu\n",
    "windows.txt": "\ufeffcat\r\ndog, hound\r\németu\r\n".replace("émetu", "émeu"),
    "list.json": '["cat", "dog, hound", "\\u00e9meu"]',
    "by_index.json": '{"0": "cat", "2": "émeu", "1": "dog, hound"}',
    "by_name.json": '{"cat": 0, "émeu": 2, "dog, hound": 1}',
    "imagenet_like.json": '{"0": ["n01", "cat"], "1": ["n02", "dog, hound"], "2": ["n03", "émeu"]}',
    "config.json": '{"id2label": {"0": "cat", "1": "dog, hound", "2": "émeu"}, "num_channels": 3}',
    "names": ' {"0": "cat", "1": "dog, hound", "2": "émeu"}',
}


@pytest.mark.parametrize("name", IN_FILES)
def test_class_names_are_read_from_a_file(here, name):
    Path(name).write_bytes(IN_FILES[name].encode())
    assert class_names(name) == NAMES


def test_class_names_are_those_of_an_image_folder(here):
    from torchvision.datasets import ImageFolder

    for name in ("b", "B", "10", "9", ".hidden", "a b"):
        (here / "train" / name).mkdir(parents=True)
        (here / "train" / name / "x.png").write_bytes(b"")
    (here / "train/readme.txt").write_text("no class")
    assert class_names("train") == tuple(ImageFolder("train").classes)


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe\x00",
        b"",
        b"\n \n",
        b"{",
        b"{}",
        b"[]",
        b"[1, 2]",
        b'{"0": "a", "2": "b"}',
        b'{"a": 0, "b": 0}',
        b'{"a": "b"}',
        b'{"1": "a"}',
        b'{"0": null}',
        b'{"0": []}',
        b'[["a"], [[]]]',
        b"[" * 100_000,
    ],
)  # fmt: skip
def test_a_file_without_class_names_is_one_line(here, content):
    Path("names").write_bytes(content)
    with pytest.raises(ValueError, match=r"\Acategories: names (holds no class names|names no class).*\Z"):
        class_names("names")


def test_class_names_are_given_at_the_command_line(attnvis, cat, here):
    make, _ = of_torchvision("resnet18")
    saved(make(3).state_dict())
    Path("my names = [1], x.txt").write_text("cat\ndog\nemu\n")
    words = ["backbone=resnet18", "backbone.weights=w.pth", "backbone.placement=stretch", "query=class"]
    for categories in ("my names = [1], x.txt", "[cat,dog,emu]", "['cat', 'dog', emu]"):
        ended = attnvis("run", "cat.png", *words, "query.name=emu", f"backbone.categories={categories}")
        assert ended.code == 0, ended.err
        (row,) = records()
        assert "emu" in row["label"]
    for categories, words_of_it in {
        "[cat,dog]": "categories has 2 names and resnet18 has 3 classes; name each, or none",
        "nosuch.txt": "categories: 'nosuch.txt' is no list of names; give one, or imagenet, or a text file",
    }.items():
        assert words_of_it in attnvis("run", "cat.png", *words, f"backbone.categories={categories}").complaint


# ------------------------------------------------------------------------------------ the real thing

MATERIAL = Path(os.environ.get("ATTNVIS_MATERIAL", "nowhere"))
REAL = MATERIAL / "weights/mobilenet_v2.safetensors"


def kinds(state):
    """The wrappings of cases T01 and T02: name of the file -> what it holds."""
    return {
        "plain.pth": state,
        "compiled.pth": renamed(state, "_orig_mod."),
        "ddp_compiled.pth": renamed(state, "module._orig_mod."),
        "compiled_ddp.pth": renamed(state, "_orig_mod.module."),
        "lightning.ckpt": {
            "state_dict": renamed(state, "model."),
            "epoch": 3,
            "optimizer_states": [optimizer()],
        },
        "lightning_net.ckpt": {"state_dict": renamed(state, "net.")},
        "model_state_dict.pth": {"model_state_dict": state, "epoch": 3},
        "net.pth": {"net": state, "acc": 93.1},
        "ema_only.pth": {"state_dict_ema": state},
        "swa.pth": {"n_averaged": torch.tensor(5), **renamed(state, "module.")},
        "args.pth": {"model": state, "args": argparse.Namespace(lr=0.1)},
        "dino.pth": {"student": renamed(state, "module.backbone."), "teacher": renamed(state, "backbone.")},
        "moco.pth.tar": {"state_dict": renamed(state, "module.encoder_q.")},
    }


@pytest.mark.material
@pytest.mark.skipif(not REAL.is_file(), reason="needs ATTNVIS_MATERIAL")
@pytest.mark.slow
def test_the_real_mobilenet_is_itself_in_every_wrapping(here):
    load = of_torchvision("mobilenet_v2")[1]
    state = load_file(REAL)
    expected = load(weights=str(REAL))
    for name, content in kinds(state).items():
        assert load(weights=saved(content, name)).digest == expected.digest, name
        Path(name).unlink()
    for name in ("plain.safetensors", "UPPER.SAFETENSORS", "safetensors_called.pth"):
        save_file(renamed(state, "module."), name)
        assert load(weights=name).digest == expected.digest
    assert expected.head.categories == class_names("imagenet")
    ten = state | {"classifier.1.weight": torch.rand(10, 1280), "classifier.1.bias": torch.rand(10)}
    backbone = load(weights=saved({"state_dict": renamed(ten, "model.")}), categories=list("abcdefghij"))
    images = torch.rand(1, 3, 225, 225)
    assert torch.equal(backbone.network.trunk(images)[0], expected.network.trunk(images)[0])
    assert "10 classes in place of 1000" in backbone.notes and backbone.certificates[0].exact


def test_a_tensor_without_a_name_is_said_to_be_one(here):
    assert "the file is one tensor without a name" in refusal(saved(torch.rand(5)))
