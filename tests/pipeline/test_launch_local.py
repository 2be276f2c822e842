"""Processes of this machine do shards; one that is killed costs its shard a try, and nobody else anything."""

import functools
import os

import pytest
from fake_shard_work import cores, die, die_once, fail_if_odd

from attnvis.pipeline.shards.launch_local import do_locally
from attnvis.pipeline.shards.launching import Ended


def ends(work, numbers, **settings):
    return sorted(
        (end for end in do_locally(work, numbers, **settings) if end is not None), key=lambda end: end.shard
    )


def test_every_shard_ends_once_with_what_its_work_says():
    expected = [Ended(number, "odd" if number % 2 else "") for number in range(7)]
    assert ends(fail_if_odd, range(7), processes=2) == expected


def test_a_killed_process_costs_its_own_shard_a_try(tmp_path):
    assert ends(functools.partial(die_once, tmp_path), range(4), processes=2) == [
        Ended(number) for number in range(4)
    ]
    assert sorted(path.name for path in tmp_path.glob("[0-9]*")) == ["0", "1", "2", "3"]


def test_a_shard_that_kills_every_process_fails_alone():
    done = ends(functools.partial(die, 1), range(3), processes=2, tries=2)
    assert [end.reason[:38] for end in done] == ["", "its process ended before it, 2 times; ", ""]


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system pins nobody to cores")
def test_processes_have_cores_of_their_own():
    there = sorted(os.sched_getaffinity(0))
    (end,) = ends(cores, [0], processes=1)
    assert end.reason == f"[{there[0]}] threads 1"


def test_who_stops_looking_leaves_no_process_behind(tmp_path):
    shards = do_locally(functools.partial(die_once, tmp_path, number_only=True), range(100), processes=2)
    next(end for end in shards if end is not None)
    shards.close()
    for path in tmp_path.glob("[0-9]*"):
        with pytest.raises(ProcessLookupError):
            os.kill(int(path.read_text()), 0)
