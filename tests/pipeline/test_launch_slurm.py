"""A run in shards as an array of Slurm jobs: a killed step, a time that is up, a killed command."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from shard_runs import HELD, MOST, TRUSTED, album, begun, ended, gate, kill, parts, rows, running, until

pytestmark = pytest.mark.slurm

COUNT = 24
WORDS = (
    *("run", "album", "launcher=slurm", "shards.size=8", "hydra.run.dir=out", "preprocess.size=96"),
    *("logger.mode=disabled", "hydra.launcher.mem_gb=1", "hydra.launcher.timeout_min=10"),
    *("hydra.launcher.cpus_per_task=1", *HELD),
)


@pytest.fixture
def opened(slurm, here):
    """A Slurm, an album, and the file without which its first shards wait at their first photo."""
    album(here / "album", COUNT)
    gate_file = gate(here)
    yield gate_file
    gate_file.touch()  # what a failed test leaves in the queue comes to an end


def queued(*words: str) -> set[str]:
    """The jobs that wait, run or are about to be forgotten; those of arrays without their numbers in it."""
    command = ["squeue", "--noheader", "--format=%F", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 or "Invalid job id" in done.stderr, done.stderr  # forgotten already
    return set(done.stdout.split())


def require_whole() -> None:
    assert [row["index"] for row in rows()] == list(range(COUNT))
    assert [row["index"] for row in rows() if row["status"] != "done"] == [3]


def test_slurm_gives_local_bytes_and_a_killed_step_costs_no_row(opened):
    command = begun(*WORDS)
    (first, *_) = until(running, command)
    os.kill(first["process"], signal.SIGKILL)
    opened.touch()
    out, err = command.communicate(timeout=MOST)
    assert command.returncode == 1 and "23 photos done" in out, err
    require_whole()
    until(lambda: not queued())
    words = [word for word in WORDS if not word.startswith(("launcher=", "hydra."))]
    local = ended(*words, "launcher=local", "workers=1", "hydra.run.dir=local")
    assert local.returncode == 1 and "23 photos done" in local.stdout, local.stderr
    assert parts("out") == parts("local")


def test_a_job_whose_time_is_up_is_put_into_the_queue_again_and_goes_on(opened):
    command = begun(*WORDS)
    (first, *_) = until(running, command)
    os.kill(first["process"], signal.SIGUSR2)  # as Slurm does before the time is up: --signal=USR2@90
    opened.touch()
    out, err = command.communicate(timeout=MOST)
    assert command.returncode == 1 and "23 photos done" in out, err
    require_whole()


def test_the_array_of_a_killed_command_is_taken_out_of_the_queue(opened):
    command = begun(*WORDS)
    until(lambda: running() and Path("out/slurm.json").exists(), command)
    kill(command)
    (orphaned,) = json.loads(Path("out/slurm.json").read_text())["arrays"]
    assert orphaned in queued()  # nobody opens the gate: it leaves the queue only if it is taken out
    again = begun("run", "--resume", "out", "launcher=slurm", *TRUSTED)
    until(lambda: not queued(f"--jobs={orphaned}"), again)
    opened.touch()
    out, err = again.communicate(timeout=MOST)
    assert again.returncode == 1 and "23 photos done" in out, err
    require_whole()
    assert not Path("out/slurm.json").exists()
