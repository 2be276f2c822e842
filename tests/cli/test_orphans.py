"""A worker whose parent was killed while it started does nothing more."""

import os
import subprocess
import sys

import pytest

from attnvis.cli.orphans import is_orphan


@pytest.fixture
def dead(monkeypatch):
    """The number of a process that has ended."""
    for name in [name for name in os.environ if name.startswith(("SLURM_", "SUBMITIT_"))]:
        monkeypatch.delenv(name)
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return str(process.pid)


def test_a_worker_whose_parent_is_gone_is_an_orphan(dead, monkeypatch):
    assert is_orphan(dead) and not is_orphan(str(os.getpid())) and not is_orphan("")
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert not is_orphan(dead)  # a job of Slurm outlives who submitted it
