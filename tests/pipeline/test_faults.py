"""The real faults, each brought about in a run that is under way: what was done is whole and kept, and
`--resume` does the rest."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import make_photo, records
from PIL import Image

from attnvis.pipeline.maps import read_maps

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the signals and file systems are Unix'")

DOOR = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from attnvis.cli import main; main()"
)
WORDS = ["preprocess.size=96", "logger.mode=disabled", "batch_size=1", "workers=1", "backbone.engine=eager"]
ROOT = os.name == "posix" and os.geteuid() == 0


def begun(*words: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-c", DOOR, "run", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def ended(process: subprocess.Popen) -> tuple[int, str, list[str]]:
    out, err = process.communicate(timeout=600)
    return process.returncode, out, err.splitlines()


@contextmanager
def under_way(*words: str, photos: int = 2, folder: str = "out"):
    """A run that has recorded some photos and not yet all of them, held where it is."""
    process = begun(*words, *WORDS, f"hydra.run.dir={folder}")
    try:
        while process.poll() is None and len(lines(Path(folder))) < photos:
            time.sleep(0.005)
        assert process.poll() is None, process.communicate()
        os.kill(process.pid, signal.SIGSTOP)
        yield process
        if process.returncode is None:
            os.kill(process.pid, signal.SIGCONT)
    finally:
        if process.poll() is None and sys.exc_info()[0]:
            process.kill()


def lines(folder: Path) -> list[str]:
    table = folder / "records.csv"
    return table.read_text().splitlines()[1:] if table.exists() else []


def album(count: int) -> None:
    for number in range(count):
        make_photo(Path("album") / f"{number:03}.jpg", (300, 400), seed=number)


def whole(folder: str = "out") -> list[str]:
    """The photos that are recorded as done, after a look at each of their files."""
    done = [row for row in records(folder) if row["status"] == "done"]
    for row in done:
        for picture in (row["overlay"], row["panel"]):
            with Image.open(Path(folder) / picture) as opened:
                opened.load()
        assert read_maps(Path(folder) / row["map"])
    names = [row["photo"] for row in done]
    assert len(names) == len(set(names))
    return names


def resumed(count: int, folder: str = "out") -> None:
    """--resume does the rest, and leaves what one undisturbed run leaves."""
    before = {
        path: path.stat().st_mtime_ns
        for name in whole(folder)
        for path in (Path(folder) / "overlays").glob(f"{Path(name).stem}.*")
    }
    code, out, err = ended(begun("--resume", folder))
    assert (code, err) == (0, []) and f"{count} photos done" in out
    assert whole(folder) == [f"{number:03}.jpg" for number in range(count)]
    assert {path: path.stat().st_mtime_ns for path in before} == before  # not drawn again
    assert (Path(folder) / "index.html").is_file()
    assert len(list((Path(folder) / "overlays").glob("*.jpg"))) == count


@pytest.mark.slow
def test_kill_9_leaves_whole_photos_and_resume_does_the_rest(here):
    album(60)
    with under_way("album") as process:
        process.kill()
        assert process.wait() == -signal.SIGKILL
    done = whole()
    assert 2 <= len(done) < 60 and not Path("out/index.html").exists()
    resumed(60)


OTHERS = [
    pytest.param(signal.SIGINT, id="ctrl-c", marks=pytest.mark.slow),
    pytest.param(signal.SIGHUP, id="closed", marks=pytest.mark.slow),
]


@pytest.mark.parametrize("sign", [pytest.param(signal.SIGTERM, id="kill"), *OTHERS])
def test_a_run_that_is_told_to_stop_leaves_its_page_and_says_so(here, sign):
    album(60)
    with under_way("album") as process:
        os.kill(process.pid, sign)
    code, _, err = ended(process)
    assert code == 128 + sign and len(err) == 1 and "go on with attnvis run --resume out" in err[0]
    done, page = whole(), Path("out/index.html").read_text()
    assert 2 <= len(done) < 60 and all(name in page for name in done)
    assert page.rstrip().endswith("</html>") and not list(Path("out").rglob("*.part"))


def test_what_nohup_ignores_stays_ignored(here):
    code = DOOR.replace("signal.SIGINT, signal.default_int_handler", "signal.SIGHUP, signal.SIG_IGN")
    code = code.replace(
        "main()",
        "import attnvis.cli.entry, os; "
        "attnvis.cli.entry.launch = lambda *_: os.kill(os.getpid(), signal.SIGHUP) or 7; main()",
    )
    assert subprocess.run([sys.executable, "-c", code, "run", "x"], check=False).returncode == 7


@pytest.mark.slow
def test_photos_that_vanish_or_are_cut_short_meanwhile_fail_alone(here):
    album(30)
    with under_way("album") as process:
        Path("album/028.jpg").unlink()
        data = Path("album/029.jpg").read_bytes()
        Path("album/029.jpg").write_bytes(data[: len(data) // 2])
    code, out, err = ended(process)
    assert code == 1 and "28 photos done" in out and "28 done, 2 failed" in err[-1] and len(whole()) == 28
    reasons = {row["photo"]: row["reason"] for row in records() if row["status"] == "failed"}
    assert "no such photo" in reasons["028.jpg"] and "truncated JPEG" in reasons["029.jpg"]


@pytest.mark.slow
def test_a_second_run_into_a_folder_is_refused_and_harms_nothing(here):
    album(20)
    with under_way("album") as first:
        before = {
            path: path.read_bytes()
            for path in Path("out").rglob("*")
            if path.is_file() and ".hydra" not in path.parts
        }
        code, _, err = ended(begun("album", *WORDS, "hydra.run.dir=out"))
        assert (
            code == 1
            and len(err) == 1
            and "another run is writing into" in err[0]
            and "hydra.run.dir=FOLDER" in err[0]
        )
        assert {path: path.read_bytes() for path in before} == before
    code, out, err = ended(first)
    assert (code, err) == (0, []) and "20 photos done" in out and len(whole()) == 20


@pytest.mark.slow
def test_a_folder_that_disappears_meanwhile_is_one_line(here):
    album(20)
    with under_way("album") as process:
        shutil.rmtree("out")
    code, _, err = ended(process)
    assert code == 1 and len(err) == 1 and err[0].startswith("attnvis: out/records.csv is not there, or no ")


@pytest.mark.slow
def test_a_working_folder_that_disappears_meanwhile_is_one_line(here):
    album(20)
    Path("inside").mkdir()
    os.chdir("inside")
    with under_way("../album") as process:
        os.chdir(here)
        shutil.rmtree("inside")
    code, _, err = ended(process)
    assert code == 1 and len(err) == 1 and "the folder you are in was deleted" in err[0]


@contextmanager
def small_disk(folder: Path, size: str):
    folder.mkdir()
    mounted = ROOT and sys.platform == "linux" and shutil.which("mount")
    if (
        not mounted
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=False
        ).returncode
    ):
        pytest.skip("only root can mount a small file system")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.slow
def test_a_full_disk_is_one_line_and_resume_does_the_rest(here):
    album(30)
    with small_disk(here / "disk", "1m"):
        code, _, err = ended(begun("album", *WORDS, "hydra.run.dir=disk/out"))
        assert code == 1 and len(err) == 1 and "no room for" in err[0] and "No space left on device" in err[0]
        done = whole("disk/out")
        assert 1 <= len(done) < 30 and not list(Path("disk/out").rglob("*.part"))
        subprocess.run(["mount", "-o", "remount,size=64m", here / "disk"], check=True)
        resumed(30, "disk/out")


@contextmanager
def read_only(folder: Path):
    folder.mkdir()
    if not ROOT:
        folder.chmod(0o555)
    elif (
        not shutil.which("chattr")
        or subprocess.run(["chattr", "+i", folder], stderr=subprocess.DEVNULL, check=False).returncode
    ):
        pytest.skip("root may write everywhere, and this file system has no chattr +i")
    try:
        yield
    finally:
        if ROOT:
            subprocess.run(["chattr", "-i", folder], check=True)
        folder.chmod(0o755)


def test_a_read_only_folder_is_one_line(attnvis, here):
    make_photo(here / "cat.png")
    with read_only(here / "locked"):
        complaint = attnvis("run", "cat.png", "hydra.run.dir=locked/out").complaint
        assert (
            "could not write or read" in complaint
            and "locked/out" in complaint
            and "choose another place" in complaint
        )
        assert not list((here / "locked").iterdir())


def test_every_test_that_the_table_of_faults_names_exists():
    tests = Path(__file__).parents[1]
    table = (tests.parent / "docs" / "faults.md").read_text(encoding="utf-8")
    defined = {
        name
        for file in tests.rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)\(", file.read_text("utf-8"), re.MULTILINE)
    }
    files = {file.name for file in tests.rglob("test_*.py")}
    named = set(re.findall(r"`(test_\w+(?:\.py)?)", table))
    assert len(named) > 10 and named <= defined | files


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["run", "redraw", "sweep", "video", "sweep joblib"])
def test_commands_killed_at_random_moments_end_as_uninterrupted(kind):
    """A few of each kind; `scripts/kills.py --kills 200` does more."""
    script = Path(__file__).resolve().parents[2] / "scripts/kills.py"
    words = [sys.executable, str(script), "--kills", "4", "--kind", kind]
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")
    kills, *_, wrong = ended.stdout.splitlines()[-1].split()[1:]
    assert int(kills) >= 4 and wrong == "0"


@pytest.mark.parametrize(
    "words", ["run cat.png", "video clip.avi", "redraw out", "sweep cat.png", "backbones"]
)
def test_a_deleted_working_folder_is_called_that(attnvis, here, monkeypatch, words):
    (here / "gone").mkdir()
    monkeypatch.chdir(here / "gone")
    (here / "gone").rmdir()
    try:
        assert attnvis("--help").code == 0
        complaint = attnvis(*words.split()).complaint
    finally:
        os.chdir(here)
    assert complaint == (
        "attnvis: the folder you are in was deleted; go to one that exists (cd), and type the command again"
    )
