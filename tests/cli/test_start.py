"""What a start loads, no library that the command does not need, and that its end does not take its time."""

import subprocess
import sys

import pytest
from conftest import make_photo

from attnvis.cli import early_libraries

UNUSED = (
    "wandb",
    "torchvision",
    "torch._dynamo",
    "sympy",
    "scipy",
    "pandas",
    "pyarrow",
    "matplotlib",
    "skimage",
)
RUN = """
import atexit, gc, sys
atexit.register(lambda: print(gc.get_freeze_count() > 100_000))  # first in, last called
sys.argv = ["attnvis", "run", "cat.png", "logger.mode=disabled", "hydra.run.dir=out"]
from attnvis.cli import console
console()
print(*sorted(set(sys.modules) & {unused}))
"""


def test_a_run_of_the_default_network_loads_no_library_that_it_does_not_use(here):
    make_photo(here / "cat.png")
    code = RUN.format(unused=set(UNUSED))
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines() == ["1 photo done: out/index.html", "", "True"]


OPENED = """
import sys
from attnvis.cli.early_libraries import begin_opening
begin_opening().join()
print("torch" in sys.modules, "/torch/lib/libtorch_cpu.so" in open("/proc/self/maps").read())
import torch
print(torch.ones(2, 2).mm(torch.ones(2, 2)).sum().item(), begin_opening())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere torch opens its libraries itself")
def test_libraries_that_were_opened_early_are_those_of_torch():
    ended = subprocess.run([sys.executable, "-c", OPENED], capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines() == ["False True", "8.0 None"]
    assert not ended.stderr


PRINTED = """
import sys, threading
sys.argv = ["attnvis", "run", "cat.png", "--cfg", "job"]
from attnvis.cli import main
main()
for thread in set(threading.enumerate()) - {threading.main_thread()}:
    thread.join()
print("libtorch_cpu" in open("/proc/self/maps").read())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere torch opens its libraries itself")
def test_a_command_that_only_prints_its_settings_opens_no_library(here):
    make_photo(here / "cat.png")
    ended = subprocess.run([sys.executable, "-c", PRINTED], capture_output=True, text=True, check=True)
    first, *_, last = ended.stdout.splitlines()
    assert (first, last) == ("backbone:", "False")


def test_libraries_that_cannot_be_opened_are_left_to_torch(tmp_path, capfd):
    (tmp_path / early_libraries.LIBRARIES[1]).write_bytes(b"no library")
    early_libraries.open_libraries(tmp_path)
    assert capfd.readouterr() == ("", "")


CHECKED = """
import sys
from attnvis.cli.commands.sweep import require_possible
job = dict(study="scalings", fuse="", keys="same", heads="one", stability=False, random_classes=0)
require_possible(job)
print("torch" in sys.modules)
"""


def test_the_check_of_a_job_imports_no_torch():
    ended = subprocess.run([sys.executable, "-c", CHECKED], capture_output=True, text=True, check=True)
    assert ended.stdout == "False\n"
