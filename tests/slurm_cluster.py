"""A Slurm of one node for the tests that send jobs: one for as long as the tests run."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

SCRIPT = str(Path(__file__).parents[1] / ".ci" / "slurm")


@pytest.fixture(scope="session")
def started_slurm():
    """Its SLURM_CONF."""
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    if not all(shutil.which(program, path=path) for program in ("sinfo", "slurmctld", "slurmdbd")):
        pytest.skip("no Slurm here: apt-get install slurm-wlm slurmdbd munge mariadb-server")
    # not below tmp_path: the names of sockets must be short
    folder = tempfile.mkdtemp(prefix="slurm-", dir="/tmp")
    try:
        started = subprocess.run([SCRIPT, "start", folder], capture_output=True, text=True, check=False)
        if started.returncode:
            pytest.skip(f"Slurm cannot be started here: {' '.join(started.stderr.split())[-300:]}")
        yield f"{folder}/slurm.conf"
    finally:
        subprocess.run([SCRIPT, "stop", folder], check=False)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def slurm(started_slurm, monkeypatch):
    """Commands of this test send their jobs there."""
    monkeypatch.setenv("SLURM_CONF", started_slurm)
