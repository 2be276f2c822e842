"""What a person typed for W&B, and what the environment says -> settings that W&B takes.

What is typed (logger.project=...) comes before the environment (WANDB_PROJECT), and that before the default.
W&B's rules are checked here, without W&B, before anything is computed: what is typed and breaks one is
refused; what nobody typed for this command is made fit, and that is said.
"""

import difflib
import os
import re
import secrets
import unicodedata
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = ["LoggerSettings", "logger_plan", "new_id", "read_logger", "readable"]

VARIABLES = {  # setting -> the variable of W&B's that is asked where it is not typed
    "mode": "WANDB_MODE",
    "project": "WANDB_PROJECT",
    "entity": "WANDB_ENTITY",
    "group": "WANDB_RUN_GROUP",
    "name": "WANDB_NAME",
    "job_type": "WANDB_JOB_TYPE",
    "id": "WANDB_RUN_ID",
    "notes": "WANDB_NOTES",
    "tags": "WANDB_TAGS",
    "dir": "WANDB_DIR",
}
MODES = {
    "offline": "offline",
    "online": "online",
    "disabled": "disabled",
    "dryrun": "offline",  # W&B's older words
    "run": "online",
}
NAMES = ("project", "entity", "group", "name", "job_type", "id")  # of one line, with rules
FORBIDDEN = {"project": "/\\#?%:", "entity": "/\\#?%:", "id": ":;,#?/\\'"}
LONGEST, LONGEST_TAG = 128, 64  # letters; of an id bytes: files are named after it
PICTURES = 64
OFF = ("", "0", "false", "no", "off", "n", "f")


@dataclass(frozen=True)
class LoggerSettings:
    """What W&B is told of a run; None: W&B's own choice.

    remarks   what was made fit, and how: to be said once
    """

    mode: str = "offline"
    project: str = "attnvis"
    entity: str | None = None
    group: str | None = None
    name: str | None = None
    job_type: str | None = None
    id: str | None = None
    notes: str | None = None
    tags: tuple[str, ...] = ()
    dir: Path | None = None  # W&B's files go to <dir>/wandb
    pictures: int = PICTURES  # sent at most, of each kind
    remarks: tuple[str, ...] = ()


def read_logger(logger: Mapping[str, Any], **defaults: str | None) -> LoggerSettings:
    """The settings of configs/logger, the environment, and for what neither says `defaults`.

    Raises ValueError for a setting that W&B would refuse, and for one that there is not.
    """
    settings = [*VARIABLES, "pictures"]
    for key in logger:
        if key not in settings:
            near = difflib.get_close_matches(str(key), settings, n=3)
            guess = f"did you mean {', '.join(near)}? " if near else ""
            raise ValueError(f"there is no setting logger.{key}; {guess}there are {', '.join(settings)}")
    remarks: list[str] = []
    values: dict[str, Any] = {"mode": read_mode(logger.get("mode"), remarks)}
    for key in NAMES:
        values[key] = read_name(key, logger.get(key), usual=defaults.get(key), remarks=remarks)
    values["project"] = values["project"] or "attnvis"
    values["notes"] = readable(as_text("notes", logger.get("notes")) or os.environ.get("WANDB_NOTES", ""))
    values["notes"] = values["notes"] or None
    values["tags"] = read_tags(logger.get("tags"), remarks)
    values["dir"] = read_folder(logger.get("dir"), values["mode"], remarks)
    values["pictures"] = read_count("pictures", logger.get("pictures"))
    return LoggerSettings(**values, remarks=tuple(remarks))


def logger_plan(settings: LoggerSettings, begun: Mapping[str, Any]) -> dict[str, Any]:
    """What a plan says of W&B for all of its jobs: settings as they are in effect, and one id.

    begun: what it said before; what is gone on with keeps its id, and `continues`.
    """
    values = {key: value for key, value in asdict(settings).items() if value and key != "remarks"}
    if settings.dir:
        values["dir"] = str(settings.dir)
    if settings.mode == "disabled":
        return values | {key: begun[key] for key in ("id",) if key in begun}
    values["id"] = settings.id or begun.get("id") or new_id()
    values["continues"] = bool(settings.id or begun.get("id"))
    return values


def new_id() -> str:
    """Of a run that none has yet: 8 letters and digits, as W&B's own."""
    return "".join(secrets.choice("abcdefghijklmnopqrstuvwxyz0123456789") for _ in range(8))


def readable(text: str) -> str:
    """As UTF-8 has it: bytes that the terminal's encoding could not read (LC_ALL=C), else escapes."""
    try:
        raw = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raw = text.encode("utf-8", "backslashreplace")
    return raw.decode("utf-8", "backslashreplace")


def as_text(key: str, value: Any) -> str:
    """A word, or a number as it is written; "" for nothing.  Raises ValueError for what is neither."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | int | float | Path):
        return str(value)
    raise ValueError(f"logger.{key} must be a word, not {value!r}")


def read_mode(typed: Any, remarks: list[str]) -> str:
    """offline, online or disabled.  Raises ValueError for another that was typed."""
    if typed is not None and typed != "":
        mode = MODES.get(str(typed).lower())
        if mode is None:
            raise ValueError(f"logger.mode {typed!r} is not known to W&B; choose offline, online or disabled")
        return mode
    if os.environ.get("WANDB_DISABLED", "").lower() not in OFF:
        return "disabled"
    word = os.environ.get("WANDB_MODE") or "offline"
    if word.lower() not in MODES:
        remarks.append(f"WANDB_MODE={word} is none that attnvis knows; W&B is offline")
    return MODES.get(word.lower(), "offline")


def read_name(key: str, typed: Any, usual: str | None, remarks: list[str]) -> str | None:
    """What W&B calls by a name; None: nobody gives one.  Raises ValueError for one that it refuses."""
    text = readable(as_text(key, typed))
    if text:
        if reason := trouble(key, text):
            raise ValueError(f"logger.{key}={text[:200]!r} is not what W&B takes: {reason}")
        return text
    for source, name in ((f"{VARIABLES[key]}=", os.environ.get(VARIABLES[key])), ("", usual)):
        if not name:
            continue
        text = readable(name)
        if reason := trouble(key, text):
            text = made_fit(key, text)
            instead = f"used is {text!r}" if text else "it is left out"
            remarks.append(f"{source}{name[:200]!r} is no {key} that W&B takes ({reason}); {instead}")
        if text:
            return text
    return None


def trouble(key: str, text: str) -> str:
    """Which of W&B's rules a name breaks; "" for none."""
    longest = LONGEST_TAG if key == "tags" else LONGEST
    length = len(text.encode()) if key == "id" else len(text)
    wrong = sorted({sign for sign in text if sign in FORBIDDEN.get(key, "")})
    if not text.strip():
        return "it is empty"
    if length > longest:
        return f"it has {length} letters, of at most {longest}"
    if wrong:
        return f"it holds {' '.join(wrong)}"
    if any(is_control(sign) for sign in text):
        return "it holds a line end or another control character"
    if key == "id" and text != text.strip():
        return "it begins or ends with a space"
    return ""


def is_control(sign: str) -> bool:
    return unicodedata.category(sign) in ("Cc", "Zl", "Zp")


def made_fit(key: str, text: str) -> str:
    """The nearest that W&B takes; "" where nothing is left."""
    signs = ["-" if is_control(sign) or sign in FORBIDDEN.get(key, "") else sign for sign in text]
    text = trimmed(re.sub(r"-{2,}", "-", "".join(signs)))
    text = text[: LONGEST_TAG if key == "tags" else LONGEST]
    if key == "id":
        text = text.encode()[:LONGEST].decode(errors="ignore")
    return trimmed(text)


def trimmed(text: str) -> str:
    """Without spaces, of any kind, and dashes at its ends."""
    return re.sub(r"^[\s-]+|[\s-]+$", "", text)


def read_tags(typed: Any, remarks: list[str]) -> tuple[str, ...]:
    """Each once; WANDB_TAGS has commas between them.  Raises ValueError for a typed one that W&B refuses."""
    typed_tags = list(typed) if isinstance(typed, list | tuple) else [typed] * (typed not in (None, ""))
    tags = []
    for value in typed_tags:
        if value is None or not isinstance(value, str | int | float):
            raise ValueError(f"logger.tags: each is a word, not {value!r}")
        text = readable(as_text("tags", value))
        if reason := trouble("tags", text):
            raise ValueError(f"logger.tags: {text[:200]!r} is not what W&B takes: {reason}")
        tags.append(text)
    if not typed_tags:
        for text in map(readable, os.environ.get("WANDB_TAGS", "").split(",")):
            fit = made_fit("tags", text) if text and trouble("tags", text) else text
            if fit != text:
                remarks.append(f"{text[:200]!r} of WANDB_TAGS is not what W&B takes; used is {fit!r}")
            tags += [fit] * bool(fit)
    return tuple(dict.fromkeys(tags))


def read_folder(typed: Any, mode: str, remarks: list[str]) -> Path | None:
    """Where W&B's files go; None: the run's folder.  Raises ValueError for one that cannot be made."""
    text = as_text("dir", typed)
    place = text or os.environ.get("WANDB_DIR", "")
    if not place or (mode == "disabled" and not text):
        return None
    try:
        folder = Path(place).expanduser().absolute()
        if mode != "disabled":
            folder.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        if text:
            raise ValueError(f"logger.dir={text!r} cannot be a folder: {reason}") from None
        remarks.append(f"WANDB_DIR={place!r} cannot be a folder ({reason}); used is the run's own")
        return None
    return folder


def read_count(key: str, value: Any) -> int:
    """Raises ValueError for what is no whole number from 0 on."""
    if value is None:
        return PICTURES
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ValueError(f"logger.{key} must be a whole number from 0 on, not {value!r}")
    return value
