"""What several commands need: the photos that were named, a sample of them, the threads, the command line."""

import os
from pathlib import Path
from typing import Any

__all__ = ["command", "listed", "photos"]


def thread_count(workers: int | str, photos: int) -> int:
    """How many threads `auto` stands for: one a core, none for one photo."""
    import torch

    if not (workers == "auto" or (isinstance(workers, int) and workers > 0)):
        raise ValueError(f"workers={workers}: give auto (one a core) or a number from 1 on")
    return max(1, min(torch.get_num_threads() if workers == "auto" else int(workers), photos))


def photos(images: Any) -> list[Path]:
    from attnvis.data.paths import find

    return find([str(item) for item in images] if isinstance(images, list) else str(images))


def listed(value: Any) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else [str(value)]


def command() -> str:
    """The command line, to be typed again; processes that a launcher starts inherit it."""
    return os.environ.get("ATTNVIS_COMMAND", "")
