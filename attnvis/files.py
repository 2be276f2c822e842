"""Whole files or none, files that may be read, names that every file system takes, one run a folder."""

import errno
import hashlib
import os
import re
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from attnvis.errors import in_one_line

try:
    import fcntl
except ImportError:  # Windows: two runs in one folder are not told from one another
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "LONG_AGO",
    "Held",
    "Lock",
    "check_regular",
    "check_room",
    "default_folder",
    "file_digest",
    "is_full",
    "is_whole",
    "locked",
    "naming",
    "no_room",
    "open_checked",
    "open_new",
    "open_regular",
    "own_path",
    "part_name",
    "read_bytes",
    "refuse_link",
    "remove_parts",
    "save",
    "slug",
    "unique",
    "whole_file",
    "write_bytes",
]

MOST = 1 << 32  # bytes of a file that is read; what we write is far smaller
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # no room on the disk, for this user, in one file
IN_WORDS = re.compile(r"\[errno (\d+)\]", re.IGNORECASE)  # as Arrow tells it
ONLY_OURS = os.O_NOFOLLOW | os.O_CLOEXEC if hasattr(os, "O_NOFOLLOW") else 0
PART = re.compile(r"\.(\d+-[0-9a-f]{16}|index-\d+)\.part(\.\w+)?")  # `part_name`, and that of version 0.1
LONG_AGO = 24 * 3600.0  # seconds since a part was written to: nobody writes to it any more
WITHOUT_WAITING = getattr(os, "O_NONBLOCK", 0)  # a pipe without a writer holds nobody up


def default_folder() -> Path:
    """Of what is kept from run to run: $ATTNVIS_CACHE, else attnvis/ in the user's own cache."""
    folder = os.environ.get("ATTNVIS_CACHE")
    if not folder:
        user_cache = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        folder = f"{user_cache}/attnvis"
    return Path(folder).expanduser()


def write_bytes(path: Path, content: bytes) -> None:
    """The whole file or none: a run that dies here leaves nothing that only looks whole.

    Raises OSError, with the file's name, where it cannot be written: a full disk, no folder, no permission.
    """
    part = part_name(path)
    with naming(path), removed_after_error(part):
        with open_new(part) as file:
            file.write(content)
        part.replace(path)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A file to write to, which becomes `path` when the block ends: who dies in it leaves nothing half done.

    The part is made anew under a name that nobody can know; a link called `path` is replaced, not followed.
    Raises OSError with the name of `path`.
    """
    part = part_name(path)
    with naming(path), removed_after_error(part):
        open_new(part).close()
        yield part
        part.replace(path)


@contextmanager
def removed_after_error(part: Path) -> Iterator[None]:
    """A block after which a part is gone: it became the file, or it is removed."""
    try:
        yield
    except BaseException:
        part.unlink(missing_ok=True)
        raise


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Raises OSError with the name of `path` for one without: a full disk, and Arrow, give none.

    The name of a part, which is no longer there, is that of `path` too.
    """
    try:
        yield
    except OSError as error:
        name = str(error.filename or path)
        if PART.fullmatch(Path(name).name):
            name = str(path)
        text = error.strerror or in_one_line(error)
        in_words = IN_WORDS.search(text)
        number = int(in_words[1]) if in_words else error.errno
        if in_words:
            text = os.strerror(int(in_words[1]))
        raise OSError(number or errno.EIO, text, name) from None


def is_full(error: BaseException) -> bool:
    """Whether there was no room: on the disk, in a user's quota, or in a file of the largest size."""
    return isinstance(error, OSError) and error.errno in FULL


def no_room(file: str, why: str) -> str:
    """What is to be said where something `is_full`, but for how to go on; `why`: as the system says it."""
    return f"no room for {file} ({why})" if file else f"no room ({why})"


def check_room(path: Path, size: int, more: int) -> None:
    """Raises OSError, with its name, where a file of `size` bytes cannot get so many more.

    For what is written by a library that does not say whether it could.  Nothing is left behind.
    """
    part = part_name(path)
    with naming(path):
        if size + more > most_bytes():
            raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        try:
            with open_new(part) as file:
                reserve(file.fileno(), path.parent, more)
        finally:
            part.unlink(missing_ok=True)


def most_bytes() -> int:
    """That one file of this process may have."""
    try:
        import resource
    except ImportError:  # Windows
        return 1 << 62
    limit, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    return 1 << 62 if limit == resource.RLIM_INFINITY else limit


def reserve(descriptor: int, folder: Path, size: int) -> None:
    """Has the file system set bytes aside, which knows of quotas too.  Raises OSError where it has none."""
    try:
        os.posix_fallocate(descriptor, 0, size)
    except (AttributeError, OSError) as error:  # not every system and file system can
        if is_full(error):
            raise
        if shutil.disk_usage(folder).free < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from None


def part_name(path: Path, suffix: str = "") -> Path:
    """A name beside `path` that no other process, thread or person has.

    It is short: the name of `path` may use up what a file system allows.
    """
    return path.parent / f".{os.getpid()}-{secrets.token_hex(8)}.part{suffix}"


def open_new(path: Path, mode: str = "wb", **options: Any) -> Any:
    """A new file in the place of whatever has this name; a link is removed, not followed.

    Raises OSError, also where a folder has the name, or another process makes the file meanwhile.
    """

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_EXCL | os.O_CREAT | ONLY_OURS, 0o666)

    try:
        return open(path, mode, opener=opener, **options)
    except FileExistsError:
        path.unlink(missing_ok=True)
        return open(path, mode, opener=opener, **options)


class Held(ValueError):
    """Another run writes into the folder."""


class Lock:
    """A folder that is held until `close`, or until its process ends, however it ends."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path, self.descriptor = path, descriptor

    def close(self) -> None:
        if self.descriptor >= 0:
            self.path.unlink(missing_ok=True)  # before it is let go: nobody else can hold it yet
            os.close(self.descriptor)
            self.descriptor = -1

    def __enter__(self) -> "Lock":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def locked(folder: Path) -> Lock:
    """Holds a folder until it is closed, or its process ends; makes the folder where there is none.

    Two runs in one folder would write over each other's files.  Raises Held where another run holds it,
    ValueError where its lock is none of ours, OSError where it cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".lock"
    while True:
        try:
            flags = os.O_RDWR | os.O_CREAT | ONLY_OURS | WITHOUT_WAITING
            descriptor = os.open(path, flags, 0o666)
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
                raise foreign_lock(path) from None
            raise
        lock = hold(folder, path, descriptor)
        if lock:
            tidy(folder)
            return lock


def hold(folder: Path, path: Path, descriptor: int) -> Lock | None:
    """The lock on a file that has been opened; None where its holder removed it meanwhile."""
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise foreign_lock(path)
        if fcntl is not None:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise Held(
                    f"another run is writing into {folder}; "
                    "wait for it, or choose another with hydra.run.dir=FOLDER"
                ) from None
        try:
            now = os.lstat(path)
        except FileNotFoundError:
            now = None
        if now is not None and (now.st_dev, now.st_ino) == (status.st_dev, status.st_ino):
            return Lock(path, descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return None


def foreign_lock(path: Path) -> ValueError:
    return ValueError(f"{path} is a link or no file; remove it, nothing of attnvis' is in it")


def tidy(folder: Path) -> None:
    """Removes the parts of files that killed processes left in a folder that is held, and two below.

    The folders of a sweep's jobs, which are numbers, are held by their jobs.
    """
    remove_parts(folder)
    for kind in folders_in(folder):  # maps, thumbnails
        remove_parts(kind)
        for part in folders_in(kind):  # thumbnails/photos
            remove_parts(part)


def folders_in(folder: Path) -> list[Path]:
    """Those that are no links, and no number."""
    with suppress(OSError):
        entries = [entry for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False)]
        return [Path(entry.path) for entry in entries if not entry.name.isdigit()]
    return []


def remove_parts(folder: Path, age: float = 0.0) -> None:
    """Removes the parts of files in a folder that were last written to so many seconds ago.

    Where nobody holds the folder, as in a cache that many share, only `LONG_AGO` is safe.
    """
    with suppress(OSError):
        for entry in os.scandir(folder):
            if not PART.fullmatch(entry.name) or not entry.is_file(follow_symlinks=False):
                continue
            if time.time() - entry.stat(follow_symlinks=False).st_mtime >= age:
                os.unlink(entry.path)


def check_regular(path: Path, most: int = MOST) -> os.stat_result:
    """Raises ValueError unless this is a file of at most so many bytes, FileNotFoundError where none is.

    What is a pipe or a device is never opened: it would wait for ever, or set something off.
    """
    status = os.stat(path)
    check_status(path, status, most)
    return status


def check_status(path: Path, status: os.stat_result, most: int) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{path} is a folder, a pipe or a device, not a file; remove it")
    if status.st_size > most:
        raise ValueError(f"{path} has {status.st_size:,} bytes, which is more than it can have")


@contextmanager
def open_checked(path: Path, check: Callable[[os.stat_result], None]) -> Iterator[BinaryIO]:
    """A file to read from, opened without waiting; `check` raises for the status of one to be left alone."""

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | WITHOUT_WAITING)

    check(os.stat(path))  # first: to open a device may set something off
    with open(path, "rb", opener=opener) as file:
        check(os.fstat(file.fileno()))  # again: it may have become another meanwhile
        yield file


def open_regular(path: Path, most: int = MOST) -> AbstractContextManager[BinaryIO]:
    """A file to read from.  Raises as `check_regular` does."""
    return open_checked(path, lambda status: check_status(path, status, most))


def read_bytes(path: Path, most: int = MOST) -> bytes:
    """What a file holds.  Raises as `check_regular` does."""
    with open_regular(path, most) as file:
        return file.read(os.fstat(file.fileno()).st_size)


def file_digest(path: Path) -> str:
    """sha256 of a file's bytes; "" for what is no file, cannot be read, or has more than MOST bytes.

    A file of holes can have any size, and takes as long to read.
    """
    try:
        with open_regular(path) as file:
            hasher = hashlib.sha256()
            while block := file.read(1 << 20):
                hasher.update(block)
            return hasher.hexdigest()
    except (OSError, ValueError):
        return ""


def is_whole(folder: Path, name: str) -> bool:
    """Whether a file below a folder is there, is a file, and holds something.

    A name that leads out of the folder is none of its files.
    """
    if Path(name).is_absolute() or ".." in Path(name).parts:
        return False
    try:
        return check_regular(folder / name).st_size > 0
    except (OSError, ValueError):
        return False


def save(folder: Path, name: str, content: bytes) -> None:
    """`write_bytes` of folder / name, into folders that it makes.

    Raises OSError as that does, ValueError as `own_path` does.
    """
    write_bytes(own_path(folder, name), content)


def own_path(folder: Path, name: str) -> Path:
    """folder / name, whose folders are made.

    Raises ValueError where one below `folder` is a link that leads elsewhere, OSError where none can be made.
    """
    path = folder / name
    parent = path.parent
    for _ in path.relative_to(folder).parts[1:]:
        refuse_link(parent)
        parent = parent.parent
    if not os.path.isdir(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    return path


def refuse_link(folder: Path) -> None:
    """Raises ValueError for a folder that is a link."""
    if os.path.islink(folder):
        raise ValueError(f"{folder} is a link; remove it: files would go where it leads")


def slug(text: str) -> str:
    """A name of at most 80 letters, safe in every file system; what it stands for is in the records."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.")[:80] or "photo"


def unique(name: str, counts: dict[str, int]) -> str:
    """`name`, or name-2, name-3, ...; on file systems that ignore case too.

    `counts` remembers how far each name has counted, and gains this one.
    """
    key = name.lower()
    candidate = name
    while candidate.lower() in counts:
        counts[key] += 1
        candidate = f"{name}-{counts[key]}"
    counts[candidate.lower()] = 1
    return candidate
