"""The way to a GPU, with a stand-in for one: the CPU under another name, which notes what it is told.

No GPU ran these tests; what they hold is that the numbers are the CPU's and the calls those that let copies
and batches overlap.
"""

import threading

import pytest
import torch
from conftest import fake_backbone, make_photo
from torch import nn
from torch.overrides import TorchFunctionMode

from attnvis.backbone import device
from attnvis.data.decoding import load
from attnvis.data.preprocessing import collate
from attnvis.methods.attention import AttentionMethod
from attnvis.pipeline.streaming import stream
from attnvis.types import Preprocessing

GPU = torch.device("cuda")
HOW = Preprocessing(65)


class StandIn(TorchFunctionMode):
    """What goes to the GPU stays where it is, and is noted."""

    def __init__(self, calls):
        super().__init__()
        self.calls = calls

    def __torch_function__(self, function, types, arguments=(), settings=None):
        settings = settings or {}
        if function is torch.Tensor.pin_memory:
            self.calls.append("pinned")
            return arguments[0]
        if function is torch.Tensor.cpu:
            self.calls.append(arguments[0].untyped_storage().data_ptr())
        if function is torch.Tensor.to and GPU in arguments:
            self.calls.append("copied, not waited for" if settings.get("non_blocking") else "there already")
            arguments = tuple(torch.device("cpu") if value == GPU else value for value in arguments)
        return function(*arguments, **settings)


class Stream:
    def __init__(self, device):
        self.device, self.waited_for, self.thread = device, [], None

    def wait_stream(self, other):
        self.waited_for.append(other)


@pytest.fixture
def streams(monkeypatch):
    """The streams that threads make; each notes whose it became."""
    made = []

    def new_stream(device):
        made.append(Stream(device))
        return made[-1]

    def set_stream(own):
        assert own.thread is None
        own.thread = threading.get_ident()

    monkeypatch.setattr(device.torch, "Stream", new_stream)
    monkeypatch.setattr(device.torch.accelerator, "current_stream", lambda device: "the main thread's")
    monkeypatch.setattr(device.torch.accelerator, "set_stream", set_stream)
    return made


@pytest.fixture
def network():
    torch.manual_seed(0)
    return fake_backbone(nn.Conv2d(3, 7, 8, 8), HOW)


def weights(paths, backbone, workers, calls=None):
    method = AttentionMethod(backbone)

    def on_stand_in(batch):
        with StandIn(calls):
            return method(batch)

    asked = method if calls is None else on_stand_in
    outcomes = stream(paths, asked, HOW, batch_size=2, workers=workers)
    return [outcome.answers[0].weights for outcome in outcomes]


def test_a_gpu_gives_the_cpus_numbers_each_batch_is_copied_once_and_nobody_waits(tmp_path, network, streams):
    paths = [make_photo(tmp_path / f"{number}.png", seed=number) for number in range(12)]
    expected = weights(paths, network, workers=1)
    network.engine.device = GPU
    calls = []
    found = weights(paths, network, workers=3, calls=calls)
    for on_gpu, on_cpu in zip(found, expected, strict=True):
        assert torch.equal(on_gpu, on_cpu)
    assert calls.count("pinned") == calls.count("copied, not waited for") == 6  # batches of 2
    assert 1 <= len(streams) <= 3
    assert len({own.thread for own in streams}) == len(streams)
    assert all(own.device == GPU and own.waited_for == ["the main thread's"] for own in streams)


def test_what_a_gpu_found_is_fetched_once_a_batch(tmp_path, network):
    paths = [make_photo(tmp_path / f"{number}.png", seed=number) for number in range(6)]
    images = [load(path) for path in paths]
    counts = []
    for photos in (images[:1], images):
        fetched = []
        with StandIn(fetched):
            answers = AttentionMethod(network)(collate(photos, HOW))
        counts.append(len(fetched))
        for (answer,) in answers:
            attention = answer.attention
            stages = (attention.scores, attention.logits, answer.weights, attention.weights, answer.vector)
            assert {stage.untyped_storage().data_ptr() for stage in stages} <= set(fetched)
    assert counts[0] == counts[1]


def test_the_main_thread_keeps_its_stream_and_the_cpu_has_none(tmp_path, network, streams):
    paths = [make_photo(tmp_path / f"{number}.png", seed=number) for number in range(4)]
    weights(paths, network, workers=2)
    network.engine.device = GPU
    weights(paths, network, workers=1, calls=[])
    assert streams == []


def test_images_for_the_cpu_are_not_copied_where_they_are_right_already():
    images = torch.rand(2, 3, 5, 7).contiguous(memory_format=torch.channels_last)
    assert device.to_device(images, torch.device("cpu"), torch.float32) is images
    assert device.to_device(images, torch.device("cpu"), torch.bfloat16).dtype == torch.bfloat16
