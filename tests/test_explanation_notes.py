"""An explanation says what was found when its network was loaded."""

import numpy as np
import torch
from torch import nn

import attnvis

QUIET = {"layer": "0", "head": "linear:3", "size": 64, "device": "cpu", "precision": "fp32"}


def make():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 5, 3, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4))


def test_what_was_taken_off_a_checkpoint_stands_on_the_panel_and_in_html(tmp_path):
    wrapped = {f"module.{name}": tensor for name, tensor in make().state_dict().items()}
    torch.save({"state_dict": wrapped, "<b>": torch.zeros(2)}, tmp_path / "net.pth")
    network = attnvis.build_backbone(make(), weights=str(tmp_path / "net.pth"), **QUIET)
    photo = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    found = attnvis.explain(photo, backbone=network)
    assert found.notes == ("the weights lie under state_dict.module", "1 tensor left over (<b>)")
    assert [value for name, value in found.lines() if name == "network"] == list(found.notes)
    html = found._repr_html_()
    assert html.endswith("<br>the weights lie under state_dict.module<br>1 tensor left over (&lt;b&gt;)")
    plain = attnvis.explain(photo, backbone=attnvis.build_backbone(make(), **QUIET))
    assert plain.notes == () and "<br>" not in plain._repr_html_()
