"""The streams with which a process was started in, streams that nothing said can end a command on out."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

__all__ = ["Stream", "heard", "is_heard"]


class Stream:
    """stdout or stderr, whose reader may go away and whose disk may be full: what is said then is dropped.

    `error` is why.  Signs that the stream's encoding lacks are written with backslashes.
    """

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.error: OSError | None = None

    def write(self, text: str) -> int:
        with self.tolerant():
            try:
                self.stream.write(text)
            except UnicodeEncodeError:
                encoding = self.stream.encoding
                self.stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def flush(self) -> None:
        with self.tolerant():
            self.stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    @contextmanager
    def tolerant(self) -> Iterator[None]:
        """After the first error the stream leads nowhere: else Python would try once more when it ends."""
        try:
            yield
        except OSError as error:
            self.error = self.error or error
            with suppress(OSError, ValueError):  # it may be none of a file
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, self.stream.fileno())
                os.close(nowhere)


@contextmanager
def heard() -> Iterator[Stream]:
    """stdout and stderr as `Stream` inside the block, which gets stdout; afterwards as they were.

    One that was closed (`attnvis run cat.jpg 2>&-`) leads nowhere: else the next file that is opened would
    have its number, and what libraries say would go into it.
    """
    open_closed()
    before = sys.stdout, sys.stderr
    out, err = Stream(sys.stdout), Stream(sys.stderr)
    sys.stdout, sys.stderr = out, err
    try:
        yield out
    finally:
        out.flush()
        err.flush()
        sys.stdout, sys.stderr = before


def open_closed() -> None:
    """The three streams that every process has, where whoever started this one closed them."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free: this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def is_heard() -> bool:
    """Whether anybody still reads what is printed."""
    return getattr(sys.stdout, "error", None) is None
