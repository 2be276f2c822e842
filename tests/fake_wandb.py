"""Enough of W&B's server, on this machine, for its client to log, to resume, and to send what it kept."""

import gzip
import json
import os
import re
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from attnvis.pipeline import wandb_library

KEY = "a" * 40
VARIABLES = (
    *("WANDB_MODE", "WANDB_PROJECT", "WANDB_ENTITY", "WANDB_RUN_GROUP", "WANDB_NAME", "WANDB_NOTES"),
    *("WANDB_TAGS", "WANDB_JOB_TYPE", "WANDB_RUN_ID", "WANDB_DIR", "WANDB_DISABLED", "WANDB_SILENT"),
)


class WandbServer(ThreadingHTTPServer):
    """What it was sent: `runs` id -> as it was announced, `lines` id -> history, `summaries`, and files.

    `refused` is a type of artifacts that it does not take.
    """

    daemon_threads = True

    def __init__(self, refused=""):
        super().__init__(("127.0.0.1", 0), Handler)
        self.refused = refused
        self.runs, self.lines, self.summaries = {}, {}, {}
        self.artifacts, self.files, self.artifact_files = {}, {}, {}
        self.thread = threading.Thread(target=self.serve_forever, daemon=True)
        self.thread.start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, *_):
        """A client that went away."""

    def die(self):
        self.shutdown()
        self.server_close()


@contextmanager
def serving(monkeypatch, **settings):
    """A server to which the environment leads, and for whose answers a busy machine has time."""
    server = WandbServer(**settings)
    for name in ("PATIENCE", "LAST_PATIENCE"):
        monkeypatch.setattr(wandb_library, name, 300)
    monkeypatch.setenv("WANDB_BASE_URL", server.url)
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
    try:
        yield server
    finally:
        server.die()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def body(self):
        content = b""
        if self.headers.get("Transfer-Encoding") == "chunked":
            while length := int(self.rfile.readline(), 16):
                content += self.rfile.read(length)
                self.rfile.readline()
            self.rfile.readline()
        else:
            content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(content) if self.headers.get("Content-Encoding") == "gzip" else content

    def answer(self, value, status=200):
        content = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self):
        self.body()
        self.answer({})

    def do_PUT(self):
        self.server.files[self.path.removeprefix("/put/")] = self.body()
        self.answer({})

    def do_POST(self):
        content = self.body()
        if "/otel/" in self.path:
            self.answer({}, 404)
        elif "file_stream" in self.path:
            self.stream(json.loads(content))
        else:
            asked = json.loads(content)
            name = asked.get("operationName") or re.search(r"(query|mutation)\s+(\w+)", asked["query"])[2]
            given = asked.get("variables") or {}
            answer = getattr(self, name, lambda given: {"project": None})(given | given.get("input", {}))
            self.answer({"errors": [{"message": answer}]}, 400) if isinstance(answer, str) else self.answer(
                {"data": answer}
            )

    def stream(self, sent):
        run, files = self.path.split("/")[-2], sent.get("files") or {}
        history = files.get("wandb-history.jsonl", {"offset": 0, "content": []})
        lines = self.server.lines.setdefault(run, [])
        lines[history["offset"] :] = [json.loads(line) for line in history["content"]] or lines[
            history["offset"] :
        ]
        for line in files.get("wandb-summary.json", {"content": []})["content"]:
            self.server.summaries[run] = json.loads(line)
        self.answer({"limits": {}})

    # ------------------------------------------------------------------------------ what GraphQL is asked

    def project(self, given):
        return {"id": "P", "name": given.get("project") or "p", "entity": {"id": "E", "name": "me"}}

    def Viewer(self, given):
        viewer = {"id": "V", "entity": "me", "username": "me", "email": "a@b.c", "flags": "{}"}
        return {"viewer": {**viewer, "teams": {"edges": []}, "admin": False, "apiKeys": {"edges": []}}}

    def ServerFeaturesQuery(self, given):
        return {"serverInfo": {"features": []}}

    ServerInfo = ServerFeaturesQuery

    def UpsertBucket(self, given):
        known = self.server.runs.setdefault(given["name"], {})
        new = not known
        known |= {key: value for key, value in given.items() if value is not None}
        bucket = {"id": "R", "name": given["name"], "displayName": given.get("displayName") or "r"}
        bucket |= {"description": None, "config": "{}", "sweepName": None, "historyLineCount": 0}
        return {"upsertBucket": {"bucket": {**bucket, "project": self.project(given)}, "inserted": new}}

    def RunResumeStatus(self, given):
        lines, bucket = self.server.lines.get(given["name"], []), None
        if lines:
            bucket = {"id": "R", "name": given["name"], "displayName": "r", "tags": [], "config": "{}"}
            bucket |= {"summaryMetrics": "{}", "historyLineCount": len(lines), "logLineCount": 0}
            bucket |= {"eventsLineCount": 0, "eventsTail": "[]", "wandbConfig": '{"t": 1}'}
            bucket["historyTail"] = json.dumps([json.dumps(lines[-1])])
        return {"model": {**self.project(given), "bucket": bucket}}

    def put(self, names):
        return [{"name": name, "uploadUrl": f"{self.server.url}/put/{name}"} for name in names]

    def CreateRunFiles(self, given):
        return {"createRunFiles": {"runID": "R", "uploadHeaders": [], "files": self.put(given["files"])}}

    def CreateArtifact(self, given):
        if given["artifactTypeName"] == self.server.refused:
            return "the quota is used up"
        number = f"A{len(self.server.artifacts)}"
        self.server.artifacts[number] = given
        artifact = {"id": number, "state": "PENDING", "artifactSequence": {"id": "Q", "latestArtifact": None}}
        return {"createArtifact": {"artifact": artifact}}

    def CreateArtifactManifest(self, given):
        (file,) = self.put([f"manifest-{given['artifactID']}"])
        manifest = {"id": "M", "file": {"id": "F", "displayName": "m", "uploadHeaders": [], **file}}
        return {"createArtifactManifest": {"artifactManifest": manifest}}

    def CreateArtifactFiles(self, given):
        nodes = []
        for file in given["artifactFiles"]:
            self.server.artifact_files.setdefault(file["artifactID"], set()).add(file["name"])
            (place,) = self.put([file["name"]])
            node = {"id": "F", "displayName": file["name"], "uploadHeaders": [], "uploadMultipartUrls": None}
            nodes.append(
                {"node": {**node, **place, "storagePath": "x", "artifact": {"id": file["artifactID"]}}}
            )
        return {"createArtifactFiles": {"files": {"edges": nodes}}}

    def CommitArtifact(self, given):
        return {"commitArtifact": {"artifact": {"id": given["artifactID"], "digest": "d"}}}

    def ArtifactByID(self, given):
        made = self.server.artifacts[given["id"]]
        project = {"id": "UDpQ", "internalId": "UDpQ", "name": "p", "entity": {"name": "me"}}
        return {
            "artifact": {
                "__typename": "Artifact",
                "id": "QXJ0aWZhY3Q6MQ==",
                "artifactSequence": {
                    "__typename": "ArtifactSequence",
                    "name": made["artifactCollectionName"],
                    "project": project,
                },
                "versionIndex": 0,
                "artifactType": {"name": made["artifactTypeName"]},
                "description": None,
                "metadata": None,
                "ttlDurationSeconds": -1,
                "ttlIsInherited": True,
                "tags": [],
                "historyStep": 0,
                "state": "COMMITTED",
                "size": 1,
                "digest": "d",
                "commitHash": None,
                "fileCount": 1,
                "createdAt": "2020-01-01T00:00:00",
                "updatedAt": None,
                "aliases": [],
            }
        }


# ------------------------------------------------------------------------------- what a client left


def fresh_wandb(here, monkeypatch):
    """A fresh W&B session: it reads its environment once, and its home is this folder."""
    import wandb

    monkeypatch.setenv("HOME", str(here))
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    wandb.teardown()
    yield wandb
    wandb.teardown()


def logs(folder="out"):
    return sorted(Path(folder).glob("wandb/*run-*"))


def inspect(log):
    """Every entry of a log, by W&B's own reader."""
    ended = subprocess.run(
        [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(log)],
        capture_output=True,
        text=True,
        check=True,
    )
    entries = [json.loads(line) for line in ended.stdout.splitlines()]
    kinds = {}
    for entry in entries:
        kinds.setdefault(entry["type"], []).append(entry.get(entry["type"]))
    return kinds


def history(kinds):
    return [entry["item"] for entry in kinds["history"]]


def summary(kinds):
    together = {}
    for entry in kinds["summary"]:
        together |= entry.get("update", {})
    return together


def table(log, items, name):
    (item,) = [item for item in items if f"{name}.path" in item]
    return json.loads((log / "files" / item[f"{name}.path"]).read_text())


def announced(folder="out"):
    """What each log of a folder says of its run."""
    return [inspect(log)["run"][0] for log in logs(folder)]


def send(command: str) -> subprocess.CompletedProcess:
    """What a person is told to type, typed."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        command,
        shell=True,
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
        env={**os.environ, "PATH": path},
        stdin=subprocess.DEVNULL,
    )
