"""Netpbm files in - PBM, PGM, PPM and PFM, the portable float map -, their numbers out."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, UInt16

__all__ = ["Header", "read_floats", "read_header", "read_integers"]


@dataclass(frozen=True)
class Header:
    """The first words of a file, and where its pixels begin."""

    words: list[bytes]
    end: int

    @property
    def kind(self) -> bytes:
        """1 ... 6, F or f."""
        return self.words[0][1:2]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(height, width, channels)"""
        return int(self.words[2]), int(self.words[1]), 3 if self.kind in b"36F" else 1

    @property
    def most(self) -> int:
        """The number that is white."""
        return 1 if self.kind in b"14" else int(self.words[3])


def read_header(data: bytes) -> Header:
    """The words before the pixels, without comments.  Raises EOFError where there are too few."""
    words: list[bytes] = []
    count = 3 if data[1:2] in b"14" else 4
    at = 0
    while len(words) < count:
        while data[at : at + 1].isspace() or data[at : at + 1] == b"#":
            at = data.find(b"\n", at) + 1 if data[at : at + 1] == b"#" else at + 1
            if at <= 0:
                raise EOFError("it ends within a comment")
        start = at
        while at < len(data) and not data[at : at + 1].isspace():
            at += 1
        if start == at:
            raise EOFError("it ends within its header")
        words.append(data[start:at])
    return Header(words, at + 1)


def read_integers(data: bytes, header: Header) -> UInt16[np.ndarray, "h w channels"]:
    """The pixels of a PGM or PPM of 16 bits.  Raises EOFError where the file ends before them."""
    pixels = data[header.end :]
    if header.kind in b"23":
        samples = np.array(pixels.split(), np.uint16)
    else:
        samples = np.frombuffer(pixels, ">u2").astype(np.uint16)
    count = math.prod(header.shape)
    if len(samples) < count:
        raise EOFError("it ends before its pixels do")
    return samples[:count].reshape(header.shape)


def read_floats(data: bytes, header: Header) -> Float32[np.ndarray, "h w channels"]:
    """The pixels of a PFM, which it has from the bottom row to the top.

    Raises EOFError where the file ends before them, ValueError where there are none.
    """
    order = "<" if float(header.words[3]) < 0 else ">"
    if min(header.shape) < 1:
        raise ValueError("it has no pixels")
    count = math.prod(header.shape)
    if len(data) - header.end < 4 * count:
        raise EOFError("it ends before its pixels do")
    samples = np.frombuffer(data, f"{order}f4", count=count, offset=header.end).astype(np.float32)
    return samples.reshape(header.shape)[::-1]
