"""Explorers in Firefox, driven by its own protocol (Marionette): Python's numbers there too."""

import itertools
import json
import random
import shutil
import socket
import subprocess
import time

import pytest
import random_questions
from test_explorer_browser import C, features, photo

from attnvis.explorer.page import Origin, explorer

pytestmark = pytest.mark.browser
FIREFOXES = ("firefox-esr", "firefox")


class Marionette:
    """A line to a Firefox: messages are LENGTH:[0, number, command, parameters]."""

    def __init__(self, port: int, patience: float = 60) -> None:
        self.numbers = itertools.count(1)
        until = time.monotonic() + patience
        while True:
            try:
                self.line = socket.create_connection(("127.0.0.1", port), timeout=patience)
                self.receive()  # its greeting
                break
            except OSError:
                if time.monotonic() > until:
                    raise
                time.sleep(0.3)

    def receive(self):
        length = b""
        while not length.endswith(b":"):
            byte = self.line.recv(1)
            if not byte:
                raise OSError("Firefox hung up")
            length += byte
        data = b""
        while len(data) < int(length[:-1]):
            data += self.line.recv(int(length[:-1]) - len(data))
        return json.loads(data)

    def call(self, command: str, **parameters):
        message = json.dumps([0, next(self.numbers), command, parameters]).encode()
        self.line.sendall(str(len(message)).encode() + b":" + message)
        _, _, error, result = self.receive()
        assert error is None, error
        return result

    def run(self, script: str, *arguments):
        return self.call("WebDriver:ExecuteScript", script=script, args=list(arguments), sandbox=None)[
            "value"
        ]


@pytest.fixture(scope="module")
def firefox(tmp_path_factory):
    program = next(filter(None, map(shutil.which, FIREFOXES)), None)
    if program is None:
        pytest.skip(f"no Firefox here; looked for {', '.join(FIREFOXES)}")
    profile = tmp_path_factory.mktemp("profile")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (profile / "user.js").write_text(f'user_pref("marionette.port", {port});\n')
    command = [program, "--headless", "--marionette", "--no-remote", "--profile", str(profile), "about:blank"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        line = Marionette(port)
        line.call("WebDriver:NewSession", capabilities={"alwaysMatch": {}})
        yield line
    finally:
        process.terminate()
        process.wait(30)


def test_firefox_has_pythons_numbers_and_paints_a_click(firefox, tmp_path):
    path = explorer(Origin(photo(), (features(),), "net")).save(tmp_path / "page.html")
    firefox.call("WebDriver:Navigate", url=path.as_uri())
    for _ in range(100):
        if firefox.run("return document.documentElement.dataset.ready"):
            break
        time.sleep(0.1)
    draw, layer = random.Random(2), features()
    for _ in range(100):
        terms, scale, normal = random_questions.question(draw, layer, list(range(C)))
        link = random_questions.link(terms, scale, normal)
        answer = firefox.run("return window.attnvisExplorer.answer(arguments[0])", link)
        expected = random_questions.weights(layer, terms, scale, normal)
        assert random_questions.distance(answer["weights"], expected) <= answer["bound"], (
            terms,
            scale,
            normal,
        )
    element = firefox.call("WebDriver:FindElement", using="css selector", value=".stage")["value"]
    firefox.call("WebDriver:ElementClick", id=next(iter(element.values())))
    time.sleep(0.3)
    assert firefox.run("return document.querySelector('.question').textContent").startswith("point ")
    painted = (
        "const map = document.querySelector('canvas.map');"
        "return map.getContext('2d').getImageData(0, 0, map.width, map.height).data.some(Boolean)"
    )
    assert firefox.run(painted)
