"""What processes are given to do in tests; it imports nothing that takes time."""

import os
from pathlib import Path


def fail_if_odd(number: int) -> str:
    return "odd" if number % 2 else ""


def die(fatal: int, number: int) -> str:
    if number == fatal:
        os.kill(os.getpid(), 9)
    return ""


def die_once(folder: Path, number: int, number_only: bool = False) -> str:
    """Notes the process, and dies the first time that a shard comes."""
    path = folder / str(number)
    is_first = not path.exists()
    (folder / f".{number}").write_text(str(os.getpid()))
    (folder / f".{number}").replace(path)  # whoever is stopped here leaves no half a note
    if is_first and not number_only:
        os.kill(os.getpid(), 9)
    return ""


def cores(number: int) -> str:
    return f"{sorted(os.sched_getaffinity(0))} threads {os.environ['OMP_NUM_THREADS']}"
