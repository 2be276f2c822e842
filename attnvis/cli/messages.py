"""What a person is told in the terminal: one line for a mistake, the last words of a run."""

import difflib
import os
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from attnvis import catalogue
from attnvis.cli.config import KINDS, hint, leaves, settings_of
from attnvis.cli.stopping import check_stop
from attnvis.errors import in_one_line
from attnvis.files import default_folder, is_full, no_room

__all__ = [
    "GONE",
    "SEVERAL",
    "complain",
    "cwd_is_gone",
    "explain_hydra_error",
    "fail",
    "format_error",
    "groups_of",
    "note",
    "plain_settings",
    "print_above_bar",
    "print_photo_notes",
    "print_summary",
    "progress",
    "seen_from_here",
    "short_path",
    "visible",
]

SEVERAL = {  # of which a command takes several: the setting that they become
    "query": "queries",
    "scaling": "scalings",
    "normalise": "normalisers",
    "method": "methods",
    "metrics": "metrics",
}
GONE = "the folder you are in was deleted; go to one that exists (cd), and type the command again"


def note(text: str) -> None:
    """One line on stderr, as a terminal can show it."""
    print(f"attnvis: {visible(text)}", file=sys.stderr)


def fail(message: str, code: int = 1) -> NoReturn:
    """Ends the process with one line on stderr (SystemExit)."""
    note(message)
    sys.exit(code)


def progress(items: Iterable[Any], total: int | None) -> Iterable[Any]:
    """The items, counted by a bar in the terminal; where stderr is no terminal, by none.

    Raises Stopped between two of them.
    """
    from tqdm import tqdm

    for item in tqdm(items, total=total, unit="photo", disable=not sys.stderr.isatty(), leave=False):
        check_stop()
        yield item


def print_above_bar(text: str) -> None:
    """On stdout, while a bar of `progress` may stand on stderr: it is taken away, and drawn anew below."""
    from tqdm import tqdm

    with tqdm.external_write_mode(file=sys.stdout):
        print(text)


def visible(text: str) -> str:
    """As one line of a terminal can show it: names of files may hold line ends, and what a terminal obeys."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


def short_path(path: Path) -> str:
    """A path seen from where the user is, as a terminal can show it."""
    return visible(str(seen_from_here(path)))


def seen_from_here(path: Path) -> Path:
    """Relative to where the user is, if it lies below."""
    if path.is_absolute() and not cwd_is_gone() and path.is_relative_to(Path.cwd()):
        return path.relative_to(Path.cwd())
    return path


def complain(reasons: Mapping[str, int]) -> None:
    """Why photos failed, the ten commonest reasons first; reasons: text -> how many photos."""
    commonest = sorted(reasons.items(), key=lambda item: -item[1])[:10]
    for reason, count in commonest:
        note(reason + (f" ({count} photos)" if count > 1 else ""))


def print_photo_notes(notes: Mapping[str, int]) -> None:
    """What was done to photos, one line for each kind, in full where all of a kind read the same."""
    kinds: dict[str, dict[str, int]] = {}
    for text, count in notes.items():
        kinds.setdefault(text.partition(":")[0], {})[text] = count
    for kind, texts in kinds.items():
        count = sum(texts.values())
        text = kind if len(texts) > 1 else next(iter(texts))
        note(f"{count} photo{'s' * (count != 1)}: {text}")


def print_summary(done: int, reasons: dict[str, int], folder: Path) -> int:
    """Says how many photos were done and failed, and where the page is.  Gives the exit code."""
    folder = Path(short_path(folder))
    failed = sum(reasons.values())
    complain(reasons)
    if done + failed > 1 and failed:
        note(f"{done} done, {failed} failed; every reason is in {folder / 'records.csv'}")
    print(f"{done} photo{'s' * (done != 1)} done: {folder / 'index.html'}")
    return 1 if failed else 0


# ------------------------------------------------------------------------------------------------ mistakes


def explain_hydra_error(error: Exception, verb: str) -> str:
    """What Hydra found wrong with the command line, in one line with near matches."""
    from hydra.errors import OverrideParseException

    text = in_one_line(error)
    if several := re.search(r"Ambiguous value for argument '(.*?)' 1\. To use it as a list", text):
        return explain_several(several[1], verb)
    if unknown := re.search(r"Could not override '([^']+)'", text):
        return explain_unknown_setting(unknown[1], verb)
    if unknown := re.search(r"Could not find '(\w+)/([^']+)'", text):
        return explain_unknown_option(*unknown.groups())
    if isinstance(error, OverrideParseException):
        return f"cannot read {str(error.override)[:200]!r}: {text[:300]}"
    return text


def explain_several(word: str, verb: str) -> str:
    """A comma in what takes one value."""
    name, _, value = word.partition("=")
    key, groups = name.lstrip("+"), groups_of(verb)
    if key not in plain_settings(verb) | groups and not key.startswith("hydra"):
        return explain_unknown_setting(key, verb)
    if key in groups:
        return f"{word}: {key} takes one value; give one of them, or -m for a job of each"
    return (
        f"{word}: {key} takes one value; give a list as '{key}=[{value}]' where it is one, "
        f"a text as \"{key}='{value}'\", and -m for a job of each"
    )


def explain_unknown_setting(key: str, verb: str) -> str:
    """A setting of an option that was not chosen, or of none."""
    settings = plain_settings(verb)
    own = groups_of(verb)
    others = {
        group: [name for name in catalogue.commands() if group in groups_of(name)]
        for group in set(catalogue.groups()) - own - settings
    }
    foreign = {group for group in others if others[group]}
    owners: dict[str, list[str]] = {}  # group.setting -> the options that have it
    for group in catalogue.choices(verb).keys() & set(catalogue.groups()):
        for option in [] if catalogue.is_shared(group) else catalogue.options(group):
            for setting in settings_of(group, option):
                owners.setdefault(f"{group}.{setting}", []).append(f"{group}={option}")
    if key in owners:
        return f"{key} is a setting of {', '.join(owners[key])}; choose one of them too"
    guess = hint(key, settings | own | owners.keys())
    group = key.partition(".")[0]
    meant = (
        group
        if group in foreign
        else next(iter(difflib.get_close_matches(group, foreign, n=1, cutoff=0.75)), "")
    )
    if meant and (group in foreign or not guess):
        return (
            f"attnvis {verb} has no setting {key!r}; {meant} is one of attnvis {in_a_row(others[meant])}; "
            f"see attnvis {verb} --help"
        )
    if having := [name for name in catalogue.commands() if key in plain_settings(name)]:
        return (
            f"attnvis {verb} has no setting {key!r}; {key} is one of attnvis {in_a_row(having)}; "
            f"see attnvis {verb} --help"
        )
    return f"there is no setting {key!r}; {guess}see attnvis {verb} --help"


def plain_settings(verb: str) -> set[str]:
    """The settings of a command by name, those of its groups too."""
    return {setting for setting, _ in leaves(catalogue.settings(verb)) if "._" not in setting}


def in_a_row(names: list[str]) -> str:
    """a, b and c."""
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))


def groups_of(verb: str) -> set[str]:
    """The groups of which a command takes an option, or several."""
    settings = catalogue.settings(verb)
    return set(catalogue.choices(verb)) | {group for group, several in SEVERAL.items() if several in settings}


def explain_unknown_option(group: str, option: str) -> str:
    """An option that its group does not have."""
    if group == "backbone":
        return catalogue.unknown_backbone(option)
    offered = catalogue.options(group) if group in catalogue.groups() else []
    if catalogue.is_shared(group):
        return f"{group} must be {KINDS[dict]}, not {option!r}"
    return f"{group} has no option {option!r}; {hint(option, offered)}there are {', '.join(offered)}"


def format_error(error: BaseException, resume: str = "", place: str = "hydra.run.dir") -> str:
    """What an error says, in one line; of a disk that cannot be written to or read, also what to do.

    resume    what to type to go on; "": there is nothing to go on with
    place     the setting that chooses the folder
    """
    if not (isinstance(error, OSError) and error.strerror):
        return in_one_line(error)
    name = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
    if name and Path(name).is_relative_to(default_folder()):
        place = "ATTNVIS_CACHE"
    file = str(seen_from_here(Path(name))) if name else ""
    elsewhere = f"choose another place with {place}=FOLDER"
    if is_full(error):
        onwards = f"then go on with {resume}" if resume else f"or {elsewhere}, and type the command again"
        return f"{no_room(file, error.strerror)}; make room, {onwards}"
    if isinstance(error, FileNotFoundError) and cwd_is_gone():
        return GONE
    if isinstance(error, FileNotFoundError) and file:
        return f"{file} is not there, or no longer; if it was deleted meanwhile, type the command again"
    return f"could not write or read{f' {file}' if file else ''}: {error.strerror}; {elsewhere}"


def cwd_is_gone() -> bool:
    """Whether the folder in which the command was typed has been deleted."""
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False
