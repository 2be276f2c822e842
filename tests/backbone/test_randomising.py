"""Layers drawn anew from the classifier down: those alone, the same at every stage, in a copy."""

import copy

import pytest
import torch
from torch import nn

from attnvis import build_backbone
from attnvis.backbone.randomising import cascade, layers_in_order
from attnvis.data.preprocessing import collate
from attnvis.types import Photo, Preprocessing


def conv(before, after, stride=1):
    return nn.Sequential(
        nn.Conv2d(before, after, 3, stride, padding=1, bias=False), nn.BatchNorm2d(after), nn.ReLU()
    )


class Small(nn.Module):
    """Its classifier is named before what it reads: the order of names is not that of a photo."""

    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Linear(7, 5)
        self.body = nn.Sequential(conv(3, 6, 4), conv(6, 7, 4))

    def forward(self, images):
        return self.classifier(self.body(images).mean((2, 3)))


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(3)
    net = Small()
    for name, buffer in net.named_buffers():
        if name.endswith("running_mean"):
            buffer.fill_(0.25)
    return build_backbone(net, layer="body.1", stages={"last": "body.1"}, head="linear:classifier", size=64)


@pytest.fixture(scope="module")
def stages(trained):
    noise = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    return cascade(trained, seed=5, images=noise, parts=2)


def values(backbone):
    return {name: value.clone() for name, value in backbone.network.net.state_dict().items()}


def differing(one, other):
    """The layers whose weights differ."""
    return {
        name.rpartition(".")[0]
        for name, value in one.items()
        if not name.endswith("num_batches_tracked") and not torch.equal(value, other[name])
    }


def test_layers_are_counted_as_a_photo_passes_them(trained):
    order = layers_in_order(trained.network.net, torch.zeros(1, 3, 64, 64))
    assert order == ["body.0.0", "body.0.1", "body.1.0", "body.1.1", "classifier"]


def test_each_stage_draws_so_many_layers_and_no_other(trained, stages):
    before = values(trained)
    assert [stage.name for stage in stages] == ["the classifier", "and the last 1/2", "all layers"]
    assert [stage.drawn for stage in stages] == [1, 3, 5]
    assert differing(before, values(stages[0].backbone)) == {"classifier"}
    # a batch norm's scale and shift are 1 and 0 before and after: what changes is what it has counted
    assert differing(before, values(stages[1].backbone)) == {"classifier", "body.1.0", "body.1.1"}
    assert differing(before, values(stages[2].backbone)) == set(layers_in_order(
        trained.network.net, torch.zeros(1, 3, 64, 64)
    ))  # fmt: skip


def test_what_is_drawn_once_stays_drawn(stages):
    first, second, third = (values(stage.backbone) for stage in stages)
    assert torch.equal(first["classifier.weight"], third["classifier.weight"])
    assert torch.equal(second["body.1.0.weight"], third["body.1.0.weight"])


def test_batch_norms_that_were_drawn_have_seen_the_noise(stages):
    net = copy.deepcopy(stages[2].backbone.network.net)
    noise = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        maps = net.body[0][0](noise)
    assert net.body[0][1].running_mean.tolist() == pytest.approx(maps.mean((0, 2, 3)).tolist(), abs=1e-6)


def test_the_head_asks_what_the_new_classifier_asks(trained, stages):
    before = values(trained)
    for stage in stages:
        classifier = stage.backbone.network.net.classifier
        assert torch.equal(stage.backbone.heads[0].weight, classifier.weight)
        assert torch.equal(stage.backbone.heads[0].bias, classifier.bias)
        assert not torch.equal(stage.backbone.heads[0].weight, before["classifier.weight"])
    photo = Photo("p", torch.zeros(64, 64, 3, dtype=torch.uint8).numpy(), (64, 64), "")
    batch = collate([photo], Preprocessing(64, "stretch"))
    (features,) = stages[2].backbone(batch)
    assert features.logits == pytest.approx(stages[2].backbone.network.net(batch.images).detach(), abs=1e-5)


def test_another_seed_draws_other_weights(trained, stages):
    noise = torch.randn(4, 3, 64, 64)
    other = cascade(trained, seed=6, images=noise, parts=2)
    assert not torch.equal(
        values(other[0].backbone)["classifier.weight"], values(stages[0].backbone)["classifier.weight"]
    )
    again = cascade(trained, seed=5, images=noise, parts=1)
    assert torch.equal(
        values(again[0].backbone)["classifier.weight"], values(stages[0].backbone)["classifier.weight"]
    )


def test_a_network_without_layers_to_draw_is_refused(trained):
    class Fixed(nn.Module):
        def forward(self, images):
            return nn.functional.avg_pool2d(images, 16).mean((2, 3))

    net = Fixed()
    fixed = copy.copy(trained)
    object.__setattr__(fixed, "network", copy.copy(trained.network))
    object.__setattr__(fixed.network, "net", net)
    with pytest.raises(ValueError, match="no layer of Small can be drawn anew"):
        cascade(fixed, seed=0, images=torch.zeros(1, 3, 64, 64))
