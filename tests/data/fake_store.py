"""A store on this machine that speaks as much of S3 as is read here, and fails as it is told."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

PAGE = 1000  # entries of one answer to a listing, as S3 has them


@dataclass
class Store:
    """What lies in it, and how it answers: bucket/key -> bytes; `fault` sees each request."""

    objects: dict[str, bytes] = field(default_factory=dict)
    fault: Callable[["Request"], str] = lambda request: ""  # "", 500, 503, half, slow
    requests: list["Request"] = field(default_factory=list)
    url: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def sent(self, method: str, key: str) -> int:
        """How many requests of a kind named a key."""
        return sum(request.method == method and request.path == key for request in self.requests)


@dataclass(frozen=True)
class Request:
    number: int  # from 1
    method: str
    path: str  # bucket/key
    tries: int  # how often the same was asked before


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    store: Store

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def answer(self):
        parts = urlsplit(self.path)
        path, query = unquote(parts.path).lstrip("/"), parse_qs(parts.query)
        store = self.store
        with store.lock:
            tries = store.sent(self.command, path)
            request = Request(len(store.requests) + 1, self.command, path, tries)
            store.requests.append(request)
        fault = store.fault(request)
        if fault == "slow":
            time.sleep(0.2)
        if fault in ("500", "503"):
            code = {"500": "InternalError", "503": "SlowDown"}[fault]
            self.send(int(fault), f"<Error><Code>{code}</Code><Message>as told</Message></Error>".encode())
        elif "list-type" in query or "/" not in path.rstrip("/"):
            self.send(200, self.listing(path.rstrip("/"), query))
        elif path not in store.objects:
            self.send(404, b"<Error><Code>NoSuchKey</Code><Message>none</Message></Error>")
        else:
            self.send_object(store.objects[path], is_cut=fault == "half")

    def send_object(self, content, is_cut):
        status, headers = 200, {"ETag": '"1"', "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT"}
        wanted = self.headers.get("Range", "")
        if wanted.startswith("bytes=") and self.command == "GET":
            first, last = wanted.removeprefix("bytes=").split("-")
            headers["Content-Range"] = f"bytes {first}-{last}/{len(content)}"
            status, content = 206, content[int(first) : int(last) + 1]
        self.send(status, content, headers, is_cut)

    def send(self, status, content, headers=None, is_cut=False):
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content[: len(content) // 2] if is_cut else content)
        if is_cut:
            self.close_connection = True

    def listing(self, bucket, query):
        prefix, limit = query.get("prefix", [""])[0], int(query.get("max-keys", [PAGE])[0])
        behind = query.get("continuation-token", [""])[0]
        keys, folders = [], []
        for path in sorted(self.store.objects):
            key = path.removeprefix(f"{bucket}/")
            if path == key or not key.startswith(prefix):
                continue
            head, slash, _ = key[len(prefix) :].partition("/")
            name = prefix + head + slash
            if "delimiter" in query and slash:
                folders += [name] * (name not in folders)
            else:
                keys.append(name if "delimiter" in query else key)
        entries = sorted([(name, True) for name in folders] + [(name, False) for name in keys])
        entries = [entry for entry in entries if entry[0] > behind]
        shown, more = entries[:limit], len(entries) > limit
        parts = [
            f"<CommonPrefixes><Prefix>{escape(name)}</Prefix></CommonPrefixes>"
            if is_folder
            else f"<Contents><Key>{escape(name)}</Key>"
            f"<Size>{len(self.store.objects[f'{bucket}/{name}'])}</Size><LastModified>2026-01-01T00:00:00.000Z</LastModified><ETag>1</ETag></Contents>"
            for name, is_folder in shown
        ]
        token = f"<NextContinuationToken>{escape(shown[-1][0])}</NextContinuationToken>" if more else ""
        body = (
            f"<ListBucketResult><Name>{bucket}</Name><Prefix>{escape(prefix)}</Prefix>"
            f"<KeyCount>{len(shown)}</KeyCount><IsTruncated>{str(more).lower()}</IsTruncated>{token}"
            f"{''.join(parts)}</ListBucketResult>"
        )
        return body.encode()

    def log_message(self, *words):
        pass


def serve(store: Store) -> ThreadingHTTPServer:
    """Answers until it is shut down."""
    handler = type("OfThisStore", (Handler,), {"store": store})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    store.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    return server
