"""The door: `attnvis VERB [overrides]`, the same as `python scripts/VERB.py [overrides]`."""

import atexit
import contextlib
import gc
import os
import shlex
import sys
from collections.abc import Iterator

from attnvis.cli.commands.registry import COMMANDS
from attnvis.cli.config import hint
from attnvis.cli.help import manual, overview
from attnvis.cli.hydra_jobs import kept_words, launch
from attnvis.cli.messages import GONE, cwd_is_gone, fail, note
from attnvis.cli.resuming import resumed
from attnvis.cli.stopping import Stopped, ended_in_order
from attnvis.cli.streams import heard
from attnvis.cli.words import to_overrides
from attnvis.opencv import clash

__all__ = ["console", "main"]

NEW_OBJECTS = 50_000  # between two looks for cycles


def console(verb: str | None = None) -> None:
    """`main` in a process that does nothing else, and whose end is cut short."""
    atexit.register(end_uncollected)
    main(verb)


def main(verb: str | None = None) -> None:
    """Runs what the command line says; `verb` None: its first word names the command.

    Raises SystemExit with the exit code where that is not 0.
    """
    status: str | int | None = 0
    with heard() as out, collecting_less():
        try:
            enter(verb, sys.argv[1:])
        except SystemExit as end:
            status = end.code
        out.flush()
        # who reads on no more (`attnvis backbones | head -1`) has had enough: no failure
        if out.error and not isinstance(out.error, BrokenPipeError):
            why = out.error.strerror
            note(f"could not print ({why}); only these words are missing, no file of the command")
            status = status or 1
    if status:
        sys.exit(status)


@contextlib.contextmanager
def collecting_less() -> Iterator[None]:
    """Inside the block Python looks for unreachable cycles after 50,000 new objects, not after 700.

    What PyTorch and W&B define stays for good, and going through it again and again while more is imported
    takes a tenth of a start.
    """
    before = gc.get_threshold()
    gc.set_threshold(NEW_OBJECTS, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)


def end_uncollected() -> None:
    """When the process ends, what is left is not gone through for cycles once more: .5 s for one photo.

    But where a library counts what was made of it, and complains of what is left: Triton, by nanobind.
    """
    if not any(kind.__module__ == "nanobind" for kind in object.__subclasses__()):
        gc.freeze()


def enter(verb: str | None, words: list[str]) -> None:
    """Help, the version, or one command; raises SystemExit with the exit code where that is not 0."""
    if "--version" in words:  # wherever people put it, and no flag of Hydra's
        verb, words = None, ["--version"]
    if verb is None:
        if words[:1] == ["help"] and words[1:2] and words[1] in COMMANDS:
            words = [words[1], "--help"]
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
    if cwd_is_gone():
        fail(GONE)
    os.environ["ATTNVIS_COMMAND"] = shlex.join(["attnvis", verb, *words])  # before it is spelled for Hydra
    os.environ["ATTNVIS_PROCESS"] = str(os.getpid())  # workers end with it
    if trouble := clash():
        note(trouble)  # before cv2 is imported and perhaps fails
    try:
        with ended_in_order():
            typed = resumed(words, command)
            status = launch(command, to_overrides(typed, command, begun=typed is not words))
        if status:
            sys.exit(status)
    except Stopped as stop:
        fail(f"{stop.words}{kept_words(command)}", code=128 + stop.sign)
    except KeyboardInterrupt:
        fail(f"stopped{kept_words(command)}", code=130)
    finally:
        os.environ.pop("ATTNVIS_COMMAND", None)
        os.environ.pop("ATTNVIS_PROCESS", None)
