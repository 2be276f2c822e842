"""What a start loads: no library that the command does not need."""

import subprocess
import sys

from conftest import make_photo

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
import sys
sys.argv = ["attnvis", "run", "cat.png", "logger.mode=disabled", "hydra.run.dir=out"]
from attnvis.cli import main
main()
print(*sorted(set(sys.modules) & {unused}))
"""


def test_a_run_of_the_default_network_loads_no_library_that_it_does_not_use(here):
    make_photo(here / "cat.png")
    code = RUN.format(unused=set(UNUSED))
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines() == ["1 photo done: out/index.html", ""]
