"""A backbone of a network of one's own leaves that network as it is; the old way to make one says the new."""

from collections.abc import Callable
from copy import deepcopy

import pytest
import torch
from torch import nn

import attnvis
from attnvis.backbone import Backbone, build_backbone
from attnvis.backbone.build import SourceNetwork, assemble
from attnvis.backbone.cutting import channels_first
from attnvis.types import Preprocessing


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 5, 4, 4), nn.BatchNorm2d(5), nn.ReLU())
        self.fc = nn.Linear(5, 7)

    def forward(self, images):
        return self.fc(self.body(images).mean((2, 3)))


class Untraceable(Small):
    def forward(self, images):
        if float(images.detach().sum()) == float("inf"):
            return images
        return super().forward(images)


def make(kind: Callable[[], nn.Module] = Small) -> nn.Module:
    torch.manual_seed(0)
    return kind()


SETTINGS = {"layer": "body", "head": "linear:fc", "size": 64, "device": "cpu", "precision": "fp32"}


def hooks(net: nn.Module) -> list[int]:
    return [
        len(module._forward_hooks) + len(module._forward_pre_hooks) + len(module._backward_hooks)
        for module in net.modules()
    ]


@pytest.mark.parametrize("kind", [Small, Untraceable])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_a_network_of_ones_own_stays_as_it_is(kind, precision, dtype):
    net = make(kind).to(dtype).train()
    net.body[0].bias.requires_grad_(False)
    net.fc.eval()
    net.body[2].register_forward_hook(lambda *_: None)
    state = deepcopy(net.state_dict())
    gradients = [parameter.requires_grad for parameter in net.parameters()]
    modes = [module.training for module in net.modules()]
    identities, counts = [id(parameter) for parameter in net.parameters()], hooks(net)
    backbone = build_backbone(net, **SETTINGS | {"precision": precision})
    backbone.cells.receptive_field((64, 64))
    backbone.engine.run(torch.rand(2, 3, 64, 64))
    backbone.classify(torch.rand(2, 5, 16, 16))
    assert [parameter.requires_grad for parameter in net.parameters()] == gradients
    assert [module.training for module in net.modules()] == modes
    assert [id(parameter) for parameter in net.parameters()] == identities
    assert hooks(net) == counts
    assert net.state_dict().keys() == state.keys()
    for name, tensor in net.state_dict().items():
        assert tensor.dtype == state[name].dtype and tensor.device == state[name].device
        assert torch.equal(tensor, state[name]), name
    shared = {id(parameter) for parameter in backbone.network.net.parameters()} & set(identities)
    assert not shared


def test_weights_from_a_file_go_into_the_copy(tmp_path):
    net, other = make(), make()
    with torch.no_grad():
        other.fc.bias += 1
    torch.save(other.state_dict(), tmp_path / "other.pth")
    before = net.fc.bias.clone()
    backbone = build_backbone(net, weights=str(tmp_path / "other.pth"), **SETTINGS)
    assert torch.equal(net.fc.bias, before)
    torch.testing.assert_close(backbone.network.net.fc.bias, before + 1)


def test_training_goes_on_after_a_backbone_was_made():
    net = make().train()
    backbone = build_backbone(net, **SETTINGS)
    images = torch.rand(2, 3, 64, 64)
    before = backbone.engine.run(images)[0].clone()
    optimiser = torch.optim.SGD(net.parameters(), lr=1.0)
    net(images).square().sum().backward()
    optimiser.step()
    assert torch.equal(backbone.engine.run(images)[0], before)
    assert not torch.equal(net.body[0].weight, backbone.network.net.body[0].weight)


def test_a_network_that_is_handed_over_is_not_copied():
    net = make()
    source = SourceNetwork(net, "small", "given", Preprocessing(64), head="linear:fc")
    assert assemble(source, "body", device="cpu", precision="fp32").network.net is net


@pytest.mark.parametrize("arguments, settings", [((Small(),), {}), ((), {"net": Small(), "layer": "body"})])
def test_the_old_way_to_make_a_backbone_says_the_new(arguments, settings):
    with pytest.raises(TypeError, match=r"\ABackbone\(net, ...\) is now build_backbone\(net, ...\).*\Z"):
        Backbone(*arguments, **settings)
    assert attnvis.build_backbone is build_backbone


def test_a_config_with_the_old_address_says_the_new(attnvis, here):
    (here / "old.py").write_text(
        "import torchvision\n\ndef make():\n    return torchvision.models.resnet18()\n"
    )
    words = ("backbone=own", "backbone._target_=attnvis.backbone.Backbone", "backbone.net._target_=old.make")
    ended = attnvis(
        "run", "samples/cat", *words, "trust=[old]", "backbone.layer=layer4", "backbone.weights=random"
    )
    assert "_target_: attnvis.backbone.build_backbone" in ended.complaint


class ChannelsLast(nn.Module):
    """Maps [B, h, w, D], as Swin's."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 5, 4, 4)

    def forward(self, images):
        return (self.stem(images).permute(0, 2, 3, 1),)


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_maps_with_their_channels_last_are_turned_on_whatever_device_the_network_is(device):
    trunk, _ = channels_first(ChannelsLast().to(device), [nn.Identity()], ["maps"], "own")
    assert trunk(torch.zeros(2, 3, 64, 96, device=device))[0].shape == (2, 5, 16, 24)
