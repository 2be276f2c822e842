"""`scripts/benchmark.py`: its arithmetic by hand, and its loops on a handful of photos."""

import contextlib
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import make_photo
from PIL import Image

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module", autouse=True)
def scripts():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "scripts"))
        yield


@pytest.fixture
def common():
    from benchmarks import common

    return common


def test_rounds_that_would_end_too_late_are_left_out(common, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(common.time, "monotonic", lambda: now[0])
    rounds = common.Rounds(most=10, minutes=1, parts=2, started=0.0)
    counts = []
    for _ in range(2):
        count = 0
        for _ in rounds.of_next_part():
            count, now[0] = count + 1, now[0] + 20
        counts.append(count)
    # 30 s each: the first has one of 20 s, the second from 20 s on those that end at 40 and at 60
    assert counts == [1, 2]


def test_every_part_has_one_round_however_late(common, monkeypatch):
    monkeypatch.setattr(common.time, "monotonic", lambda: 1000.0)
    rounds = common.Rounds(most=3, minutes=1, parts=2, started=0.0)
    assert [list(rounds.of_next_part()) for _ in range(3)] == [[0], [0], [0]]


def test_ratios_are_taken_round_by_round(common):
    assert common.median_ratio([2, 9, 4], [1, 3, 4]) == 2  # of 2, 3 and 1; of the medians it were 4/3


def test_what_others_took_of_the_machine(common, monkeypatch):
    busy, mine, now = iter((100.0, 160.0)), iter((10.0, 40.0)), iter((0.0, 30.0))
    monkeypatch.setattr(common, "busy_seconds", lambda: next(busy))
    monkeypatch.setattr(common, "own_seconds", lambda: next(mine))
    monkeypatch.setattr(common, "load_average", lambda: "1.00")
    monkeypatch.setattr(common.time, "monotonic", lambda: next(now))
    monkeypatch.setattr(common.os, "cpu_count", lambda: 2)
    # 60 s were busy, 30 of them its own: 30 of 2 x 30
    assert common.other_load()() == (
        "Load average 1.00 before, 1.00 after; other processes took 50.0% of all cores meanwhile."
    )


def test_photos_have_the_sizes_in_turn(common, tmp_path):
    paths = common.make_photos(tmp_path, 5, ((30, 40), (50, 20)))
    sizes = [Image.open(path).size for path in paths]
    assert sizes == [(40, 30), (20, 50), (40, 30), (20, 50), (40, 30)]
    assert len({path.read_bytes() for path in paths}) == 5


def test_another_version_is_a_folder_of_it_or_a_commit(common, tmp_path):
    assert common.checkout(str(ROOT), tmp_path) == ROOT
    with pytest.raises(ValueError, match="neither a checkout of attnvis nor a commit"):
        common.checkout("no-such-commit", tmp_path)


SERVED = """
from benchmarks.serving import serve

def work(mode, paths):
    print("a library's chatter")
    if mode["fails"]:
        raise TypeError("first line\\nsecond line")
    return " ".join(paths)

serve(work)
"""


def test_a_process_answers_blocks_and_says_why_it_cannot(tmp_path):
    from benchmarks.serving import Server

    (tmp_path / "served.py").write_text(SERVED)
    with Server(
        Path(sys.executable), "served", [], roots=[tmp_path, ROOT / "scripts"], cache=tmp_path
    ) as server:
        spent, note = server.ask({"fails": False}, [Path("a"), Path("b")])
        assert note == "a b" and spent.wall > 0
        with pytest.raises(ValueError, match=r"^TypeError: first line$"):
            server.ask({"fails": True}, [])
        assert server.ask({"fails": False}, [Path("c")])[1] == "c"


def test_a_process_that_ends_is_said(tmp_path):
    from benchmarks.serving import Server

    (tmp_path / "ends.py").write_text("")
    with Server(Path(sys.executable), "ends", [], roots=[tmp_path], cache=tmp_path) as server:
        server.process.wait()
        with pytest.raises(ValueError, match=r"did not start|ended"):
            server.ask({}, [])


class Peer:
    """Takes so many seconds a photo, round after round; None: it fails with a reason."""

    def __init__(self, *seconds):
        self.seconds = iter(seconds)

    def ask(self, mode, paths):
        from benchmarks.serving import Spent

        seconds = next(self.seconds)
        if seconds is None:
            raise ValueError("TypeError: no bf16")
        return Spent(seconds * len(paths), 2 * seconds * len(paths)), "eager float32"


@pytest.fixture
def table(common):
    """Two rounds of five sides: the first call warms up."""
    from benchmarks import peers

    def side(label, who, server, one_by_one=True, mode=None):
        return peers.Side(label, who, one_by_one, server=server, mode=mode or {}, photos=2)

    sides = [
        side("cam, as it is", "cam", Peer(9, 0.04, 0.08)),
        side("cam, bf16", "cam", Peer(None), one_by_one=False),
        side("cam, batch 8", "cam", Peer(9, 0.02, None), one_by_one=False),
        side(peers.BASE, "attnvis", Peer(9, 0.02, 0.02)),
        side("attnvis, typed", "attnvis", Peer(9, 0.01, 0.01), one_by_one=False, mode={"typed": True}),
    ]
    measured = peers.measure("net", sides, [Path("a"), Path("b"), Path("c")], common.Rounds(2))
    return list(peers.rows("net", sides, measured)), list(peers.summary("net", sides, measured))


def test_a_side_that_fails_stands_in_the_table_with_its_reason(table):
    rows, _ = table
    assert rows[1] == "| net | cam, bf16 | TypeError: no bf16 | - | - | - |"
    assert rows[2] == "| net | cam, batch 8 | TypeError: no bf16 | - | - | - |"  # in a later round


def test_milliseconds_a_photo_and_ratios_to_both_bases(table):
    rows, _ = table
    # 40 and 80 ms, twice as many core-ms; 2 and 4 times 20 ms, 4 and 8 times 10 ms
    assert rows[0] == "| net | cam, as it is | 60.00 | 120.00 | 3.00 | 6.00 |"
    assert rows[4] == "| net | attnvis, typed (eager float32) | 10.00 | 20.00 | 0.50 | 1.00 |"


def test_the_summary_compares_like_with_like(table):
    _, summary = table
    assert summary[0].startswith("net: cam, as it is takes 3.00 times attnvis, eager fp32, batch 1 ")
    assert "at its best (cam, as it is) 6.00 times attnvis at its best (attnvis, typed;" in summary[0]
    assert summary[1:] == ["net: 2 rounds.  "]


def test_around_is_the_run_less_the_network(common):
    from benchmarks import whole_job

    seconds = {"network": 8.0, "decode": 0.1, "fit": 0.2, "features": 0.3, "attention": 0.4}
    seconds |= {"draw": 0.5, "write": 0.6}
    engine = SimpleNamespace(name="eager")
    job = SimpleNamespace(
        net=SimpleNamespace(name="net", engine=engine, dtype="torch.float32"),
        pieces=lambda paths: seconds,
        whole=lambda paths, workers: 0.6 + 0.12 * len(paths),  # a start of 0.6 s
    )
    row = whole_job.around_row(job, [Path("a")] * 100, common.Rounds(1))
    # a photo: 12.6 s / 100 = 126 ms, of them 80 of the network; without the start 120 - 80; 46 - 21 of pieces
    cells = "126.00 | 80.00 | 46.00 | 40.00 | 1.00 | 2.00 | 3.00 | 4.00 | 5.00 | 6.00 | 25.00"
    assert row == f"| net, eager float32 | {cells} | 1 |"


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    from benchmarks.own_loop import load_network
    from benchmarks.whole_job import Job

    net = load_network("efficientnet_lite0", engine="eager", precision="fp32")
    return Job(net, batch=2, out=tmp_path_factory.mktemp("out"))


def test_the_whole_job_and_its_pieces_run_on_mixed_shapes(job, tmp_path):
    from benchmarks.own_loop import own_loop

    sizes = ((40, 60), (60, 40), (40, 60))
    paths = [make_photo(tmp_path / f"{number}.jpg", size, number) for number, size in enumerate(sizes)]
    pieces = job.pieces(paths)
    assert set(pieces) == {"decode", "fit", "network", "features", "attention", "draw", "write"}
    assert len(list(job.out.glob("*.jpg"))) == 3  # those that were drawn
    folder = own_loop(job.net, paths, tmp_path, batch=2, workers=2)
    assert len(list((folder / "overlays").iterdir())) == 3 and (folder / "index.html").is_file()


def test_a_photo_that_fails_ends_the_measurement(job, tmp_path):
    from benchmarks.own_loop import own_loop

    (tmp_path / "no.jpg").write_text("no photo")
    with pytest.raises(ValueError, match="1 photos failed"):
        own_loop(job.net, [tmp_path / "no.jpg"], tmp_path, batch=1, workers=1)


def test_a_command_tells_its_peak_and_why_it_failed(tmp_path):
    from benchmarks.shell import Shell

    shell = Shell(tmp_path)
    used = shell.python(ROOT, "import sys; block = bytearray(200_000_000); sys.argv[1]", "word")
    assert 200_000_000 < used.peak < 300_000_000
    with pytest.raises(ValueError, match=r"failed: no room"):
        shell.python(ROOT, "raise SystemExit('no room')")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bytecode", "errors", "status"]


def test_what_is_not_typed_depends_on_the_question():
    from benchmark import settings

    around, pipeline = settings(["around"]), settings(["pipeline", "--batch", "4"])
    assert (around.batch, around.precision, around.engines) == (1, "fp32", ["eager"])
    assert (pipeline.batch, pipeline.precision, pipeline.shapes) == (4, "bf16", ["640x480", "mixed"])
    with contextlib.redirect_stderr(None), pytest.raises(SystemExit):
        settings(["nonsense"])
