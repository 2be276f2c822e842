"""The server of `attnvis serve`: what it answers, and what it refuses before it is read."""

import http.client
import json
import re
import socket
import threading
import time
from contextlib import contextmanager

import cv2
import numpy as np
import pytest
import torch
from browsing import PATIENCE, comes
from conftest import fake_backbone, make_photo

from attnvis.backbone.heads import Linear
from attnvis.cli.commands import serve
from attnvis.data.decoding import load
from attnvis.render.overlays import Style
from attnvis.server import jobs, web
from attnvis.server.form import form_page
from attnvis.server.jobs import JobQueue, Upload
from attnvis.server.web import Limits, PhotoServer, file_name
from attnvis.types import PhotoError, Preprocessing

MOST = 200_000
HOW = Preprocessing(60, "stretch", multiple=1)


def echo(upload: Upload) -> bytes:
    return b"page of " + upload.name.encode()


@contextmanager
def serving(make=echo, waiting=2, kept=3, seconds=PATIENCE, connections=256):
    """(server, a function that asks it) with pages that cost nothing."""
    queue = JobQueue(make, waiting=waiting, kept=kept)
    limits = Limits(MOST, seconds=seconds, connections=connections)
    form = form_page(["fake", "other"], most=MOST)
    server = PhotoServer(("127.0.0.1", 0), queue, form, ["fake", "other"], limits=limits)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def ask(server, method, path, body=None, headers=None):
    """(status, text, headers)."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=PATIENCE)
    connection.request(method, path, body, headers or {})
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text, answer.headers


def send_raw(server, *pieces: bytes) -> str:
    """The whole answer to bytes that no HTTP library would send."""
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=PATIENCE) as connection:
        for piece in pieces:
            connection.sendall(piece)
        answer = b""
        while piece := connection.recv(1 << 16):
            answer += piece
    return answer.decode()


def give(server, name="cat.png", data=b"x" * 9, **fields) -> str:
    status, text, _ = ask(server, "POST", f"/photo?name={name}&network=fake", data, fields)
    assert status == 202, text
    return json.loads(text)["job"]


def ended(server, job: str) -> dict:
    state = {}

    def is_over():
        state.update(json.loads(ask(server, "GET", f"/job/{job}")[1]))
        return state["status"] not in ("waiting", "working")

    comes(is_over)
    return state


@pytest.fixture(scope="module")
def server():
    with serving() as started:
        yield started


@contextmanager
def one_at_work(**settings):
    """A server that makes the first page only when it is let."""
    let, began = threading.Event(), threading.Event()

    def make(upload: Upload) -> bytes:
        began.set()
        assert let.wait(PATIENCE)
        return echo(upload)

    with serving(make, **settings) as server:
        first = give(server, "first")
        assert began.wait(PATIENCE)
        try:
            yield server, first, let
        finally:
            let.set()


# ----------------------------------------------------------------------------------------- what it answers


def test_the_form_offers_the_networks_and_asks_nobody_else(server):
    status, page, headers = ask(server, "GET", "/")
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    assert status == 200 and re.findall("<option>(.*)</option>", page) == ["fake", "other"]
    assert policy.startswith("default-src 'none'; ") and policy.endswith("; connect-src 'self'")
    assert "http" not in policy and "unsafe-eval" not in policy
    assert not re.search(r'(src|href)="(?!data:)', page)
    assert headers["X-Frame-Options"] == "DENY" and headers["X-Content-Type-Options"] == "nosniff"


def test_a_photo_becomes_a_page_under_an_address_that_nobody_guesses(server):
    job = give(server, "my%20cat.png")
    assert ended(server, job) == {"status": "done", "before": 0, "reason": ""} and len(job) >= 22
    status, page, headers = ask(server, "GET", f"/explorer/{job}")
    assert (status, page, headers["Cache-Control"]) == (200, "page of my cat.png", "no-store")
    status, page, headers = ask(server, "HEAD", f"/explorer/{job}")
    assert (status, page, headers["Content-Length"]) == (200, "", str(len("page of my cat.png")))


def test_the_queue_says_how_many_come_before():
    with one_at_work() as (server, first, let):
        second, third = give(server, "second"), give(server, "third")
        states = [json.loads(ask(server, "GET", f"/job/{job}")[1]) for job in (first, second, third)]
        assert [(state["status"], state["before"]) for state in states] == [
            ("working", 0),
            ("waiting", 1),
            ("waiting", 2),
        ]
        status, text, headers = ask(server, "POST", "/photo?name=fourth", b"x")
        assert (status, headers["Retry-After"]) == (503, "2") and "as many photos wait as there are" in text
        let.set()
        assert [ended(server, job)["status"] for job in (first, second, third)] == ["done"] * 3
        assert ended(server, give(server, "fifth"))["status"] == "done"  # the place is free again


def test_the_last_pages_are_kept_and_the_others_said_to_be_gone(server):
    jobs = []
    for number in range(4):
        jobs.append(give(server, str(number)))
        assert ended(server, jobs[-1])["status"] == "done"
    status, text, _ = ask(server, "GET", f"/explorer/{jobs[0]}")
    assert status == 404 and "the last 3 are" in text
    assert ask(server, "GET", f"/explorer/{jobs[3]}")[0] == 200


def test_every_page_that_is_kept_is_found_and_failures_are_forgotten(monkeypatch):
    """More pages than ended jobs are remembered."""

    def make(upload: Upload) -> bytes:
        if upload.name == "bad":
            raise ValueError("no photo")
        return echo(upload)

    monkeypatch.setattr(jobs, "REMEMBERED", 2)
    with serving(make, kept=5) as server:
        good, failed = [], []
        for number in range(4):
            good.append(give(server, f"{number}"))
            ended(server, good[-1])
            failed.append(give(server, "bad"))
            ended(server, failed[-1])
        assert [ask(server, "GET", f"/explorer/{job}")[0] for job in good] == [200] * 4
        states = [server.jobs.state(job) for job in failed]
        assert states[:2] == [None, None] and [state.status for state in states[2:]] == ["failed"] * 2


def test_an_error_nobody_foresaw_fails_one_photo_and_not_the_server(capsys):
    def make(upload: Upload) -> bytes:
        if upload.name == "odd":
            raise RuntimeError("never seen")
        return echo(upload)

    with serving(make) as server:
        assert "a fault of attnvis" in ended(server, give(server, "odd"))["reason"]
        assert ended(server, give(server, "usual"))["status"] == "done"
    assert "never seen" in capsys.readouterr().err


# ------------------------------------------------------------------------------------ what it does not take


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "evil.example:8321", "", "0x7f000001"]
)
def test_a_name_that_is_not_this_machines_is_refused(server, host):
    """A name that an attacker's DNS turns to 127.0.0.1 still stands in Host."""
    for method, path in (("GET", "/"), ("POST", "/photo")):
        status, text, _ = ask(server, method, path, headers={"Host": host, "Content-Length": "0"})
        assert status == 403 and f"open it at http://127.0.0.1:{server.server_port}/" in text


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:9000", "127.0.0.1"])
def test_names_of_this_machine_are_taken_with_the_port_of_any_tunnel(server, host):
    assert ask(server, "GET", "/", headers={"Host": host})[0] == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://localhost:1", "https://127.0.0.1"])
def test_a_page_of_another_site_gives_no_photo(server, origin):
    status, text, _ = ask(server, "POST", "/photo", b"x", {"Origin": origin})
    assert (status, text) == (403, "a page of another site may not give photos\n")


def test_its_own_page_gives_photos(server):
    job = give(server, Origin=f"http://127.0.0.1:{server.server_port}")
    assert ended(server, job)["status"] == "done"  # the next test finds its place free


PATHS = (
    *("/etc/passwd", "/../../etc/passwd", "/explorer/../../etc/passwd", "/explorer/"),
    *("/job/%2e%2e%2f%2e%2e%2fetc%2fpasswd", "//evil.example/", "http://evil.example/"),
    *("/explorer/" + "a" * 22, "/job/" + "a" * 5000),
)


@pytest.mark.parametrize("path", PATHS)
def test_no_path_leads_anywhere(server, path):
    status, text, _ = ask(server, "GET", path)
    assert status in (403, 404) and "passwd" not in text and "root" not in text


NINE = "/photo?" + "&".join(f"field{number}=x" for number in range(9))


@pytest.mark.parametrize(
    "method, path, words",
    [
        ("POST", NINE, "more than 8 fields"),
        ("GET", "http://[/", "'http://[/' is no address"),
        ("POST", "http://[/", "'http://[/' is no address"),
    ],
)
def test_an_address_that_cannot_be_read_is_refused(server, capsys, method, path, words):
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx"
    answer = send_raw(server, head.encode())  # http.client would not send these
    assert answer.startswith("HTTP/1.0 400 ") and words in answer.partition("\r\n\r\n")[2]
    assert capsys.readouterr().err == ""


def test_a_server_for_others_says_how_they_may_call_it():
    for names, own in ((), "0.0.0.0"), (("Lab.example.org",), "lab.example.org"):
        with PhotoServer(("0.0.0.0", 0), JobQueue(echo), b"", ["fake"], names=["0.0.0.0", *names]) as server:
            assert server.url == f"http://127.0.0.1:{server.server_port}/"  # 0.0.0.0 is nobody's name
            assert own in server.names and "192.0.2.7" not in server.names
            assert server.not_called("192.0.2.7:8321") == (
                f"this server is not '192.0.2.7:8321'; open it at {server.url}, "
                "or start it with names=[...] that has this name"
            )


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "TRACE", "CONNECT", "PATCH", "get", "NOSUCH"])
def test_other_methods_are_refused(server, method):
    status, text, headers = ask(server, method, "/")
    assert (status, headers["Allow"]) == (405, "GET, HEAD, POST") and "only GET, HEAD, POST" in text


@pytest.mark.parametrize(
    "head, status, words",
    [
        ("Content-Length: 200001", 413, "at most 0.2 MB are taken"),
        ("Content-Length: 999999999999999", 413, "the photo has 1000000000 MB"),
        ("Content-Length: 9999999999999999999999", 400, "is no number of bytes"),
        ("Content-Length: -1", 400, "'-1' is no number of bytes"),
        ("Content-Length: 5\r\nContent-Length: 6", 400, "Content-Length is given 2 times"),
        ("Content-Length: 0x5", 400, "is no number of bytes"),
        ("Content-Length: 0", 400, "the photo is empty"),
        ("Transfer-Encoding: chunked", 411, "not in chunks"),
        ("Transfer-Encoding: chunked\r\nContent-Length: 5", 411, "not in chunks"),
        ("X: 1", 411, "say how long the photo is"),
    ],
)
def test_a_length_that_is_none_is_refused_before_a_byte_is_read(server, head, status, words):
    answer = send_raw(server, f"POST /photo HTTP/1.1\r\nHost: localhost\r\n{head}\r\n\r\n".encode())
    assert answer.startswith(f"HTTP/1.0 {status} ") and words in answer


def test_a_photo_too_large_hears_why_though_it_is_sent_to_the_end(server):
    status, text, _ = ask(server, "POST", "/photo", b"x" * 20_000_000)
    assert status == 413 and text == "the photo has 20 MB, and at most 0.2 MB are taken\n"


def test_a_length_that_lies_is_found_out():
    head = b"POST /photo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n"
    with serving() as server, socket.create_connection(("127.0.0.1", server.server_port)) as short:
        short.sendall(head + b"1234")
        short.shutdown(socket.SHUT_WR)
        assert b"the photo ended early: 4 of 9 bytes came" in short.makefile("rb").read()
        answer = send_raw(server, head + b"123456789 and more than was said")
        assert answer.startswith("HTTP/1.0 202 ")
        ended(server, json.loads(answer.partition("\r\n\r\n")[2])["job"])
        assert server.jobs.reserve() and server.jobs.reserve()  # the places were given back


def test_a_photo_that_comes_too_slowly_is_given_up_and_its_place_is_free(monkeypatch):
    """The rest never comes; a second passes at once for whom it was told that so many are over."""
    head = b"POST /photo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n"
    read = web.Deadline.readinto
    monkeypatch.setattr(web.Deadline, "readinto", lambda self, buffer: late(self, read, buffer))
    with serving(seconds=60.0) as server:
        assert "too slowly: 3 of 9 bytes in 60 s" in send_raw(server, head + b"123")
        assert server.jobs.reserve() and server.jobs.reserve()


def late(deadline, read, buffer):
    """Bytes as they come; once the three of the photo have come, the time is up."""
    if getattr(deadline, "has_three", False):
        deadline.end = 0.0
    count = read(deadline, buffer)
    deadline.has_three = bytes(buffer[:count]).endswith(b"123")
    return count


def test_one_byte_now_and_then_keeps_no_connection_open():
    """Each byte comes well within a time that is counted from byte to byte."""
    with serving(seconds=0.3) as server:
        for beginning in (b"", b"POST /photo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\n"):
            with socket.create_connection(("127.0.0.1", server.server_port), timeout=PATIENCE) as slow:
                slow.sendall(beginning)
                assert not stays_open(slow)


def stays_open(connection: socket.socket) -> bool:
    """Whether bytes that trickle in are taken for a minute and more."""
    until = time.monotonic() + PATIENCE
    try:
        while time.monotonic() < until:
            connection.sendall(b"x")
            time.sleep(0.05)
    except OSError:
        return False
    return True


@pytest.mark.parametrize(
    "request_line", [b"\x00\xff\xfe\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"GET / X\r\n\r\n",
    b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\n" + b"X: 1\r\n" * 150 + b"\r\n"]
)  # fmt: skip
def test_what_is_no_request_gets_one_sentence(server, request_line):
    answer = send_raw(server, request_line)
    assert answer.startswith("HTTP/1.0 4") or answer.startswith("HTTP/1.0 505 ")
    assert "this is no request that a browser sends" in answer or "this server is not" in answer


def test_a_network_that_is_not_offered_is_refused_with_those_that_are(server):
    status, text, _ = ask(server, "POST", "/photo?network=../../resnet18", b"x")
    assert status == 400 and text.endswith("there are fake, other\n")


@pytest.mark.parametrize(
    "given, shown",
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\photos\\cat.jpg", "cat.jpg"),
        ("a\r\nSet-Cookie: b", "a  Set-Cookie: b"),
        ("", "photo"),
        ("..", ".."),
        ("x" * 900 + ".jpg", "x" * 196 + ".jpg"),
    ],
)
def test_a_photos_name_is_one_line_without_folders(given, shown):
    assert file_name(given) == shown


def test_a_hundred_uploads_at_once_are_all_answered_and_few_are_held():
    """One at work and eight that wait are all whose bytes are held at a time; the others hear so."""
    with one_at_work(waiting=8) as (server, _, let):
        answers = []
        threads = [
            threading.Thread(
                target=lambda: answers.append(ask(server, "POST", "/photo?name=a", b"x" * MOST)[:2])
            )
            for _ in range(100)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        taken = [json.loads(text)["job"] for status, text in answers if status == 202]
        refused = [text for status, text in answers if status == 503]
        assert (len(taken), len(refused)) == (8, 92)
        assert all("as many photos wait as there are places" in text for text in refused)
        assert sum(len(upload.data) for _, upload in server.jobs.queue) == 8 * MOST
        let.set()
        states = [ended(server, job)["status"] for job in taken]
        assert set(states) <= {"done", "dropped"} and len(server.jobs.pages) == 3


def test_more_connections_than_there_is_room_for_are_told_so():
    with (
        serving(connections=1) as server,
        socket.create_connection(("127.0.0.1", server.server_port)) as idle,
    ):
        idle.sendall(b"GET / HT")
        assert "503 Service Unavailable" in send_raw(server, b"")
        idle.sendall(b"TP/1.1\r\nHost: localhost\r\n\r\n")
        assert idle.makefile("rb").read().startswith(b"HTTP/1.0 200 ")


# --------------------------------------------------------------------------------------- photos and networks


class Tiles(torch.nn.Module):
    """Mean colours of 4 x 5 tiles."""

    def forward(self, images):
        return torch.nn.functional.adaptive_avg_pool2d(images, (4, 5))


def tiles_network():
    """A network of three channels, one of which is called like a tag."""
    head = Linear(torch.eye(3), torch.zeros(3), ("<b>ant</b>", "bee", "cow"))
    return fake_backbone(Tiles(), HOW, head, name="fake")


def explorer_of(upload: Upload, backbone) -> bytes:
    how = {"fit": "stretch", "size": 60}
    return serve.explorer_of(upload, backbone, (), preprocess=how, classes="auto", style=Style())


@pytest.fixture(scope="module")
def explorers():
    """A server whose pages are real ones."""
    backbone = tiles_network()
    with serving(lambda upload: explorer_of(upload, backbone)) as started:
        yield started


def encoded(kind: str, pixels: np.ndarray) -> bytes:
    return cv2.imencode(kind, pixels)[1].tobytes()


def test_an_upload_gives_the_explorer_of_that_photo(explorers, tmp_path):
    job = give(explorers, "%3Ci%3Ecat.png", make_photo(tmp_path / "cat.png").read_bytes())
    assert ended(explorers, job)["status"] == "done"
    page = ask(explorers, "GET", f"/explorer/{job}")[1]
    assert "<title>&lt;i&gt;cat.png</title>" in page and '"size":[70,90]' in page
    assert "<b>ant" not in page and "<i>cat" not in page


NOISE = np.random.default_rng(0).integers(0, 255, (70, 90, 3), np.uint8)
BAD = {
    "text": b"hello, this is no photo",
    "a page": b"<!doctype html><script>alert(1)</script>",
    "half a JPEG": encoded(".jpg", NOISE)[:1500],
    "half a PNG": encoded(".png", NOISE)[:1500],
    "a bomb": encoded(".png", np.zeros((1, 1, 3), np.uint8)).replace(
        b"\x00\x00\x00\x01\x00\x00\x00\x01", b"\x00\x07\xff\xff\x00\x07\xff\xff"
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_photo_has_the_line_of_the_command_line(explorers, here, kind):
    (here / "bad.jpg").write_bytes(BAD[kind])
    with pytest.raises(PhotoError) as error:
        load("bad.jpg")
    state = ended(explorers, give(explorers, "bad.jpg", BAD[kind]))
    assert (state["status"], state["reason"]) == ("failed", " ".join(str(error.value).split()))


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1)])
def test_a_photo_of_one_pixel_or_one_row_has_an_explorer(explorers, size):
    data = encoded(".png", np.full((*size, 3), 90, np.uint8))
    assert ended(explorers, give(explorers, "thin.png", data))["status"] == "done"


def test_features_that_are_not_numbers_fail_that_photo(here):
    class Broken(torch.nn.Module):
        def forward(self, images):
            return Tiles()(images) * torch.nan

    backbone = fake_backbone(Broken(), HOW, None)
    upload = Upload("cat.png", "fake", make_photo(here / "cat.png").read_bytes())
    with pytest.raises(PhotoError, match=r"cat\.png"):
        explorer_of(upload, backbone)


def test_other_networks_are_loaded_by_name_with_the_settings_of_photos(monkeypatch):
    from attnvis.backbone import sources

    head = Linear(torch.eye(3), torch.zeros(3), ())
    first = fake_backbone(Tiles(), HOW, head, name="mine")
    monkeypatch.setattr(sources, "load_backbone", lambda name, **given: (name, given))
    typed = ("backbone.layer=last", "backbone.device=cpu", "+backbone.placement=rf", "preprocess.size=96")
    networks = serve.Networks(first, typed, ["resnet18"])
    assert networks.names == ("mine", "resnet18")
    assert networks.find("mine") == (first, typed)
    assert networks.find("resnet18") == (
        ("resnet18", {"device": "cpu", "placement": "rf"}),
        ("backbone=resnet18", *typed[1:]),
    )


def test_networks_are_offered_whose_weights_are_here(tmp_path, monkeypatch):
    from attnvis.backbone import lite, overview

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(lite, "package_file", lambda variant: variant.size == 240)
    assert overview.with_weights_here() == ["efficientnet_lite1"]
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "resnet18-f37072fd.pth").touch()
    assert overview.with_weights_here() == ["efficientnet_lite1", "resnet18"]
