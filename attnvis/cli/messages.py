"""What a person is told in the terminal: one line for a mistake, the last words of a run."""

import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

from attnvis import catalogue
from attnvis.cli.config import hint, leaves, settings_of

__all__ = ["complain", "progress", "visible"]


def note(text: str) -> None:
    print(f"attnvis: {text}", file=sys.stderr)


def progress(items: Iterable[Any], total: int | None) -> Iterable[Any]:
    from tqdm import tqdm

    return tqdm(items, total=total, unit="photo", disable=not sys.stderr.isatty(), leave=False)


def visible(text: str) -> str:
    """As it may be shown in one line of a terminal: a file's name can hold line ends, and characters that a terminal obeys."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


def complain(reasons: Mapping[str, int]) -> None:
    """Why photos failed, the commonest reasons first."""
    for reason, count in sorted(reasons.items(), key=lambda item: -item[1])[:10]:
        print(f"attnvis: {visible(reason)}" + (f" ({count} photos)" if count > 1 else ""), file=sys.stderr)


def conclude(done: int, reasons: dict[str, int], folder: Path) -> int:
    """The last words of a run; its exit code."""
    short = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
    shown = Path(visible(str(short)))
    failed = sum(reasons.values())
    complain(reasons)
    if done + failed > 1 and failed:
        print(
            f"attnvis: {done} done, {failed} failed; every reason is in {shown / 'records.csv'}",
            file=sys.stderr,
        )
    print(f"{done} photo{'s' * (done != 1)} done: {shown / 'index.html'}")
    return 1 if failed else 0


def explain_hydra_error(error: Exception, verb: str) -> str:
    """What Hydra found wrong with the command line, in one line with near matches."""
    from hydra.errors import OverrideParseException

    text = " ".join(str(error).split())
    if unknown := re.search(r"Could not override '([^']+)'", text):
        known = {key for key, _ in leaves(catalogue.settings(verb))} | set(catalogue.groups())
        owners: dict[str, list[str]] = {}
        for option in (
            f"{group}={option}" for group in catalogue.groups() for option in catalogue.options(group)
        ):
            for key in settings_of(*option.split("=")):
                owners.setdefault(f"{option.split('=')[0]}.{key}", []).append(option)
        if unknown[1] in owners:
            return f"{unknown[1]} is a setting of {', '.join(owners[unknown[1]])}; choose one of them too"
        known |= owners.keys()
        return f"there is no setting {unknown[1]!r}; {hint(unknown[1], known)}see attnvis {verb} --help"
    if unknown := re.search(r"Could not find '(\w+)/([^']+)'", text):
        group, option = unknown.groups()
        offered = catalogue.options(group) if group in catalogue.groups() else []
        return f"{group} has no option {option!r}; {hint(option, offered)}there are {', '.join(offered)}"
    if isinstance(error, OverrideParseException):
        return f"cannot read {str(error.override)[:200]!r}: {text[:300]}"
    return text


def format_error(error: BaseException) -> str:
    if isinstance(error, OSError) and error.strerror:
        where = f" {error.filename}" if error.filename else ""
        return f"could not write or read{where}: {error.strerror}; choose another place with hydra.run.dir=FOLDER, or make room"
    return " ".join(str(error).split()) or type(error).__name__


def fail(message: str, code: int = 1) -> NoReturn:
    print(f"attnvis: {visible(message)}", file=sys.stderr)
    sys.exit(code)
