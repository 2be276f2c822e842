"""What a folder is to hold, written down before the first photo, and what is there, held against it.

plan.json names every photo with the digest of its bytes, and what each must leave behind: how many rows, and
which files.  One way for every verb whose folder can be gone on with.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from attnvis.files import file_digest, read_bytes, write_bytes

__all__ = [
    "NAME",
    "FolderPlan",
    "PlannedPhoto",
    "album_digest",
    "changes_in_words",
    "differences",
    "differing",
    "photos_of",
    "planned_photos",
    "read_json",
    "renewed",
]

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
        except (OSError, ArithmeticError, ValueError, KeyError, TypeError, AttributeError):
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


def photos_of(entries: Sequence[Mapping[str, Any]]) -> tuple[PlannedPhoto, ...]:
    """Of what json holds of them.  Raises KeyError and TypeError for something else."""
    return tuple(PlannedPhoto(str(entry["path"]), str(entry["digest"])) for entry in entries)


def planned_photos(paths: Iterable[Path]) -> tuple[PlannedPhoto, ...]:
    """Photos as they are now."""
    return tuple(PlannedPhoto(str(path), file_digest(path)) for path in paths)


def album_digest(photos: Iterable[PlannedPhoto]) -> str:
    """One digest of the names and the contents of photos."""
    text = json.dumps([[photo.path, photo.digest] for photo in photos])
    return hashlib.sha256(text.encode()).hexdigest()


def renewed(
    photos: Sequence[PlannedPhoto], named: Iterable[Path]
) -> tuple[tuple[PlannedPhoto, ...], list[str]]:
    """The photos of a plan as they are now, in its order, and what is to be said of those that changed.

    `named` are the photos that the same words mean now.  A photo that vanished keeps its digest: what it has
    left is kept.  One that came since is not added: it would be measured beside what was planned.
    """
    now = planned_photos(Path(photo.path) for photo in photos)
    known = {os.path.abspath(photo.path) for photo in photos}
    came = [PlannedPhoto(str(path), "") for path in named if os.path.abspath(path) not in known]
    changes = differences(photos, (*now, *came))
    endings = {
        "changed": ("changed since and is done again", "changed since and are done again"),
        "gone": ("is gone; what was done of it is kept", "are gone; what was done of them is kept"),
        "came": ("came since and is not part of this", "came since and are not part of this"),
    }
    remarks = [
        f"{counted(paths)} {endings[kind][len(paths) > 1]}" for kind, paths in changes.items() if paths
    ]
    kept = [
        before if before.digest and not after.digest and not after.is_there else after
        for before, after in zip(photos, now, strict=True)
    ]
    return tuple(kept), remarks


def differences(before: Iterable[PlannedPhoto], now: Iterable[PlannedPhoto]) -> dict[str, list[str]]:
    """The paths of photos that changed, are gone, and came."""
    earlier = {photo.path: photo.digest for photo in before}
    later = {photo.path: photo.digest for photo in now}
    gone = [path for path in earlier if path not in later or (earlier[path] and not os.path.exists(path))]
    changed = [
        path
        for path, digest in earlier.items()
        if digest and path not in gone and later.get(path, digest) != digest
    ]
    return {"changed": changed, "gone": gone, "came": [path for path in later if path not in earlier]}


def changes_in_words(changes: Mapping[str, Sequence[str]]) -> str:
    """1 photo (a.jpg) changed, 2 photos (b.jpg, c.jpg) are gone; "" where nothing did."""
    words = {"changed": ("changed", "changed"), "gone": ("is gone", "are gone"), "came": ("came", "came")}
    return ", ".join(
        f"{counted(paths)} {words[kind][len(paths) > 1]}" for kind, paths in changes.items() if paths
    )


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
