"""The callbacks of docs/python.md draw every epoch, and training learns the same with them as without."""

import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn

PYTHON = Path(__file__).parents[2] / "docs" / "python.md"
SIDE = 64


class Net(nn.Module):
    """With what keeps state beside its weights: batch norm and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU(), nn.Dropout(0.3))
        self.fc = nn.Linear(6, 4)

    def forward(self, images):
        return self.fc(self.blocks(images).mean((2, 3)))


def printed(word: str) -> str:
    """The one example that has this word."""
    blocks = re.findall(r"```python\n(.*?)```", PYTHON.read_text(), re.DOTALL)
    (block,) = [block for block in blocks if word in block]
    return block


class Trainer:
    """Calls what Lightning's own calls of a callback, with the same arguments."""

    def __init__(self, callbacks) -> None:
        self.callbacks, self.current_epoch = callbacks, 0

    def fit(self, module) -> list[float]:
        module.net.train()
        optimiser = torch.optim.SGD(module.net.parameters(), lr=0.5, momentum=0.9)
        losses = []
        for self.current_epoch in range(3):
            images, classes = torch.randn(4, 3, SIDE, SIDE), torch.randint(4, (4,))
            loss = nn.functional.cross_entropy(module.net(images), classes)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
            for callback in self.callbacks:
                callback.on_train_epoch_end(self, module)
        assert all(part.training for part in module.net.modules())
        return [*losses, *[float(value.double().sum()) for value in module.net.state_dict().values()]]


def fit(callbacks) -> list[float]:
    torch.manual_seed(0)
    return Trainer(callbacks).fit(SimpleNamespace(net=Net()))


@pytest.fixture
def lightning(monkeypatch):
    """A stand-in with the one class that the example takes from Lightning."""
    module = ModuleType("lightning")
    module.Callback = type("Callback", (), {"on_train_epoch_end": lambda self, trainer, pl_module: None})
    monkeypatch.setitem(sys.modules, "lightning", module)


def test_a_callback_of_lightning_draws_every_epoch_and_changes_nothing(here, lightning):
    names: dict = {}
    exec(printed("lightning.Callback"), names)
    draw = names["DrawMaps"]("samples/cat", "class:3", layer="blocks.0", size=SIDE)
    assert fit([draw]) == fit([])
    drawn = [Path(f"out/epoch-{epoch}.jpg").read_bytes() for epoch in range(3)]
    assert len(set(drawn)) == 3


def test_the_plain_callback_draws_every_epoch_and_changes_nothing(here):
    names: dict = {}
    exec(printed("def __call__(self, net, epoch)").partition("\ndraw = ")[0], names)
    draw = names["DrawMaps"]("samples/cat", "class:3", layer="blocks.0", size=SIDE)
    plain = SimpleNamespace(
        on_train_epoch_end=lambda trainer, module: draw(module.net, trainer.current_epoch)
    )
    assert fit([plain]) == fit([])
    assert len({Path(f"out/epoch-{epoch}.jpg").read_bytes() for epoch in range(3)}) == 3
