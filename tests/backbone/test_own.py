"""Networks of one's own: what they may give and take, and that they stay as they are while they learn."""

from collections import OrderedDict, namedtuple
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

import attnvis

CLASSES, SIDE = 10, 64


class Net(nn.Module):
    def __init__(self, give=lambda logits, maps: logits, channels=3, classes=CLASSES) -> None:
        super().__init__()
        self.give = give
        self.convolution, self.relu = nn.Conv2d(channels, 8, 3, 2, 1), nn.ReLU()
        self.norm = nn.BatchNorm2d(8)
        self.classifier = nn.Linear(8, classes)

    def forward(self, images):
        maps = self.relu(self.norm(self.convolution(images)))
        return self.give(self.classifier(maps.mean((2, 3))), maps)


class Untraceable(Net):
    def forward(self, images):
        if float(images.detach().sum()) == float("inf"):
            return images
        return super().forward(images)


@dataclass
class Output:
    features: torch.Tensor
    logits: torch.Tensor


class ModelOutput(OrderedDict):
    """As Hugging Face's: a dict whose values are attributes too."""


Named = namedtuple("Named", ["logits", "aux"])
GIVES = {
    "dict": lambda logits, maps: {"features": maps, "logits": logits},
    "dict of other names": lambda logits, maps: {"maps": maps, "scores": logits},
    "aux after": lambda logits, maps: {"logits": logits, "aux": logits * -3 + 1},
    "tuple": lambda logits, maps: (logits, maps),
    "tuple, maps first": lambda logits, maps: (maps, logits),
    "list": lambda logits, maps: [logits, logits * 2],
    "namedtuple": lambda logits, maps: Named(logits, logits * 2),
    "dataclass": lambda logits, maps: Output(maps, logits),
    "model output": lambda logits, maps: ModelOutput(loss=None, logits=logits, hidden_states=(maps,)),
}
QUIET = {"size": SIDE, "device": "cpu", "precision": "fp32"}


def make(kind=Net, **settings):
    torch.manual_seed(0)
    return kind(**settings)


def picture(seed=0):
    return np.random.default_rng(seed).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)


@pytest.mark.parametrize("kind", [Net, Untraceable])
@pytest.mark.parametrize("give", GIVES)
def test_logits_are_found_among_several_outputs(give, kind):
    plain = attnvis.build_backbone(make(kind), "relu", **QUIET)
    other = attnvis.build_backbone(make(kind, give=GIVES[give]), "relu", **QUIET)
    expected = attnvis.explain(picture(), 3, backbone=plain)
    found = attnvis.explain(picture(), 3, backbone=other)
    np.testing.assert_allclose(found.weights, expected.weights, rtol=1e-5)
    assert [name for name, _ in found.predicted] == [name for name, _ in expected.predicted]
    assert found.class_score.logit == pytest.approx(expected.class_score.logit, rel=1e-5)
    assert other.certificates[0].exact and other.network.net.classifier.weight.shape == (CLASSES, 8)


@pytest.mark.parametrize("shape", [lambda logits: logits, lambda logits: logits.squeeze(1)])
def test_one_logit_is_two_classes_with_its_sigmoid(shape):
    net = make(give=lambda logits, maps: shape(logits), classes=1)
    backbone = attnvis.build_backbone(net, "relu", categories=["no", "yes"], **QUIET)
    found = attnvis.explain(picture(), "yes", backbone=backbone)
    images = torch.from_numpy(picture()).permute(2, 0, 1)[None] / 255
    mean, std = (
        torch.tensor(numbers).view(3, 1, 1) for numbers in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    )
    logit = float(net.eval()((images - mean) / std))
    assert found.class_score.probability == pytest.approx(1 / (1 + np.exp(-logit)), rel=1e-4)
    opposite = attnvis.explain(picture(), "no", "none", backbone=backbone)
    yes = attnvis.explain(picture(), "yes", "none", backbone=backbone)
    np.testing.assert_allclose(opposite.scores, -yes.scores, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", [Net, Untraceable])
def test_a_network_of_one_channel_gets_the_grey_of_the_photo(kind):
    """The grey is PIL's, (299 R + 587 G + 114 B) / 1000; a grey photo's is itself."""
    net = make(kind, channels=1)
    backbone = attnvis.build_backbone(net, "relu", mean=0.5, std=0.25, **QUIET)
    maps = backbone.engine.run(images := torch.rand(2, 3, SIDE, SIDE))[0]
    grey = (images * torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)
    net.eval()
    torch.testing.assert_close(maps, net.relu(net.norm(net.convolution(grey))), rtol=1e-4, atol=1e-5)
    found = attnvis.explain(picture()[..., 0], 3, backbone=backbone)
    own = torch.from_numpy(picture()[..., 0])[None, None] / 255
    assert found.class_score.logit == pytest.approx(float(net((own - 0.5) / 0.25)[0, 3]), rel=1e-3)


def test_outputs_without_logits_are_told_by_name_and_shape():
    net = make(give=lambda logits, maps: {"last_hidden_state": maps})
    with pytest.raises(
        ValueError, match=r"gives last_hidden_state \[2, 8, 32, 32\], none of which is called"
    ):
        attnvis.build_backbone(net, "relu", **QUIET)


def test_without_a_layer_the_last_maps_are_taken_and_named():
    net = nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU()), nn.AdaptiveAvgPool2d(3), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(8, CLASSES),
    )  # fmt: skip
    backbone = attnvis.build_backbone(net, **QUIET)
    assert backbone.layer == "0" and "layer 0" in attnvis.explain(picture(), backbone=backbone).backbone
    named = attnvis.build_backbone(make(), **QUIET)
    assert named.layer == "relu" and "layer relu" in repr(named) and "a snapshot" in repr(named)
    with pytest.raises(ValueError, match="no part of Sequential gives maps"):
        attnvis.build_backbone(nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 4)), **QUIET)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_a_network_in_any_dtype_gives_the_map_of_its_weights_in_float32(dtype):
    net = make().to(dtype)
    expected = attnvis.build_backbone(deepcopy(net).float(), **QUIET)
    found = attnvis.build_backbone(net, **QUIET)
    weights = [attnvis.explain(picture(), 3, backbone=each).weights for each in (expected, found)]
    np.testing.assert_array_equal(*weights)


def test_hooks_of_others_see_nothing_and_those_of_torch_work_on():
    seen = []
    net = make()
    net.convolution = nn.utils.weight_norm(net.convolution)
    net.relu.register_forward_hook(lambda *_: seen.append("forward"))
    net.relu.register_full_backward_hook(Stubborn().hook)
    net(torch.rand(2, 3, SIDE, SIDE)).sum().backward()  # its weight is now part of a graph
    seen.clear()
    with torch.no_grad():
        net.convolution.weight_g.mul_(2)
    gradients = {name: parameter.grad.clone() for name, parameter in net.named_parameters()}
    backbone = attnvis.build_backbone(net, **QUIET)
    maps = backbone.engine.run(images := torch.rand(2, 3, SIDE, SIDE))[0]
    attnvis.explain(picture(), 3, backbone=backbone)
    assert seen == []
    for name, parameter in net.named_parameters():
        assert torch.equal(parameter.grad, gradients[name])
    net.eval()
    torch.testing.assert_close(maps, net.relu(net.norm(net.convolution(images))), rtol=1e-4, atol=1e-5)


class Stubborn:
    """Whoever copies it fails."""

    def hook(self, *_):
        return None

    def __deepcopy__(self, memo):
        raise TypeError("cannot be copied")


def train(watch) -> list[float]:
    """The losses of plain training; `watch` is called after every epoch."""
    net = make().train()
    optimiser = torch.optim.SGD(net.parameters(), lr=0.5, momentum=0.9)
    losses = []
    for epoch in range(3):
        images, classes = torch.randn(4, 3, SIDE, SIDE), torch.randint(CLASSES, (4,))
        loss = nn.functional.cross_entropy(net(images), classes)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
        watch(net, epoch)
        assert net.training
    return [*losses, *[float(parameter.double().sum()) for parameter in net.parameters()]]


def test_training_that_draws_every_epoch_learns_the_same():
    maps, snapshots = [], []

    def watch(net, epoch):
        snapshot = snapshots[-1].refreshed(net) if snapshots else attnvis.build_backbone(net, **QUIET)
        snapshots.append(snapshot)
        maps.append(attnvis.explain(picture(), 3, backbone=snapshot).weights)

    assert train(watch) == train(lambda net, epoch: None)
    assert not np.array_equal(maps[0], maps[1]) and not np.array_equal(maps[1], maps[2])
    again = attnvis.explain(picture(), 3, backbone=snapshots[0]).weights
    np.testing.assert_array_equal(again, maps[0])  # a snapshot stays what it was
    assert len({snapshot.digest for snapshot in snapshots}) == 3


def test_what_was_loaded_by_name_is_not_refreshed():
    backbone = attnvis.load_backbone("efficientnet_lite0", weights="random")
    with pytest.raises(ValueError, match=r"was loaded by name and does not change; refreshed\(\) is for"):
        backbone.refreshed(make())
