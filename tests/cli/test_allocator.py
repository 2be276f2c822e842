"""Freed memory is kept by a command, and by nobody who says how memory is to be allocated."""

import ctypes
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(
    sys.platform == "win32" or not hasattr(ctypes.CDLL(None), "mallopt"), reason="no mallopt here"
)

CODE = """
import resource
from attnvis.cli.allocator import keep_freed_memory
keep_freed_memory()
size = 64 << 20
block = b"x" * size
del block
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
block = b"x" * size
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(**environment: str) -> int:
    """How many pages a block of 64 MB costs the second time; all of it are 16,384 of 4 kB."""
    own = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", CODE], env=own | environment, capture_output=True, text=True, check=True
    )
    return int(done.stdout)


def test_a_large_block_costs_its_pages_once():
    assert faults() < 100


def test_who_says_how_memory_is_allocated_is_heard():
    kept = faults()
    assert faults(MALLOC_MMAP_MAX_="65536") > 10 * kept
