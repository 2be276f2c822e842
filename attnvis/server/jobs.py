"""Uploaded photos in, their pages out: one at a time, in the order in which they came; of each so many."""

import secrets
import sys
import threading
import traceback
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from attnvis.errors import in_one_line

__all__ = ["JobQueue", "JobState", "Upload"]

REMEMBERED = 256  # jobs that ended, of which it is still known how, beside those whose pages are kept


@dataclass(frozen=True)
class Upload:
    """A photo as a browser sent it, and the network that is to look at it."""

    name: str
    network: str
    data: bytes = field(repr=False)


@dataclass(frozen=True)
class JobState:
    """Where a job stands.

    status   waiting | working | done | failed | dropped: its page is no longer kept
    before   jobs that come before it, the one at work among them
    reason   why it failed
    """

    status: str
    before: int = 0
    reason: str = ""


class JobQueue:
    """One thread that makes a page of every upload.

    make      an upload -> its page; a ValueError is told to who uploaded, other errors in the terminal
    waiting   uploads that may wait, beside the one at work
    kept      pages that are kept in memory, the last ones
    """

    def __init__(self, make: Callable[[Upload], bytes], waiting: int = 8, kept: int = 16) -> None:
        self.make = make
        self.kept = kept
        self.places = threading.BoundedSemaphore(waiting + 1)
        self.changed = threading.Condition()
        self.queue: deque[tuple[str, Upload]] = deque()
        self.at_work = ""  # the job's id
        self.ended: OrderedDict[str, JobState] = OrderedDict()
        self.pages: OrderedDict[str, bytes] = OrderedDict()
        threading.Thread(target=self.work, name="explorers", daemon=True).start()

    def reserve(self) -> bool:
        """Takes a place, before a byte of the photo is read; False: there is none.

        `submit` or `release` it.
        """
        return self.places.acquire(blocking=False)

    def release(self) -> None:
        """Gives back a place that was reserved and not used."""
        self.places.release()

    def submit(self, upload: Upload) -> str:
        """Queues an upload, for which a place was reserved; gives the job's id, which nobody can guess."""
        job = secrets.token_urlsafe(16)
        with self.changed:
            self.queue.append((job, upload))
            self.changed.notify()
        return job

    def state(self, job: str) -> JobState | None:
        """Where a job stands; None for an id that is unknown."""
        with self.changed:
            if job in self.ended:
                ended = self.ended[job]
                return ended if ended.status != "done" or job in self.pages else JobState("dropped")
            if job == self.at_work:
                return JobState("working")
            before = 1 if self.at_work else 0
            for place, (queued, _) in enumerate(self.queue):
                if queued == job:
                    return JobState("waiting", before=before + place)
        return None

    def page(self, job: str) -> bytes | None:
        """What was made of an upload, where it is still kept."""
        with self.changed:
            return self.pages.get(job)

    def work(self) -> None:
        """For ever: the oldest upload, then the next."""
        while True:
            with self.changed:
                while not self.queue:
                    self.changed.wait()
                job, upload = self.queue.popleft()
                self.at_work = job
            page, reason = self.attempt(upload)
            del upload  # its bytes are not kept until the next one comes
            with self.changed:
                self.at_work = ""
                self.ended[job] = JobState("failed", reason=reason) if page is None else JobState("done")
                if page is not None:
                    self.pages[job] = page
                while len(self.pages) > self.kept:
                    self.pages.popitem(last=False)
                gone = [ended for ended in self.ended if ended not in self.pages]
                for forgotten in gone[: max(0, len(gone) - REMEMBERED)]:
                    del self.ended[forgotten]
            self.places.release()

    def attempt(self, upload: Upload) -> tuple[bytes | None, str]:
        """(page, ""), or (None, why there is none)."""
        try:
            return self.make(upload), ""
        except ValueError as error:  # PhotoError is one
            return None, in_one_line(error)
        except MemoryError:
            return None, f"{upload.name}: there is not enough memory for it; give a smaller photo"
        except Exception:
            traceback.print_exc(file=sys.stderr)
            return (
                None,
                f"{upload.name}: attnvis failed on it, which is a fault of attnvis; the terminal has more",
            )
