"""Where attnvis keeps what it found out for this user from one run to the next: features and calibrations."""

import os
from pathlib import Path

__all__ = ["default_folder"]


def default_folder() -> Path:
    """$ATTNVIS_CACHE, else attnvis/ in the user's own cache."""
    given, caches = os.environ.get("ATTNVIS_CACHE"), os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(given or f"{caches}/attnvis").expanduser()
