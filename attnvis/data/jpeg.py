"""JPEG segments in: whether the file has its end, and which of the many JPEGs it is."""

import re
from dataclasses import dataclass

__all__ = ["Jpeg", "read_jpeg"]

MARKER = re.compile(rb"\xff+([^\x00\xff])", re.DOTALL)
FRAMES = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # SOF0 ... SOF15, and SOF55
UNREAD = {
    0xC3: "lossless", 0xC5: "hierarchical", 0xC6: "hierarchical", 0xC7: "hierarchical", 0xCB: "lossless",
    0xCD: "hierarchical", 0xCE: "hierarchical", 0xCF: "hierarchical", 0xF7: "JPEG-LS",
}  # fmt: skip


@dataclass(frozen=True)
class Jpeg:
    """What a JPEG's segments say."""

    frame: int  # the code of its frame: 0xC0 baseline, 0xC2 progressive, ...; 0: it has none
    bits: int
    has_end: bool  # whether an end marker follows the scan

    @property
    def unread(self) -> str:
        """What kind it is that no decoder here reads: lossless; "" where nothing is known to hinder."""
        if self.frame in UNREAD:
            return UNREAD[self.frame]
        return f"{self.bits}-bit" if self.frame and self.bits != 8 else ""


def read_jpeg(data: bytes) -> Jpeg:
    """The thumbnail in the EXIF segment has markers of its own, so segments are stepped over."""
    position, frame, bits = 2, 0, 8
    while marker := MARKER.search(data, position):
        code = marker[1][0]
        position = marker.end()
        if code == 0xDA:  # the scan
            return Jpeg(frame, bits, has_end=data.rfind(b"\xff\xd9", position) >= 0)
        if code in FRAMES and not frame and position + 2 < len(data):
            frame, bits = code, data[position + 2]
        has_body = not (code == 0x01 or 0xD0 <= code <= 0xD9)
        if has_body:
            position += int.from_bytes(data[position : position + 2], "big")
    return Jpeg(frame, bits, has_end=False)
