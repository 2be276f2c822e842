"""Input made to do harm: each is refused in one line, or is a photo like any other.

None hangs, fills the memory or leaves the folder.
"""

import io
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import Page, make_photo, records
from PIL import Image
from safetensors.torch import save

from attnvis import cli
from attnvis.cli.messages import visible
from attnvis.data.decoding import load
from attnvis.data.paths import find
from attnvis.data.reading import MOST_BYTES
from attnvis.types import PhotoError

UNIX = pytest.mark.skipif(sys.platform == "win32", reason="there are no such files on Windows")


def refusal(source) -> str:
    with pytest.raises(PhotoError) as caught:
        load(source)
    return str(caught.value)


def saved(kind: str, size: tuple[int, int] = (64, 48), mode: str = "RGB", **options) -> bytes:
    file = io.BytesIO()
    Image.new(mode, size).save(file, kind, **options)
    return file.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, colour: int = 2, depth: int = 8) -> bytes:
    """A whole PNG, every byte of its pixels 0."""
    channels = {0: 1, 2: 3, 6: 4}[colour]
    row, packer = bytes(1 + width * channels * depth // 8), zlib.compressobj(1)
    packed = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def jpeg(width: int, height: int) -> bytes:
    """A photo of 64 x 48 whose header says otherwise."""
    data = bytearray(saved("JPEG"))
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def gif(width: int, height: int) -> bytes:
    screen = b"GIF89a" + struct.pack("<HHBBB", width, height, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    return screen + b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x44\x01\x00;"


def tiff(width: int, height: int, compression: int = 1) -> bytes:
    tags = [
        (256, width),
        (257, height),
        (258, 8),
        (259, compression),
        (262, 1),
        (273, 8),
        (277, 1),
        (278, height),
        (279, 100),
    ]
    return (
        b"II*\0\x08\0\0\0"
        + struct.pack("<H", len(tags))
        + b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    )


def bmp(width: int, height: int) -> bytes:
    return (
        b"BM"
        + struct.pack("<IHHI", 100, 0, 0, 54)
        + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    )


def webp() -> bytes:
    data = bytearray(saved("WEBP", lossless=True))
    data[21:25] = b"\xff\xff\xff\x0f"  # 16,384 x 16,384
    return bytes(data)


# ------------------------------------------------------------------------------------ bombs and false headers


ENORMOUS = {
    "jpeg": jpeg(65_535, 65_535), "gif": gif(65_535, 65_535), "tiff": tiff(2**31 - 1, 2**31 - 1),
    "webp": webp(), "bmp": bmp(99_999, 99_999),
}  # fmt: skip


@pytest.mark.parametrize("kind", ENORMOUS)
def test_a_header_that_claims_too_much_is_refused_before_decoding(kind):
    assert len(ENORMOUS[kind]) < 1000
    assert "178,956,970 pixels" in refusal(ENORMOUS[kind])


@pytest.mark.slow
def test_a_whole_png_of_50000_by_50000_zeros_is_refused():
    assert "178,956,970 pixels" in refusal(png(50_000, 50_000))


@pytest.mark.parametrize(
    "kind, data",
    {
        "gif": gif(9000, 9000),
        "tiff": tiff(9000, 9000),
        "lzw": tiff(9000, 9000, 5),
        "bmp": bmp(9000, 9000),
    }.items(),
)
def test_a_header_that_claims_more_than_the_file_holds_is_a_damaged_photo(kind, data):
    assert "damaged or truncated" in refusal(data)


@pytest.mark.slow
@UNIX
@pytest.mark.parametrize("colour, depth", [(2, 8), (6, 8), (6, 16), (0, 16)])
def test_the_largest_photo_that_is_read_takes_at_most_nine_bytes_a_pixel(colour, depth, tmp_path):
    """Three for the pixels, four or so for the decoder's own, and little else; all at once took 17."""
    (tmp_path / "bomb.png").write_bytes(png(13_000, 13_000, colour, depth))
    code = """
import resource, sys
from attnvis.data.decoding import load
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert load(sys.argv[1]).size == (13_000, 13_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    said = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "bomb.png")], capture_output=True, text=True, check=True
    ).stdout
    assert int(said) * (1024 if sys.platform == "linux" else 1) < 9 * 13_000**2


@pytest.mark.parametrize(
    "mode, kind",
    [("RGBA", "PNG"), ("LA", "PNG"), ("P", "PNG"), ("I;16", "PNG"), ("CMYK", "TIFF"), ("L", "GIF")],
)
def test_a_photo_is_the_same_in_strips_and_in_one(mode, kind, monkeypatch):
    size = (3000, 1500)  # more than a strip
    values = np.random.default_rng(0).integers(0, 256, (size[1] * size[0], 4), dtype=np.uint8)
    channels = {"RGBA": 4, "LA": 2, "P": 1, "I;16": 2, "CMYK": 4, "L": 1}[mode]
    picture = Image.frombytes(mode, size, np.ascontiguousarray(values[:, :channels]).tobytes())
    if mode == "P":
        picture.putpalette(np.random.default_rng(1).integers(0, 256, 768, dtype=np.uint8).tobytes())
        picture.info["transparency"] = 7
    file = io.BytesIO()
    picture.save(file, kind)
    if mode == "I;16":
        expected = np.rint(np.asarray(picture) / 257).astype(np.uint8)[..., None].repeat(3, 2)
    elif mode in ("RGBA", "LA", "P"):
        expected = np.asarray(
            Image.alpha_composite(Image.new("RGBA", size, "white"), picture.convert("RGBA"))
        )[..., :3]
    else:
        expected = np.asarray(picture.convert("RGB"))
    assert np.array_equal(load(file.getvalue()).pixels, expected)


@pytest.mark.parametrize(
    "tail", [b"PK\x03\x04 a zip", b"<html><script>alert(1)</script></html>", b"%PDF-1.7", b"\x7fELF"]
)
def test_what_follows_a_jpeg_is_nobodys_photo(tail, attnvis, here):
    alone = saved("JPEG")
    assert np.array_equal(load(alone + tail).pixels, load(alone).pixels)
    (here / "both.jpg").write_bytes(alone + tail)
    assert attnvis("run", "both.jpg").code == 0
    assert not any(tail in file.read_bytes() for file in Path("out").rglob("*") if file.is_file())


# ---------------------------------------------------------------------------------------- files that are none


@UNIX
def test_pipes_sockets_and_devices_are_refused_without_opening_them(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.jpg")
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket.jpg")
        monkeypatch.setattr("builtins.open", None)
        assert "pipe.jpg is a pipe, not a photo" in refusal("pipe.jpg")
        assert "socket.jpg is a socket, not a photo" in refusal("socket.jpg")
        for device in ("/dev/zero", "/dev/null", "/dev/full"):
            assert f"{device} is a device, not a photo" in refusal(device)


@UNIX
def test_a_pipe_put_in_a_photos_place_after_the_look_does_not_block(tmp_path, monkeypatch):
    path = make_photo(tmp_path / "cat.png")
    looked = os.stat(path)
    path.unlink()
    os.mkfifo(path)
    monkeypatch.setattr(os, "stat", lambda *_, **__: looked)
    answered: list[str] = []
    thread = threading.Thread(target=lambda: answered.append(refusal(path)), daemon=True)
    thread.start()
    thread.join(60)
    assert answered and "is a pipe" in answered[0]


@UNIX
def test_a_run_on_a_pipe_a_device_and_a_photo_draws_the_photo(attnvis, here):
    os.mkfifo(here / "pipe.jpg")
    make_photo(here / "cat.png")
    ended = attnvis("run", "pipe.jpg", "/dev/zero", "cat.png")
    assert ended.code == 1 and "1 done, 2 failed" in ended.err
    assert [row["status"] for row in records()] == ["failed", "failed", "done"]


@UNIX
def test_a_photo_piped_in_is_told_to_go_into_a_file(tmp_path):
    code = (
        "from attnvis.data.decoding import load\n"
        "try: load('/dev/stdin')\n"
        "except ValueError as error: print(error)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        # while nothing has been sent, and the pipe is open
        assert "/dev/stdin is a pipe" in process.stdout.readline()


@UNIX
def test_a_sparse_file_of_many_gigabytes_is_refused_by_its_size(tmp_path):
    for name, start in {"sparse.jpg": b"", "sparse.tif": b"II*\0\x08\0\0\0"}.items():
        with (tmp_path / name).open("wb") as file:
            file.write(start)
            file.truncate(64 << 30)
        assert "has 68,719,476,736 bytes" in refusal(tmp_path / name) and f"{MOST_BYTES:,}" in refusal(
            tmp_path / name
        )
    (tmp_path / "sparse.jpg").rename(tmp_path / "list.txt")
    with pytest.raises(PhotoError, match="68,719,476,736 bytes"):
        find(tmp_path / "list.txt")


def test_a_folder_named_like_a_photo_is_a_folder(tmp_path):
    make_photo(tmp_path / "album.jpg" / "cat.png")
    assert (
        find(tmp_path)
        == find(tmp_path / "album.jpg")
        == find(str(tmp_path / "*.jpg" / "*"))
        == [tmp_path / "album.jpg" / "cat.png"]
    )


# -------------------------------------------------------------------------------------------------- gathering


@UNIX
@pytest.mark.parametrize("how", ["{}", "{}/**", "{}/**/*.png", "{}/**/**/cat.*"])
def test_loops_of_links_are_walked_once(how, tmp_path):
    """With two loops, who follows links finds 2^40 ways to the same photo before the system stops it."""
    make_photo(tmp_path / "a" / "cat.png")
    for name in ("loop", "again"):
        (tmp_path / "a" / name).symlink_to(tmp_path)
    (tmp_path / "itself.png").symlink_to("itself.png")
    found = find(how.format(tmp_path))
    assert [path.name for path in found if path.name == "cat.png"] == ["cat.png"]


@UNIX
def test_a_link_that_leads_to_itself_or_nowhere_is_a_photo_that_fails(tmp_path):
    (tmp_path / "itself.png").symlink_to("itself.png")
    (tmp_path / "nowhere.png").symlink_to("gone.png")
    assert [path.name for path in find(tmp_path)] == ["itself.png", "nowhere.png"]
    assert "levels of symbolic links" in refusal(tmp_path / "itself.png")
    assert "no such photo" in refusal(tmp_path / "nowhere.png")


@UNIX
def test_folders_deeper_than_python_calls_are_searched_to_the_bottom(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for _ in range(1500):
        os.mkdir("d")
        os.chdir("d")
    make_photo(Path("cat.png"))
    os.chdir(tmp_path)
    try:
        assert [path.name for path in find(".")] == ["cat.png"] == [path.name for path in find("**/*.png")]
    finally:
        # pytest's own way of clearing up is recursive, and ends its session
        subprocess.run(["rm", "-rf", "d"], check=True)


def test_every_entry_of_a_folder_is_looked_at_once(tmp_path, monkeypatch):
    for number in range(300):
        (tmp_path / f"{number:03}.jpg").touch()
    calls = []
    scan = os.scandir
    monkeypatch.setattr(os, "scandir", lambda place: calls.append(place) or scan(place))
    assert [path.name for path in find(tmp_path)] == [f"{number:03}.jpg" for number in range(300)]
    assert calls == [str(tmp_path)]


def test_hidden_folders_are_not_entered(tmp_path, monkeypatch):
    make_photo(tmp_path / "cat.png")
    make_photo(tmp_path / ".git" / "deep" / "dog.png")
    calls = []
    scan = os.scandir
    monkeypatch.setattr(os, "scandir", lambda place: calls.append(place) or scan(place))
    assert find(tmp_path) == [tmp_path / "cat.png"] and calls == [str(tmp_path)]


def test_a_folder_that_cannot_be_opened_is_not_passed_over_in_silence(tmp_path, monkeypatch):
    make_photo(tmp_path / "cat.png")
    (tmp_path / "locked").mkdir()
    scan = os.scandir

    def refuse(place):  # permission bits do not stop root
        if str(place).endswith("locked"):
            raise PermissionError(13, "Permission denied")
        return scan(place)

    monkeypatch.setattr(os, "scandir", refuse)
    assert find(tmp_path) == [tmp_path / "cat.png", tmp_path / "locked"]
    with pytest.raises(PhotoError, match="cannot be opened \\(Permission denied\\)"):
        find(tmp_path / "locked")


def test_thousands_of_missing_photos_do_not_read_a_big_folder_each(tmp_path, monkeypatch):
    seen = []

    class Entries(list):
        __enter__, __exit__ = (lambda self: self), (lambda self, *_: None)

        def __iter__(self):
            return iter(seen.append(entry) or entry for entry in super().__iter__())

    class Entry:
        name = "other.jpg"

    monkeypatch.setattr(os, "scandir", lambda place: Entries([Entry] * 5000))
    assert "no such photo" in refusal(tmp_path / "gone.jpg")
    assert len(seen) == 1000


# ------------------------------------------------------------------------------------------------------ names


STRANGE = {
    "new\nline.png": "new\\nline.png",
    "red\x1b[31m.png": "red\\x1b[31m.png",
    "\u202egnp.exe.png": "\\u202egnp.exe.png",
    "<script>alert(1)</script>.png".replace("/", "\u2215"): "<script>",
    "&amp;'\"`.png": "&amp;'\"`",
    "x\\..\\..\\escape.png": "x\\..\\..\\escape",
    "x..png": "x..png",
    "$(reboot) ; rm -rf.png": "$(reboot)",
    os.fsdecode(b"caf\xe9\xff.png"): "caf\\udce9\\udcff.png",
    "n" * 246 + ".png": "n" * 246,
}


@UNIX
@pytest.mark.parametrize("broken", [False, True])
def test_names_stay_names_in_files_pages_records_and_at_the_terminal(attnvis, here, broken):
    for number, name in enumerate(STRANGE):
        path = make_photo(here / "album" / "cat.png", seed=number).rename(here / "album" / name)
        if broken:
            path.write_bytes(b"no photo")
    ended = attnvis("run", "album")
    rows = records()
    assert ended.code == broken and sorted(row["photo"] for row in rows) == sorted(
        name.encode("utf-8", "backslashreplace").decode() for name in STRANGE
    )
    assert {row["status"] for row in rows} == {"failed" if broken else "done"}
    assert {path.name for path in here.iterdir()} == {"album", "out"} and len(
        list((here / "album").iterdir())
    ) == len(STRANGE)
    for path in Path("out").rglob("*"):
        assert path.name.isascii() and path.name.isprintable() and len(path.name) < 200
    page = Page(Path("out/index.html"))
    assert sum(tag == "script" for tag, _ in page.tags) == 1 and "<script>alert" not in page.source
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    if broken:
        lines = ended.err.splitlines()
        assert len(lines) == len(STRANGE) + 1 and all(
            line.startswith("attnvis: ") and line.isprintable() for line in lines
        )
        assert all(any(shown in line for line in lines) for shown in STRANGE.values())


@UNIX
@pytest.mark.parametrize("name", STRANGE)
def test_a_strange_name_that_is_missing_is_one_line(attnvis, here, name):
    complaint = attnvis("run", name).complaint
    assert ("no photos match" if "[" in name else "no such photo") in complaint and complaint.isprintable()


def test_what_is_shown_is_one_line_of_what_can_be_printed():
    assert visible("größe 猫.png") == "größe 猫.png"
    assert visible("a\nb\tc\x1b[2J\x00\u202e\u2028") == "a\\nb\\tc\\x1b[2J\\x00\\u202e\\u2028"


@pytest.mark.parametrize("name", ["../escape", "a/../../escape", "'../escape'", "..", "a,../escape"])
@pytest.mark.parametrize("sign", ["", "++"])
def test_a_run_is_not_named_out_of_the_outputs(attnvis, here, name, sign):
    make_photo(here / "photos" / "cat.png")
    complaint = attnvis(
        "run", "photos", f"{sign}name={name}", "hydra.run.dir=outputs/${name}/${now:%H-%M-%S-%f}"
    ).complaint
    assert "leads out of outputs/" in complaint and "hydra.run.dir=FOLDER" in complaint
    assert {path.name for path in here.iterdir()} == {"photos"}


def test_an_absolute_name_stays_below_the_outputs(here, monkeypatch):
    make_photo(here / "cat.png")
    outside = here / "elsewhere"
    words = ["run", "cat.png", f"name={outside}", "preprocess.size=96", "render.panel=false"]
    monkeypatch.setattr(sys, "argv", ["attnvis", *words])
    cli.main()
    assert not outside.exists()
    assert list((here / "outputs" / str(outside).lstrip("/")).rglob("index.html"))


# --------------------------------------------------------------------------------------- weights and settings


class Payload:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


def lying(header: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header


WHOLE = save({"features.0.0.weight": torch.zeros(3)})
WEIGHTS = {
    "huge header": ("w.safetensors", lying(b"{}", 2**63)),
    "a header beyond the file": ("w.safetensors", lying(b"{}", 10_000_000)),
    "data beyond the file": (
        "w.safetensors",
        lying(b'{"a":{"dtype":"F32","shape":[1000000000],"data_offsets":[0,4000000000]}}'),
    ),
    "an overflowing shape": (
        "w.safetensors",
        lying(b'{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]}}') + bytes(4),
    ),
    "overlapping tensors": (
        "w.safetensors",
        lying(
            b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
        )
        + bytes(4),
    ),
    "a header that nests": ("w.safetensors", lying(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}")),
    "bytes flipped": ("w.safetensors", bytes(byte ^ 255 for byte in WHOLE)),
    "nothing": ("w.safetensors", b""),
    "text as pth": ("w.pth", b"hello"),
    "nothing as pth": ("w.pth", b""),
    "a zip as pth": ("w.pth", b"PK\x05\x06" + bytes(18)),
}


@pytest.mark.parametrize("case", WEIGHTS)
def test_weights_that_lie_are_refused_in_one_line(attnvis, here, case):
    make_photo(here / "cat.png")
    name, content = WEIGHTS[case]
    (here / name).write_bytes(content)
    assert name in attnvis("run", "cat.png", f"backbone.weights={name}").complaint


@pytest.mark.parametrize("how", [{}, {"_use_new_zipfile_serialization": False}], ids=["zip", "legacy"])
@pytest.mark.parametrize("name", ["w.pth", "w.pt", "w.bin", "w.safetensors"])
def test_a_pickled_payload_is_never_run_whatever_its_file_is_called(attnvis, here, name, how):
    make_photo(here / "cat.png")
    torch.save({"features": Payload()}, name, **how)
    assert name in attnvis("run", "cat.png", f"backbone.weights={name}").complaint
    assert not (here / "exploded").exists()


@UNIX
def test_weights_in_a_pipe_do_not_block(attnvis, here):
    make_photo(here / "cat.png")
    for name in ("w.pth", "w.safetensors"):
        os.mkfifo(here / name)
        assert "no weights file" in attnvis("run", "cat.png", f"backbone.weights={name}").complaint
    assert "no weights file /dev/zero" in attnvis("run", "cat.png", "backbone.weights=/dev/zero").complaint


DEEP = "[" * 3000 + "]" * 3000


@pytest.mark.parametrize(
    "word, said",
    [
        (f"query.of={DEEP}", "nested deeper"),
        (f"query.of={DEEP.replace('[', '{a:').replace(']', '}')}", "cannot read"),
        ("seed=" + "(" * 3000, "cannot read"),
        ("seed=${nothing}", "'nothing' not found"),
        ("seed=${oc.env:NO_SUCH_VARIABLE}", "NO_SUCH_VARIABLE"),
        ("hydra.run.dir=" + "n" * 300, "File name too long"),
        ("query.of=&a [*a,*a]", "cannot read"),
    ],
)
def test_settings_that_nest_name_themselves_or_cannot_be_read_are_one_line(attnvis, here, word, said):
    make_photo(here / "cat.png")
    shown = attnvis("run", "cat.png", "query=several", word).complaint
    assert said in shown


def test_an_alias_in_an_override_is_only_text(attnvis, here):
    """Hydra's grammar has no aliases, so nothing expands: yaml's billion laughs are the text they are."""
    make_photo(here / "cat.png")
    assert attnvis("run", "cat.png", "logger.tags=[*a,*a,*a]", "name=laughs").code == 0
    assert json.loads(Path("out/run.json").read_text())["config"]["logger"]["tags"] == ["*a"] * 3


@pytest.mark.parametrize("group", ["query", "scaling", "normalise", "render", "backbone"])
@pytest.mark.parametrize(
    "target",
    ["os.system", "builtins.eval", "subprocess.run", "attnvis.data.paths.os.system", "attnvis.cli.main"],
)
def test_every_group_refuses_a_target_that_is_not_its_own(attnvis, here, group, target):
    make_photo(here / "cat.png")
    assert (
        f"{target} is not attnvis' own" in attnvis("run", "cat.png", f"{group}._target_={target}").complaint
    )
