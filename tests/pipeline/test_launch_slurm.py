"""A run in shards as an array of Slurm jobs: a killed step, a time that is up, a killed command."""

import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest
from shard_runs import album, begun, ended, kill, parts, rows, running, until

pytestmark = pytest.mark.slurm

ROOT = Path(__file__).resolve().parents[2]
COUNT = 24
WORDS = (
    *("run", "album", "launcher=slurm", "shards.size=8", "hydra.run.dir=out", "preprocess.size=96"),
    *("logger.mode=disabled", "hydra.launcher.mem_gb=1", "hydra.launcher.timeout_min=10"),
    "hydra.launcher.cpus_per_task=1",
)


@pytest.fixture(scope="module")
def slurm():
    """A Slurm of one node, for as long as the tests run; gives its SLURM_CONF."""
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    if not all(shutil.which(program, path=path) for program in ("sinfo", "slurmctld", "slurmdbd")):
        pytest.skip("no Slurm here: apt-get install slurm-wlm slurmdbd munge mariadb-server")
    # not below tmp_path: the names of sockets must be short
    folder = tempfile.mkdtemp(prefix="slurm-", dir="/tmp")
    script = str(ROOT / ".ci" / "slurm")
    try:
        started = subprocess.run([script, "start", folder], capture_output=True, text=True, check=False)
        if started.returncode:
            pytest.skip(f"Slurm cannot be started here: {' '.join(started.stderr.split())[-300:]}")
        yield f"{folder}/slurm.conf"
    finally:
        subprocess.run([script, "stop", folder], check=False)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def cluster(slurm, here, monkeypatch):
    monkeypatch.setenv("SLURM_CONF", slurm)
    album(here / "album", COUNT, size=(350, 450))


def queued() -> int:
    done = subprocess.run(["squeue", "--noheader"], capture_output=True, text=True, check=True)
    return len(done.stdout.splitlines())


def require_whole() -> None:
    assert [row["index"] for row in rows()] == list(range(COUNT))
    assert [row["index"] for row in rows() if row["status"] != "done"] == [3]


def test_slurm_gives_local_bytes_and_a_killed_step_costs_no_row(cluster):
    words = ("run", "album", "launcher=local", "workers=1", "shards.size=8", "hydra.run.dir=local")
    local = ended(*words, "preprocess.size=96", "logger.mode=disabled")
    assert local.returncode == 1 and "23 photos done" in local.stdout, local.stderr
    command = begun(*WORDS)
    (first, *_) = until(running, command)
    os.kill(first["process"], signal.SIGKILL)
    out, err = command.communicate(timeout=240)
    assert command.returncode == 1 and "23 photos done" in out, err
    require_whole()
    assert parts("out") == parts("local")
    assert queued() == 0


def test_a_job_whose_time_is_up_is_put_into_the_queue_again_and_goes_on(cluster):
    command = begun(*WORDS)
    (first, *_) = until(running, command)
    os.kill(first["process"], signal.SIGUSR2)  # as Slurm does before the time is up: --signal=USR2@90
    out, err = command.communicate(timeout=240)
    assert command.returncode == 1 and "23 photos done" in out, err
    require_whole()


def test_the_array_of_a_killed_command_is_taken_out_of_the_queue(cluster):
    command = begun(*WORDS)
    until(running, command)
    kill(command)
    assert queued() > 0
    again = ended("run", "--resume", "out", "launcher=slurm")
    assert again.returncode == 1 and "23 photos done" in again.stdout, again.stderr
    require_whole()
    assert queued() == 0 and not Path("out/slurm.json").exists()
