"""A run at W&B, which may be absent or die: its numbers and pictures, and never at the cost of a result."""

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from conftest import make_photo, records

from attnvis.metrics.diagnostics import DESCRIPTIONS
from attnvis.pipeline import tracking


@pytest.fixture
def photos(here):
    """Two of one name in two folders."""
    return [make_photo(here / folder / "cat.png", seed=seed) for seed, folder in enumerate("ab")]


@pytest.fixture
def wandb(here, monkeypatch):
    """A fresh W&B session: it reads its environment once, and its home is this folder."""
    import wandb

    monkeypatch.setenv("HOME", str(here))
    monkeypatch.delenv("WANDB_MODE")
    wandb.teardown()
    yield wandb
    wandb.teardown()


def inspect(folder="out"):
    (log,) = Path(folder).glob("wandb/*run-*")
    told = subprocess.run(
        [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(log)],
        capture_output=True,
        text=True,
        check=True,
    )
    return log, [json.loads(line) for line in told.stdout.splitlines()]


def test_the_log_written_offline_can_be_read_back(attnvis, photos, wandb, monkeypatch):
    before = dict(os.environ)
    ended = attnvis("run", "a", "b", "query=mean")
    assert ended.code == 0 and ended.err == ""
    assert {key: value for key, value in os.environ.items() if key != "WANDB_SERVICE"} == before, (
        "what W&B needs in the environment must not leak into the next run"
    )
    log, told = inspect()
    history = [entry["history"]["item"] for entry in told if entry["type"] == "history"]
    for item, row in zip(history, records(), strict=False):
        for name in DESCRIPTIONS:
            assert float(item[f"mean/{name}"]) == pytest.approx(float(row[name]), rel=1e-6), name
        picture = log / "files" / item["mean/overlay.path"]
        assert picture.read_bytes() == (Path("out") / row["overlay"]).read_bytes()
    text = json.dumps(told)
    assert '"query"' in text and "attnvis.attention.query.mean" in text and "weights digest" in text
    assert any("photos.path" in item for item in history) and any(
        "mean/log2_times_uniform._type" in item for item in history
    )
    assert "mean/mean_perplexity" in text and "attention-maps" in text and "cat-2.safetensors" in text
    assert not list(Path("out/wandb").rglob("*.safetensors")), "the maps are sent from where they lie"


def test_what_the_user_set_for_wandb_is_kept(attnvis, photos, wandb, monkeypatch, here):
    monkeypatch.setenv("WANDB_DATA_DIR", str(here / "mine"))
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert attnvis("run", "a").code == 0 and not Path("out/wandb").exists()
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert attnvis("run", "a").code == 0 and list(Path("out/wandb").glob("offline-run-*"))
    assert os.environ["WANDB_DATA_DIR"] == str(here / "mine") and (here / "mine" / "artifacts").is_dir()
    assert "WANDB_CACHE_DIR" not in os.environ


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.mark.parametrize("key", [None, "a" * 40])
def test_without_a_key_or_a_server_a_run_goes_on_offline(attnvis, photos, wandb, monkeypatch, key):
    from wandb.errors import term

    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{closed_port()}")
    if key:
        monkeypatch.setenv("WANDB_API_KEY", key)
    monkeypatch.setattr(
        term, "can_use_terminput", lambda: True
    )  # as at a terminal, where W&B would ask for a key
    monkeypatch.setattr(
        wandb.util, "prompt_choices", lambda *_, **__: pytest.fail("a run must not stop to ask")
    )
    monkeypatch.setattr(tracking, "PATIENCE", 2)
    ended = attnvis("run", "a", "logger.mode=online")
    assert ended.code == 0 and "1 photo done" in ended.out
    assert (
        ended.err.count("\n") == 1
        and ended.err.startswith("attnvis: W&B is out of reach (")
        and "wandb sync" in ended.err
    )
    assert (
        len(records()) == 1
        and Path("out/index.html").is_file()
        and list(Path("out/wandb").glob("offline-run-*"))
    )


class Stub(BaseHTTPRequestHandler):
    """Enough of W&B's server for a run to begin; a stub, not W&B."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        told = {}
        if "graphql" in self.path:
            asked = json.loads(body)
            name = asked.get("operationName") or re.search(r"(query|mutation)\s+(\w+)", asked["query"])[2]
            project = {"id": "P", "name": "attnvis", "entity": {"id": "E", "name": "me"}}
            bucket = {
                "id": "R",
                "name": "r",
                "displayName": "stub",
                "config": "{}",
                "historyLineCount": 0,
                "project": project,
            }
            viewer = {
                "id": "V",
                "entity": "me",
                "username": "me",
                "flags": "{}",
                "teams": {"edges": []},
                "admin": False,
            }
            files = [
                {"name": file, "uploadUrl": f"http://{self.headers['Host']}/{file}"}
                for file in asked["variables"].get("files") or []
            ]
            data = {
                "UpsertBucket": {"upsertBucket": {"bucket": bucket, "inserted": True}},
                "Viewer": {"viewer": viewer},
                "CreateRunFiles": {"createRunFiles": {"runID": "R", "uploadHeaders": [], "files": files}},
            }
            told = {"data": data.get(name, {"serverInfo": {"features": []}, "model": None})}
        answer = json.dumps(told).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


def test_a_server_lost_during_the_run_does_not_hold_up_its_end(attnvis, photos, wandb, monkeypatch):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Stub)
    server.handle_error = lambda *_: None
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    monkeypatch.setenv("WANDB_HTTP_TIMEOUT", "3")  # W&B's own patience is 20 seconds
    begun, begin = [], tracking.Tracker.begin

    def begin_then_lose(self, *words):
        begin(self, *words)
        begun.append(self.run.settings.mode)
        server.shutdown()
        server.server_close()

    monkeypatch.setattr(tracking.Tracker, "begin", begin_then_lose)
    monkeypatch.setattr(wandb, "Settings", short_of(wandb.Settings))
    started = time.monotonic()
    ended = attnvis("run", "a", "logger.mode=online")
    assert begun == ["online"], ended
    assert time.monotonic() - started < 90
    assert ended.code == 0 and ended.err.startswith("attnvis: W&B stopped ("), ended.err
    assert ended.err.count("\n") == 1 and len(records()) == 1 and Path("out/index.html").is_file()
    assert_sends(ended.err.partition("send its log later: ")[2], monkeypatch)


def assert_sends(command: str, monkeypatch) -> None:
    """What a person is told to type does send the log, once a server answers again."""
    requests = []

    class Counting(Stub):
        def do_POST(self):
            requests.append(self.path)
            super().do_POST()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Counting)
    server.handle_error = lambda *_: None
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    ended = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=120, check=False)
    server.shutdown()
    server.server_close()
    assert any("file_stream" in path for path in requests), (command, ended, requests)


def test_a_run_of_the_callers_own_goes_on(attnvis, photos, wandb, monkeypatch, tmp_path):
    own = wandb.init(mode="offline", dir=tmp_path, project="mine")
    try:
        assert attnvis("run", "a", "logger.mode=offline").code == 0
        assert wandb.run is own and not own._is_finished
        own.log({"still": "here"})
    finally:
        own.finish()


def short_of(settings):
    def made(**words):
        assert 0 < words["finish_timeout"] <= 60 and words["finish_timeout_raises"]
        return settings(**words | {"finish_timeout": 1})

    return made


def test_trouble_with_wandb_during_a_run_is_one_line_and_costs_nothing(attnvis, photos, wandb, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("no more")

    monkeypatch.setattr(wandb, "Image", broken)
    ended = attnvis("run", "a", "b")
    assert ended.code == 0 and ended.err.count("\n") == 1 and "W&B stopped (no more)" in ended.err
    assert len(records()) == 2 and Path("out/index.html").is_file()
