"""A property that is kept: computed once for each object, and no thread waits for another's."""

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from attnvis.lazy import kept_property


@dataclass(frozen=True)
class Square:
    side: int
    asked: list

    @kept_property
    def area(self) -> int:
        """side * side"""
        self.asked.append(self.side)
        return self.side**2


def test_a_kept_property_is_computed_once_for_each_object():
    asked = []
    squares = [Square(3, asked), Square(5, asked)]
    assert [square.area for square in squares * 2] == [9, 25, 9, 25]
    assert asked == [3, 5]
    assert Square.area.__doc__ == "side * side"


def test_threads_compute_the_properties_of_their_own_objects_at_the_same_time():
    meeting = threading.Barrier(2, timeout=120)

    class Waiter:
        @kept_property
        def place(self) -> int:
            return meeting.wait()  # raises where the other thread never comes

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(lambda waiter: waiter.place, [Waiter(), Waiter()])) == [0, 1]
