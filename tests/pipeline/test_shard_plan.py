"""shards.parquet: which shard has which photos, whatever their names, and which photos are the sample."""

import os
from itertools import pairwise

import pytest

from attnvis.data.ranges import Range
from attnvis.pipeline.shards.plan import (
    NAME,
    RESERVED,
    SAMPLE,
    ShardPlan,
    places_of,
    require_named_addresses,
    sample_places,
    write_plan,
)


def named(names, size):
    """Ranges of photos that are named one by one."""
    parts = [tuple(names[start : start + size]) for start in range(0, len(names), size)]
    return [Range(stop=len(part), ids=part) for part in parts]


def test_every_photo_is_in_one_shard_in_order(tmp_path):
    names = [f"photo-{number}.jpg" for number in range(107)]
    write_plan(tmp_path, iter(named(names, 5)), "settings")
    plan = ShardPlan(tmp_path)
    assert len(plan) == 22 and plan.photos == plan.span == 107 and plan.settings == "settings"
    shards = [plan.shard(number) for number in range(22)]
    assert [name for shard in shards for name in shard.range.ids] == names
    assert [shard.first for shard in shards] == list(range(0, 107, 5)) and shards[-1].photos == 2
    assert [(s.number, s.first, s.photos, s.digest) for s in plan] == [
        (s.number, s.first, s.photos, s.digest) for s in shards
    ]
    with pytest.raises(IndexError):
        plan.shard(22)


def test_a_digest_tells_other_photos_other_settings_and_another_order(tmp_path):
    digests = set()
    for place, (names, settings) in enumerate([("ab", "s"), ("ba", "s"), ("ac", "s"), ("ab", "t")]):
        (tmp_path / str(place)).mkdir()
        write_plan(tmp_path / str(place), named(names, 2), settings)
        digests.add(ShardPlan(tmp_path / str(place)).shard(0).digest)
    assert len(digests) == 4


def test_names_that_are_no_text_come_back_as_they_were(tmp_path):
    names = [os.fsdecode(b"caf\xe9.jpg"), "back\\slash.jpg", "\u732b.jpg", "a\nb.jpg"]
    write_plan(tmp_path, named(names, 10), "s")
    assert list(ShardPlan(tmp_path).shard(0).range.ids) == names


@pytest.mark.parametrize("total", [1, 99, 100, 101, 250, 12_347])
def test_the_sample_is_spread_evenly_and_known_shard_by_shard(tmp_path, total):
    places = sample_places(total)
    assert len(places) == min(total, SAMPLE) == len(set(places))
    gaps = {later - earlier for earlier, later in pairwise(places)}
    assert not gaps or max(gaps) - min(gaps) <= 1
    write_plan(tmp_path, [Range("a.tar", start, min(start + 7, total)) for start in range(0, total, 7)], "s")
    plan = ShardPlan(tmp_path)
    assert [place for shard in plan for place in places_of(shard, plan.span, len(plan))] == places


def test_ranges_of_archives_come_back_as_they_were(tmp_path):
    parts = [
        Range("s3://bucket/a.tar", stop=None),
        Range("b.parquet", 3, 9),
        Range(stop=2, ids=("x.jpg", "y.jpg"), labels=("x", ""), reasons=("", "it is gone")),
    ]
    write_plan(tmp_path, parts, "s")
    plan = ShardPlan(tmp_path)
    assert [plan.shard(number).range for number in range(3)] == parts
    assert [(shard.first, shard.photos) for shard in plan] == [(0, None), (RESERVED, 6), (RESERVED + 6, 2)]
    assert plan.photos == 8 and places_of(plan.shard(0), plan.span, len(plan)) == [0]


def test_archives_labels_and_reasons_that_are_no_text_come_back_as_they_were(tmp_path):
    name = os.fsdecode(b"caf\xe9")
    parts = [
        Range(f"{name}.tar", 0, 4),
        Range(stop=1, ids=("x.jpg",), labels=(name,), reasons=(f"no {name}",)),
    ]
    write_plan(tmp_path, parts, "s")
    assert [ShardPlan(tmp_path).shard(number).range for number in range(2)] == parts


def test_a_plan_that_is_damaged_is_told_in_one_line(tmp_path):
    write_plan(tmp_path, named(["a"], 1), "s")
    (tmp_path / NAME).write_bytes((tmp_path / NAME).read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"shards.parquet is damaged"):
        ShardPlan(tmp_path)


def test_a_folder_names_no_address_that_was_not_typed(tmp_path):
    typed = tmp_path / "list.txt"
    photos = ["https://a.example/1.jpg", str(tmp_path / "b.jpg"), "https://a.example/2.jpg"]
    (tmp_path / "b.jpg").write_bytes(b"")
    typed.write_text("\n".join(photos))
    write_plan(tmp_path, named([photos[0], photos[2]], 1), "s")
    require_named_addresses(ShardPlan(tmp_path), [str(typed)])
    write_plan(tmp_path, [*named(photos[:1], 1), Range("https://evil.example/x.tar", 0, None)], "s")
    with pytest.raises(
        ValueError, match=r"names https://evil\.example/x\.tar, which is not among the photos"
    ):
        require_named_addresses(ShardPlan(tmp_path), [str(typed)])
    write_plan(tmp_path, named(["file.jpg", "https://evil.example/1.jpg"], 2), "s")
    with pytest.raises(ValueError, match=r"names https://evil\.example/1\.jpg"):
        require_named_addresses(ShardPlan(tmp_path), [str(tmp_path / "b.jpg")])


def test_a_table_in_a_store_is_named_once_for_all_of_its_shards(tmp_path):
    table = "s3://bucket/x.parquet"
    write_plan(tmp_path, [Range(table, start, start + 2) for start in (0, 2, 4)], "s")
    assert list(ShardPlan(tmp_path).addresses()) == [table]
