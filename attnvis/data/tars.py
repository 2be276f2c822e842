"""A tar in, the pictures in it out, in its order: WebDataset's shards, and any other.

Nothing is ever extracted: a member is read where it lies, so its name may be anything.
"""

import functools
import os
import tarfile
from collections import Counter
from collections.abc import Iterator
from io import BufferedReader
from pathlib import PurePosixPath

from attnvis.data.reading import looks_like_a_photo, suggest
from attnvis.data.signatures import ENOUGH, photo_kind
from attnvis.data.sources import APART, Broken, Member, open_container, stamp_of
from attnvis.data.stores import ADDRESS
from attnvis.types import PhotoError

__all__ = ["find_member", "members"]

END = bytes(tarfile.BLOCKSIZE)  # what a whole archive ends with
ADVICE = "copy or download it again"


def members(archive: str, passed_over: Counter[str]) -> Iterator[Member | Broken]:
    """The pictures; what else there is goes into `passed_over`, by kind.

    An archive that is none, is cut off or has no pictures gives a Broken, behind what was whole.
    """
    count = 0
    others = Counter[str]()
    try:
        with open_container(archive) as file:
            for member in pictures(archive, file, others):
                count += 1
                yield member
    except PhotoError as error:
        count += 1
        yield Broken(archive, str(error))
    passed_over.update(others)
    if not count:
        held = f"; it holds {', '.join(f'{number} {kind}' for kind, number in others.most_common(4))}"
        yield Broken(archive, f"{archive} has no pictures{held if others else ': it is empty'}")


def pictures(archive: str, file: BufferedReader, others: Counter[str]) -> Iterator[Member]:
    """Raises PhotoError where the archive ends before its end, or is none."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    copies = Counter[str]()
    place, is_cut = 0, False
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            while (entry := tar.next()) is not None:
                tar.members = []  # type: ignore[attr-defined]  # which would hold every one
                if entry.size < 0 or tar.offset <= place:  # a header made so that reading never ends
                    raise tarfile.ReadError("a member of negative size")
                place = tar.offset
                is_cut = entry.offset_data + entry.size > size and entry.isreg()
                kind = kind_of(entry, file)
                if kind:
                    others[kind] += 1
                    continue
                copies[entry.name] += 1
                copy = copies[entry.name]
                yield Member(archive, entry.name, offset=entry.offset_data, size=entry.size, copy=copy)
                if is_cut:
                    return  # that member says so itself
    except PhotoError:  # a store that does not answer
        raise
    except (tarfile.TarError, ArithmeticError, EOFError, OSError, ValueError) as error:
        if not place:
            file.seek(0)
            raise PhotoError(f"{archive} {say_no_tar(file.read(ENOUGH), error)}") from None
        raise PhotoError(f"{archive} is cut off or damaged behind byte {place:,}; {ADVICE}") from None
    file.seek(place)
    if file.read(len(END)) != END:
        raise PhotoError(
            f"{archive} stops at byte {place:,} without a tar's end: it is cut off or damaged; {ADVICE}"
        )


def say_no_tar(beginning: bytes, error: Exception) -> str:
    if beginning.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")):
        return "is a compressed tar, in which no picture can be found; decompress it first"
    if not beginning:
        return f"is empty (0 bytes); {ADVICE}"
    return f"is no tar ({error}); name photos, or a tar of them"


def kind_of(entry: tarfile.TarInfo, file: BufferedReader) -> str:
    """What a member is if it is no picture; "" where it is one."""
    name = PurePosixPath(entry.name).name
    if entry.isdir():
        return "folder"
    if entry.issym() or entry.islnk():
        return "link"
    if not entry.isreg() or entry.issparse():
        return "file with holes" if entry.issparse() else "device or pipe"
    if name.startswith("."):
        return "hidden"
    if looks_like_a_photo(name):
        return ""
    suffix = PurePosixPath(name).suffix.lower()
    if not suffix:
        file.seek(entry.offset_data)
        if photo_kind(file.read(ENOUGH)):
            return ""
    return suffix if suffix.isprintable() and suffix else "without a suffix"


def find_member(archive: str, inside: str) -> Member | Broken:
    """The member of that name; its second copy is name::2."""
    index = index_of(archive, stamp_of(archive))
    if (place := index.get(inside)) is not None:
        return place
    near = suggest(inside, list(index)[:1000])
    return Broken(f"{archive}{APART}{inside}", f"there is no picture {inside} in {archive}{near}")


@functools.lru_cache(maxsize=2)
def index_of(archive: str, stamp: tuple[int, ...]) -> dict[str, Member]:
    """The pictures of an archive by their names, with ::2 behind that of a second one.

    Raises PhotoError for an archive without any, and for one in a store that is not all there: it may be
    next time.
    """
    index = {}
    for member in members(archive, Counter()):
        if isinstance(member, Member):
            index[str(member).removeprefix(f"{archive}{APART}")] = member
        elif not index or ADDRESS.match(archive):
            raise PhotoError(member.reason)
    return index
