"""What a folder is to hold, written down before the first photo, and what is there, held against it.

plan.json names every photo with the digest of its bytes, and what each must leave behind: how many rows, and
which files.  One way for every verb whose folder can be gone on with.
"""

import os
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, overload

from attnvis.data.paths import source_of
from attnvis.data.sources import Broken, digest_of, key_of
from attnvis.files import refuse_link
from attnvis.json_files import json_digest, read_json, write_json
from attnvis.types import Source

__all__ = [
    "NAME",
    "FolderPlan",
    "PlannedPhoto",
    "PlannedSources",
    "album_digest",
    "changes_in_words",
    "differences",
    "differing",
    "photos_of",
    "planned_photos",
    "remove_file",
    "renewed",
    "require_own_files",
]

NAME = "plan.json"
FORMAT = 1
NAMED = 5  # photos that a line names
ELSEWHERE = "choose another folder with hydra.run.dir=FOLDER"


@dataclass(frozen=True, slots=True)  # a run may have a million
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
    sources      what each photo's pictures are made from beside it: a redraw's maps; none of other verbs
    """

    verb: str
    photos: tuple[PlannedPhoto, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)  # that change what the photos leave
    files: tuple[str, ...] = ()
    rows: int | None = None
    other_rows: Mapping[int, int] = field(default_factory=dict)
    sources: tuple[PlannedPhoto, ...] = ()

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
        values = {"format": FORMAT} | {each.name: getattr(self, each.name) for each in fields(self)}
        write_json(folder, NAME, values, default=entry_of)

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
            photos, sources = photos_of(values["photos"]), photos_of(values.get("sources", ()))
            others = {int(index): int(rows) for index, rows in values["other_rows"].items()}
            rows = values["rows"]
            return cls(
                verb,
                photos,
                settings=dict(values["settings"]),
                files=tuple(map(str, values["files"])),
                rows=None if rows is None else int(rows),
                other_rows=others,
                sources=sources,
            )
        except (OSError, ArithmeticError, ValueError, KeyError, TypeError, AttributeError):
            raise ValueError(
                f"{path} is damaged, or not the plan of a {verb}; "
                "delete it to go on without: then less is known of what must be there"
            ) from None


def require_own_files(folder: Path, files: Iterable[str] = (), folders: Iterable[str] = ()) -> None:
    """That nothing stands where a folder's own files and folders go that would lead elsewhere.

    Links and files in the place of folders, and the other way round, are not what attnvis left.
    Raises ValueError that names the first, and what to do.
    """
    for name in files:
        kind = kind_of(folder / name)
        if kind not in ("", "file"):
            raise ValueError(f"{folder / name} is a {kind} where a file is to go; remove it, or {ELSEWHERE}")
    for name in folders:
        refuse_link(folder / name)
        kind = kind_of(folder / name)
        if kind not in ("", "folder"):
            raise ValueError(
                f"{folder / name} is a {kind} where a folder is to go; remove it, or {ELSEWHERE}"
            )
        if name == "wandb":
            require_own_logs(folder / name)


def remove_file(folder: Path, name: str) -> None:
    """A file of ours, or what has its place, is no longer there; a link is removed, not followed.

    Raises ValueError where a folder has its name.
    """
    if (folder / name).is_dir():
        require_own_files(folder, files=[name])
    (folder / name).unlink(missing_ok=True)


def require_own_logs(folder: Path) -> None:
    """That W&B's files stay in its folder; it makes some links itself.  Raises ValueError for others."""
    for place, folders, _ in os.walk(folder):
        for name in folders:
            path = Path(place, name)
            if path != folder / "latest-run":
                refuse_link(path)


def kind_of(path: Path) -> str:
    """file, folder, link or pipe; "" where nothing is."""
    try:
        mode = os.lstat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return ""
    if stat.S_ISLNK(mode):
        return "link"
    if stat.S_ISDIR(mode):
        return "folder"
    return "file" if stat.S_ISREG(mode) else "pipe or a device"


def photos_of(entries: Sequence[Mapping[str, Any]]) -> tuple[PlannedPhoto, ...]:
    """Of what json holds of them.  Raises KeyError and TypeError for something else."""
    return tuple(PlannedPhoto(str(entry["path"]), str(entry["digest"])) for entry in entries)


def entry_of(photo: PlannedPhoto) -> dict[str, str]:
    """What json holds of a photo."""
    return {"path": photo.path, "digest": photo.digest}


class PlannedSources(Sequence[Source]):
    """Where planned photos come from, each made when it is asked for: a run may have a million.

    named   of which those that are no plain files are taken as they are
    """

    def __init__(self, photos: Sequence[PlannedPhoto], named: Iterable[Source] = ()) -> None:
        self.photos = photos
        self.named = {str(source): source for source in named if not isinstance(source, Path)}

    def __len__(self) -> int:
        return len(self.photos)

    @overload
    def __getitem__(self, index: int) -> Source: ...

    @overload
    def __getitem__(self, index: slice) -> "list[Source]": ...

    def __getitem__(self, index: int | slice) -> "Source | list[Source]":
        if isinstance(index, slice):
            return [self.source(photo) for photo in self.photos[index]]
        return self.source(self.photos[index])

    def source(self, photo: PlannedPhoto) -> Source:
        named = self.named.get(photo.path)
        if named is None and "://" in photo.path:  # a folder may be a stranger's: it chooses no address
            return Broken(photo.path, f"{photo.path} is no longer among the photos that were named")
        return named or source_of(photo.path)


def planned_photos(paths: Iterable[Source]) -> tuple[PlannedPhoto, ...]:
    """Photos as they are now."""
    return tuple(PlannedPhoto(str(path), digest_of(path)) for path in paths)


def album_digest(photos: Iterable[PlannedPhoto]) -> str:
    """One digest of the names and the contents of photos."""
    return json_digest([[photo.path, photo.digest] for photo in photos])


def renewed(
    photos: Sequence[PlannedPhoto], named: Sequence[Source], noun: str = "photo"
) -> tuple[tuple[PlannedPhoto, ...], list[str]]:
    """The photos of a plan as they are now, in its order, and what is to be said of those that changed.

    `named` are the photos that the same words mean now; `noun`: what they are called.  A photo that vanished
    keeps its digest: what it has left is kept.  One that came since is not added: it would be measured beside
    what was planned.
    """
    sources = PlannedSources(photos, named)
    now = planned_photos(sources)
    planned = set(map(key_of, sources))
    newcomers = [PlannedPhoto(str(path), "") for path in named if key_of(path) not in planned]
    changes = differences(photos, (*now, *newcomers))
    endings = {
        "changed": ("changed since and is done again", "changed since and are done again"),
        "gone": ("is gone; what was done of it is kept", "are gone; what was done of them is kept"),
        "came": ("came since and is not part of this", "came since and are not part of this"),
    }
    remarks = [
        f"{counted(paths, noun)} {endings[kind][len(paths) > 1]}" for kind, paths in changes.items() if paths
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
    gone = [
        path
        for path in earlier
        if path not in later or (earlier[path] and not later[path] and not os.path.exists(path))
    ]
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


def counted(paths: Sequence[str], noun: str = "photo") -> str:
    """3 photos (a.jpg, b.jpg, c.jpg)"""
    names = ", ".join(paths[:NAMED]) + (", ..." if len(paths) > NAMED else "")
    return f"{len(paths)} {noun}{'s' * (len(paths) != 1)} ({names})"


def differing(before: Any, now: Any, prefix: str = "") -> list[str]:
    """The dotted names of the settings that are not the same."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        # what a later version can do besides, and does not
        names = [key for key in dict.fromkeys([*before, *now]) if key in before or now[key] not in (False, 0)]
        return [name for key in names for name in differing(before.get(key), now.get(key), f"{prefix}{key}.")]
    return [] if before == now else [prefix.rstrip(".")]
