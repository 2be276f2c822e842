"""Shards by processes of this machine, each with cores of its own; one that dies costs its shard a try."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from queue import SimpleQueue

from attnvis.pipeline.shards.launching import Ended, Work, in_turn

__all__ = ["do_locally"]

# One thread an operation, as in the threads of a run: whichever process computes a number, it is the same.
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def do_locally(
    work: Work,
    numbers: Sequence[int],
    processes: int,
    cores: int = 1,
    tries: int = 3,
    begin: Callable[[], None] | None = None,
) -> Iterator[Ended | None]:
    """Every shard once, in any order, None where none has ended for a while.

    processes   each with `cores` of this machine's to itself, as far as there are so many
    tries       of a shard whose process was killed
    begin       what a process does first; it can be pickled
    """
    free = SimpleQueue[Process]()
    own = [Process(core_set(number, cores), begin) for number in range(processes)]
    for process in own:
        free.put(process)
    stopped = False

    def do(number: int) -> Ended:
        process = free.get()
        try:
            for _ in range(tries):
                with suppress(BrokenProcessPool):
                    return Ended(number, process.do(work, number))
                process.end()
                if stopped:
                    break
            return Ended(number, f"its process ended before it, {tries} times; see whether memory is enough")
        finally:
            free.put(process)

    threads = ThreadPoolExecutor(processes, "attnvis-shards")
    try:
        yield from in_turn(lambda number: threads.submit(do, number), numbers, window=2 * processes)
    finally:
        stopped = True
        threads.shutdown(wait=False, cancel_futures=True)
        for process in own:
            process.end()
        threads.shutdown(wait=True)


class Process:
    """A process that does one shard at a time, started with its first."""

    def __init__(self, cores: Sequence[int], begin: Callable[[], None] | None) -> None:
        self.cores, self.begin = cores, begin
        self.pool: ProcessPoolExecutor | None = None
        self.number = 0  # of the process

    def do(self, work: Work, number: int) -> str:
        """What `work` gives.  Raises BrokenProcessPool where the process died."""
        if self.pool is None:
            context = multiprocessing.get_context("spawn")  # a copy of this one would have its locks
            self.pool = ProcessPoolExecutor(1, context, start, (tuple(self.cores), self.begin))
            self.number = self.pool.submit(os.getpid).result()
        return self.pool.submit(work, number).result()

    def end(self) -> None:
        """At once."""
        pool, self.pool = self.pool, None
        if pool is not None:
            with suppress(ProcessLookupError):
                if self.number:
                    os.kill(self.number, 9)
            pool.shutdown(wait=True, cancel_futures=True)
            self.number = 0


def start(cores: tuple[int, ...], begin: Callable[[], None] | None) -> None:
    """In a new process, before it imports anything that counts cores."""
    if cores and hasattr(os, "sched_setaffinity"):
        with suppress(OSError):
            os.sched_setaffinity(0, cores)
    for name in THREADS:
        os.environ[name] = "1"
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the command's to hear, which ends this process
    if begin is not None:
        begin()


def core_set(number: int, cores: int) -> Sequence[int]:
    """The cores of the process with this number; none of its own where there are not so many."""
    if not hasattr(os, "sched_getaffinity"):
        return ()
    there = sorted(os.sched_getaffinity(0))
    own = there[number * cores : (number + 1) * cores]
    return own if len(own) == cores else ()
