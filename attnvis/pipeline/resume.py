"""What a folder is to hold, written down before the first photo, and what is there, held against it.

plan.json names every photo with the digest of its bytes, and what each must leave behind: how many rows, and
which files.  One way for every verb whose folder can be gone on with.
"""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from attnvis.files import file_digest, read_bytes, write_bytes

__all__ = ["NAME", "FolderPlan", "PlannedPhoto", "planned_photos", "read_json", "renewed"]

NAME = "plan.json"
FORMAT = 1
MOST = 1 << 28  # bytes of a json file of ours
NAMED = 5  # photos that a line names


@dataclass(frozen=True)
class PlannedPhoto:
    """A photo by its name and by its content."""

    path: str
    digest: str  # sha256 of the file's bytes; "" where it could not be read

    @property
    def is_there(self) -> bool:
        return os.path.exists(self.path)


@dataclass(frozen=True)
class FolderPlan:
    """What a folder is to hold in the end.

    rows         of each photo, one an answer; None: not known before the first photo is answered
    other_rows   of photos that have another number, by their index
    files        the columns of a row that name a file
    """

    verb: str
    photos: tuple[PlannedPhoto, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)  # that change what the photos leave
    files: tuple[str, ...] = ()
    rows: int | None = None
    other_rows: Mapping[int, int] = field(default_factory=dict)

    def rows_of(self, index: int) -> int | None:
        return self.other_rows.get(index, self.rows)

    def expecting(self, index: int, rows: int) -> "FolderPlan":
        """With what the answers of one photo say of its rows; itself, where that was known."""
        if self.rows is None:
            return replace(self, rows=rows)
        if self.rows_of(index) == rows:
            return self
        return replace(self, other_rows={**self.other_rows, index: rows})

    def write(self, folder: Path) -> None:
        """Whole or not at all.  Raises OSError."""
        folder.mkdir(parents=True, exist_ok=True)
        write_bytes(folder / NAME, json.dumps({"format": FORMAT} | asdict(self), indent=1).encode())

    @classmethod
    def read(cls, folder: Path, verb: str) -> "FolderPlan | None":
        """The plan of a folder; None where none was written, as before there were plans.

        Raises ValueError for a plan that is damaged, or another verb's.
        """
        path = folder / NAME
        if not os.path.lexists(path):
            return None
        try:
            values = read_json(path)
            if values.pop("format") != FORMAT or values["verb"] != verb:
                raise ValueError
            photos = tuple(
                PlannedPhoto(str(entry["path"]), str(entry["digest"])) for entry in values["photos"]
            )
            others = {int(index): int(rows) for index, rows in values["other_rows"].items()}
            rows = values["rows"]
            return cls(
                verb,
                photos,
                settings=dict(values["settings"]),
                files=tuple(map(str, values["files"])),
                rows=None if rows is None else int(rows),
                other_rows=others,
            )
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise ValueError(
                f"{path} is damaged, or not the plan of a {verb}; "
                "delete it to go on without: then less is known of what must be there"
            ) from None


def read_json(path: Path) -> dict[str, Any]:
    """What a json file of ours holds.

    Raises FileNotFoundError, and ValueError for what is no file, too large, damaged, or holds something else.
    """
    try:
        values = json.loads(read_bytes(path, most=MOST))
    except RecursionError:
        raise ValueError(f"{path} is nested deeper than anything of attnvis'") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} holds no record of attnvis'")
    return values


def planned_photos(paths: Iterable[Path]) -> tuple[PlannedPhoto, ...]:
    """Photos as they are now."""
    return tuple(PlannedPhoto(str(path), file_digest(path)) for path in paths)


def renewed(
    photos: Sequence[PlannedPhoto], named: Iterable[Path]
) -> tuple[tuple[PlannedPhoto, ...], list[str]]:
    """The photos of a plan as they are now, in its order, and what is to be said of those that changed.

    `named` are the photos that the same words mean now.  A photo that vanished keeps its digest: what it has
    left is kept.  One that came since is not added: it would be measured beside what was planned.
    """
    now = planned_photos(Path(photo.path) for photo in photos)
    pairs = list(zip(photos, now, strict=True))
    vanished = [before.path for before, _ in pairs if before.digest and not before.is_there]
    changed = [
        after.path
        for before, after in pairs
        if before.digest and after.is_there and before.digest != after.digest
    ]
    known = {os.path.abspath(photo.path) for photo in photos}
    came = [str(path) for path in named if os.path.abspath(path) not in known]
    remarks = []
    if changed:
        remarks.append(f"{counted(changed)} changed since and {verb_of(changed, 'is')} done again")
    if vanished:
        remarks.append(f"{counted(vanished)} {verb_of(vanished, 'is')} gone; what was done of it is kept")
    if came:
        remarks.append(
            f"{counted(came)} came since and {verb_of(came, 'is')} not part of this; begin another"
        )
    kept = (before if not before_is_there(before) else after for before, after in pairs)
    return tuple(kept), remarks


def before_is_there(photo: PlannedPhoto) -> bool:
    return photo.is_there or not photo.digest


def verb_of(paths: Sequence[str], singular: str) -> str:
    return singular if len(paths) == 1 else "are"


def counted(paths: Sequence[str]) -> str:
    """3 photos (a.jpg, b.jpg, c.jpg)"""
    names = ", ".join(paths[:NAMED]) + (", ..." if len(paths) > NAMED else "")
    return f"{len(paths)} photo{'s' * (len(paths) != 1)} ({names})"


def differing(before: Any, now: Any, prefix: str = "") -> list[str]:
    """The dotted names of the settings that are not the same."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        names = list(dict.fromkeys([*before, *now]))
        return [name for key in names for name in differing(before.get(key), now.get(key), f"{prefix}{key}.")]
    return [] if before == now else [prefix.rstrip(".")]
