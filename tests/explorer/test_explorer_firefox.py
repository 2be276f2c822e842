"""Explorers in Firefox, driven by its own protocol (Marionette): Python's numbers there too."""

import itertools
import json
import os
import random
import shutil
import socket
import subprocess

import pytest
import random_questions
from browsing import PATIENCE, comes
from test_explorer_browser import C, features, photo

from attnvis.explorer.page import Origin, explorer

pytestmark = pytest.mark.browser
FIREFOXES = ("firefox-esr", "firefox")


class Marionette:
    """A line to a Firefox: messages are LENGTH:[0, number, command, parameters]."""

    def __init__(self, port: int) -> None:
        self.numbers = itertools.count(1)
        self.line = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
        self.receive()  # its greeting

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
    (profile / "user.js").write_text(
        'user_pref("marionette.port", 0);\n'
    )  # any that is free; it writes down which
    port = profile / "MarionetteActivePort"
    command = [program, "--headless", "--marionette", "--no-remote", "--profile", str(profile), "about:blank"]
    home = {**os.environ, "HOME": str(profile)}  # root's Firefox takes no home of another's
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=home)
    try:
        comes(lambda: process.poll() is None and port.is_file() and port.read_text().strip().isdigit())
        line = Marionette(int(port.read_text()))
        line.call("WebDriver:NewSession", capabilities={"alwaysMatch": {}})
        yield line
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def test_firefox_has_pythons_numbers_and_paints_a_click(firefox, tmp_path):
    path = explorer(Origin(photo(), (features(),), "net")).save(tmp_path / "page.html")
    firefox.call("WebDriver:Navigate", url=path.as_uri())
    comes(lambda: firefox.run("return document.documentElement.dataset.ready"), "true")
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
    comes(lambda: firefox.run("return document.querySelector('.question').textContent.slice(0, 6)"), "point ")
    painted = (
        "const map = document.querySelector('canvas.map');"
        "return map.getContext('2d').getImageData(0, 0, map.width, map.height).data.some(Boolean)"
    )
    comes(lambda: firefox.run(painted))
