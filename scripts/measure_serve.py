"""What `attnvis serve` costs: from upload to explorer, a hundred uploads at once, a huge photo, the end.

    python scripts/measure_serve.py

It starts the server, as a user would, and asks it by HTTP.  Memory: the most that the process has held.
"""

import http.client
import json
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import cv2
import numpy as np

from attnvis.data.paths import find

START = "from attnvis.cli import main; main('serve')"


def main() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", START, "port=0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    port = int(re.findall(r":(\d+)/", process.stdout.readline())[0])
    coffee = Path(str(find("samples/coffee")[0])).read_bytes()
    times = [explore(port, "coffee.png", coffee)[1] for _ in range(10)]
    print(f"one photo, upload to explorer: {statistics.median(times):.2f} s, the median of 10")
    print(f"memory then: {most_memory(process.pid)} MB")
    print(hundred(port, noise((2000, 2000), block=1)), f"; memory: {most_memory(process.pid)} MB", sep="")
    for name, size in (("100 megapixels", (10_000, 10_000)), ("225 megapixels", (15_000, 15_000))):
        state, seconds = explore(port, f"{size[1]}x{size[0]}.jpg", noise(size))
        print(f"{name}: {state} after {seconds:.1f} s; memory: {most_memory(process.pid)} MB")
    give(port, "last.jpg", noise((6000, 6000)))
    time.sleep(0.3)
    begun = time.monotonic()
    process.send_signal(signal.SIGINT)
    process.wait()
    print(f"Ctrl-C with a photo at work: {time.monotonic() - begun:.2f} s, exit code {process.returncode}")


def noise(size: tuple[int, int], block: int = 100) -> bytes:
    """A JPEG of squares of random colours, `block` pixels wide."""
    blocks = np.random.default_rng(0).integers(0, 255, (size[0] // block, size[1] // block, 3), np.uint8)
    pixels = cv2.resize(blocks, (size[1], size[0]), interpolation=cv2.INTER_NEAREST)
    return cv2.imencode(".jpg", pixels)[1].tobytes()


def ask(port: int, method: str, path: str, body: bytes | None = None) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    connection.request(method, path, body)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


def give(port: int, name: str, data: bytes) -> tuple[int, str]:
    """(status, the job's id or why there is none)."""
    status, text = ask(port, "POST", f"/photo?name={name}", data)
    return status, json.loads(text)["job"] if status == 202 else text.strip()


def explore(port: int, name: str, data: bytes) -> tuple[str, float]:
    """(how it ended, seconds)."""
    begun = time.monotonic()
    status, job = give(port, name, data)
    if status != 202:
        return job, time.monotonic() - begun
    while True:
        state = json.loads(ask(port, "GET", f"/job/{job}")[1])
        if state["status"] not in ("waiting", "working"):
            return state["reason"] or state["status"], time.monotonic() - begun
        time.sleep(0.02)


def hundred(port: int, data: bytes) -> str:
    """How a hundred uploads that come at once are answered."""
    answers: list[int] = []
    threads = [
        threading.Thread(target=lambda: answers.append(give(port, "noise.jpg", data)[0])) for _ in range(100)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    counts = ", ".join(f"{count} x {status}" for status, count in sorted(Counter(answers).items()))
    return f"a hundred uploads of {len(data) / 1e6:.1f} MB at once: {counts}"


def most_memory(process: int) -> int:
    """MB that a process has held at most (Linux)."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+)", status)[0]) // 1000


if __name__ == "__main__":
    main()
