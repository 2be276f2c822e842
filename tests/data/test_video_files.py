"""Which video files are whole, when their frames are to be shown, and at what pace."""

import os
import struct
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from fake_videos import avi, element, jpeg, matroska

from attnvis.data.containers import is_intact, shown_seconds
from attnvis.data.video import examine, frames, missing_part, pace_of
from attnvis.pipeline.video_file import VideoWriter

EVEN = [100 * number for number in range(20)]
UNEVEN = EVEN[:10] + [1000 + 500 * number for number in range(10)]  # milliseconds


def judged(path):
    """How many frames were read, and what is said of those that were not."""
    clip = examine(path)
    read = list(frames(clip))
    return len(read), missing_part(clip, read[-1].index + 1, read[-1].time + 1 / clip.turns)


def made(path, content):
    path.write_bytes(content)
    return path


def written_live(content):
    """Its segment does not say how long it is."""
    at = content.index(bytes.fromhex("18538067")) + 4
    return content[:at] + b"\x01" + b"\xff" * 7 + content[at + 8 :]


WHOLE = {
    "varying times, written live": lambda path: made(path, written_live(matroska(UNEVEN, 5600))),
    "varying times": lambda path: made(path, matroska(UNEVEN, 5600)),
    "even times": lambda path: made(path, matroska(EVEN, 2000)),
    "longer sound": lambda path: made(path, matroska(EVEN, 10_000)),
    "begins late": lambda path: made(path, matroska([5000 + time for time in EVEN], 7000)),
    "no length": lambda path: made(path, matroska(EVEN, 0)),
    "the header has too many": lambda path: avi(path.with_suffix(".avi"), promised=500),
    "the header has too few": lambda path: avi(path.with_suffix(".avi"), promised=3),
    "the header has none": lambda path: avi(path.with_suffix(".avi"), promised=0),
    "no index": lambda path: avi(path.with_suffix(".avi"), indexed=False),
    "one frame after another": lambda path: made(
        path.with_suffix(".mjpeg"), b"".join(jpeg(10 * number) for number in range(20))
    ),
}


IS_4_10 = cv2.__version__.startswith("4.10.")


@pytest.mark.parametrize("kind", [kind for kind in WHOLE if not (IS_4_10 and kind.endswith("too few"))])
def test_a_whole_video_is_never_called_damaged(tmp_path, kind):
    assert judged(WHOLE[kind](tmp_path / "clip.mkv")) == (20, "")


def test_where_opencv_4_10_may_stop_too_early_is_said(tmp_path, monkeypatch):
    clip = examine(WHOLE["the header has too few"](tmp_path / "clip.mkv"))
    read = len(list(frames(clip)))
    assert (clip.promised, read) == (3, 4 if IS_4_10 else 20)  # 4.10 stops there
    assert missing_part(clip, 20, 2.0) == ""
    monkeypatch.setattr(cv2, "__version__", "4.10.0")
    assert "OpenCV 4.10 reads one more and no further" in missing_part(clip, 4, 0.4)
    assert missing_part(clip, 3, 0.3) == ""


@pytest.mark.parametrize("kind", ["varying times", "even times", "longer sound", "no index"])
@pytest.mark.parametrize("share", [0.6, 0.75, 0.9])
def test_a_video_that_was_cut_off_is_told(tmp_path, kind, share):
    path = WHOLE[kind](tmp_path / "clip.mkv")
    data = path.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    read, reason = judged(path)
    assert 0 < read < 20
    assert reason.startswith(f"{read} of the ") and reason.endswith("could be read; it is cut off or damaged")


@pytest.mark.parametrize("kind", ["even times", "longer sound"])
def test_a_video_that_was_written_over_is_told(tmp_path, kind):
    path = WHOLE[kind](tmp_path / "clip.mkv")
    data = bytearray(path.read_bytes())
    half = len(data) // 2
    data[half:] = bytes(len(data) - half)
    path.write_bytes(data)
    read, reason = judged(path)
    assert read < 20 and reason.endswith("it is cut off or damaged")


def boxed(kind, content):
    return struct.pack(">I", 8 + len(content)) + kind + content


def mp4(path, count=20):
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"mp4v"), 10.0, (64, 48))
    for number in range(count):
        writer.write(np.full((48, 64, 3), 10 * number, np.uint8))
    writer.release()
    return path


def shortened(path, seconds):
    """Writes an edit list into an mp4: of its two seconds the last ones are not to be shown."""
    data = bytearray(path.read_bytes())
    scale = struct.unpack_from(">I", data, data.index(b"mvhd") + 4 + 12)[0]
    struct.pack_into(">I", data, data.index(b"mvhd") + 4 + 16, int(seconds * scale))
    struct.pack_into(">I", data, data.index(b"tkhd") + 4 + 20, int(seconds * scale))
    struct.pack_into(">I", data, data.index(b"elst") + 4 + 8, int(seconds * scale))
    path.write_bytes(data)
    return path


def test_what_an_edit_list_hides_is_not_missing(tmp_path):
    path = shortened(mp4(tmp_path / "clip.mp4"), 1.2)
    read, reason = judged(path)
    assert (read, reason, examine(path).promised) == (12, "", 20)
    assert shown_seconds(path) == pytest.approx(1.2)


def test_an_mp4_shows_as_long_as_its_track_of_pictures_says(tmp_path):
    assert shown_seconds(mp4(tmp_path / "clip.mp4")) == pytest.approx(2.0)
    for name, content in (
        ("a.mkv", matroska(EVEN, 2000)),
        ("b.mp4", boxed(b"ftyp", b"isom" * 3)),
        ("c", b""),
    ):
        assert shown_seconds(made(tmp_path / name, content)) is None


@pytest.mark.parametrize(
    "content, intact",
    [
        (b"", None),
        (b"\x47" + bytes(187), None),  # a transport stream says nothing
        (boxed(b"ftyp", b"isom" * 3) + boxed(b"mdat", bytes(99)) + boxed(b"moov", b""), True),
        (boxed(b"ftyp", b"isom" * 3) + boxed(b"mdat", bytes(99)), False),
        (boxed(b"ftyp", b"isom" * 3) + boxed(b"moov", b"") + boxed(b"mdat", bytes(99))[:50], False),
        (boxed(b"ftyp", b"isom" * 3) + boxed(b"moov", b"") + bytes(7), False),
        (boxed(b"ftyp", b"isom" * 3) + boxed(b"moov", b"") + b"\0\0\0\0mdat" + bytes(99), True),  # to the end
        (boxed(b"ftyp", b"isom" * 3) + b"\0\0\0\1moov" + struct.pack(">Q", 8), False),  # shorter than itself
        (matroska(EVEN, 2000), True),
        (matroska(EVEN, 2000, more=element("ec", bytes(50))), True),  # padding
        (matroska(EVEN, 2000)[:-1], False),
        (matroska(EVEN, 2000)[:90], False),
        (element("1a45dfa3", b"") + bytes.fromhex("18538067" + "01" + "ff" * 7), None),  # written live
        (b"FLV\1\1\0\0\0\x09\0\0\0\0" + b"\x09\0\0\x05" + bytes(16), True),
        (b"FLV\1\1\0\0\0\x09\0\0\0\0" + b"\x09\0\0\x05" + bytes(15), False),
        (b"RIFF\0\0\0\0AVI " + bytes(50), None),  # whoever wrote it did not come to its end
    ],
)
def test_a_container_says_whether_it_is_whole(tmp_path, content, intact):
    assert is_intact(made(tmp_path / "clip", content)) is intact


def test_frames_have_the_times_of_the_container(tmp_path):
    clip = examine(made(tmp_path / "clip.mkv", matroska(UNEVEN, 5600)))
    assert [round(1000 * frame.time) for frame in frames(clip)] == UNEVEN
    chosen = list(frames(clip, start=0.85, stop=2.5))
    assert [round(1000 * frame.time) for frame in chosen] == [900, 1000, 1500, 2000]
    assert [frame.index for frame in chosen] == [9, 10, 11, 12]
    assert (clip.turns, clip.stored, round(clip.lasts, 3)) == (10.0, 20, 5.6)


@pytest.mark.parametrize(
    "times, rate, pace",
    [
        ([number / 10 for number in range(20)], 10.0, 10.0),
        ([number / 29.97 for number in range(300)], 29.97, 29.97),
        ([round(number / 29.97, 3) for number in range(300)], 29.97, 29.97),  # Matroska counts milliseconds
        ([number / 10 for number in range(15)] + [3.5, 5.5, 9.5], 3.448, 10.0),  # the header has an average
        ([0.0, 0.04, 0.05, 0.1], 25.0, 30.0),  # 0.04 and 0.05 s are turns 1 and 1.25 of 25 a second
        ([number / 500 for number in range(20)], 25.0, 120.0),  # more than a player shows
        ([number / 500 for number in range(20)], 500.0, 500.0),
        ([0.0] * 20, 25.0, 25.0),  # no times at all
        ([], 25.0, 25.0),
    ],
)
def test_the_pace_is_the_fewest_turns_that_leave_each_frame_its_own(times, rate, pace):
    assert pace_of(times, rate) == pytest.approx(pace)


@pytest.mark.skipif(sys.platform != "linux", reason="other file systems want Unicode")
@pytest.mark.parametrize("name", [b"\xff\xfe.mkv", "\u043a\u043e\u0442 \U0001f408.mkv".encode(), b"a:b.mkv"])
def test_a_video_may_have_any_name(tmp_path, name):
    """OpenCV ends the process for a name that is no Unicode."""
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
    path.write_bytes(matroska(EVEN, 2000))
    assert judged(path) == (20, "")
    folder = tmp_path / os.fsdecode(b"\xff\xfe")
    folder.mkdir()
    movie = VideoWriter(folder / "overlay.mp4", 10.0)
    for frame in frames(examine(path)):
        movie.add(frame.pixels)
    movie.close()
    assert [entry.name for entry in folder.iterdir()] == ["overlay.mp4"]
    assert judged(folder / "overlay.mp4") == (20, "")
