"""Ctrl-C, a kill and a closed terminal in, one exception out, which no library that catches it can lose."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

__all__ = ["Stopped", "check_stop", "ended_in_order"]

CAME: list[signal.Signals] = []  # the signal by which this process was told to stop


class Stopped(KeyboardInterrupt):
    """Ctrl-C, also by other means."""

    def __init__(self, sign: signal.Signals) -> None:
        super().__init__(sign.name)
        self.sign = sign

    @property
    def words(self) -> str:
        return "stopped" if self.sign == signal.SIGINT else f"stopped by {self.sign.name}"


def check_stop() -> None:
    """Raises Stopped where a signal came and went on as something else: a failed import, or nothing."""
    if CAME:
        raise Stopped(CAME[0])


@contextmanager
def ended_in_order() -> Iterator[None]:
    """A kill, or a terminal that is closed, ends a run as Ctrl-C does: with its page.

    What is ignored (nohup) stays ignored.  Raises Stopped inside the block.
    """
    before: dict[signal.Signals, Any] = {}
    signs = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP", "SIGINT") if hasattr(signal, name)]
    if threading.current_thread() is not threading.main_thread():
        signs = []  # Python lets only the main thread listen

    def stop(number: int, frame: FrameType | None) -> None:
        for sign in before:  # a second one would cut the page short; a second Ctrl-C means to
            signal.signal(sign, signal.default_int_handler if sign == signal.SIGINT else signal.SIG_IGN)
        CAME[:] = [signal.Signals(number)]
        raise Stopped(CAME[0])

    CAME.clear()
    for sign in signs:
        if signal.getsignal(sign) in (signal.SIG_DFL, signal.default_int_handler):
            before[sign] = signal.signal(sign, stop)
    try:
        yield
    finally:
        CAME.clear()
        for sign, handler in before.items():
            signal.signal(sign, handler)
