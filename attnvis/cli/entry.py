"""The door: `attnvis VERB [overrides]`, the same as `python scripts/VERB.py [overrides]`."""

import os
import shlex
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from attnvis.cli.commands.registry import COMMANDS
from attnvis.cli.config import hint
from attnvis.cli.help import manual, overview
from attnvis.cli.hydra_jobs import launch
from attnvis.cli.messages import fail
from attnvis.cli.words import resumed, to_overrides

__all__ = ["main"]


def main(verb: str | None = None) -> None:
    """Runs what the command line says; `verb` None: its first word names the command.

    Raises SystemExit with the exit code where that is not 0.
    """
    try:
        enter(verb, sys.argv[1:])
        sys.stdout.flush()
    except BrokenPipeError:  # `attnvis backbones | head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)


def enter(verb: str | None, words: list[str]) -> None:
    """Help, the version, or one command; raises SystemExit with the exit code where that is not 0."""
    if verb is None:
        if not words or words[0] in ("-h", "--help", "help"):
            print(overview())
            sys.exit(0 if words else 2)
        if words[0] == "--version":
            from importlib.metadata import version

            print(version("attnvis"))
            return
        verb, *words = words
    if verb not in COMMANDS:
        fail(f"unknown verb {verb!r}; {hint(verb, COMMANDS)}there are {', '.join(COMMANDS)}", code=2)
    command = COMMANDS[verb]
    if any(word in ("-h", "--help") for word in words):
        print(manual(command))
        return
    os.environ["ATTNVIS_COMMAND"] = shlex.join(["attnvis", verb, *words])  # before it is spelled for Hydra
    os.environ["ATTNVIS_PROCESS"] = str(os.getpid())  # workers end with it
    try:
        with ended_in_order():
            status = launch(command, to_overrides(resumed(words, command), command))
        if status:
            sys.exit(status)
    except Stopped as stop:
        fail(f"stopped by {stop.sign.name}; {command.stopped}", code=128 + stop.sign)
    except KeyboardInterrupt:
        fail(f"stopped; {command.stopped}", code=130)
    finally:
        os.environ.pop("ATTNVIS_COMMAND", None)
        os.environ.pop("ATTNVIS_PROCESS", None)


class Stopped(KeyboardInterrupt):
    """Ctrl-C by other means."""

    def __init__(self, sign: signal.Signals) -> None:
        super().__init__(sign.name)
        self.sign = sign


@contextmanager
def ended_in_order() -> Iterator[None]:
    """A kill, or a terminal that is closed, ends a run as Ctrl-C does: with its page.

    What is ignored (nohup) stays ignored.  Raises Stopped inside the block.
    """

    def stop(number: int, frame: object) -> None:
        for sign in changed:
            signal.signal(sign, signal.SIG_IGN)  # a second one would cut the page short
        raise Stopped(signal.Signals(number))

    signs = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    if threading.current_thread() is not threading.main_thread():
        signs = []  # Python lets only the main thread listen
    changed = [sign for sign in signs if signal.getsignal(sign) is signal.SIG_DFL]
    for sign in changed:
        signal.signal(sign, stop)
    try:
        yield
    finally:
        for sign in changed:
            signal.signal(sign, signal.SIG_DFL)
