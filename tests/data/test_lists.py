"""A list of photos is read as it was meant, in whatever encoding it lies, or refused without a word of what
is in it."""

import os
import tracemalloc
from pathlib import Path

import pytest
from conftest import make_photo

from attnvis.data.decoding import load
from attnvis.data.lists import MOST_LINES, listed_paths
from attnvis.data.paths import find
from attnvis.types import PhotoError

NAMES = ["кот.jpg", "chaise été.jpg", "plain.jpg"]


@pytest.fixture
def album(tmp_path, monkeypatch):
    for name in NAMES:
        (tmp_path / name).write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def find_error(content: bytes | str, name="list.txt") -> str:
    Path(name).write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(PhotoError) as caught:
        find(name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def found(content: bytes) -> list[str]:
    Path("list.txt").write_bytes(content)
    return [str(path) for path in find("list.txt")]


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le"]
)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_list_in_any_unicode_is_read(album, encoding, end):
    if encoding == "utf-32-le":
        content = b"\xff\xfe\0\0" + end.join(NAMES).encode("utf-32-le")
    else:
        content = end.join(NAMES).encode(encoding)
    assert found(content) == NAMES


@pytest.mark.parametrize(
    "encoding, name",
    [
        ("cp1251", "кот.jpg"),
        ("koi8-r", "кот.jpg"),
        ("cp866", "кот.jpg"),
        ("latin-1", "chaise été.jpg"),
        ("cp1252", "chaise été.jpg"),
    ],
)
def test_the_files_that_are_there_tell_an_old_encoding(album, encoding, name):
    assert found(f"plain.jpg\r\n{name}\r\ngone.jpg".encode(encoding)) == ["plain.jpg", name, "gone.jpg"]


@pytest.mark.parametrize("encoding, name", [("shift_jis", "猫と犬.jpg"), ("gbk", "猫和狗.jpg")])
def test_so_do_they_in_east_asia(album, encoding, name):
    (album / name).write_bytes(b"x")
    assert found(name.encode(encoding)) == [name]


def test_names_that_are_no_unicode_are_those_very_files(album):
    raw = b"caf\xe9-\xff.jpg"
    Path(os.fsdecode(raw)).write_bytes(b"x")
    assert found(raw + b"\nplain.jpg\n") == [os.fsdecode(raw), "plain.jpg"]


def test_an_encoding_that_nothing_tells_is_one_line(album):
    assert find_error("plain.jpg\nнет.jpg\n".encode("cp1251")) == (
        "the list list.txt is not UTF-8 (line 2), and in no encoding that is known does it name files "
        "that are there; save it as UTF-8"
    )
    assert "begins as utf-16-le and goes on as something else" in find_error(b"\xff\xfea\0b\0c")


def test_spaces_quotes_and_comments_are_not_names_unless_there_is_such_a_file(album):
    for name in [
        "two words.jpg",
        " led.jpg",
        "trailed.jpg ",
        '"quoted".jpg',
        "a'b.jpg",
        "vt\x0b\x85\u2028.jpg",
    ]:
        (album / name).write_bytes(b"x")
    lines = [
        "# a comment", "", "   ", "two words.jpg", '"two words.jpg"', "'plain.jpg'", " led.jpg",
        "trailed.jpg ", '"quoted".jpg', "  plain.jpg\t", "a'b.jpg", "vt\x0b\x85\u2028.jpg", '"gone.jpg"',
    ]  # fmt: skip
    assert found("\n".join(lines).encode()) == [
        *("two words.jpg", "plain.jpg", " led.jpg", "trailed.jpg ", '"quoted".jpg', "a'b.jpg"),
        *("vt\x0b\x85\u2028.jpg", "gone.jpg"),
    ]


@pytest.mark.parametrize("scheme", ["http", "https", "s3", "gs", "hf", "HTTP"])
def test_an_address_in_a_list_is_a_photo_that_is_read_when_its_turn_comes(album, scheme):
    address = f"{scheme}://example.org/a.jpg"
    assert found(f"# mine\nplain.jpg\n{address}\n".encode()) == ["plain.jpg", address]


@pytest.mark.parametrize("scheme", ["file", "ftp", "FILE", "ssh"])
def test_an_address_that_is_not_read_is_told_by_its_line(album, scheme):
    message = find_error(f"# mine\nplain.jpg\n{scheme}://example.org/a.jpg?token=s3cret\n")
    assert message == (
        "line 3 of the list list.txt is an address that is not read here; "
        "give s3://, gs://, hf://, https://, or download the photo and name the file"
    )
    with pytest.raises(PhotoError, match=r"://\.\.\. is an address that is not read here") as caught:
        find(f"{scheme}://example.org/a.jpg?token=s3cret")
    assert "s3cret" not in str(caught.value)


SECRETS = {
    "shadow": b"root:$6$c2FsdA$aGFzaA:19000:0:99999:7:::\ndaemon:*:19000:0:99999:7:::\n",
    "key": b"-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXktdjEAAAAABG5v\n-----END\n",
    "binary": bytes(range(256)) * 9,
    "program": b"\x7fELF\2\1\1" + bytes(64),
    "picture": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(range(200)),
    "labels": b"plain.jpg 281\n",
    "notes": b"Dear all,\nthe password is hunter2\n",
    "nul": b"pla\0in.jpg\n",
    "wide": "the password is hunter2\n".encode("utf-16"),
}


@pytest.mark.parametrize("content", SECRETS.values(), ids=SECRETS)
def test_what_is_no_list_of_photos_is_refused_and_not_shown(album, content):
    message = find_error(content)
    assert "no photo's name" in message or "is no list of photos" in message or "is not UTF-8" in message
    for line in content.replace(b"\0", b"").splitlines():
        for word in line.split():
            assert len(word) < 5 or word.decode("latin-1") not in message, word
    Path("linked.txt").symlink_to(Path("list.txt").absolute())
    assert "linked.txt" in find_error_of("linked.txt")


def find_error_of(name):
    with pytest.raises(PhotoError) as caught:
        find(name)
    return str(caught.value)


def test_a_list_does_not_show_the_beginning_of_the_files_it_names(album):
    Path("secret").write_bytes(b"hunter2 and more")
    found(b"secret\nplain.jpg\n")
    for path in find("list.txt"):
        with pytest.raises(PhotoError) as caught:
            load(path)
        assert "hunter" not in str(caught.value)


def test_lists_and_folders_in_a_list_fail_alone(attnvis, cat):
    Path("dir").mkdir()
    Path("other.txt").write_text("cat.png\n")
    Path("list.txt").write_text("list.txt\nother.txt\ncat.png\ndir\ngone.png\n")
    ended = attnvis("run", "list.txt", "render.panel=false")
    assert ended.code == 1 and "1 photo done" in ended.out and "4 failed" in ended.err
    assert "Traceback" not in ended.err


def test_a_pipe_or_a_folder_in_the_place_of_a_list_is_one_line(album):
    os.mkfifo("pipe.txt")
    with pytest.raises(PhotoError, match="is a pipe, not a photo"):
        load(find("pipe.txt")[0])


def test_a_list_that_is_too_long_is_refused_before_it_is_read_out(album):
    content = b"a.jpg\n" * (MOST_LINES + 1)
    tracemalloc.start()
    with pytest.raises(PhotoError, match=r"has more than 2,000,000 lines; split it, one run each"):
        listed_paths(content, Path("list.txt"), (".jpg",))
    assert tracemalloc.get_traced_memory()[1] < 200e6
    tracemalloc.stop()
    with open("huge.txt", "wb") as file:
        file.truncate(10**9)
    assert find_error_of("huge.txt") == (
        "huge.txt has 1,000,000,000 bytes, which is more than any list's 268,435,456; see whether it is one"
    )


def test_a_photo_of_a_list_is_read_from_the_lists_folder(tmp_path, monkeypatch):
    make_photo(tmp_path / "deep" / "кот.png")
    (tmp_path / "deep" / "list.txt").write_bytes("кот.png\n".encode("utf-16"))
    monkeypatch.chdir(tmp_path)
    (path,) = find("deep/list.txt")
    assert load(path).size == (70, 90)
