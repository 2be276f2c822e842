"""A cache changes nothing but the time: not by a bit, not when it is cold, full, damaged,
shared or pointed at somebody's folder.
"""

import functools
import json
import os
import subprocess
import sys
import threading
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import LOADED, fake_backbone
from torch import nn

from attnvis.backbone import Backbone, cache
from attnvis.backbone.cache import Cached, clear, entries, pace_book
from attnvis.backbone.pace import Pace
from attnvis.data.decoding import load
from attnvis.data.preprocessing import collate
from attnvis.files import default_folder
from attnvis.types import Batch, Features, Preprocessing

HOW = Preprocessing(65, "stretch")
DIGEST = "5" * 64


class Patches(nn.Module):
    """Four patches of five channels, and a count of the photos that came by."""

    def __init__(self) -> None:
        super().__init__()
        weight = torch.randn(5, 3, 17, 17, generator=torch.Generator().manual_seed(0)) / 10
        self.weight, self.batches = nn.Parameter(weight, requires_grad=False), list[int]()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(images))
        return nn.functional.conv2d(images, self.weight.to(images), stride=48)


def fake(**changes) -> Backbone:
    network = fake_backbone(Patches(), HOW, **({"digest": DIGEST} | changes))
    passes(network).clear()
    return network


def passes(network: Backbone | Cached) -> list[int]:
    backbone = network.backbone if isinstance(network, Cached) else network
    return backbone.engine.eager.maps.batches


@functools.cache
def photos(
    *seeds: int, how: Preprocessing = HOW, size: tuple[int, int] = (64, 96), name: str = "{}.png"
) -> Batch:
    noise = [np.random.default_rng(seed).integers(0, 255, (*size, 3), dtype=np.uint8) for seed in seeds]
    return collate([load(pixels, name=name.format(seed)) for seed, pixels in zip(seeds, noise)], how)


def same(layers: tuple[Features, ...], others: tuple[Features, ...]) -> None:
    """By the bit."""
    assert len(layers) == len(others)
    for features, other in zip(layers, others):
        same_layer(features, other)


def same_layer(features: Features, other: Features) -> None:
    assert features.tokens.dtype == other.tokens.dtype and torch.equal(features.tokens, other.tokens)
    assert (features.logits is None) == (other.logits is None)
    assert features.logits is None or torch.equal(features.logits, other.logits)
    assert (features.grid, features.placements, features.names) == (other.grid, other.placements, other.names)
    assert features.head is other.head


def files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.safetensors"))


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in files(folder))


# What comes back


@pytest.mark.parametrize(
    "kind",
    [
        "fake fp32",
        "fake bf16",
        "efficientnet_lite0 fp32",
        "efficientnet_lite0 bf16",
        "efficientnet_lite0 stage2",
    ],
)
def test_off_cold_and_warm_are_the_same_by_the_bit(tmp_path, kind):
    name, told = kind.split()
    if name == "fake":
        network = fake(dtype=torch.bfloat16 if told == "bf16" else torch.float32)
    else:
        network = LOADED(layer="stage2", precision="fp32") if told == "stage2" else LOADED(precision=told)
    batch = photos(0, 1, 2)
    off, cached = network(batch), Cached(network, tmp_path)
    cold, warm = cached(batch), cached(batch)
    assert (cached.encoded, cached.reused) == (3, 3)
    same(off, cold)
    same(off, warm)
    (off,), (warm,) = off, warm
    assert (
        torch.isfinite(warm.tokens).all()
        and warm.tokens.std() > 0
        and off.names == ("0.png", "1.png", "2.png")
    )
    stored = 2 if network.dtype == torch.bfloat16 else 4
    assert size(tmp_path) < stored * off.tokens.numel() + 3 * (4 * 1000 + 2000), (
        "bfloat16 takes two bytes a number"
    )


def test_what_is_not_about_calling_it_is_the_networks_own(tmp_path):
    network = fake()
    cached = Cached(network, tmp_path)
    assert cached.preprocessing is HOW and cached.describe() == network.describe() and cached.warnings == ()
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = cached.no_such_thing


def test_photos_come_back_in_another_order_and_company(tmp_path):
    cached, network = Cached(fake(), tmp_path), fake()
    cached(photos(0, 1, 2))
    cached(photos(3))
    same(cached(photos(3, 1)), network(photos(3, 1)))
    assert passes(cached) == [3, 1]


def test_of_hits_and_misses_the_whole_batch_is_computed_together(tmp_path):
    cached = Cached(fake(), tmp_path)
    cached(photos(0))
    same(cached(photos(0, 1)), fake()(photos(0, 1)))
    assert passes(cached) == [1, 2] and (cached.encoded, cached.reused) == (3, 0)
    cached(photos(1, 0))
    assert passes(cached) == [1, 2] and cached.reused == 2


def test_another_object_finds_what_the_first_has_written(tmp_path):
    first, second = Cached(fake(), tmp_path), Cached(fake(), tmp_path)
    cold = first(photos(0, 1))
    same(second(photos(0, 1)), cold)
    assert passes(second) == []


def test_random_weights_are_never_kept(tmp_path):
    cached = Cached(fake(digest="random"), tmp_path / "new")
    for _ in range(2):
        same(cached(photos(0)), fake()(photos(0)))
    assert passes(cached) == [1, 1] and cached.encoded == 2 and not (tmp_path / "new").exists()


# Addresses


@pytest.mark.parametrize(
    "changes",
    [
        {"digest": "6" * 64},
        {"layer": "stage2"},
        {"dtype": torch.bfloat16},
        {"name": "other"},
        {"placement": "rf"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_another_network_has_another_address(tmp_path, changes):
    Cached(fake(), tmp_path)(photos(0))
    network = fake(**changes)
    other = Cached(network, tmp_path)
    same(other(photos(0)), other.backbone(photos(0)))
    assert other.reused == 0 and len(files(tmp_path)) == 2
    assert len({path.parent for path in files(tmp_path)}) == 2


def test_what_was_stored_in_half_does_not_serve_who_wants_it_exact(tmp_path):
    Cached(fake(), tmp_path, "half")(photos(0))
    exact = Cached(fake(), tmp_path)
    same(exact(photos(0)), fake()(photos(0)))
    assert exact.reused == 0


@pytest.mark.parametrize(
    "other",
    [
        photos(1),
        photos(0, how=Preprocessing(65, "crop")),
        photos(0, how=Preprocessing(97, "stretch")),
        photos(0, size=(96, 64)),
    ],
    ids=["pixels", "fit", "size", "shape"],
)
def test_another_picture_has_another_address(tmp_path, other):
    cached = Cached(fake(), tmp_path)
    cached(photos(0))
    same(cached(other), fake()(other))
    assert cached.reused == 0 and len(files(tmp_path)) == 2


def test_one_pixel_is_another_picture(tmp_path):
    cached, batch = Cached(fake(), tmp_path), photos(0)
    cached(batch)
    images = batch.images.clone()
    images[0, 2, 64, 64] += 1e-6
    cached(replace(batch, images=images))
    assert cached.reused == 0


def test_flat_photos_of_two_sizes_are_one_picture_in_two_places(tmp_path):
    small, large = (
        collate([load(np.full((side, side, 3), 90, np.uint8), name="flat")], HOW) for side in (64, 128)
    )
    assert torch.equal(small.images, large.images)
    cached = Cached(fake(), tmp_path)
    for _ in range(2):
        assert [cached(batch)[0].placements[0].size for batch in (small, large)] == [(64, 64), (128, 128)]


def test_a_photo_is_known_under_any_name(tmp_path):
    cached = Cached(fake(), tmp_path)
    cached(photos(0))
    (renamed,) = cached(photos(0, name="holiday {}.jpg"))
    assert cached.reused == 1 and renamed.names == ("holiday 0.jpg",)


# Half storage


def test_half_storage_is_off_by_at_most_a_2048th_from_the_first_run_on(tmp_path):
    (exact,) = fake()(photos(0, 1))
    cached = Cached(fake(), tmp_path, "half")
    cold, warm = cached(photos(0, 1)), cached(photos(0, 1))
    same(cold, warm)
    (cold,), (warm,) = cold, warm
    assert cold.tokens.dtype == torch.float32 and not torch.equal(cold.tokens, exact.tokens)
    expected = exact.tokens.numpy().astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(warm.tokens.numpy(), expected)
    assert ((warm.tokens - exact.tokens).abs() <= 2**-11 * exact.tokens.abs()).all()


def test_half_storage_takes_half_the_room(tmp_path):
    batch = photos(0, how=Preprocessing(1025, "stretch"))
    for storage in cache.STORAGE:
        Cached(fake(), tmp_path / storage, storage)(batch)
    exact, half = (size(tmp_path / storage) for storage in cache.STORAGE)
    assert exact - half == pytest.approx(2 * fake()(batch)[0].tokens.numel(), abs=16)


def test_half_storage_of_what_float16_cannot_hold_stays_finite(tmp_path):
    network = fake()
    network.engine.eager.maps.weight *= 1e6
    assert network(photos(0))[0].tokens.abs().max() > 65504
    cached = Cached(network, tmp_path, "half")
    for _ in range(2):
        assert torch.isfinite(cached(photos(0))[0].tokens).all()


# Damage


def truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


def foreign(content: bytes) -> bytes:
    from safetensors.torch import save

    return save({"tokens": torch.zeros(4, 5)})


def misplaced(content: bytes) -> bytes:
    from safetensors.torch import save

    return save(
        {"tokens": torch.zeros(4, 5)},
        {"attnvis": json.dumps({"grid": [2, 2], "placement": {"first": [0, 0]}})},
    )


@pytest.mark.parametrize(
    "damage",
    [
        truncated,
        foreign,
        misplaced,
        lambda content: b"",
        lambda content: b"no tensors" * 100,
        lambda content: content[:-1],
    ],
    ids=["truncated", "foreign", "misplaced", "empty", "garbage", "a byte short"],
)
def test_a_damaged_file_is_computed_again_and_mended(tmp_path, damage):
    cached = Cached(fake(), tmp_path)
    cached(photos(0))
    (path,) = files(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    same(cached(photos(0)), fake()(photos(0)))
    assert cached.reused == 0 and path.read_bytes() == whole
    cached(photos(0))
    assert cached.reused == 1


def test_no_flipped_bit_of_an_entry_gives_another_number(tmp_path):
    """400 of them, anywhere in the file: each is computed anew, and said once."""
    complaints = []
    cached = Cached(fake(), tmp_path, say=complaints.append)
    cached(photos(0))
    (path,) = files(tmp_path)
    whole, expected = path.read_bytes(), fake()(photos(0))
    dice = np.random.default_rng(0)
    for place in dice.choice(8 * len(whole), 400, replace=False):
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << (place % 8)
        path.write_bytes(damaged)
        same(cached(photos(0)), expected)
        assert path.read_bytes() == whole, place
    assert cached.reused == 0 and len(complaints) == 1 and "is damaged" in complaints[0]


def rewritten(path, change):
    """An entry that says itself that it is whole."""
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    with safe_open(path, "pt") as file:
        (entry,) = json.loads(file.metadata()["attnvis"])["layers"]
    tensors = load_file(path)
    change(tensors, entry)
    digest = cache.content_digest(path, [entry], tensors)
    save_file(tensors, path, {"attnvis": json.dumps({"digest": digest, "layers": [entry]})})


@pytest.mark.parametrize(
    "change",
    [
        lambda tensors, entry: tensors["tokens.0"].fill_(torch.nan),
        lambda tensors, entry: tensors["tokens.0"][0].fill_(torch.inf),
        lambda tensors, entry: tensors.update({"tokens.0": tensors["tokens.0"][:1].clone()}),
        lambda tensors, entry: tensors.update({"tokens.0": tensors["tokens.0"].flatten().clone()}),
        lambda tensors, entry: entry.update(grid=[1, 1]),
        lambda tensors, entry: entry.update(layer="another"),
        lambda tensors, entry: entry["placement"].update(grid=[3, 1]),
        lambda tensors, entry: entry.update(placement=None),
        lambda tensors, entry: tensors.clear(),
    ],
)
def test_an_entry_that_cannot_be_the_networks_is_computed_again(tmp_path, change):
    cached = Cached(fake(), tmp_path)
    cached(photos(0))
    (path,) = files(tmp_path)
    whole = path.read_bytes()
    rewritten(path, change)
    assert path.read_bytes() != whole
    same(cached(photos(0)), fake()(photos(0)))
    assert cached.reused == 0 and path.read_bytes() == whole


def test_an_entry_whose_cells_lie_elsewhere_is_computed_again(tmp_path):
    cached = Cached(fake(), tmp_path)
    cached(photos(0))
    (path,) = files(tmp_path)
    rewritten(path, lambda tensors, entry: entry["placement"].update(first=[3.0, 3.0]))
    same(cached(photos(0)), fake()(photos(0)))
    assert cached.reused == 0


def test_photos_of_one_shape_have_features_of_one_shape(tmp_path):
    complaints = []
    cached = Cached(fake(), tmp_path, say=complaints.append)
    cached(photos(0, 1))
    path = cached.photo_file(photos(0, 1), 1)
    rewritten(path, lambda tensors, entry: tensors.update({"tokens.0": tensors["tokens.0"][:, :3].clone()}))
    same(cached(photos(0, 1)), fake()(photos(0, 1)))
    assert cached.reused == 0 and len(complaints) == 1 and "is damaged" in complaints[0]


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", "[" * 99_999, '{"backbone": 3}', "escapes", "\ufeff{}", "1e999"]
)
def test_a_damaged_record_of_a_network_is_passed_over(attnvis, here, content):
    cached = Cached(fake(), here / "kept")
    cached(photos(0))
    about = cached.network / "about.json"
    if content == "escapes":
        content = json.dumps(json.loads(about.read_text()) | {"layer": "\x1b[31mred"})
    about.write_text(content)
    ended = attnvis("cache", f"folder={here / 'kept'}")
    assert ended.code == 0 and ended.out.count("\n") == 1 and " 0.0 MB in " in ended.out and not ended.err


def test_another_photos_entry_under_this_name_is_none(tmp_path):
    cached = Cached(fake(), tmp_path)
    cached(photos(0)), cached(photos(1))
    paths = [cached.photo_file(photos(seed), 0) for seed in (0, 1)]
    paths[0].write_bytes(paths[1].read_bytes())
    same(cached(photos(0)), fake()(photos(0)))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes")
def test_a_pipe_in_a_files_place_holds_nobody_up(tmp_path):
    cached = Cached(fake(), tmp_path)
    cached(photos(0))
    (path,) = files(tmp_path)
    path.unlink()
    os.mkfifo(path)
    same(cached(photos(0)), fake()(photos(0)))
    assert path.is_file() and cached.reused == 0


def test_features_that_are_not_finite_are_not_kept(tmp_path):
    network = fake()
    network.engine.eager.maps.weight[0, 0, 0, 0] = torch.nan
    cached = Cached(network, tmp_path)
    cached(photos(0))
    assert not files(tmp_path)


def test_a_cache_that_cannot_be_written_says_so_once(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "write_bytes", refuse)
    complaints = []
    cached = Cached(fake(), tmp_path, say=complaints.append)
    for seed in range(3):
        cached(photos(seed))
    assert complaints == [f"nothing can be kept in the cache {tmp_path}: No space left on device"]


def test_a_folder_in_a_files_place_costs_time_not_results(tmp_path):
    cached = Cached(fake(), tmp_path)
    cached(photos(0))
    (path,) = files(tmp_path)
    path.unlink()
    path.mkdir()
    same(cached(photos(0)), fake()(photos(0)))


def refuse(*words, **settings):
    raise OSError(28, "No space left on device")


def test_a_full_disk_costs_time_not_results(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "write_bytes", refuse)
    cached = Cached(fake(), tmp_path)
    for _ in range(2):
        same(cached(photos(0)), fake()(photos(0)))
    assert cached.reused == 0 and passes(cached) == [1, 1]


def test_a_place_where_no_folder_can_be_made_costs_time_not_results(tmp_path):
    (tmp_path / "file").write_text("mine")
    cached = Cached(fake(), tmp_path / "file")
    for _ in range(2):
        same(cached(photos(0)), fake()(photos(0)))
    assert (tmp_path / "file").read_text() == "mine"


def test_somebody_elses_cache_can_be_read_though_not_touched(tmp_path, monkeypatch):
    Cached(fake(), tmp_path)(photos(0))
    for name in ("utime", "mkdir", "unlink"):
        monkeypatch.setattr(os, name, refuse)
    monkeypatch.setattr(cache, "write_bytes", refuse)
    cached = Cached(fake(), tmp_path)
    same(cached(photos(0)), fake()(photos(0)))
    assert cached.reused == 1 and passes(cached) == []


def test_a_file_that_cannot_be_evicted_stops_nobody(tmp_path, monkeypatch):
    cached = Cached(fake(), tmp_path, limit=1e-6)
    cached(photos(0))
    monkeypatch.setattr(Path, "unlink", refuse)
    monkeypatch.setattr(cache, "write_bytes", lambda path, content: path.write_bytes(content))
    same(cached(photos(1, 2, 3)), fake()(photos(1, 2, 3)))


# Company


def test_threads_that_write_and_read_one_entry_never_see_half_a_file(tmp_path):
    batch, expected = photos(0, 1), fake()(photos(0, 1))
    trouble, stop, networks = [], threading.Event(), [fake() for _ in range(4)]

    def hammer(network: Backbone, writes: bool) -> None:
        try:
            while not stop.is_set():
                cached = Cached(network, tmp_path)
                if writes:  # as if it had been cold
                    for number in range(2):
                        cached.write(cached.photo_file(batch, number), expected, number)
                same(cached(batch), expected)
                assert cached.reused == 2, "a reader saw less than a whole file"
        except BaseException as error:
            trouble.append(error)

    Cached(fake(), tmp_path)(batch)
    threads = [
        threading.Thread(target=hammer, args=(network, number % 2 == 0))
        for number, network in enumerate(networks)
    ]
    for thread in threads:
        thread.start()
    stop.wait(1.0)
    stop.set()
    for thread in threads:
        thread.join()
    assert not trouble
    assert len(files(tmp_path)) == 2 and not list(tmp_path.rglob("*.part"))


PROCESS = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[2:]
from test_cache import Cached, fake, photos, same
folder, batch = Path(sys.argv[1]), photos(0, 1)
expected, cached = fake()(batch), Cached(fake(), folder)
same(cached(photos(0)), fake()(photos(0)))
print(cached.reused, flush=True)
sys.stdin.readline()
for turn in range(100):
    cached = Cached(fake(), folder)
    for number in range(2):
        cached.write(cached.photo_file(batch, number), expected, number)
    same(cached(batch), expected)
print(cached.reused)
"""


def test_processes_that_write_one_entry_at_once_find_each_others(tmp_path):
    call = [sys.executable, "-c", PROCESS, str(tmp_path), str(Path(__file__).parents[1]), *sys.path]
    batch, expected = photos(0, 1), fake()(photos(0, 1))
    Cached(fake(), tmp_path)(photos(0))
    with subprocess.Popen(call, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "1\n", "the other process finds what this one has written"
        process.stdin.write("go\n")
        process.stdin.flush()
        while process.poll() is None:
            cached = Cached(fake(), tmp_path)
            for number in range(2):
                cached.write(cached.photo_file(batch, number), expected, number)
            same(cached(batch), expected)
        assert process.stdout.read() == "2\n"
    assert process.returncode == 0
    assert len(files(tmp_path)) == 2 and not list(tmp_path.rglob("*.part"))


def test_an_entry_that_is_evicted_while_it_is_asked_for_is_computed(tmp_path, monkeypatch):
    cached = Cached(fake(), tmp_path)
    cached(photos(0))
    read = cache.read_tensors

    def evicted(path, *arguments, **options):
        Path(path).unlink(missing_ok=True)
        return read(path, *arguments, **options)

    monkeypatch.setattr(cache, "read_tensors", evicted)
    same(cached(photos(0)), fake()(photos(0)))
    monkeypatch.undo()
    cached(photos(0))
    assert cached.reused == 1


# The limit


@dataclass
class Aged:
    """A cache of a given room, and a clock that runs backwards:
    the seeds that were used are given an age in days.
    """

    folder: Path
    room: float  # photos

    def __post_init__(self) -> None:
        Cached(fake(), self.folder / "probe")(photos(0))
        self.each = size(self.folder / "probe")
        self.cached = Cached(fake(), self.folder / "cache", limit=self.room * self.each / 1e9)

    def use(self, seed: int, days: float) -> None:
        self.cached(photos(seed))
        place = self.cached.photo_file(photos(seed), 0)
        if place.exists():
            now = place.stat().st_mtime
            os.utime(place, (now - 86400 * days, now - 86400 * days))

    @property
    def kept(self) -> list[int]:
        return [seed for seed in range(20) if self.cached.photo_file(photos(seed), 0).exists()]


def test_what_was_used_longest_ago_goes_first_and_the_rest_fits(tmp_path):
    aged = Aged(tmp_path, room=5.5)
    for seed, days in enumerate((3, 9, 1, 8, 2)):
        aged.use(seed, days)
    assert aged.kept == [0, 1, 2, 3, 4]
    aged.use(5, 0)  # a sixth; nine tenths of the room are four
    assert aged.kept == [0, 2, 4, 5]
    assert size(tmp_path / "cache") <= 0.9 * 5.5 * aged.each


def test_what_is_read_is_young_again(tmp_path):
    aged = Aged(tmp_path, room=5.5)
    for seed, days in enumerate((3, 9, 1, 8, 2)):
        aged.use(seed, days)
    found = aged.cached.reused
    aged.cached(photos(1))
    assert aged.cached.reused == found + 1
    aged.use(5, 0)
    assert aged.kept == [1, 2, 4, 5]


def test_however_much_is_written_the_total_stays_below_the_limit(tmp_path):
    aged = Aged(tmp_path, room=5.5)
    for seed in range(0, 20, 2):
        aged.cached(photos(seed, seed + 1))
        assert size(tmp_path / "cache") <= 5.5 * aged.each
    assert 18 in aged.kept and 19 in aged.kept
    other = Cached(fake(digest="6" * 64), tmp_path / "cache", limit=aged.cached.limit)
    for seed in range(4):
        other(photos(seed))
    assert size(tmp_path / "cache") <= 5.5 * aged.each, "the limit is for all networks together"


def test_many_short_runs_that_each_write_little_do_not_outgrow_the_limit(tmp_path):
    aged = Aged(tmp_path, room=40)
    for seed in range(0, 60):
        Cached(fake(), tmp_path / "cache", limit=aged.cached.limit)(photos(seed))  # a fortieth of the limit
    assert size(tmp_path / "cache") <= 1.05 * 40 * aged.each


def test_a_limit_below_one_photo_still_gives_results(tmp_path):
    cached = Cached(fake(), tmp_path, limit=1e-9)
    for _ in range(2):
        same(cached(photos(0, 1)), fake()(photos(0, 1)))
    assert files(tmp_path) == []


# Looking at it, clearing it


def test_a_network_is_listed_with_what_it_takes(tmp_path):
    Cached(fake(), tmp_path)(photos(0, 1, 2))
    Cached(fake(layer="stage2"), tmp_path, "half")(photos(0))
    found = sorted(entries(tmp_path), key=lambda entry: -entry.photos)
    assert [entry.photos for entry in found] == [3, 1]
    assert [entry.about["layer"] for entry in found] == ["maps", "stage2"]
    assert [entry.about["storage"] for entry in found] == ["exact", "half"]
    assert found[0].about["weights"] == DIGEST and found[0].about["precision"] == "torch.float32"
    assert sum(entry.size for entry in found) == size(tmp_path)
    assert list(entries(tmp_path / "nowhere")) == []


def belongings(folder: Path) -> dict[Path, bytes]:
    """What somebody may well have where a cache is put."""
    mine = {
        "notes.txt": b"mine",
        "model.safetensors": b"weights of mine",
        "nets/model.safetensors": b"more weights of mine",
        "about.json": b"{}",
        "website/about.json": b'{"title": "about me"}',
        "website/index.html": b"hello",
    }
    for name, content in mine.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
        os.utime(folder / name, (0, 0))
    return {folder / name: content for name, content in mine.items()}


def test_clearing_deletes_the_entries_and_nothing_of_anybody_elses(tmp_path):
    mine = belongings(tmp_path)
    cached = Cached(fake(), tmp_path)
    cached(photos(0, 1))
    taken = sum(path.stat().st_size for path in cached.network.glob("*.safetensors"))
    assert [entry.photos for entry in entries(tmp_path)] == [2]
    assert clear(tmp_path) == taken
    assert list(entries(tmp_path)) == [] and not cached.network.exists()
    assert {path: path.read_bytes() for path in mine if path.exists()} == mine
    assert clear(tmp_path) == 0 and clear(tmp_path / "nowhere") == 0


def test_clearing_forgets_what_engines_were_timed_at_and_a_setting_keeps_nothing(tmp_path):
    said = []
    book = pace_book({"folder": str(tmp_path), "engines": True}, said.append)
    book.write({"machine": "a"}, {"eager": Pace(0.0, 0.5)})
    foreign = tmp_path / "engines" / "mine.json"
    foreign.write_text("{}")
    assert pace_book({"folder": str(tmp_path), "engines": True}).read({"machine": "a"}) == book.read(
        {"machine": "a"}
    )
    (file,) = set((tmp_path / "engines").iterdir()) - {foreign}
    size = file.stat().st_size
    assert clear(tmp_path) == size
    assert book.read({"machine": "a"}) == {} and foreign.exists() and said == []
    nothing = pace_book({"folder": str(tmp_path), "engines": False})
    nothing.write({"machine": "a"}, {"eager": Pace(0.0, 0.5)})
    assert nothing.read({"machine": "a"}) == {} and list((tmp_path / "engines").iterdir()) == [foreign]


def test_making_room_deletes_entries_and_nothing_of_anybody_elses(tmp_path):
    mine = belongings(tmp_path)
    cached = Cached(fake(), tmp_path, limit=1e-9)
    cached(photos(0, 1))
    assert {path: path.read_bytes() for path in mine if path.exists()} == mine
    assert list(cached.network.glob("*.safetensors")) == []


def test_what_is_cleared_while_a_sweep_runs_costs_time_not_results(tmp_path):
    cached = Cached(fake(), tmp_path)
    cached(photos(0))
    clear(tmp_path)
    same(cached(photos(0)), fake()(photos(0)))


# Settings


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"storage": "quarter"}, "'quarter': exact or half"),
        ({"limit": 0.0}, "above 0"),
        ({"limit": -1.0}, "not -1"),
        ({"limit": np.nan}, "nan"),
    ],
)
def test_a_setting_that_makes_no_sense_is_told_in_one_line(tmp_path, settings, said):
    with pytest.raises(ValueError, match=said) as caught:
        Cached(fake(), tmp_path, **settings)
    assert f"cache.{next(iter(settings))}" in str(caught.value) and "\n" not in str(caught.value)


def test_the_users_own_cache_is_the_place_unless_told_otherwise(tmp_path, monkeypatch):
    monkeypatch.delenv("ATTNVIS_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_folder() == tmp_path / ".cache" / "attnvis"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    assert default_folder() == tmp_path / "caches" / "attnvis"
    monkeypatch.setenv("ATTNVIS_CACHE", "~/features")
    assert default_folder() == tmp_path / "features"
