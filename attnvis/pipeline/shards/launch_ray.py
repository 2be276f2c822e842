"""Shards as tasks of a Ray cluster: its scheduler gives them to nodes, and those of a dead one to another.

Tasks rather than a pool of actors: `ray.util.ActorPool` hands further shards to an actor that has died, and
one that waits for a node that never comes back keeps its shard for ever (see also ray #62746).  A worker
keeps its network from task to task; with GPUs Ray starts one a task, or it would hold on to another's GPU.
"""

import math
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from attnvis.pipeline.shards.launching import TICK, Ended, Work
from attnvis.types import UnavailableError

__all__ = ["NO_RAY", "do_on_ray"]

NO_RAY = "ray is not installed; pip install 'attnvis[ray]', or take launcher=local"
PATIENCE = 300.0  # seconds that no living node could do a shard, after which nobody waits any longer
MOST_WAITING = 10_000  # tasks that Ray is given at a time


def do_on_ray(
    work: Work,
    numbers: Sequence[int],
    cores: int = 1,
    gpus: float = 0.0,
    tries: int = 3,
    address: str = "auto",
) -> Iterator[Ended | None]:
    """Every shard once, in any order, None where none has ended for a while.

    cores, gpus   that a shard's task has for itself
    tries         of a shard whose worker or node died
    address       of a cluster; auto: that of RAY_ADDRESS, or the one that runs here, else one of this machine

    Raises UnavailableError without Ray, and ConnectionError or ValueError where no cluster answers, or none
    of its nodes can do a shard.
    """
    try:
        import ray
    except ImportError:
        raise UnavailableError(NO_RAY) from None
    os.environ.setdefault("RAY_task_oom_retries", str(tries - 1))  # else for ever
    where: dict[str, Any] = {} if address == "auto" else {"address": address}
    before = signal.getsignal(signal.SIGTERM)
    ray.init(**where, log_to_driver=False, logging_level="ERROR", configure_logging=False)
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, before)  # Ray's own would end the command without its page
    try:

        def do(number: int) -> str:
            return work(number)

        task = ray.remote(num_cpus=cores, num_gpus=gpus, max_retries=tries - 1, max_calls=1 if gpus else 0)(
            do
        )
        yield from results(task, iter(numbers), fits=lambda: places(cores, gpus))
    finally:
        ray.shutdown()


def results(task: Any, numbers: Iterator[int], fits: Any) -> Iterator[Ended | None]:
    """Shards as they end; as many are submitted as keep every node busy.

    fits   gives how many tasks the living nodes hold at a time

    Raises ValueError where it is none for PATIENCE.
    """
    import ray

    pending: dict[Any, int] = {}
    lonely = None  # since when no node could do anything
    while True:
        window = min(MOST_WAITING, max(4 * fits(), 8))
        pending |= {task.remote(number): number for number in islice(numbers, window - len(pending))}
        if not pending:
            return
        done, _ = ray.wait(list(pending), num_returns=1, timeout=TICK)
        for reference in done:
            yield ended(pending.pop(reference), reference)
        if done or fits():
            lonely = None
        elif lonely is None:
            lonely = time.monotonic()
        elif time.monotonic() - lonely > PATIENCE:
            raise ValueError(
                f"for {PATIENCE:.0f} s no node of the Ray cluster could take a shard; "
                "see ray status, and give fewer shards.cores or shards.gpus"
            )
        if not done:
            yield None


def ended(number: int, reference: Any) -> Ended:
    """What became of a task."""
    import ray

    try:
        return Ended(number, ray.get(reference))
    except ray.exceptions.RayError as error:
        if isinstance(error, ray.exceptions.LocalRayletDiedError):
            raise ConnectionError(
                "this machine's raylet has ended; start it again, and go on with --resume"
            ) from None
        text = str(error).strip().splitlines()
        return Ended(number, f"Ray gave it up: {text[0] if text else type(error).__name__}")


def places(cores: int, gpus: float) -> int:
    """How many tasks the nodes that live hold at a time."""
    import ray

    count = 0
    for node in ray.nodes():
        if node["Alive"]:
            there = node["Resources"]
            fitting = [there.get("CPU", 0) / cores] + ([there.get("GPU", 0) / gpus] if gpus else [])
            count += math.floor(min(fitting))
    return count
