"""Workers end with the process of the command line that started them, however that ended."""

import os
import threading
import time

__all__ = ["end_with_parent", "is_orphan"]

WATCHED: list[int] = []  # the parent with which this process ends


def end_with_parent() -> None:
    """A worker that the process of the command line started ends with it, even where that was killed.

    Else it would go on writing into a folder that somebody goes on with.  Slurm's jobs have other parents.
    """
    parent, begun_by = os.getppid(), os.environ.get("ATTNVIS_PROCESS", "")
    if is_orphan(begun_by):
        os._exit(1)  # it was killed while this worker started
    if begun_by != str(parent) or WATCHED:
        return
    WATCHED.append(parent)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def is_orphan(begun_by: str) -> bool:
    """Whether the process of the command line, which had this number, has ended.  Slurm's jobs outlive it."""
    if not begun_by or any(name.startswith(("SLURM_", "SUBMITIT_")) for name in os.environ):
        return False
    try:
        os.kill(int(begun_by), 0)
    except ProcessLookupError:
        return True
    except (ValueError, OSError):
        return False
    return False
