"""`attnvis serve` from the command line: its one line, its mistakes, its end."""

import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request

import pytest
from browsing import PATIENCE
from conftest import make_photo

from attnvis.cli.commands import serve
from attnvis.server.web import PhotoServer
from attnvis.types import PhotoError


@pytest.mark.parametrize(
    "words, line",
    [
        (["port=70000"], "port=70000: give 1 to 65535, or 0 for any that is free"),
        (["host=192.0.2.1", "port=0"], "host=192.0.2.1 is no address of this machine"),
        (["networks=[resnet18,nosuch]"], "networks: unknown backbone 'nosuch'"),
        (["waiting=-1"], "waiting=-1: give 0 or more"),
    ],
)
def test_a_setting_that_cannot_be_is_one_line(attnvis, words, line):
    assert line in attnvis("serve", *words).complaint


def test_a_port_that_is_taken_is_one_line(attnvis):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        complaint = attnvis("serve", f"port={port}").complaint
    assert (
        complaint
        == f"attnvis: port {port} is taken; choose another with port=..., or port=0 for any that is free"
    )


def test_it_says_where_it_is_and_ends_at_ctrl_c(attnvis, monkeypatch, here):
    """The photo at work is not waited for; the process would end there (os._exit)."""
    began, let, pages = threading.Event(), threading.Event(), []

    def never(*arguments, **settings):
        began.set()
        let.wait()
        raise PhotoError("its test is over")

    def leave(code):
        raise SystemExit(code)

    def client(server):
        url = server.url
        try:
            pages.append(urllib.request.urlopen(url).read())
            urllib.request.urlopen(f"{url}photo?name=cat.png", make_photo(here / "cat.png").read_bytes())
            pages.append(began.wait(PATIENCE))
        finally:
            os.kill(os.getpid(), signal.SIGINT)  # whatever went wrong: nobody else ends the server

    listen = serve.bind

    def bind(*arguments):
        server = listen(*arguments)
        threading.Thread(target=client, args=[server], daemon=True).start()
        return server

    monkeypatch.setattr(serve, "explorer_of", never)
    monkeypatch.setattr(serve, "bind", bind)
    monkeypatch.setattr(os, "_exit", leave)
    ended = attnvis("serve", "port=0", "networks=[]")
    let.set()
    assert ended.code == 130 and ended.out.startswith("open http://127.0.0.1:")
    assert ended.err == "attnvis: stopped; explorers that were not saved are gone\n"
    assert b"<option>efficientnet_lite0</option>" in pages[0] and pages[1:] == [True]


@pytest.mark.parametrize("names, said", [("names=[]", True), ("names=[lab.example.org]", False)])
def test_a_server_for_others_says_at_once_that_it_needs_names(attnvis, monkeypatch, names, said):
    monkeypatch.setattr(PhotoServer, "serve_forever", lambda *_, **__: None)
    ended = attnvis("serve", "host=0.0.0.0", "port=0", "networks=[]", names)
    assert ended.code == 0 and ended.out.startswith("open http://127.0.0.1:")
    assert ("only names that names=[...] lists are answered; it lists none" in ended.err) == said


@pytest.mark.slow
def test_a_kill_ends_the_process_with_a_photo_at_work(here):
    photo = make_photo(here / "cat.png", (1500, 1500)).read_bytes()
    words = [
        sys.executable,
        "-c",
        "from attnvis.cli import main; main('serve')",
        "port=0",
        "preprocess.size=896",
    ]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        url = process.stdout.readline().split()[1]
        for _ in range(4):
            urllib.request.urlopen(f"{url}photo?name=cat.png", photo)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (
        143,
        "attnvis: stopped by SIGTERM; explorers that were not saved are gone\n",
    )
