"""What every launcher does: shards in, what became of each out, in any order."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass
from itertools import islice

__all__ = ["TICK", "Ended", "Work", "in_turn"]

TICK = 2.0  # seconds after which a launcher gives None: time to say how far it is

Work = Callable[[int], str]  # does a shard; gives why there is no part, "" where there is one


@dataclass(frozen=True)
class Ended:
    """What became of a shard; `reason`: why it has no part, "" where it has one."""

    shard: int
    reason: str = ""


def in_turn(
    submit: Callable[[int], Future[Ended]], numbers: Iterable[int], window: int
) -> Iterator[Ended | None]:
    """Shards as they end, `window` of them submitted at a time; None after every TICK without one."""
    waiting = iter(numbers)
    pending = {submit(number) for number in islice(waiting, window)}
    while pending:
        done, pending = wait(pending, timeout=TICK, return_when=FIRST_COMPLETED)
        for future in done:
            yield future.result()
        pending |= {submit(number) for number in islice(waiting, len(done))}
        if not done:
            yield None
