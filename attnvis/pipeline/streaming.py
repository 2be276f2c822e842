"""Paths in, outcomes out, in the order of the paths: decoding, network,
attention and drawing overlap on every core, in bounded memory.

Batches are made of photos of like shape, by their order alone: how many workers there are, from two on, and
which is the quicker, changes no number.  A single one has all cores for each operation, which PyTorch then
rounds otherwise in the last digits.
"""

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import cv2
import torch

from attnvis.data.decoding import load
from attnvis.data.preprocessing import collate, shape_key
from attnvis.types import Batch, Photo, PhotoError, Preprocessing, Source

__all__ = ["Outcome", "first_photos", "stream"]

T = TypeVar("T")
Member = tuple[int, Source, Photo]  # index, where it comes from, pixels
Group = list[Member]


@dataclass(frozen=True, eq=False)
class Outcome(Generic[T]):
    """What became of one photo: its answers, or why there are none."""

    index: int  # in the order the photos were given
    path: Source
    photo: Photo | None = None
    answers: list[T] = field(default_factory=list)
    error: str = ""
    made: Any = None  # what `after` made of it


def first_photos(
    paths: Sequence[Source], preprocessing: Preprocessing, count: int = 8
) -> dict[Source, Photo | PhotoError]:
    """The first photos of several, decoded, or why they are none: `stream` takes them as they are.

    {} of a single one, which has nothing to be compared on.
    """
    photos: dict[Source, Photo | PhotoError] = {}
    for path in dict.fromkeys(paths[:count]) if len(paths) > 1 else ():
        try:
            photos[path] = read_photo(path, preprocessing)
        except PhotoError as error:
            photos[path] = error.with_traceback(None)  # which would hold what was read of it
    return photos


def read_photo(path: Source, how: Preprocessing) -> Photo:
    """Raises PhotoError."""
    return load(path, short=how.size, depth=how.depth, truncated=how.truncated)


def stream(
    paths: Iterable[Source],
    method: Callable[[Batch], list[list[T]]],
    preprocessing: Preprocessing,
    batch_size: int = 8,
    waiting: int | None = None,
    workers: int = 1,
    after: Callable[[Outcome[T]], Any] | None = None,
    say: Callable[[str], None] = lambda text: None,
    decoded: dict[Source, Photo | PhotoError] | None = None,
) -> Iterator[Outcome[T]]:
    """One Outcome per path, in their order.

    method        photos of one shape in, what is known of each out; attnvis.methods has some
    batch_size    photos that go through the method together; halved, and told to `say`,
                  where memory does not hold so many
    waiting       decoded photos that may wait for others of their shape (None: four batches)
    workers       threads, each with one core: decode, network and `after` run in all of them;
                  with 1 there are none
    after         what is to be made of an outcome: drawn, written; the iterator gives it back as `made`
    decoded       some of the photos, see `first_photos`; each is taken out of it when its turn comes
    """
    if batch_size < 1:
        raise ValueError(f"batch_size {batch_size} holds no photo; give 1 or more")
    if workers < 1:
        raise ValueError(f"{workers} workers do nothing; give 1 or more")
    most = 4 * batch_size if waiting is None else waiting
    worker = Worker(method, preprocessing, after, say, limit=batch_size, decoded=decoded or {})
    ahead = 1 if workers == 1 else workers * batch_size
    with thread_pool(workers) as submit:
        photos = prefetch(enumerate(paths), worker.read, submit, count=ahead)
        groups = batches(photos, preprocessing, batch_size=batch_size, most=most)
        yield from in_order(groups, worker.work, submit, workers=workers)


@dataclass
class Worker(Generic[T]):
    """What is done with one photo, and with one group of like shape; threads share it."""

    method: Callable[[Batch], list[list[T]]]
    preprocessing: Preprocessing
    after: Callable[[Outcome[T]], Any] | None
    say: Callable[[str], None]
    limit: int  # photos that memory holds at once; smaller after it did not hold a batch
    decoded: dict[Source, Photo | PhotoError]  # before their turn
    lock: threading.Lock = field(default_factory=threading.Lock)

    def read(self, index: int, path: Source) -> Photo | Outcome[T]:
        try:
            photo = self.decoded.pop(path, None) or read_photo(path, self.preprocessing)
        except PhotoError as error:
            photo = error
        return Outcome(index, path, error=str(photo)) if isinstance(photo, PhotoError) else photo

    def work(self, group: Group) -> list[Outcome[T]]:
        return [self.finish(outcome) for outcome in self.answer(group)]

    def answer(self, group: Group) -> list[Outcome[T]]:
        """The answers of a group: in halves where memory lacks, one by one where a photo spoils it."""
        if len(group) > self.limit:
            return self.answer(group[: self.limit]) + self.answer(group[self.limit :])
        try:
            answers = self.method(collate([photo for _, _, photo in group], self.preprocessing))
        except PhotoError as error:
            if len(group) > 1:  # one photo's mistake is not its neighbours'
                return [outcome for member in group for outcome in self.answer([member])]
            return [Outcome(*group[0], error=str(error))]
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            if len(group) == 1:
                return [self.too_large(group[0])]
        else:
            return [Outcome(*member, of_photo) for member, of_photo in zip(group, answers, strict=True)]
        self.halve(len(group))
        return self.answer(group)

    def halve(self, tried: int) -> None:
        """The limit, after memory did not hold `tried` photos."""
        with self.lock:
            if tried > self.limit:  # another thread halved it while these were under way
                return
            self.limit = (tried + 1) // 2
        self.say(
            f"memory does not hold {tried} photos at once; going on with {self.limit}, "
            f"the same as batch_size={self.limit}"
        )

    def too_large(self, member: Member) -> Outcome[T]:
        _, path, photo = member
        size = " x ".join(map(str, photo.size))
        reason = f"{path} ({size} px) does not fit into memory; give a smaller preprocess.size"
        return Outcome(*member, error=reason)

    def finish(self, outcome: Outcome[T]) -> Outcome[T]:
        """An outcome with what `after` makes of it."""
        if self.after is None or outcome.error:
            return outcome
        try:
            return replace(outcome, made=self.after(outcome))
        except PhotoError as error:
            return replace(outcome, error=str(error))


def prefetch(
    items: Iterable[tuple[int, Source]], read: Callable, submit: Callable, count: int
) -> Iterator[tuple[int, Source, Any]]:
    """Photos in order, decoded while those before them are worked on; `count` at a time."""
    started: deque[tuple[int, Source, Future]] = deque()
    for index, path in items:
        started.append((index, path, submit(read, index, path)))
        if len(started) >= count:
            index, path, future = started.popleft()
            yield index, path, future.result()
    while started:
        index, path, future = started.popleft()
        yield index, path, future.result()


def batches(
    photos: Iterable[tuple[int, Source, Any]], how: Preprocessing, batch_size: int, most: int
) -> Iterator[Group | Outcome]:
    """Groups of like shape: full ones, and any whose first photo is the `most`th last one."""
    groups: dict[Hashable, Group] = {}  # the oldest first
    for index, path, photo in photos:
        if isinstance(photo, Outcome):
            yield photo
        else:
            shape = shape_key(photo, how)
            groups.setdefault(shape, []).append((index, path, photo))
            if len(groups[shape]) >= batch_size:
                yield groups.pop(shape)
        del photo  # what has been answered is let go before the next is decoded
        while groups and index + 1 - first_index(groups) >= most:
            yield groups.pop(next(iter(groups)))
    while groups:
        yield groups.pop(next(iter(groups)))


def first_index(groups: dict[Hashable, Group]) -> int:
    """Of the photo that waits longest."""
    oldest = next(iter(groups.values()))
    return oldest[0][0]


def in_order(
    groups: Iterable[Group | Outcome], work: Callable, submit: Callable, workers: int
) -> Iterator[Outcome]:
    """The outcomes of groups, by index; two groups a worker are under way at a time."""
    running: deque[Future] = deque()
    done: dict[int, Outcome] = {}
    upcoming = 0

    def ready() -> Iterator[Outcome]:
        nonlocal upcoming
        while upcoming in done:
            yield done.pop(upcoming)
            upcoming += 1

    for group in groups:
        if isinstance(group, Outcome):
            done[group.index] = group
        else:
            running.append(submit(work, group))
            del group
            if len(running) >= 2 * workers or workers == 1:
                done |= {outcome.index: outcome for outcome in running.popleft().result()}
        while running and running[0].done():
            done |= {outcome.index: outcome for outcome in running.popleft().result()}
        yield from ready()
    while running:
        done |= {outcome.index: outcome for outcome in running.popleft().result()}
        yield from ready()
    yield from ready()


@contextlib.contextmanager
def thread_pool(workers: int) -> Iterator[Callable[..., Future]]:
    """A function that has something done: by one of several threads, each of which has one core to itself,
    or here and now.
    """
    if workers == 1:
        yield run_inline
        return
    before, cv2s = torch.get_num_threads(), cv2.getNumThreads()
    cv2.setNumThreads(1)  # for the whole process; PyTorch is told in each thread
    pool = ThreadPoolExecutor(workers, "attnvis", initializer=torch.set_num_threads, initargs=(1,))
    try:
        yield pool.submit
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(before)
        cv2.setNumThreads(cv2s)


def run_inline(work: Callable, *arguments: Any) -> Future:
    future: Future = Future()
    future.set_result(work(*arguments))
    return future


def is_out_of_memory(error: Exception) -> bool:
    """Whether there is no memory left, as PyTorch, its CPU allocator, oneDNN and Python put it."""
    text = str(error).lower()
    words = (
        "out of memory",
        "can't allocate memory",
        "not enough memory",
        "could not create a memory object",
        "bad alloc",
    )
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(word in text for word in words)
