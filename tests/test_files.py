"""Files that are whole or not there, folders that one process holds, and links that nobody follows."""

import errno
import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from attnvis import files


def test_the_part_of_a_file_is_nobody_elses(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    target = tmp_path / "out.txt"
    target.symlink_to(victim)
    with files.whole_file(target) as part, files.whole_file(target) as other:
        assert part != other and part.parent == tmp_path and part.name.startswith(f".{os.getpid()}-")
        part.write_text("new"), other.write_text("newer")
    assert target.read_text() == "new" and not target.is_symlink() and victim.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.txt", "victim"]


def test_a_new_file_takes_the_place_of_a_link_and_is_made_by_nobody_else(tmp_path):
    victim, link = tmp_path / "victim", tmp_path / "link"
    victim.write_text("mine")
    link.symlink_to(victim)
    with files.open_new(link, "w") as file:
        file.write("new")
    assert victim.read_text() == "mine" and link.read_text() == "new" and not link.is_symlink()


@pytest.mark.parametrize("name", ["overlays/a.jpg", "overlays/deep/a.jpg"])
def test_nothing_is_saved_through_a_folder_that_is_a_link(tmp_path, name):
    out, victim = tmp_path / "out", tmp_path / "victim"
    out.mkdir(), victim.mkdir()
    (out / "overlays").symlink_to(victim)
    with pytest.raises(ValueError, match="is a link; remove it"):
        files.save(out, name, b"x")
    assert not list(victim.iterdir())
    chosen = tmp_path / "chosen"
    chosen.symlink_to(out)  # the person's own
    files.save(chosen, "panels/a.jpg", b"x")
    assert (out / "panels/a.jpg").read_bytes() == b"x"


def test_a_folder_is_held_once_and_a_planted_lock_is_refused(tmp_path):
    lock = files.locked(tmp_path)
    with pytest.raises(files.Held, match="another run is writing into"):
        files.locked(tmp_path)
    lock.close()
    lock.close()
    assert not list(tmp_path.iterdir())
    victim = tmp_path / "victim"
    victim.write_text("mine")
    for plant in (lambda path: path.symlink_to(victim), os.mkfifo, os.mkdir):
        plant(tmp_path / ".lock")
        with pytest.raises(ValueError, match="is a link or no file"):
            files.locked(tmp_path)
        (tmp_path / ".lock").rmdir() if (tmp_path / ".lock").is_dir() else (tmp_path / ".lock").unlink()
    assert victim.read_text() == "mine"


def test_the_lock_of_a_dead_process_holds_nobody_up(tmp_path):
    code = "import os, pathlib; from attnvis.files import locked; locked(pathlib.Path('.')); os._exit(9)"
    assert subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=False).returncode == 9
    assert (tmp_path / ".lock").exists()
    files.locked(tmp_path).close()


def test_who_holds_a_folder_removes_what_killed_ones_left_and_nothing_else(tmp_path):
    kept = [".notes.part", "a.part", ".12-xyz.part", "0/.12-0123456789abcdef.part", "victim/mine"]
    gone = [
        ".index-77.part",
        ".12-0123456789abcdef.part",
        ".12-0123456789abcdef.part.mp4",
        "maps/.12-0123456789abcdef.part",
        "thumbnails/overlays/.12-0123456789abcdef.part",
    ]
    out = tmp_path / "out"
    for name in [*kept, *gone]:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).write_text("x")
    outside = files.part_name(tmp_path / "x")
    outside.write_text("x")
    (out / "link").symlink_to(tmp_path)
    files.locked(out).close()
    assert all((out / name).exists() for name in kept) and outside.exists()
    assert not any((out / name).exists() for name in gone)


def test_in_a_folder_that_nobody_holds_only_old_parts_are_removed(tmp_path):
    old, new = files.part_name(tmp_path / "a"), files.part_name(tmp_path / "b")
    for part, hours in ((old, 25), (new, 23)):
        part.write_text("x")
        os.utime(part, times=(0, time.time() - 3600 * hours))
    files.remove_parts(tmp_path, age=files.LONG_AGO)
    assert not old.exists() and new.exists()


class TellsNoNumber(OSError):
    """What Arrow raises."""


@pytest.mark.parametrize(
    "error, number, words",
    [
        (OSError(errno.ENOSPC, "No space left on device"), errno.ENOSPC, "No space left on device"),
        (OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)), errno.EDQUOT, os.strerror(errno.EDQUOT)),
        (
            TellsNoNumber("Error writing bytes to file. Detail: [errno 28] No space left on device"),
            errno.ENOSPC,
            "No space left on device",
        ),
        (TellsNoNumber("something  else"), errno.EIO, "something else"),
    ],
)
def test_an_error_without_a_name_gets_that_of_the_file(tmp_path, error, number, words):
    with pytest.raises(OSError, match=r"rows\.parquet") as raised, files.naming(tmp_path / "rows.parquet"):
        raise error
    assert (raised.value.errno, raised.value.strerror) == (number, words)
    assert raised.value.filename == str(tmp_path / "rows.parquet")
    assert files.is_full(raised.value) == (number != errno.EIO)


def test_an_error_keeps_the_name_of_another_file_but_not_that_of_a_part(tmp_path):
    for name, shown in (("other.jpg", "other.jpg"), (files.part_name(tmp_path / "a.jpg").name, "a.jpg")):
        with pytest.raises(PermissionError) as raised, files.naming(tmp_path / "a.jpg"):
            raise PermissionError(errno.EACCES, "Permission denied", str(tmp_path / name))
        assert raised.value.filename == str(tmp_path / shown)


@pytest.mark.skipif(sys.platform == "win32", reason="resource limits are Unix'")
def test_room_is_asked_for_and_given_back(tmp_path):
    import resource

    files.check_room(tmp_path / "a.mp4", 0, 1 << 20)
    with pytest.raises(OSError, match=r"a\.mp4") as raised:
        files.check_room(tmp_path / "a.mp4", 0, 1 << 55)  # 32 petabytes
    assert files.is_full(raised.value)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (5000, limits[1]))
    try:
        files.check_room(tmp_path / "a.mp4", 4000, 1000)
        with pytest.raises(OSError, match=r"a\.mp4") as raised:
            files.check_room(tmp_path / "a.mp4", 4000, 1001)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert raised.value.errno == errno.EFBIG
    assert not list(tmp_path.iterdir())


def test_where_no_bytes_can_be_set_aside_the_free_ones_count(tmp_path, monkeypatch):
    def unknown(*_):
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr(os, "posix_fallocate", unknown, raising=False)
    files.check_room(tmp_path / "a.mp4", 0, 1)
    with pytest.raises(OSError, match="No space left"):
        files.check_room(tmp_path / "a.mp4", 0, 1 << 60)


def hold_and_count(folder, times):
    """Reads, waits and writes a number while the folder is held: two at a time would lose counts."""
    counter = folder / "counter"
    while times:
        try:
            lock = files.locked(folder)
        except files.Held:
            continue
        counter.write_text(str(int(counter.read_text()) + 1))
        times -= 1
        lock.close()


def test_never_two_hold_a_folder_though_each_removes_its_lock(tmp_path):
    (tmp_path / "counter").write_text("0")
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=hold_and_count, args=(tmp_path, 300)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert (tmp_path / "counter").read_text() == "1200"


@pytest.mark.parametrize("name", ["/etc/passwd", "../out", "a/../../x", "pipe", "folder", "empty", "gone"])
def test_what_is_no_file_below_the_folder_is_not_whole(tmp_path, name):
    os.mkfifo(tmp_path / "pipe"), os.mkdir(tmp_path / "folder"), (tmp_path / "empty").touch()
    assert not files.is_whole(tmp_path, name)


def test_a_pipe_is_not_waited_for_and_too_large_is_not_read(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ValueError, match="not a file"):
        files.read_bytes(tmp_path / "pipe")
    assert files.file_digest(tmp_path / "pipe") == ""
    with (tmp_path / "holes").open("wb") as file:
        file.truncate(1 << 40)
    assert files.file_digest(tmp_path / "holes") == "", "it would take a quarter of an hour"
    (tmp_path / "large").write_bytes(b"12345")
    with pytest.raises(ValueError, match="5 bytes, which is more"):
        files.read_bytes(tmp_path / "large", most=4)
    with pytest.raises(FileNotFoundError):
        files.read_bytes(tmp_path / "none")
    assert files.read_bytes(Path(tmp_path / "large")) == b"12345"
