"""PyTorch's C++ libraries are opened in a thread, while the main one imports Hydra and reads configs."""

import ctypes
import os
import sys
import threading
from importlib.util import find_spec
from pathlib import Path

__all__ = ["begin_opening"]

LIBRARIES = ("libtorch_global_deps.so", "libtorch_cpu.so", "libtorch_cuda.so")  # as `import torch` opens them


def begin_opening() -> threading.Thread | None:
    """Starts the thread; None where that is of no use: torch is imported already, or lies elsewhere.

    `import torch` opens 1 GB of them itself, .3 s in which no other thread of Python's moves.  A dlopen that
    is called as a function of C lets the others go on, and `import torch` then finds them open.
    """
    torch = None if "torch" in sys.modules or sys.platform != "linux" else find_spec("torch")
    if torch is None or torch.origin is None:
        return None
    folder = Path(torch.origin).with_name("lib")
    thread = threading.Thread(target=open_libraries, args=(folder,))
    thread.start()
    return thread


def open_libraries(folder: Path) -> None:
    """What cannot be opened is left to `import torch`, which says why."""
    dlopen = ctypes.CDLL(None).dlopen
    for name in LIBRARIES:
        scope = os.RTLD_GLOBAL if name == LIBRARIES[0] else os.RTLD_LOCAL
        dlopen(os.fsencode(folder / name), os.RTLD_LAZY | scope)
