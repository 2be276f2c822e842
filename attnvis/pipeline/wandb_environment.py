"""The process as W&B can read it, while a run is logged; as it was, once that has ended."""

import codecs
import locale
import logging
import netrc
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from attnvis.errors import first_line
from attnvis.pipeline.wandb_library import refused_variables

__all__ = ["LentEnvironment", "tell"]

OURS = (  # given to wandb.init, made fit where they were not
    *("WANDB_MODE", "WANDB_PROJECT", "WANDB_ENTITY", "WANDB_RUN_GROUP", "WANDB_NAME", "WANDB_NOTES"),
    *("WANDB_TAGS", "WANDB_JOB_TYPE", "WANDB_RUN_ID", "WANDB_DIR"),
)


class LentEnvironment:
    """Variables, and whether logging complains of itself, are as W&B needs them until `give_back`."""

    def __init__(self) -> None:
        self.before: dict[str, str | None] = {}  # variable -> its value; None: there was none
        self.complains = logging.raiseExceptions

    def lend(self, changes: Mapping[str, str | None]) -> None:
        """To W&B; None takes a variable away."""
        for name in changes:
            self.before.setdefault(name, os.environ.get(name))
        set_variables(changes)

    def give_back(self) -> None:
        logging.raiseExceptions = self.complains
        set_variables(self.before)

    def keep_files_in(self, folder: Path) -> None:
        """What the user did not choose: W&B's own files go there, and it is silent."""
        # or tables and artifacts wait in the home folder, and are lost when outputs/ moves
        defaults = {"WANDB_DATA_DIR": str(folder), "WANDB_CACHE_DIR": str(folder), "WANDB_SILENT": "true"}
        self.lend({name: value for name, value in defaults.items() if name not in os.environ})
        # W&B writes its own notes in an encoding that may lack the letters
        if codecs.lookup(locale.getpreferredencoding(False)).name != "utf-8":
            logging.raiseExceptions = False

    def hide_what_is_refused(self) -> None:
        """W&B starts with no variable that it cannot read; those that attnvis reads itself it is given."""
        for name, reason in refused_variables().items():
            if name not in OURS:
                tell(f"{name}={os.environ[name]!r} is not what W&B takes ({reason}); it is left out")
            self.lend({name: None})

    def hide_damaged_netrc(self) -> None:
        """W&B, and what it builds on, look for a key in a file that they expect to be whole."""
        path = Path(os.environ.get("NETRC") or "~/.netrc").expanduser()
        try:
            netrc.netrc(path)
        except FileNotFoundError:
            return
        except (netrc.NetrcParseError, OSError, UnicodeError) as error:
            tell(f"{path}, where W&B looks for a key, cannot be read ({first_line(error)}); it is left out")
            self.lend({"NETRC": os.devnull})


def set_variables(values: Mapping[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def tell(text: str) -> None:
    """One line on stderr, whatever its encoding."""
    line = "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in f"attnvis: {text}")
    encoding = getattr(sys.stderr, "encoding", None) or "utf-8"
    print(line.encode(encoding, "backslashreplace").decode(encoding), file=sys.stderr)
