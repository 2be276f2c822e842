import csv
import json
import math
import struct
import threading
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import fake_backbone, no_network
from torch import nn

from attnvis import render
from attnvis.attention import query
from attnvis.attention.scaling import temperature
from attnvis.data import video
from attnvis.methods import attention
from attnvis.methods.attention import AttentionMethod
from attnvis.pipeline import video as pipeline_video
from attnvis.pipeline import video_file, video_run
from attnvis.pipeline.plan import RunPlan
from attnvis.render.panels import BAR_HEIGHT
from attnvis.types import Box, Features, Placement, Preprocessing, Provenance, Query

HOW = Preprocessing(size=64, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def make_clip(path, count=12, size=(48, 64), rate=12.5, codec="MJPG"):
    """Grey that grows lighter frame by frame, with a red square that wanders to the right; gives the
    squares' columns."""
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*codec), rate, size[::-1])
    assert writer.isOpened()
    lefts = []
    for number in range(count):
        picture = np.full((*size, 3), 40 + 3 * number, np.uint8)
        lefts.append(16 * (number * (size[1] // 16 - 1) // max(1, count - 1)))
        picture[16:32, lefts[-1] : lefts[-1] + 16] = (0, 0, 255)  # BGR
        writer.write(picture)
    writer.release()
    return lefts


def read_clip(path):
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    rate, pictures = capture.get(cv2.CAP_PROP_FPS), []
    while (answer := capture.read())[0]:
        pictures.append(answer[1])
    return rate, pictures


def read_rows(folder=Path("out")):
    with (folder / "numbers.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def told(folder=Path("out")):
    return json.loads((folder / "run.json").read_text())


@pytest.fixture
def film(attnvis):
    def call(*words):
        return attnvis(
            "video",
            "preprocess.size=96",
            *([] if "hydra.run.dir" in "".join(words) else ["hydra.run.dir=out"]),
            *words,
        )

    return call


def redness(features):
    """q = the red channel minus the others: the attention must follow the square."""
    direction = torch.tensor([1.0, -0.5, -0.5]).expand(len(features.tokens), 1, 3)
    return Query(direction, (("red",),) * len(features.tokens), text="red")


PLAN = RunPlan((), render.Style(), Provenance())


def colours():
    """A network whose patches are the mean colours of 16 x 16 pixels."""
    return fake_backbone(nn.AvgPool2d(16), HOW)


def reel(count=10, size=(32, 64), rate=10.0):
    for number in range(count):
        yield video.Frame(number, number / rate, np.full((*size, 3), number, np.uint8))


def features_of(tokens, layer="last"):
    """Patches [B, N, D], in one row of a frame of 16 x 16 N pixels."""
    count, patches, _ = tokens.shape
    whole = Placement(
        (8.0, 8.0), (16.0, 16.0), (1, patches), (16, 16 * patches), Box(0.0, 0.0, 16.0, 16.0 * patches)
    )
    return Features(tokens, (1, patches), (whole,) * count, names=("clip",) * count, layer=layer)


# ---------------------------------------------------------------------------------------- files in, files out


@pytest.mark.parametrize("name, codec, rate", [("clip.avi", "MJPG", 12.5), ("clip.mp4", "mp4v", 29.97)])
def test_the_drawn_video_has_the_frames_rate_and_size_of_its_source(film, name, codec, rate):
    make_clip(name, 11, (48, 64), rate, codec)
    ended = film(name, "batch_size=4")
    assert ended.code == 0 and "11 frames drawn: out/overlay.mp4" in ended.out and ended.err == ""
    found, pictures = read_clip("out/overlay.mp4")
    assert (
        found == pytest.approx(rate, rel=1e-4)
        and [picture.shape for picture in pictures] == [(48, 64, 3)] * 11
    )
    rows = read_rows()
    assert [int(row["frame"]) for row in rows] == list(range(11))
    assert [float(row["time"]) for row in rows] == pytest.approx(
        [number / rate for number in range(11)], abs=1e-3
    )
    for column in (
        "perplexity",
        "max_times_uniform",
        "x",
        "y",
    ):  # nothing is held or smoothed: what is drawn is each frame's own
        assert [float(row[column]) for row in rows] == pytest.approx(
            [float(row[f"drawn_{column}"]) for row in rows], rel=1e-5
        )
    record = told()["video"]
    assert (
        record["frames_promised"],
        record["frames_drawn"],
        record["frames_attended"],
        record["padding"],
    ) == (11, 11, 11, "none")
    assert (
        record["size"] == [48, 64]
        and record["codec"].split(":")[0] in video_file.CODECS
        and "fixed in advance" in record["colours"]
    )
    assert (
        told()["weights digest"] and told()["config"]["clip"] == name and told()["versions"]["opencv-python"]
    )
    assert sorted(path.name for path in Path("out").iterdir() if path.suffix) == [
        "legend.png",
        "numbers.csv",
        "overlay.mp4",
        "plan.json",
        "run.json",
    ]
    assert cv2.imread("out/legend.png").shape == (BAR_HEIGHT + 2 * 16, 440 + 2 * 16, 3)  # with its margin


def test_frames_come_in_order_with_their_own_pictures(film):
    make_clip("clip.avi", 12)
    film("clip.avi", "batch_size=5", "render.opacity=0")
    _, before = read_clip("clip.avi")
    _, after = read_clip("out/overlay.mp4")
    means = [picture[40:, :8].mean() for picture in after]
    assert means == sorted(means) and len(set(np.round(means))) == 12
    assert means == pytest.approx([picture[40:, :8].mean() for picture in before], abs=4)


@pytest.mark.parametrize("size, padded", [((47, 64), (48, 64)), ((48, 63), (48, 64)), ((47, 63), (48, 64))])
def test_an_odd_side_gets_one_more_line_and_that_is_recorded(here, size, padded):
    movie = video_file.VideoWriter(here / "odd.mp4", 10.0)
    picture = np.zeros((*size, 3), np.uint8)
    picture[-1], picture[:, -1] = 200, 200  # the last row and column: they must not be cut off
    for _ in range(3):
        movie.add(picture)
    movie.close()
    rate, pictures = read_clip(here / "odd.mp4")
    assert rate == 10.0 and [one.shape[:2] for one in pictures] == [padded] * 3
    assert movie.padded == (padded[0] - size[0], padded[1] - size[1])
    assert (
        pictures[1][-1].mean() > 150 and pictures[1][:, -1].mean() > 150 and pictures[1][:40, :50].mean() < 30
    )


def test_the_record_says_that_a_line_was_added(here):
    clip = video.Clip(Path("clip.avi"), (33, 64), 10.0, 2, "")
    with video_run.VideoRun(here / "out", clip, PLAN) as film:
        for shots in pipeline_video.attend_frames(
            reel(2, (33, 64)), AttentionMethod(colours(), redness), HOW, after=film.add
        ):
            assert len(shots) == 2
    assert told()["video"]["padding"].startswith("1 row below and 0 column on the right")


def turned_by_90(path):
    """Writes into an mp4's track header that its frames are to be turned clockwise, as telephones do."""
    data = bytearray(path.read_bytes())
    at = (
        data.index(b"tkhd") + 4 + 40
    )  # version, flags, two dates, track, duration, layer, group, volume: the matrix follows
    data[at : at + 36] = struct.pack(">9i", 0, 1 << 16, 0, -(1 << 16), 0, 0, 48 << 16, 0, 1 << 30)
    path.write_bytes(data)


def test_a_video_that_was_filmed_upright_comes_out_upright(film, here):
    make_clip(here / "clip.mp4", 4, (48, 64), codec="mp4v")
    turned_by_90(here / "clip.mp4")
    clip = video.examine(here / "clip.mp4")
    assert clip.size == (64, 48) and clip.turned % 360 in (90, 270)
    first = next(video.frames(clip)).pixels.astype(int)
    red = (
        first[..., 0] - first[..., 2] > 100
    )  # rows 16...32 from the top, at the left: turned clockwise, columns 16...32 from the right
    assert np.argwhere(red).mean(0) == pytest.approx((7.5, 23.5), abs=1.5)
    assert film("clip.mp4").code == 0
    assert [picture.shape for picture in read_clip("out/overlay.mp4")[1]] == [(64, 48, 3)] * 4


def test_start_and_stop_are_seconds_of_the_video(film):
    make_clip("clip.avi", 20, rate=10.0)
    assert film("clip.avi", "start=0.45", "stop=1.2", "every=3").code == 0
    rows = read_rows()
    assert [int(row["frame"]) for row in rows] == [5, 6, 7, 8, 9, 10, 11]
    assert [row["attended"] for row in rows] == list("1001001")
    assert len(read_clip("out/overlay.mp4")[1]) == 7


# ---------------------------------------------------------------------------------------------- what is drawn


def test_the_attention_follows_what_moves(here):
    lefts = make_clip(here / "clip.avi", 9, (48, 128))
    clip = video.examine(here / "clip.avi")
    how = Preprocessing(size=48, multiple=16, mean=HOW.mean, std=HOW.std)
    net = fake_backbone(nn.AvgPool2d(16), how)
    method = AttentionMethod(net, redness, partial(temperature, tau=0.1))
    shots = [
        shot for chunk in pipeline_video.attend_frames(video.frames(clip), method, how, 4) for shot in chunk
    ]
    rows = [video_run.numbers(shot) for shot in shots]
    assert [(row["drawn_x"], row["drawn_y"]) for row in rows] == [
        (left + 8.0, 24.0) for left in lefts
    ] and len(set(lefts)) > 3
    assert all((row["x"], row["y"]) == (row["drawn_x"], row["drawn_y"]) for row in rows)


def test_every_third_frame_is_attended_and_the_others_hold_it():
    seen = []
    net = colours()

    def counted(batch):
        seen.extend(round(float(image.mean() * 255)) for image in batch.images)
        return net(batch)

    shots = [
        shot
        for chunk in pipeline_video.attend_frames(
            reel(11), AttentionMethod(counted, redness), HOW, 4, every=3
        )
        for shot in chunk
    ]
    assert seen == [0, 3, 6, 9]
    assert [shot.attended for shot in shots] == [number % 3 == 0 for number in range(11)]
    assert all(shots[number].attention is shots[number - number % 3].attention for number in range(11))
    held = video_run.numbers(shots[1])
    assert (
        "perplexity" not in held
        and held["drawn_perplexity"] == video_run.numbers(shots[0])["drawn_perplexity"]
    )


def test_smoothing_is_the_exponential_average_over_time(here):
    make_clip(here / "clip.avi", 10, (48, 128), rate=20.0)
    clip = video.examine(here / "clip.avi")
    run = partial(
        pipeline_video.attend_frames,
        method=AttentionMethod(colours(), redness, partial(temperature, tau=0.1)),
        preprocessing=HOW,
    )
    own = [shot.attention.weights for chunk in run(video.frames(clip), batch_size=3) for shot in chunk]
    smooth = [
        shot.attention.weights
        for chunk in run(video.frames(clip), batch_size=4, smooth=0.15)
        for shot in chunk
    ]
    state = list(own[0])
    for number, weights in enumerate(own):
        if number:
            keep = math.exp(-(1 / 20) / 0.15)
            state = [keep * before + (1 - keep) * now for before, now in zip(state, weights)]
        np.testing.assert_allclose(smooth[number], state, rtol=1e-9)
    assert np.abs(np.subtract(own, smooth)).max() > 0.1
    assert [sum(one) for one in smooth] == pytest.approx([1] * 10)


@pytest.mark.parametrize("rate", [4, 10, 30])
def test_after_the_same_time_as_much_is_forgotten_at_any_frame_rate(rate):
    state = np.array([1.0, 0.0])
    for _ in range(rate // 2):  # half a second
        state = pipeline_video.smoothed(np.array([0.0, 1.0]), state, 1 / rate, 0.2)
    assert state == pytest.approx([math.exp(-0.5 / 0.2), 1 - math.exp(-0.5 / 0.2)])


def look_of(weights, size):
    tokens = torch.tensor([[[weight, 0.0] for weight in weights]])
    found = AttentionMethod(no_network, lambda features: torch.ones(1, 1, 2)).answer((features_of(tokens),))[
        0
    ][0]
    return pipeline_video.FrameAttention(found, np.array(weights))


def test_equal_weights_have_equal_colours_in_every_frame(here, monkeypatch):
    pictures = []
    monkeypatch.setattr(video_file.VideoWriter, "add", lambda movie, picture: pictures.append(picture))
    clip = video.Clip(Path("clip"), (16, 64), 10.0, 3, "")
    looks = [
        look_of(weights, clip.size)
        for weights in ([0.4, 0.5, 0.1, 0.0], [0.4, 0.0, 0.0, 0.6], [0.4, 0.5, 0.1, 0.0])
    ]
    with video_run.VideoRun(here / "out", clip, PLAN) as film:
        grey = np.full((16, 64, 3), 90, np.uint8)
        film.add(
            [
                pipeline_video.DrawnFrame(video.Frame(number, number / 10, grey), look, True)
                for number, look in enumerate(looks)
            ]
        )
    first, second, third = pictures
    np.testing.assert_array_equal(first, third)
    np.testing.assert_array_equal(first[:, :8], second[:, :8])  # 1.6 times uniform, whatever the hottest is
    assert np.abs(first[:, 56:].astype(int) - second[:, 56:]).max() > 40


def test_a_scale_that_changes_with_the_frame_is_refused(film):
    make_clip("clip.avi", 3)
    assert "would flicker" in film("clip.avi", "render=min_max").complaint


# -------------------------------------------------------------------------------------------- the sign of pca


def drifting(count=60, patches=7, channels=5):
    """Patches whose first direction turns slowly, while the norms (which choose its sign) change their
    mind over and over."""
    generator = torch.Generator().manual_seed(3)
    first, second = torch.linalg.qr(torch.randn(channels, 2, generator=generator))[0].T
    along = torch.linspace(-1, 1, patches).unsqueeze(1)
    tokens = []
    for number in range(count):
        angle = 0.02 * number
        direction = 3 * (math.cos(angle) * first + math.sin(angle) * second)
        tokens.append(along * direction + 0.5 * math.sin(number) * direction)
    return torch.stack(tokens)


def neighbours(vectors):
    vectors = nn.functional.normalize(torch.stack(vectors), dim=1)
    return (vectors[1:] * vectors[:-1]).sum(1)


@pytest.mark.parametrize("batch", [1, 7])
def test_the_sign_of_pca_stays_from_frame_to_frame_and_over_batches(batch):
    tokens = drifting()
    bare, kept = (
        query.pca,
        attention.steady(AttentionMethod(no_network, partial(query.pca, component=1))).query,
    )
    alone = [vector for part in tokens.split(batch) for vector in bare(features_of(part)).vectors[:, 0]]
    held = [vector for part in tokens.split(batch) for vector in kept(features_of(part)).vectors[:, 0]]
    assert (neighbours(alone) < -0.9).sum() > 10, "the test has nothing to protect"
    assert (neighbours(held) > 0.9).all()
    torch.testing.assert_close(held[0], alone[0])  # the first frame's own sign
    assert all(torch.equal(one, two) or torch.equal(one, -two) for one, two in zip(alone, held))


def test_the_verb_asks_pca_with_a_steady_sign(film, monkeypatch):
    make_clip("clip.avi", 3)
    attend_frames, asked = pipeline_video.attend_frames, []

    def spied(*arguments, **settings):
        asked.append(arguments[1].query)
        return attend_frames(*arguments, **settings)

    monkeypatch.setattr(pipeline_video, "attend_frames", spied)
    for words in (["query=pca"], ["query=mean"]):
        assert film("clip.avi", *words).code == 0
    assert [isinstance(one, attention.Steady) for one in asked] == [True, False]


def test_after_a_cut_the_sign_is_the_new_scenes_own():
    one = torch.tensor([[[2.0, 0.1], [0.0, 0.1], [0.0, -0.1]]])
    other = torch.tensor([[[0.1, 3.0], [0.3, 0.0], [-0.6, 0.0]]])
    for first, second in ((one, other), (-one, other), (one, -other), (-one, -other)):
        kept = attention.steady(AttentionMethod(no_network, query.pca)).query
        kept(features_of(first))
        torch.testing.assert_close(kept(features_of(second)).vectors, query.pca(features_of(second)).vectors)


def test_a_sign_that_means_something_is_left_alone():
    for asked in (query.mean, query.class_, partial(query.point, x=1.0, y=1.0), redness):
        assert attention.steady(AttentionMethod(no_network, asked)).query is asked
    assert (
        attention.steady(AttentionMethod(no_network, query.pca))
        .answer((features_of(drifting(2)),))[0][0]
        .query
        == "pca"
    )


# ------------------------------------------------------------------------------------------------ memory


@pytest.mark.parametrize("batch, every", [(1, 1), (4, 1), (4, 7)])
def test_no_more_than_three_chunks_are_alive_however_slow_the_writer_is(batch, every):
    lock, alive, most, order = threading.Lock(), 0, 0, []

    def counted():
        nonlocal alive, most
        for frame in reel(50):
            with lock:
                alive += 1
                most = max(most, alive)
            yield frame

    def slow(shots):
        nonlocal alive
        threading.Event().wait(0.005)
        with lock:
            alive -= len(shots)
        order.extend(shot.frame.index for shot in shots)

    chunks = [
        len(chunk)
        for chunk in pipeline_video.attend_frames(
            counted(), AttentionMethod(colours(), redness), HOW, batch, every, after=slow
        )
    ]
    assert order == list(range(50)) and sum(chunks) == 50 and max(chunks) == batch
    assert most <= 3 * batch


# -------------------------------------------------------------------------------------------- what goes wrong


def test_a_video_that_was_cut_off_is_drawn_as_far_as_it_goes(film, here):
    make_clip("clip.avi", 40)
    data = Path("clip.avi").read_bytes()
    Path("clip.avi").write_bytes(data[: len(data) * 6 // 10])
    ended = film("clip.avi")
    drawn = len(read_clip("out/overlay.mp4")[1])
    assert 15 < drawn < 30 and len(read_rows()) == drawn
    assert ended.code == 1 and f"{drawn} frames drawn" in ended.out
    assert ended.complaint.startswith(
        f"attnvis: {drawn} of the 40 frames that clip.avi promises could be read"
    )


@pytest.mark.parametrize(
    "name, given, advice",
    [
        ("nosuch.mp4", "no such video: nosuch.mp4", "see what lies in"),
        ("text.mp4", "text.mp4 cannot be read as a video", "copy or download it again"),
        ("zero.mp4", "zero.mp4 cannot be read as a video", "copy or download it again"),
        ("cut.mp4", "cut.mp4 cannot be read as a video", "cut off"),
        ("photo.png", "photo.png is a photo", "attnvis run photo.png"),
        ("folder", "folder is no video file", "give one file"),
    ],
)
def test_what_is_no_video_is_one_line(film, here, name, given, advice):
    make_clip("whole.mp4", 30, codec="mp4v")
    Path("text.mp4").write_text("hello, this is no video\n" * 20)
    Path("zero.mp4").touch()
    Path("cut.mp4").write_bytes(Path("whole.mp4").read_bytes()[:2000])
    cv2.imwrite("photo.png", np.zeros((8, 8, 3), np.uint8))
    Path("folder").mkdir()
    complaint = film(name).complaint
    assert given in complaint and advice in complaint
    assert not Path("out/overlay.mp4").exists()


@pytest.mark.parametrize(
    "words, said",
    [
        ("start=9", "no frame of clip.avi lies between start=9 and stop=inf; it lasts 0.64 s"),
        ("start=0.3 stop=0.2", "leave nothing of a video"),
        ("smooth=-1.0", "smooth=-1.0 is no time"),
        ("every=0", "every 0; give 1 or more"),
        ("codec=h265", "codec 'h265' is not known; choose auto, avc1, mp4v, vp09"),
        ("query=several query.of=[mean,rarity]", "makes 2 a frame; give one query and one layer"),
        ("query=point query.x=70 query.y=5", "point 70,5 lies outside the 64x48 photo clip.avi"),
        ("other.avi", "video takes one file, not 2"),
    ],
)
def test_a_setting_that_cannot_be_met_is_one_line(film, words, said):
    make_clip("clip.avi", 8)
    Path("other.avi").touch()
    assert said in film("clip.avi", *words.split()).complaint
    assert not Path("out/overlay.mp4").exists()


def test_ctrl_c_keeps_what_was_drawn_as_a_file_that_plays(film, monkeypatch):
    make_clip("clip.avi", 30)
    answers, calls = pipeline_video.Follower.answers, []

    def interrupted(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return answers(*arguments)

    monkeypatch.setattr(pipeline_video.Follower, "answers", interrupted)
    ended = film("clip.avi", "batch_size=4")
    assert ended.code == 130 and "stopped after 8 frames, which are kept: out/overlay.mp4" in ended.err
    assert len(read_clip("out/overlay.mp4")[1]) == len(read_rows()) == told()["video"]["frames_drawn"] == 8
    assert not list(Path("out").glob(".*part*")) and not Path("out/.lock").exists()


def test_an_interrupted_run_does_not_pass_off_the_video_of_an_earlier_one(film, monkeypatch):
    make_clip("clip.avi", 4)
    film("clip.avi")

    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline_video.Follower, "answers", interrupted)
    ended = film("clip.avi")
    assert (
        ended.code == 130
        and "kept: " not in ended.err
        and read_rows() == []
        and not Path("out/overlay.mp4").exists()
    )


def test_a_drawn_video_may_be_drawn_on_but_not_in_its_own_folder(film, here):
    make_clip("clip.avi", 4)
    film("clip.avi")
    before = Path("out/overlay.mp4").read_bytes()
    assert (
        "would be written over" in film("out/overlay.mp4").complaint
        and Path("out/overlay.mp4").read_bytes() == before
    )
    assert (
        film("out/overlay.mp4", "hydra.run.dir=again").code == 0
        and len(read_clip("again/overlay.mp4")[1]) == 4
    )


def test_a_codec_that_this_opencv_lacks_gives_way_to_the_one_that_all_have(here, monkeypatch):
    asked, real = [], cv2.VideoWriter

    class Lacking:
        fourcc = staticmethod(real.fourcc)

        def __new__(cls, path, api, codec, rate, size):
            asked.append(codec)
            return real(
                path if codec == real.fourcc(*"mp4v") else "/nowhere/at/all.mp4", api, codec, rate, size
            )

    monkeypatch.setattr(cv2, "VideoWriter", Lacking)
    movie = video_file.VideoWriter(here / "clip.mp4", 10.0)
    movie.add(np.zeros((32, 32, 3), np.uint8))
    movie.close()
    assert (
        movie.codec == "mp4v"
        and asked == [real.fourcc(*"avc1"), real.fourcc(*"mp4v")]
        and len(read_clip(here / "clip.mp4")[1]) == 1
    )
    with pytest.raises(ValueError, match=r"cannot write 32x32 frames as vp09 .* choose mp4v"):
        video_file.VideoWriter(here / "other.mp4", 10.0, "vp09").add(np.zeros((32, 32, 3), np.uint8))


def test_a_file_that_lacks_frames_is_not_called_whole(here):
    movie = video_file.VideoWriter(here / "clip.mp4", 10.0)
    for _ in range(5):
        movie.add(np.zeros((32, 32, 3), np.uint8))
    movie.count += 1  # as if a full disk had swallowed one
    with pytest.raises(OSError, match="could not be written whole"):
        movie.close()
    assert list(here.iterdir()) == []


def test_frames_at_varying_times_are_played_evenly_and_that_is_said(here):
    clip = video.Clip(Path("clip.mkv"), (32, 64), 10.0, 20, "")
    for times, said in (
        (lambda number: number / 10, ""),
        (lambda number: (number / 10) ** 2, "lasts 1.9 s instead of 3.6 s"),
    ):
        with video_run.VideoRun(here / "out", clip, PLAN) as film:
            frames = (video.Frame(frame.index, times(frame.index), frame.pixels) for frame in reel(20))
            list(
                pipeline_video.attend_frames(frames, AttentionMethod(colours(), redness), HOW, after=film.add)
            )
        assert (
            said in film.uneven
            and bool(said) == bool(film.uneven)
            and told()["video"]["uneven"] == film.uneven
        )
