"""A run in shards on a real Ray of two raylets; what is killed costs no row, and nothing waits for ever."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from shard_runs import HELD, MOST, TRUSTED, album, begun, ended, gate, kill, parts, rows, running, until

pytest.importorskip("ray", reason="no Ray here: pip install 'attnvis[ray]', or see .ci/ray")
pytestmark = pytest.mark.ray

with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    PORT = free.getsockname()[1]
ADDRESS = f"127.0.0.1:{PORT}"
WORDS = ("run", "album", "launcher=ray", f"shards.address={ADDRESS}", "shards.size=8", "hydra.run.dir=out")
SETTINGS = ("preprocess.size=96", "logger.mode=disabled", *HELD)
COUNT = 48


@pytest.fixture(scope="module")
def raylets():
    """Two raylets of one CPU each; gives what starts the second one again, and the second one's process."""
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # the names of sockets must be short
    tests = str(Path(__file__).parents[2])
    environment = {**os.environ, "RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1", "PYTHONPATH": tests}
    program = [
        str(Path(sys.executable).with_name("ray")),
        "start",
        "--node-ip-address=127.0.0.1",
        "--num-cpus=1",
    ]
    program += ["--disable-usage-stats", "--block"]
    processes = []

    def start(*words):
        with Path(folder, f"{len(processes)}.log").open("w") as log:
            process = subprocess.Popen([*program, *words], env=environment, stdout=log, stderr=log)
        processes.append(process)
        return process

    head = start("--head", f"--port={PORT}", "--include-dashboard=false", f"--temp-dir={folder}")
    try:
        until(lambda: nodes(environment) == 1, head)
        yield lambda: start(f"--address={ADDRESS}"), environment
    finally:
        for process in reversed(processes):
            process.send_signal(signal.SIGTERM)
        for process in reversed(processes):
            try:
                process.wait(120)
            except subprocess.TimeoutExpired:
                process.kill()
        shutil.rmtree(folder, ignore_errors=True)


def nodes(environment) -> int:
    """How many raylets live."""
    code = (
        f"import ray; ray.init(address='{ADDRESS}', logging_level='ERROR', log_to_driver=False);"
        "print(sum(node['Alive'] for node in ray.nodes()), 'raylets live')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    count = re.search(r"^(\d+) raylets live$", done.stdout, re.MULTILINE)  # Ray's own words stand around it
    return int(count[1]) if count else 0


@pytest.fixture
def cluster(raylets, here, monkeypatch):
    """Two raylets that live, a folder of photos, a gate that is shut; gives the second raylet's command."""
    start, environment = raylets
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    album(here / "album", COUNT)
    second = start()
    gate(here)
    until(lambda: nodes(environment) == 2, second)
    yield second
    second.terminate()
    second.wait(120)
    until(lambda: nodes(environment) == 1)


def require_whole() -> None:
    assert [row["index"] for row in rows()] == list(range(COUNT))
    assert [row["index"] for row in rows() if row["status"] != "done"] == [3]
    assert not list(Path("out").rglob("*.running"))


def test_ray_gives_local_bytes_and_a_dead_raylet_costs_no_row(cluster):
    driver = begun(*WORDS, *SETTINGS)
    raylet = until(lambda: raylet_of(cluster.pid), driver)
    until(lambda: len(running()) == 2, driver)
    os.kill(raylet, signal.SIGKILL)
    Path("opened").touch()
    out, err = driver.communicate(timeout=MOST)
    assert driver.returncode == 1 and "47 photos done" in out, err
    require_whole()
    words = ("run", "album", "launcher=local", "workers=1", "shards.size=8", "hydra.run.dir=local")
    local = ended(*words, *SETTINGS)
    assert local.returncode == 1 and "47 photos done" in local.stdout, local.stderr
    assert parts("out") == parts("local")


def raylet_of(parent: int) -> int:
    """The raylet that `ray start --block` looks after."""
    done = subprocess.run(
        ["ps", "--ppid", str(parent), "-o", "pid=,comm="], capture_output=True, text=True, check=False
    )
    return next((int(line.split()[0]) for line in done.stdout.splitlines() if "raylet" in line), 0)


def test_a_killed_worker_and_then_a_killed_driver_cost_no_row(cluster):
    driver = begun(*WORDS, *SETTINGS)
    (first, *_) = until(running, driver)
    os.kill(first["process"], signal.SIGKILL)
    Path("opened").write_text("2")
    until(lambda: len(list(Path("out/parts").glob("*/*.json"))) >= 2, driver)
    kill(driver)
    kept = {path: path.stat().st_mtime_ns for path in Path("out/parts").glob("*/*.json")}
    Path("opened").write_text("")
    again = ended("run", "--resume", "out", "launcher=ray", f"shards.address={ADDRESS}", *TRUSTED)
    assert again.returncode == 1 and "47 photos done" in again.stdout, again.stderr
    require_whole()
    assert {path: path.stat().st_mtime_ns for path in kept} == kept  # what was done is not done again


def test_nothing_waits_for_a_cluster_that_can_do_no_shard(cluster):
    code = (
        "from attnvis.pipeline.shards import launch_ray; launch_ray.PATIENCE = 3.0;"
        f"list(launch_ray.do_on_ray(str, [0], cores=16, address='{ADDRESS}'))"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=MOST)
    assert "no node of the Ray cluster could take a shard; see ray status" in done.stderr
