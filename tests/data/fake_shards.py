"""Tars and tables written by hand: header by header, and column by column."""

import io
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

BLOCK = 512
FILE, LINK, SYMBOLIC, DEVICE, FOLDER = b"0", b"1", b"2", b"3", b"5"


def picture(seed: int) -> bytes:
    """A small PNG, other for every seed."""
    noise = np.random.default_rng(seed).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    return cv2.imencode(".png", noise)[1].tobytes()


def tar_entry(name: str, content: bytes = b"", kind: bytes = FILE, target: str = "") -> bytes:
    """One member as POSIX.1-1988 (ustar) lays it out: a header of 512 bytes, and the content in blocks."""
    size = len(content) if kind == FILE else 0
    header = (
        name.encode().ljust(100, b"\0")
        + b"0000644\0" + b"0000000\0" + b"0000000\0"
        + b"%011o\0" % size
        + b"%011o\0" % 0
        + b" " * 8  # the checksum counts itself as blanks
        + kind
        + target.encode().ljust(100, b"\0")
        + b"ustar\x0000"
    ).ljust(BLOCK, b"\0")  # fmt: skip
    header = header[:148] + b"%06o\0 " % sum(header) + header[156:]
    return header + (content + bytes(-size % BLOCK) if size else b"")


def tar_of(*entries: bytes) -> bytes:
    return b"".join(entries) + bytes(2 * BLOCK)


def shard(path: Path, pictures: dict[str, bytes]) -> Path:
    """WebDataset's: of every sample the picture, its class and some words."""
    entries = []
    for name, content in pictures.items():
        key = name.rpartition(".")[0]
        entries += [tar_entry(name, content), tar_entry(f"{key}.cls", b"1"), tar_entry(f"{key}.json", b"{}")]
    path.write_bytes(tar_of(*entries))
    return path


def picture_table(path: Path, pictures: list, name: str = "image", rows: int = 3) -> Path:
    """Hugging Face's: a column of {bytes, path}; `rows` of a row group."""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    cells = [None if content is None else {"bytes": content, "path": None} for content in pictures]
    columns = {name: pa.array(cells, kind), "label": list(range(len(cells)))}
    pq.write_table(pa.table(columns), path, row_group_size=rows)
    return path


def in_memory(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()
