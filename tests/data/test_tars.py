"""Pictures in tars: read where they lie, never unpacked, and what is damaged fails alone."""

import os
import pickle
import tarfile
from collections import Counter
from io import BytesIO
from pathlib import Path

import pytest
from fake_shards import BLOCK, DEVICE, FOLDER, LINK, SYMBOLIC, picture, shard, tar_entry, tar_of

from attnvis.data.decoding import load
from attnvis.data.paths import expand, find, source_of, survey
from attnvis.data.sources import Broken, digest_of, read_source
from attnvis.files import file_digest
from attnvis.types import PhotoError

A, B, C = (picture(seed) for seed in range(3))


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def ids(word):
    return [str(photo) for photo in find(word)]


def test_a_shards_pictures_come_in_its_order_and_are_the_bytes_put_in():
    shard(Path("s.tar"), {"b/0002.png": B, "a/0001.png": A})
    listing = survey("s.tar")
    assert list(map(str, listing.paths)) == ["s.tar::b/0002.png", "s.tar::a/0001.png"]
    assert list(map(read_source, listing.paths)) == [B, A]
    assert str(listing) == "4 files passed over: 2 .cls, 2 .json"
    assert [photo.stem for photo in listing.paths] == ["0002", "0001"]


def test_a_member_has_the_digest_and_the_pixels_of_the_same_file():
    shard(Path("s.tar"), {"0001.png": A})
    Path("0001.png").write_bytes(A)
    (member,) = find("s.tar")
    assert digest_of(member) == file_digest(Path("0001.png"))
    assert (load(member).pixels == load("0001.png").pixels).all()
    assert load(member).name == "s.tar::0001.png"


@pytest.mark.parametrize("style", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_and_foreign_names_are_read_in_every_dialect(style):
    name = f"{'x' * 90}/кот {'y' * 80}.png"
    with tarfile.open("s.tar", "w", format=style) as tar:
        entry = tarfile.TarInfo(name)
        entry.size = len(A)
        tar.addfile(entry, BytesIO(A))
    (member,) = find("s.tar")
    assert str(member) == f"s.tar::{name}" and read_source(member) == A


def test_numbers_in_braces_name_shards_in_their_order_with_zeros():
    for number in (9, 10, 11):
        shard(Path(f"p-{number:03}.tar"), {f"{number}.png": A})
    assert ids("p-{009..011}.tar") == ["p-009.tar::9.png", "p-010.tar::10.png", "p-011.tar::11.png"]


def test_a_missing_shard_among_others_fails_alone():
    shard(Path("p-0.tar"), {"0.png": A})
    there, gone = find("p-{0..1}.tar")
    assert read_source(there) == A
    with pytest.raises(PhotoError, match=r"no such photo: p-1\.tar; did you mean p-0\.tar"):
        load(gone)


def test_a_glob_takes_tars_only_where_it_ends_as_they_do():
    shard(Path("s.tar"), {"0.png": A})
    Path("a.png").write_bytes(B)
    assert ids("*.tar") == ["s.tar::0.png"]
    listing = survey("*")
    assert list(map(str, listing.paths)) == ["a.png"] and listing.passed_over == {".tar": 1}


def test_a_folder_of_shards_alone_says_how_they_are_named():
    Path("shards").mkdir()
    shard(Path("shards/s.tar"), {"0.png": A})
    with pytest.raises(PhotoError, match=r"1 \.tar\); an archive or a table is named itself, as in \*\.tar"):
        find("shards")


def test_links_devices_and_folders_are_passed_over_and_counted():
    Path("s.tar").write_bytes(
        tar_of(
            tar_entry("d/", kind=FOLDER),
            tar_entry("link.png", kind=SYMBOLIC, target="/etc/passwd"),
            tar_entry("hard.png", kind=LINK, target="a.png"),
            tar_entry("dev.png", kind=DEVICE),
            tar_entry("d/.a.png", A),
            tar_entry("d/a.png", A),
        )
    )
    listing = survey("s.tar")
    assert list(map(str, listing.paths)) == ["s.tar::d/a.png"]
    assert listing.passed_over == Counter(folder=1, link=2, hidden=1, **{"device or pipe": 1})


@pytest.mark.parametrize("name", ["/etc/evil.png", "../../evil.png", "a/../../evil.png"])
def test_names_that_lead_out_are_texts_and_nothing_is_written(name):
    Path("s.tar").write_bytes(tar_of(tar_entry(name, A)))
    (member,) = find("s.tar")
    assert str(member) == f"s.tar::{name}" and member.stem == "evil" and read_source(member) == A
    assert os.listdir() == ["s.tar"]
    assert source_of(str(member)) == member


def test_two_members_of_one_name_are_two_photos():
    Path("s.tar").write_bytes(tar_of(tar_entry("a.png", A), tar_entry("a.png", B)))
    first, second = find("s.tar")
    assert [str(first), str(second)] == ["s.tar::a.png", "s.tar::a.png::2"]
    assert [read_source(first), read_source(second)] == [A, B]
    assert source_of("s.tar::a.png::2") == second


def test_a_member_without_a_suffix_is_told_by_its_first_bytes():
    Path("s.tar").write_bytes(tar_of(tar_entry("a", A), tar_entry("b", b"words")))
    assert ids("s.tar") == ["s.tar::a"]


def test_a_tar_cut_in_a_picture_gives_what_is_whole_and_says_where_it_ends():
    whole = tar_of(tar_entry("a.png", A), tar_entry("b.png", B), tar_entry("c.png", C))
    middle = len(tar_entry("a.png", A)) + BLOCK + len(B) // 2
    Path("s.tar").write_bytes(whole[:middle])
    first, second = find("s.tar")
    assert read_source(first) == A
    with pytest.raises(PhotoError) as caught:
        read_source(second)
    assert str(caught.value) == (
        f"s.tar::b.png is cut off with its archive, after {len(B) // 2:,} of {len(B):,} bytes; "
        "copy or download the archive again"
    )


@pytest.mark.parametrize("more", [0, 100])
def test_a_tar_cut_between_members_is_told_too(more):
    end = len(tar_entry("a.png", A))
    Path("s.tar").write_bytes((tar_entry("a.png", A) + tar_entry("b.png", B))[: end + more])
    first, rest = find("s.tar")
    assert read_source(first) == A and isinstance(rest, Broken) and str(rest) == "s.tar"
    assert rest.reason == (
        f"s.tar stops at byte {end:,} without a tar's end: it is cut off or damaged; "
        "copy or download it again"
    )


def test_a_tar_cut_in_what_is_no_picture_is_told_too():
    whole = tar_entry("a.png", A) + tar_entry("a.json", b"{" * 2000)
    Path("s.tar").write_bytes(whole[:-1000])
    first, rest = find("s.tar")
    assert read_source(first) == A and "cut off or damaged" in rest.reason


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "s.tar is empty (0 bytes); copy or download it again"),
        (
            b"\x1f\x8b" + bytes(900),
            "s.tar is a compressed tar, in which no picture can be found; decompress it",
        ),
        (b"words" * 900, "s.tar is no tar ("),
        (tar_of(), "s.tar has no pictures: it is empty"),
        (tar_of(tar_entry("a.json", b"{}")), "s.tar has no pictures; it holds 1 .json"),
    ],
)
def test_what_is_no_shard_is_one_line_alone_and_one_record_among_others(content, reason):
    Path("s.tar").write_bytes(content)
    with pytest.raises(PhotoError) as caught:
        find("s.tar")
    assert str(caught.value).startswith(reason) and "\n" not in str(caught.value)
    shard(Path("t.tar"), {"a.png": A})
    broken, member = find(["s.tar", "t.tar"])
    assert broken.reason.startswith(reason) and read_source(member) == A


def test_an_id_is_a_word_and_a_wrong_one_is_told_what_there_is():
    shard(Path("s.tar"), {"0001.png": A, "0002.png": B})
    assert [read_source(photo) for photo in find("s.tar::0002.png")] == [B]
    with pytest.raises(PhotoError, match=r"no picture 0003\.png in s\.tar; did you mean 000"):
        find("s.tar::0003.png")


def test_a_file_that_is_called_like_an_id_is_the_file():
    Path("s.tar::a.png").write_bytes(A)
    assert find("s.tar::a.png") == [Path("s.tar::a.png")]


def test_a_tar_that_is_replaced_is_read_anew():
    shard(Path("s.tar"), {"0001.png": A})
    (member,) = find("s.tar")
    assert read_source(member) == A
    shard(Path("t.tar"), {"0001.png": A[:-1] + b"x"})
    os.replace("t.tar", "s.tar")
    assert read_source(member) == A[:-1] + b"x"


def test_a_member_is_a_small_value_that_travels_to_other_processes():
    shard(Path("s.tar"), {"0001.png": A})
    (member,) = find("s.tar")
    again = pickle.loads(pickle.dumps(member))
    assert again == member and hash(again) == hash(member) and read_source(again) == A


def test_photos_are_not_listed_before_they_are_asked_for(monkeypatch):
    shard(Path("a.tar"), {"0.png": A})
    photos = expand(["a.tar", "none/*.png"])  # the second raises
    assert str(next(photos)) == "a.tar::0.png"
    with pytest.raises(PhotoError, match="no photos match"):
        next(photos)


@pytest.mark.parametrize("size", [-2, -512, -1024])
def test_a_header_that_leads_backwards_ends_the_archive(size):
    """tarfile goes round for ever where a member's size is negative (CVE-2025-8194)."""
    number = b"\xff" + (2**88 + size).to_bytes(11, "big")  # base 256, as GNU tar writes what is below 0
    header = bytearray(tar_entry("x.png", b"")[:BLOCK])
    header[124:136] = number
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    Path("s.tar").write_bytes(
        tar_of(tar_entry("a.png", A)[: 2 * BLOCK + len(A) // BLOCK * BLOCK], bytes(header))
    )
    *whole, last = find("s.tar")
    assert list(map(str, whole)) == ["s.tar::a.png"] and isinstance(last, Broken)
