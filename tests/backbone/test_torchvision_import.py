"""torchvision as it is needed: without torch._dynamo, which stays to be had."""

import subprocess
import sys

from attnvis.backbone import torchvision_import

LATE_DYNAMO = """
import sys
from attnvis.backbone.sources import load_backbone
load_backbone("resnet18", weights="random", engine="eager")
assert "torch._dynamo" not in sys.modules and "sympy" not in sys.modules
from torchvision.ops import roi_align
asked = roi_align.__globals__["is_compile_supported"]("cpu")
import torch._dynamo.utils
assert torch._dynamo.__file__ and asked == torch._dynamo.utils.is_compile_supported("cpu")
"""


def test_torchvision_comes_without_dynamo_which_is_found_when_it_is_needed():
    subprocess.run([sys.executable, "-c", LATE_DYNAMO], check=True)


def test_dynamo_that_is_there_already_stays_as_it_is(monkeypatch):
    there = object()
    monkeypatch.setitem(sys.modules, "torch._dynamo", there)
    with torchvision_import.dynamo_on_demand():
        assert sys.modules["torch._dynamo"] is there
    assert sys.modules["torch._dynamo"] is there
