"""Shards as an array of Slurm jobs, sent by submitit; one whose time is up is put into the queue again.

What Slurm lost - a killed step, a dead node - is sent once more.  Whether jobs still wait or run says squeue:
without accounting submitit would wait for ever for one that was killed.
"""

import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attnvis.errors import in_one_line
from attnvis.json_files import read_json, write_json
from attnvis.pipeline.shards.launching import TICK, Ended, Work
from attnvis.types import UnavailableError

__all__ = ["cancel_earlier", "do_on_slurm", "forget_arrays", "remember_arrays"]

QUEUE = "slurm.json"  # in a run's folder: the arrays that are its
NO_SUBMITIT = "submitit is not installed; pip install 'attnvis[slurm]', or take launcher=local"
MOST_JOBS = 1000  # of an array: Slurm's MaxArraySize is 1001 unless somebody changed it
LOOK = 5.0  # seconds between two looks at the queue
SHARED = (  # settings that submitit has for every kind of cluster
    *("timeout_min", "cpus_per_task", "gpus_per_node", "tasks_per_node", "mem_gb", "nodes", "name"),
    "stderr_to_stdout",
)
PATIENCE = 1800.0  # seconds that Slurm may not answer


@dataclass
class Shards:
    """What one job of the array does: some shards, one after the other."""

    work: Work

    def __call__(self, numbers: Sequence[int]) -> None:
        for number in numbers:
            self.work(number)

    def checkpoint(self, numbers: Sequence[int]) -> Any:
        """Its time is up: the same once more, where what is done is passed over.  submitit calls this."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self, numbers)


def do_on_slurm(
    work: Work,
    numbers: Sequence[int],
    folder: Path,
    settings: Mapping[str, Any],
    outcome: Callable[[int], str | None],
    tries: int = 3,
    sent: Callable[[Sequence[str]], None] = lambda jobs: None,
) -> Iterator[Ended | None]:
    """Every shard, in any order, None where nothing has ended for a while.

    folder     where submitit keeps its files, which all nodes see
    settings   of the jobs, as configs/launcher/slurm.yaml has them
    outcome    of a shard, by the run's folder: "" it has its part, a reason why not, None neither
    tries      of a shard that Slurm lost, and of a job whose time is up
    sent       is told the arrays' numbers, so that they can be cancelled later

    Raises UnavailableError without submitit, ValueError where Slurm takes no job or does not answer.
    """
    left = list(numbers)
    for _ in range(tries):
        yield from one_round(work, left, folder, settings, tries, sent)
        outcomes = {number: outcome(number) for number in left}
        for number, reason in outcomes.items():
            if reason is not None:
                yield Ended(number, reason)
        left = [number for number, reason in outcomes.items() if reason is None]
        if not left:
            return
    for number in left:
        yield Ended(number, f"Slurm lost its job, {tries} times; see {folder}")


def one_round(
    work: Work,
    numbers: Sequence[int],
    folder: Path,
    settings: Mapping[str, Any],
    tries: int,
    sent: Callable[[Sequence[str]], None],
) -> Iterator[None]:
    """One array, until its last job has left the queue."""
    try:
        import submitit
    except ImportError:
        raise UnavailableError(NO_SUBMITIT) from None
    try:
        executor = submitit.AutoExecutor(folder, cluster="slurm", slurm_max_num_timeout=tries)
        executor.update_parameters(**parameters(settings))
    except RuntimeError:
        raise ValueError("there is no Slurm here (no srun); take launcher=local") from None
    jobs_of = min(len(numbers), MOST_JOBS)
    numbers_of_jobs = [list(numbers[start::jobs_of]) for start in range(jobs_of)]  # the slow ones are spread
    try:
        jobs = executor.map_array(Shards(work), numbers_of_jobs)
    except (submitit.core.utils.FailedJobError, OSError) as error:
        raise ValueError(f"Slurm took no job: {in_one_line(error)[-300:]}") from None
    arrays = sorted({job.job_id.partition("_")[0] for job in jobs})
    sent(arrays)
    over = False
    try:
        look, silent = time.monotonic(), None
        while not over:
            yield None
            time.sleep(TICK)
            if time.monotonic() - look < LOOK:
                continue
            look = time.monotonic()
            queued = jobs_in_queue(arrays)
            if queued is not None:
                over, silent = queued == 0, None
            elif silent is None:
                silent = look
            elif look - silent > PATIENCE:
                minutes = f"{PATIENCE / 60:.0f} minutes"
                raise ValueError(f"Slurm has not answered for {minutes}; go on with --resume later")
    finally:
        if not over:
            cancel(arrays)


def parameters(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of Hydra's launcher as submitit takes them."""
    own = ("submitit_folder", "max_num_timeout", "_target_")
    given = {name: value for name, value in settings.items() if name not in own and value is not None}
    return {name if name in SHARED else f"slurm_{name}": value for name, value in given.items()}


def jobs_in_queue(arrays: Sequence[str]) -> int | None:
    """How many jobs of these arrays wait or run; None where Slurm does not answer."""
    command = ["squeue", "--noheader", "--format=%i", f"--jobs={','.join(arrays)}"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if answer.returncode == 0:
        return len(answer.stdout.split())
    return 0 if "Invalid job id" in answer.stderr else None  # they were forgotten: all have ended


def cancel(arrays: Sequence[str]) -> None:
    """Takes arrays out of the queue, those that run too."""
    if arrays:
        try:
            subprocess.run(["scancel", *arrays], capture_output=True, check=False, timeout=60)
        except (OSError, subprocess.TimeoutExpired):
            return


def remember_arrays(folder: Path, arrays: Sequence[str]) -> None:
    """So that they can be cancelled by who goes on after this process was killed.  Raises OSError."""
    write_json(folder, QUEUE, {"arrays": list(arrays)})


def forget_arrays(folder: Path) -> None:
    """None of a run's jobs waits any more.  Raises OSError."""
    (folder / QUEUE).unlink(missing_ok=True)


def cancel_earlier(folder: Path) -> None:
    """The arrays that a killed command left in Slurm's queue: their shards are sent again."""
    with suppress(OSError, ValueError):
        cancel([array for array in read_json(folder / QUEUE)["arrays"] if str(array).isdecimal()])
        forget_arrays(folder)
