"""The standard library's web server on this machine alone: a form, uploads, places in the queue, explorers.

What comes in is bounded in size, time and number before it is read; no address leads to a file.
"""

import io
import json
import re
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from typing import Any
from urllib.parse import SplitResult, parse_qs, urlsplit

from attnvis.server.jobs import JobQueue, Upload

__all__ = ["Limits", "PhotoServer"]

HERE = ("127.0.0.1", "localhost")  # what a browser on this machine calls it
EVERYWHERE = ("", "0.0.0.0")  # addresses to listen on that are nobody's name
METHODS = "GET, HEAD, POST"
CHUNK = 1 << 16  # bytes that are read at once
FIELDS = 8  # of an address, of which two mean something
NAME_LENGTH = 200  # characters of a photo's name that are kept
LINGER = 2.0  # seconds for which a refused body is still listened to, so that the sender hears why
JOB = re.compile(r"/(job|explorer)/([\w-]{16,32})")
SHELTERED = {  # of every answer: no page of another site may frame it, read it or guess what it is
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Content-Security-Policy": "frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
}
TEXT, JSON, HTML = "text/plain; charset=utf-8", "application/json", "text/html; charset=utf-8"


@dataclass(frozen=True)
class Limits:
    """How much a stranger may ask for.

    upload        bytes of a photo
    seconds       for a request, from its first byte to its last
    connections   at once
    """

    upload: int = 64_000_000
    seconds: float = 60.0
    connections: int = 256


class Deadline(io.RawIOBase):
    """What comes over a connection, until a moment: one byte now and then does not keep it open."""

    def __init__(self, connection: socket.socket, seconds: float) -> None:
        self.connection = connection
        self.end = time.monotonic() + seconds

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        """Raises TimeoutError."""
        left = self.end - time.monotonic()
        if left <= 0:
            raise TimeoutError("the request took too long")
        self.connection.settimeout(left)
        return self.connection.recv_into(buffer)


class PhotoServer(ThreadingHTTPServer):
    """Listens at once; `serve_forever` answers.  Raises OSError where the port is taken.

    form      the page with which one begins
    networks  names that may be chosen
    names     by which browsers may call this machine, beside 127.0.0.1 and localhost
    """

    daemon_threads = True  # a stop waits for nobody
    request_queue_size = 128

    def __init__(
        self,
        address: tuple[str, int],
        jobs: JobQueue,
        form: bytes,
        networks: Sequence[str],
        limits: Limits | None = None,
        names: Sequence[str] = (),
    ) -> None:
        self.jobs = jobs
        self.form = form
        self.networks = tuple(networks)
        self.limits = limits or Limits()
        self.names = {*HERE, *(name.lower() for name in names)}
        self.open_places = threading.BoundedSemaphore(self.limits.connections)
        super().__init__(address, Handler)

    def server_bind(self) -> None:
        """Without asking the network what this machine is called."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]

    @property
    def url(self) -> str:
        """What to type into a browser."""
        host = str(self.server_address[0])
        return f"http://{HERE[0] if host in EVERYWHERE else host}:{self.server_port}/"

    def not_called(self, host: str) -> str:
        """What to tell a browser that called this machine by a name that it does not go by."""
        sentence = f"this server is not {host[:80]!r}; open it at {self.url}"
        if str(self.server_address[0]).startswith("127."):
            return sentence
        return f"{sentence}, or start it with names=[...] that has this name"

    def process_request(self, request: Any, client_address: Any) -> None:
        """In a thread of its own, where there is room for one more."""
        if self.open_places.acquire(blocking=False):
            super().process_request(request, client_address)
            return
        request.settimeout(1)
        sentence = b"too many connections at once; try again in a moment\n"
        try:
            request.sendall(b"HTTP/1.0 503 Service Unavailable\r\nRetry-After: 2\r\n\r\n" + sentence)
        finally:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.open_places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """One who went away is no error."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            traceback.print_exc(file=sys.stderr)


class Refused(Exception):
    """Why a request is not answered as it wishes."""

    def __init__(self, status: HTTPStatus, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class Handler(BaseHTTPRequestHandler):
    """One request; HTTP/1.0, so a connection holds no second one."""

    server: PhotoServer

    def setup(self) -> None:
        super().setup()
        self.unread = 0  # bytes of a body that was refused
        self.connection.settimeout(self.server.limits.seconds)
        self.rfile = io.BufferedReader(Deadline(self.connection, self.server.limits.seconds))

    def version_string(self) -> str:
        return "attnvis"

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing: the terminal is for what went wrong."""

    def do_GET(self) -> None:
        self.answer(self.show)

    def do_HEAD(self) -> None:
        self.answer(self.show)

    def do_POST(self) -> None:
        self.answer(self.take)

    # What there is

    def show(self) -> None:
        """The form, an explorer, or where a job stands.  Raises Refused."""
        path = self.address().path
        if path == "/":
            self.send(
                HTTPStatus.OK, HTML, self.server.form, kept="no-cache"
            )  # whoever comes back finds the list
            return
        match = JOB.fullmatch(path)
        if match is None:
            raise Refused(HTTPStatus.NOT_FOUND, "there is nothing here; photos are given at /")
        kind, job = match.groups()
        state = self.server.jobs.state(job)
        if state is None or (kind == "explorer" and state.status == "dropped"):
            kept = self.server.jobs.kept
            raise Refused(
                HTTPStatus.NOT_FOUND,
                f"this explorer is not kept (the last {kept} are); give the photo again at /",
            )
        if kind == "job":
            self.send_json(HTTPStatus.OK, asdict(state))
            return
        page = self.server.jobs.page(job)
        if page is None:
            raise Refused(HTTPStatus.NOT_FOUND, "there is no explorer of this photo yet")
        self.send(HTTPStatus.OK, HTML, page)

    def take(self) -> None:
        """A photo, with its place in the queue as the answer.  Raises Refused."""
        url = self.address()
        if url.path != "/photo":
            raise Refused(HTTPStatus.NOT_FOUND, "there is nothing here; photos go to /photo")
        if self.sole("Origin") not in (None, f"http://{self.headers['Host']}"):
            raise Refused(HTTPStatus.FORBIDDEN, "a page of another site may not give photos")
        length = self.body_length()
        fields = fields_of(url.query)
        network = fields.get("network", [self.server.networks[0]])[-1]
        if network not in self.server.networks:
            known = ", ".join(self.server.networks)
            raise Refused(HTTPStatus.BAD_REQUEST, f"there is no network {network!r} here; there are {known}")
        name = file_name(fields.get("name", ["photo"])[-1])
        if not self.server.jobs.reserve():
            raise Refused(
                HTTPStatus.SERVICE_UNAVAILABLE,
                "as many photos wait as there are places; try again in a moment",
            )
        try:
            data = self.body(length)
        except BaseException:
            self.server.jobs.release()
            raise
        job = self.server.jobs.submit(Upload(name, network, data))
        self.send_json(HTTPStatus.ACCEPTED, {"job": job})

    def address(self) -> SplitResult:
        """What is asked for.  Raises Refused for what no address is."""
        try:
            return urlsplit(self.path)
        except ValueError:
            raise Refused(HTTPStatus.BAD_REQUEST, f"{self.path[:80]!r} is no address") from None

    def body_length(self) -> int:
        """As the request says it, before a byte is read.  Raises Refused."""
        if self.headers["Transfer-Encoding"] is not None:
            raise Refused(
                HTTPStatus.LENGTH_REQUIRED, "say how long the photo is (Content-Length); not in chunks"
            )
        text = self.sole("Content-Length")
        if text is None:
            raise Refused(HTTPStatus.LENGTH_REQUIRED, "say how long the photo is (Content-Length)")
        if not re.fullmatch(r"[0-9]{1,15}", text):
            raise Refused(HTTPStatus.BAD_REQUEST, f"Content-Length {text[:40]!r} is no number of bytes")
        length, most = int(text), self.server.limits.upload
        self.unread = length
        if length > most:
            raise Refused(
                HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                f"the photo has {megabytes(length)}, and at most {megabytes(most)} are taken",
            )
        if length == 0:
            raise Refused(HTTPStatus.BAD_REQUEST, "the photo is empty: it has no bytes")
        return length

    def body(self, length: int) -> bytes:
        """Raises Refused where fewer bytes come, or too slowly."""
        data = bytearray()
        try:
            while len(data) < length:
                piece = self.rfile.read1(min(CHUNK, length - len(data)))
                if not piece:
                    break
                data += piece
        except TimeoutError:
            seconds = self.server.limits.seconds
            self.unread = 0
            raise Refused(
                HTTPStatus.REQUEST_TIMEOUT,
                f"the photo came too slowly: {len(data)} of {length} bytes in {seconds:g} s",
            ) from None
        self.unread = 0
        if len(data) < length:
            raise Refused(
                HTTPStatus.BAD_REQUEST, f"the photo ended early: {len(data)} of {length} bytes came"
            )
        return bytes(data)

    # How it is answered

    def answer(self, act: Callable[[], None]) -> None:
        """What `act` says, or why not; only to a browser that called this machine by its own name."""
        try:
            host = self.sole("Host") or ""
            if re.sub(r":\d+$", "", host).lower() not in self.server.names:
                raise Refused(HTTPStatus.FORBIDDEN, self.server.not_called(host))
            act()
        except Refused as refusal:
            self.refuse(refusal.status, str(refusal))
            self.linger()

    def sole(self, header: str) -> str | None:
        """A header that may stand there once.  Raises Refused where it stands there twice."""
        values = self.headers.get_all(header, [])
        if len(values) > 1:
            raise Refused(HTTPStatus.BAD_REQUEST, f"{header} is given {len(values)} times")
        return values[0].strip() if values else None

    def send_json(self, status: HTTPStatus, content: dict[str, object]) -> None:
        self.send(status, JSON, json.dumps(content).encode())

    def send(self, status: HTTPStatus, kind: str, content: bytes, kept: str = "no-store") -> None:
        """An answer, of which browsers keep nothing unless `kept` says otherwise."""
        self.connection.settimeout(self.server.limits.seconds)
        self.send_response(status)
        headers = {"Content-Type": kind, "Content-Length": str(len(content)), "Cache-Control": kept}
        if status == HTTPStatus.SERVICE_UNAVAILABLE:
            headers["Retry-After"] = "2"
        if status == HTTPStatus.METHOD_NOT_ALLOWED:
            headers["Allow"] = METHODS
        for name, value in (headers | SHELTERED).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def refuse(self, status: HTTPStatus, sentence: str) -> None:
        self.send(status, TEXT, f"{sentence}\n".encode("utf-8", "replace"))

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the standard library finds wrong with a request, as one sentence."""
        self.request_version = "HTTP/1.0"  # of a line that it could not read there is none
        self.close_connection = True
        if code == HTTPStatus.NOT_IMPLEMENTED:
            self.refuse(HTTPStatus.METHOD_NOT_ALLOWED, f"only {METHODS} are answered")
        else:
            self.command = self.command or "GET"
            self.refuse(
                HTTPStatus(code), f"this is no request that a browser sends ({HTTPStatus(code).phrase})"
            )

    def linger(self) -> None:
        """Reads what is left of a body and forgets it: who is hung up on hears nothing of the answer."""
        if not self.unread:
            return
        self.wfile.flush()
        end = time.monotonic() + LINGER
        left = self.unread
        try:
            self.connection.shutdown(socket.SHUT_WR)
            while left > 0 and (seconds := end - time.monotonic()) > 0:
                self.connection.settimeout(seconds)
                piece = self.connection.recv(CHUNK)
                if not piece:
                    break
                left -= len(piece)
        except OSError:
            pass


def fields_of(query: str) -> dict[str, list[str]]:
    """name=cat.jpg&network=resnet50 -> the values of each.  Raises Refused for too many."""
    try:
        return parse_qs(query, max_num_fields=FIELDS)
    except ValueError:
        raise Refused(
            HTTPStatus.BAD_REQUEST, f"the address has more than {FIELDS} fields; it may have name and network"
        ) from None


def file_name(text: str) -> str:
    """The last part of a name with folders, as a line of text: it is only ever shown."""
    last = re.split(r"[/\\]", text)[-1]
    shown = "".join(sign if sign.isprintable() else " " for sign in last).strip()
    return shown[-NAME_LENGTH:] or "photo"


def megabytes(count: int) -> str:
    """64 MB, 0.2 MB."""
    return f"{count / 1e6:.0f} MB" if count >= 10e6 else f"{count / 1e6:.2g} MB"
