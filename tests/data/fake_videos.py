"""Video files written byte by byte: Matroska with frames at any time, avi with any number in its header."""

import struct
from pathlib import Path

import cv2
import numpy as np


def jpeg(level: int, size: tuple[int, int] = (48, 64)) -> bytes:
    return cv2.imencode(".jpg", np.full((*size, 3), level, np.uint8))[1].tobytes()


def element(kind: str, content: bytes) -> bytes:
    """One of EBML's, its length in eight bytes."""
    return bytes.fromhex(kind) + struct.pack(">Q", 1 << 56 | len(content)) + content


def whole(kind: str, number: int) -> bytes:
    return element(kind, struct.pack(">Q", number))


def matroska(
    times: list[int], lasts: float, usual: int = 100, more: bytes = b"", codec: bytes = b"V_MJPEG"
) -> bytes:
    """A file of frames at these times, each brighter than the one before.

    times     in milliseconds
    lasts     what the header says, in milliseconds
    usual     what the header says of one frame
    more      elements behind the frames
    """
    head = element("1a45dfa3", element("4282", b"matroska") + whole("4287", 4) + whole("4285", 2))
    about = element("1549a966", whole("2ad7b1", 1_000_000) + element("4489", struct.pack(">d", lasts)))
    pixels = element("e0", whole("b0", 64) + whole("ba", 48))
    track = whole("d7", 1) + whole("73c5", 1) + whole("83", 1) + element("86", codec)
    track += whole("23e383", usual * 1_000_000) + pixels
    tracks = element("1654ae6b", element("ae", track))
    clusters = b""
    for start in range(0, len(times), 5):
        blocks = b"".join(
            element("a3", b"\x81" + struct.pack(">hB", time - times[start], 0x80) + jpeg(10 * number))
            for number, time in list(enumerate(times))[start : start + 5]
        )
        clusters += element("1f43b675", whole("e7", times[start]) + blocks)
    return head + element("18538067", about + tracks + clusters + more)


def avi(path: Path, count: int = 20, promised: int | None = None, indexed: bool = True) -> Path:
    """Of OpenCV, with another number of frames in its header, or without its index."""
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"MJPG"), 10.0, (64, 48))
    for number in range(count):
        writer.write(np.full((48, 64, 3), 10 * number, np.uint8))
    writer.release()
    data = bytearray(path.read_bytes())
    if promised is not None:
        struct.pack_into("<I", data, data.index(b"avih") + 8 + 16, promised)
        struct.pack_into("<I", data, data.index(b"strh") + 8 + 32, promised)
    path.write_bytes(data if indexed else data[: data.rindex(b"idx1")])
    return path
