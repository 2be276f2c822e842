"""Addresses - s3://, gs://, hf://, http(s):// - in, listings and bytes out, after retries that end.

s3 and gs are read by pyarrow, hf by fsspec, http by Python itself.  Keys and endpoints come from the
environment, as each store's own tools take them; s3://anonymous@bucket/... asks without any.
"""

import fnmatch
import functools
import io
import os
import random
import re
import threading
import time
import urllib.error
import urllib.request
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from attnvis.errors import in_one_line
from attnvis.types import PhotoError

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

__all__ = ["ADDRESS", "StoredFile", "check_address", "entries_below", "kind_at", "matching", "read_address"]

T = TypeVar("T")

ADDRESS = re.compile(r"([A-Za-z][\w+.-]*)://")
LOST_SLASH = re.compile(r"(s3|gs|hf|https?):/(?!/)")
SCHEMES = ("s3", "gs", "hf", "http", "https")
NO_KEYS = "anonymous@"  # before the name of a bucket that anybody may read
PAUSES = (0.5, 2.0)  # seconds before the second attempt and the third
OF_A_REQUEST = 4  # attempts that pyarrow makes at each request, before ours counts as failed
TO_CONNECT, TO_ANSWER = 10.0, 30.0  # seconds
BLOCK = 1 << 22  # bytes of an archive or a table that are read at once
MOST_BLOCKS = 16  # that are kept: 64 MB
MOST_HELD = 8  # files that stay open
FINAL = re.compile(  # what another attempt would not mend
    r"ACCESS_DENIED|NO_SUCH_BUCKET|INVALID_ACCESS_KEY|SIGNATURE|PERMANENT_REDIRECT|Unauthorized|Forbidden|"
    r"HTTP (?:status )?4(?!08|29)\d\d|4(?!08|29)\d\d Client Error"
)


def check_address(word: str) -> bool:
    """Whether a word is an address.  Raises PhotoError for one that cannot be read, or lost a slash."""
    if lost := LOST_SLASH.match(word):
        raise PhotoError(f"{word} lost a slash; write {lost[1]}://{word[lost.end() :]}")
    address = ADDRESS.match(word)
    if address and address[1].lower() not in SCHEMES:
        raise PhotoError(
            f"{address[1]}://... is an address that is not read here; "
            "give s3://, gs://, hf://, https://, or download the photo and name the file"
        )
    return address is not None


def parts_of(address: str) -> tuple[str, str]:
    """The scheme and the rest: s3, bucket/folder/key."""
    scheme, _, rest = address.partition("://")
    return scheme.lower(), rest


@functools.lru_cache(maxsize=64)
def open_store(scheme: str, bucket: str) -> "FileSystem":
    """What reads a bucket.  Raises PhotoError where a package lacks, OSError where nobody answers."""
    import pyarrow.fs as arrow

    anonymous = bucket.startswith(NO_KEYS)
    if scheme == "s3":
        endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        if not endpoint and not region:
            region = arrow.resolve_s3_region(bucket.removeprefix(NO_KEYS))
        return arrow.S3FileSystem(
            anonymous=anonymous,
            region=region,
            endpoint_override=endpoint,
            connect_timeout=TO_CONNECT,
            request_timeout=TO_ANSWER,
            retry_strategy=arrow.AwsStandardS3RetryStrategy(max_attempts=OF_A_REQUEST),
        )
    if scheme == "gs":
        settings: dict[str, Any] = {"retry_time_limit": timedelta(seconds=TO_ANSWER / 2)}
        emulator = os.environ.get("STORAGE_EMULATOR_HOST", "")
        if emulator:
            protocol, _, host = emulator.rpartition("://")
            settings |= {"endpoint_override": host, "scheme": protocol or "http"}
        return arrow.GcsFileSystem(anonymous=anonymous or bool(emulator), **settings)
    return open_by_fsspec(scheme)


def open_by_fsspec(scheme: str) -> "FileSystem":
    """Raises PhotoError where no package reads the store."""
    import fsspec
    import pyarrow.fs as arrow

    if scheme in ("http", "https"):
        raise PhotoError(
            f"archives and tables are read from stores, not from {scheme}://; download it, or name photos"
        )
    try:
        store = fsspec.filesystem(scheme)
    except (ImportError, ValueError):
        raise PhotoError(
            f"{scheme}:// is read by huggingface_hub, which is not installed; pip install huggingface_hub"
        ) from None
    return arrow.PyFileSystem(arrow.FSSpecHandler(store))


def store_of(address: str) -> "tuple[FileSystem, str]":
    """What reads an address, and what it calls the place: bucket/folder/key."""
    scheme, rest = parts_of(address)
    bucket = rest.partition("/")[0] if scheme in ("s3", "gs") else ""
    return open_store(scheme, bucket), rest.removeprefix(NO_KEYS)


def retried(work: Callable[[], T], address: str) -> T:
    """What `work` gives; tried again after a pause where the store fails.

    Raises PhotoError with the last reason, or where another attempt would change nothing.
    """
    for pause in (*PAUSES, None):
        try:
            return work()
        except FileNotFoundError:
            raise PhotoError(f"no such photo: {address}; see what lies beside it") from None
        except (PhotoError, MemoryError):
            raise
        except Exception as error:  # every library has its own
            reason = in_one_line(error, most=300)
            if isinstance(error, PermissionError) or FINAL.search(reason):
                raise PhotoError(
                    f"{address} may not be read ({reason}); check the name and the keys"
                ) from None
            if pause is None:
                attempts = len(PAUSES) + 1
                raise PhotoError(
                    f"{address} could not be read in {attempts} attempts ({reason}); try again later"
                ) from None
        time.sleep(pause * random.uniform(0.5, 1.0))  # not all threads at once
    raise AssertionError("the last attempt gives or raises")


# -------------------------------------------------------------------------------------------------- listings


def kind_at(address: str) -> str:
    """folder or file; "" where there is neither.  Raises PhotoError."""

    def ask() -> str:
        store, place = store_of(address)
        entry = store.get_file_info(place.rstrip("/"))
        return {"Directory": "folder", "File": "file"}.get(entry.type.name, "")

    return "file" if address.lower().startswith("http") else retried(ask, address)


def entries_below(address: str, is_deep: bool = True) -> Iterator[str]:
    """The addresses of the files in a folder, in the order of their names, folder by folder.

    Of one folder the names are held, not of all; in gs of all.  Raises PhotoError where it cannot be listed.
    """
    root = address.rstrip("/")
    if is_deep and parts_of(root)[0] == "gs":  # pyarrow does not tell the folders of one folder there
        entries = list_folder(root, is_deep=True)
        yield from sorted((entry for entry, is_file in entries if is_file), key=lambda name: name.split("/"))
        return
    waiting = [(root, False)]
    while waiting:
        place, is_file = waiting.pop()
        if is_file:
            yield place
        elif is_deep or place == root:
            waiting += sorted(list_folder(place), reverse=True)


def list_folder(address: str, is_deep: bool = False) -> list[tuple[str, bool]]:
    """What lies in one folder, and whether each is a file; hidden ones not.  `is_deep`: and below it."""
    from pyarrow.fs import FileSelector, FileType

    def ask() -> list[tuple[str, bool]]:
        store, place = store_of(address)
        entries = store.get_file_info(FileSelector(place, recursive=is_deep))
        inside = [
            (entry.path.removeprefix(f"{place}/") if is_deep else entry.base_name, entry) for entry in entries
        ]
        return [
            (f"{address}/{name}", entry.type == FileType.File)
            for name, entry in inside
            if not name.startswith(".") and "/." not in name
        ]

    return retried(ask, address)


def matching(pattern: str) -> Iterator[str]:
    """The addresses of the files that a glob means: * within a folder, ** through folders."""
    parts = pattern.split("/")
    first = next(number for number, part in enumerate(parts) if set(part) & set("*?["))
    if first < 3:
        raise PhotoError(f"{pattern} leaves the bucket open; name the bucket, and use * behind it")
    wanted = re.compile("/".join(map(part_pattern, parts)).replace("(?:.*)/", "(?:.*/)?"))
    is_deep = first < len(parts) - 1 or "**" in parts[first]
    for address in entries_below("/".join(parts[:first]), is_deep):
        if wanted.fullmatch(address):
            yield address


def part_pattern(part: str) -> str:
    """A glob between two slashes as a regular expression."""
    if part == "**":
        return "(?:.*)"
    return fnmatch.translate(part).removeprefix("(?s:").removesuffix(r")\Z").replace(".*", "[^/]*")


# ----------------------------------------------------------------------------------------------------- bytes


def read_address(address: str, most: int) -> bytes:
    """The whole content of a file, at most so many bytes.  Raises PhotoError."""
    if address.lower().startswith("http"):
        return retried(lambda: read_url(address, most), address)

    def read() -> bytes:
        store, place = store_of(address)
        with store.open_input_file(place) as file:
            size = file.size()
            check_size(address, size, most)
            content: bytes = file.read(size)
        require_whole(len(content), size)
        return content

    return retried(read, address)


def check_size(address: str, size: int, most: int) -> None:
    if size > most:
        raise PhotoError(
            f"{address} has {size:,} bytes, which is more than any photo's {most:,}; see whether it is one"
        )


def require_whole(count: int, size: int) -> None:
    """Raises OSError for a content that was cut off."""
    if count != size:
        raise OSError(f"cut off after {count:,} of {size:,} bytes")


def read_url(url: str, most: int) -> bytes:
    """Raises OSError, HTTPError among them, PhotoError for what is too long."""
    request = urllib.request.Request(url, headers={"User-Agent": "attnvis"})
    try:
        with urllib.request.urlopen(request, timeout=TO_ANSWER) as answer:
            length = answer.headers.get("Content-Length")
            if length is not None:
                check_size(url, int(length), most)
            content: bytes = answer.read(most + 1)
    except urllib.error.HTTPError as error:
        raise OSError(f"HTTP {error.code} {error.reason}") from None
    check_size(url, len(content), most)
    if length is not None:
        require_whole(len(content), int(length))
    return content


class Held:
    """The last files that were opened, and the last blocks that were read: threads share them."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.files: OrderedDict[str, Any] = OrderedDict()
        self.blocks: OrderedDict[tuple[str, int], Future[bytes]] = OrderedDict()

    def file(self, address: str) -> Any:
        """An open file with `size` and `read_at`.  Raises OSError."""
        with self.lock:
            if address in self.files:
                self.files.move_to_end(address)
                return self.files[address]
        store, place = store_of(address)
        file = store.open_input_file(place)
        with self.lock:
            self.files[address] = file
            while len(self.files) > MOST_HELD:
                self.files.popitem(last=False)
        return file

    def forget(self, address: str) -> None:
        with self.lock:
            self.files.pop(address, None)

    def block(self, address: str, number: int) -> bytes:
        """Block by block each is read once, whoever asks for it first.  Raises PhotoError."""
        key = (address, number)
        with self.lock:
            future = self.blocks.get(key)
            is_ours = future is None
            if future is None:
                future = self.blocks[key] = Future()
                while len(self.blocks) > MOST_BLOCKS:
                    self.blocks.popitem(last=False)
            else:
                self.blocks.move_to_end(key)
        if is_ours:
            try:
                future.set_result(retried(lambda: self.fetch(address, number), address))
            except BaseException as error:
                with self.lock:
                    self.blocks.pop(key, None)  # the next one tries anew
                future.set_exception(error)
        return future.result()

    def fetch(self, address: str, number: int) -> bytes:
        try:
            file = self.file(address)
            start = number * BLOCK
            size = max(0, min(BLOCK, file.size() - start))
            content: bytes = file.read_at(size, start) if size else b""
            require_whole(len(content), size)
        except Exception:
            self.forget(address)
            raise
        return content

    def size(self, address: str) -> int:
        return retried(lambda: int(self.file(address).size()), address)


HELD = Held()


class StoredFile(io.RawIOBase):
    """A file in a store, as Python reads files; what is read is kept for the next reader for a while."""

    def __init__(self, address: str) -> None:
        self.address, self.place = address, 0
        self.length = HELD.size(address)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self.place, os.SEEK_END: self.length}[whence]
        self.place = start + offset
        return self.place

    def readinto(self, buffer: Any) -> int:
        number, skip = divmod(self.place, BLOCK)
        if self.place >= self.length:
            return 0
        content = HELD.block(self.address, number)[skip : skip + len(buffer)]
        buffer[: len(content)] = content
        self.place += len(content)
        return len(content)
