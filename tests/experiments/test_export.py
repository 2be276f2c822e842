"""A run's maps as benchmark sites take them: the same maps in the photos' own pixels, or one line why not."""

import base64
import errno
import json
import math
import tracemalloc
import zipfile
from dataclasses import asdict, replace
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import make_photo, records
from safetensors import safe_open

from attnvis.experiments.export import Answers, Density, chosen_map, file_names, grey
from attnvis.pipeline.kept_maps import KeptMap, KeptPhoto, KeptRun, of_shard
from attnvis.types import Box, PhotoError, Placement

SIZES = ((70, 90), (64, 50))
NAMES = ("COCO_val_000042.png", "COCO_val_000007.png")


def kept(path):
    """Weights and placements of a file of maps, read by safetensors alone."""
    with safe_open(path, "np") as file:
        answers = json.loads(file.metadata()["attnvis"])["answers"]
        return [(file.get_tensor(f"weights.{k}"), answer["placement"]) for k, answer in enumerate(answers)]


def density_in_loops(weights, placement):
    """Between the cells' centres bilinear, level beyond them, divided by the sum; seen whole."""
    height, width = placement["size"]
    pixels = np.empty((height, width))
    for row in range(height):
        for column in range(width):
            at = [
                min(max((pixel + 0.5 - first) / step, 0), cells - 1)
                for pixel, first, step, cells in zip(
                    (row, column), placement["first"], placement["step"], placement["grid"]
                )
            ]
            top, left = (min(int(place), cells - 2) for place, cells in zip(at, placement["grid"]))
            down, across = at[0] - top, at[1] - left
            pixels[row, column] = (
                weights[top, left] * (1 - down) * (1 - across)
                + weights[top, left + 1] * (1 - down) * across
                + weights[top + 1, left] * down * (1 - across)
                + weights[top + 1, left + 1] * down * across
            )
    return pixels / pixels.sum()


@pytest.fixture
def run(attnvis, here):
    for number, (name, size) in enumerate(zip(NAMES, SIZES)):
        make_photo(here / "photos" / name, size, seed=number)
    assert attnvis("run", "photos", "scaling=zscore", "render.panel=false").code == 0
    return here / "out"


@pytest.fixture
def export(attnvis):
    """`attnvis export out WORDS` into ./there."""
    return lambda *words, run="out": attnvis("export", run, *words, "hydra.run.dir=there")


def expected(run, name):
    ((weights, placement),) = kept(run / "maps" / f"{Path(name).stem}.safetensors")
    return density_in_loops(weights.astype(float), placement)


def test_every_format_holds_the_maps_in_the_photos_own_pixels(run, export):
    densities = {name: expected(run, name) for name in NAMES}
    for name, size in zip(NAMES, SIZES):
        assert densities[name].shape == size
    largest = {"png": 255, "png16": 65535, "jpg": 255}
    for kind, white in largest.items():
        ended = export(f"kind={kind}")
        assert ended.code == 0 and ended.out == "2 maps: there/maps\n"
        for name, density in densities.items():
            picture = cv2.imread(f"there/maps/{Path(name).stem}.{kind[:3]}", cv2.IMREAD_UNCHANGED)
            assert picture.dtype == (np.uint16 if kind == "png16" else np.uint8) and picture.max() == white
            assert np.abs(picture - white * density / density.max()).max() < (3 if kind == "jpg" else 0.51)
    assert export("kind=npy").code == 0
    for name, density in densities.items():
        array = np.load(f"there/maps/{Path(name).stem}.npy")
        assert array == pytest.approx(density, rel=1e-5) and array.sum() == pytest.approx(1, abs=1e-5)
    assert export("format=pysaliency", "kind=npy").code == 0
    for name, density in densities.items():
        array = np.load(f"there/maps/{Path(name).stem}.npy")
        assert array == pytest.approx(np.log(density), abs=1e-5)
    # what the export before left is gone
    assert {path.suffix for path in Path("there/maps").iterdir()} == {".npy"}


def test_salicons_zip_knows_photos_by_their_numbers(run, export):
    assert export("format=salicon").code == 0
    (rows,) = (json.loads(zipfile.ZipFile("there/results.zip").read(name)) for name in ["results.json"])
    assert {row["image_id"] for row in rows} == {42, 7}
    for row in rows:
        name = f"COCO_val_{row['image_id']:06d}.png"
        content = np.frombuffer(base64.b64decode(row["saliency_map"]), np.uint8)
        picture = cv2.imdecode(content, cv2.IMREAD_UNCHANGED)
        density = expected(run, name)
        assert np.abs(picture - 255 * density / density.max()).max() < 0.51


def test_a_zip_is_written_photo_by_photo_and_never_whole_in_memory(here):
    noise = np.random.default_rng(0).random((120, 120))

    def written(photos):
        tracemalloc.start()
        with Answers(here) as answers:
            for number in range(photos):
                answers.add(str(number), noise)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    few, many = written(3), written(60)
    content = zipfile.ZipFile(here / "results.zip").read("results.json").decode()
    rows = json.loads(content)
    assert [row["image_id"] for row in rows] == list(range(60)) and content == json.dumps(rows)
    assert few > len(rows[0]["saliency_map"]) and many < 2 * few, "a row at a time"


def test_a_zip_that_was_stopped_or_has_no_photo_is_none(here):
    stopped = Answers(here)
    stopped.add("1", np.ones((4, 4)))
    assert len(list(here.iterdir())) == 1, "its part"
    stopped.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    with Answers(here):
        pass
    assert not list(here.iterdir())


def test_a_zip_whose_last_sign_has_no_room_is_none_and_closed(here, monkeypatch):
    answers = Answers(here)
    answers.add("1", np.ones((4, 4)))
    real = answers.entry.write

    def without_room(content):
        if content == b"]":
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(content)

    monkeypatch.setattr(answers.entry, "write", without_room)
    with pytest.raises(OSError, match="No space left on device"), answers:
        pass
    assert not list(here.iterdir()) and answers.entry.closed


def test_what_is_asked_for_is_done_and_nothing_else():
    placement = Placement(
        (2.0, 1.0), (4.0, 2.0), grid=(3, 5), size=(12, 10), seen=Box(0.0, 0.0, height=12.0, width=10.0)
    )
    weights = torch.from_numpy(np.random.default_rng(3).dirichlet(np.ones(15)))
    plain = density_in_loops(weights.numpy().reshape(3, 5), vars(placement))
    given = KeptMap("mean", weights, placement)
    assert Density()(given) == pytest.approx(plain, rel=1e-6)
    blur = np.zeros_like(plain)
    for row, column in np.ndindex(12, 10):
        for other, beside in np.ndindex(12, 10):
            if max(abs(row - other), abs(column - beside)) <= 6:  # four deviations
                distance = (row - other) ** 2 + (column - beside) ** 2
                blur[row, column] += plain[other, beside] * math.exp(-distance / (2 * 1.5**2))
    assert Density(blur=1.5)(given) == pytest.approx(blur / blur.sum(), rel=1e-6)
    drawn_in = plain.copy()
    for row, column in np.ndindex(12, 10):
        down, across = (row + 0.5) / 12 - 0.5, (column + 0.5) / 10 - 0.5
        drawn_in[row, column] *= math.exp(-(down**2 + across**2) / (2 * 0.25**2)) ** 0.5
    assert Density(centre=0.5)(given) == pytest.approx(drawn_in / drawn_in.sum(), rel=1e-6)
    corner = np.zeros(15)
    corner[0] = 1  # pixels far from it have no mass, and near it the Gaussian is e^-8000 at this power
    one_hot = KeptMap("mean", torch.from_numpy(corner), placement)
    beside = Density("nearest", centre=1000.0)(one_hot)
    ratio = math.exp(1000 * ((0.5 - 2.5 / 12) ** 2 - (0.5 - 3.5 / 12) ** 2) / (2 * 0.25**2))
    assert beside.sum() == pytest.approx(1) and beside.argmax() == 3 * 10 + 1  # the cell's inmost pixel
    assert beside[3, 1] / beside[2, 1] == pytest.approx(ratio, rel=1e-9)
    with pytest.raises(PhotoError, match="mean: no pixel has any mass"):
        Density()(KeptMap("mean", weights, replace(placement, seen=Box(0.0, 0.0, height=0.1, width=0.1))))
    assert Density(floor=0.25)(given) == pytest.approx(0.75 * plain + 0.25 / 120, rel=1e-6)
    nearest = np.kron(weights.numpy().reshape(3, 5), np.ones((4, 2)))
    assert Density("nearest")(given) == pytest.approx(nearest / nearest.sum(), rel=1e-6)


def test_what_the_network_never_saw_is_black():
    seen = Box(0.0, 3.0, height=8.0, width=4.0)  # of a crop
    placement = Placement((1.0, 4.0), (2.0, 2.0), grid=(4, 2), size=(8, 10), seen=seen)
    density = Density()(KeptMap("mean", torch.full((8,), 0.125), placement))
    assert density[:, 3:7] == pytest.approx(np.full((8, 4), 1 / 32))
    assert not density[:, :3].any() and not density[:, 7:].any()
    assert grey(density, 255)[:, 3:7].min() == 255 and grey(density, 255)[:, 7:].max() == 0


def test_names_are_the_shortest_that_tell_photos_apart():
    def names(*paths):
        return [str(name) for name in file_names(paths)]

    assert names("/a/b/1.jpg") == ["1.jpg"]
    assert names("/a/b/1.jpg", "/a/b/2.jpg") == ["1.jpg", "2.jpg"]
    assert names("/cat/Action/1.jpg", "/cat/Art/1.jpg") == ["Action/1.jpg", "Art/1.jpg"]
    assert names("x.tar::a/1.jpg", "x.tar::b/1.jpg") == ["a/1.jpg", "b/1.jpg"]
    assert names("photos/1.jpg", "photos/1.jpg") == ["1.jpg", "1.jpg"]
    with pytest.raises(ValueError, match="out of the folder"):
        names("a/../../etc/1.jpg", "b/1.jpg")


def test_of_several_maps_one_is_chosen_by_its_name(attnvis, here, export):
    make_photo(here / "a.png")
    assert attnvis("run", "a.png", "query=several", "query.of=[class,pca]", "render.panel=false").code == 0
    ended = export()
    assert "a.png has 2 maps; choose one with map=...: 'class', 'pca'" in ended.complaint
    assert "map=mean is none of the maps of" in export("map=mean").complaint
    assert not Path("there/maps").exists()  # nothing was begun
    assert export("map=pca", "kind=npy").code == 0
    weights, placement = kept("out/maps/a.safetensors")[1]
    assert np.load("there/maps/a.npy") == pytest.approx(density_in_loops(weights, placement), rel=1e-5)


def test_a_map_is_chosen_by_its_label_where_only_one_has_it():
    placement = Placement(
        (1.0, 1.0), (2.0, 2.0), grid=(2, 2), size=(4, 4), seen=Box(0.0, 0.0, height=4.0, width=4.0)
    )
    maps = [
        KeptMap(name, torch.full((4,), 0.25), placement, label)
        for name, label in (("class:tabby", "tabby"), ("class", "tabby"), ("tabby", "x"), ("pca", "pca"))
    ]
    photo, other = KeptPhoto("a.png", tuple(maps)), KeptPhoto("b.png", tuple(maps[:2]))
    assert chosen_map(photo, "class:tabby") is maps[0]
    assert chosen_map(photo, "x") is maps[2] and chosen_map(photo, "tabby") is maps[2]  # names come first
    with pytest.raises(ValueError, match=r"map=tabby names 2 maps of b\.png; it has 'class:tabby', 'class'"):
        chosen_map(other, "tabby")


def test_the_label_that_a_record_has_names_the_map(attnvis, here, export):
    make_photo(here / "a.png")
    words = ("query=class:tabby", "backbone.layer=[stage3,last]", "render.panel=false")
    assert attnvis("run", "a.png", *words).code == 0
    (row, other) = records()
    assert row["label"] == "tabby, stage3" and other["label"] != row["label"]
    assert export(f"map={row['label']!r}", "kind=npy").out == "1 map: there/maps\n"
    weights, placement = kept("out/maps/a.safetensors")[0]
    assert np.load("there/maps/a.npy") == pytest.approx(density_in_loops(weights, placement), rel=1e-5)


def test_maps_in_shards_that_no_record_knows_are_a_failure(tmp_path):
    """Of a stranger's files, or of two runs that were mixed."""
    records = {"index": [0], "path": ["a.png"], "status": ["done"], "reason": [""], "map": ["maps/1"]}
    seen = Box(0.0, 0.0, height=2.0, width=2.0)
    at = json.dumps(asdict(Placement((1.0, 1.0), (2.0, 2.0), grid=(1, 1), size=(2, 2), seen=seen)))
    maps = {name: ["mean"] * 2 for name in ("query", "label", "layer")} | {"index": [0, 7]}
    maps |= {name: [1, 1] for name in ("rows", "columns")} | {"weights": [[1.0]] * 2, "placement": [at] * 2}
    for kind, columns in (("records", records), ("maps", maps)):
        (tmp_path / kind).mkdir()
        pq.write_table(pa.table(columns), tmp_path / kind / "1.parquet")
    known, strange = of_shard(tmp_path, "1")
    assert (known.path, [kept.label for kept in known.maps]) == ("a.png", ["mean"])
    assert "maps/1.parquet has maps of photo 7, of which no record says that it is done" in strange.failure


def test_a_run_without_maps_says_which_word_to_add(attnvis, here, export):
    make_photo(here / "a.png")
    assert attnvis("run", "a.png", "maps=false", "render.panel=false").code == 0
    assert export().complaint.endswith("out kept no maps to draw from; run again with maps=true")
    assert "is not the folder of a run: it has neither" in export(run="elsewhere").complaint


def test_photos_that_failed_and_maps_that_are_gone_are_told(attnvis, here, export):
    for name in ("a.png", "b.png"):
        make_photo(here / "photos" / name)
    (here / "photos" / "c.png").write_text("no photo")
    assert attnvis("run", "photos", "render.panel=false").code == 1
    (here / "out" / "maps" / "b.safetensors").write_bytes(b"damaged")
    ended = export("kind=png")
    assert ended.code == 1 and ended.out == "1 map, 2 left out: there/maps\n"
    assert "b.safetensors holds no maps of attnvis or is damaged" in ended.err and "c.png" in ended.err
    assert [path.name for path in Path("there/maps").iterdir()] == ["a.png"]


def test_files_that_are_nobodys_export_are_left_alone(run, export, here):
    (here / "there" / "maps").mkdir(parents=True)
    (here / "there" / "maps" / "mine.png").write_text("mine")
    complaint = export().complaint
    assert complaint.endswith("mine.png is not of an earlier export; export into another folder")
    assert (here / "there" / "maps" / "mine.png").read_text() == "mine"


def test_two_photos_never_share_a_file(attnvis, here, export):
    for name in ("a.png", "a.jpg"):
        make_photo(here / "photos" / name)
    assert attnvis("run", "photos", "render.panel=false").code == 0
    assert "would both be maps/a.jpg" in export().complaint


@pytest.mark.parametrize(
    "words, complaint",
    [
        (("format=saliency",), "format=saliency: there are mit, salicon, pysaliency"),
        (("kind=hdf5",), "kind=hdf5: format=mit takes jpg, png, png16, npy"),
        (("blur=-1",), "blur=-1.0: give a number from 0 to 10000"),
        (("blur=wide",), "blur must be a number, not 'wide'"),
        (("floor=2",), "floor=2.0: give a share from 0 to 1"),
        (("between=cubic",), "between=cubic: give linear or nearest"),
    ],
)
def test_settings_that_mean_nothing_are_refused(export, words, complaint):
    assert export(*words).complaint == f"attnvis: {complaint}"


@pytest.mark.slow  # it starts processes
def test_a_run_in_shards_gives_the_maps_of_the_plain_run(attnvis, run, here):
    words = ("photos", "launcher=local", "shards.size=1", "workers=1", "scaling=zscore")
    ended = attnvis("run", *words, "hydra.run.dir=sharded")
    assert ended.code == 0, ended
    plain, sharded = (list(KeptRun.read(here / name)) for name in ("out", "sharded"))
    assert [photo.path for photo in plain] == [photo.path for photo in sharded]
    for one, other in zip(plain, sharded):
        (one,), (other,) = one.maps, other.maps
        assert one.name == other.name == "mean" and one.placement == other.placement
        assert other.weights == pytest.approx(one.weights.numpy(), rel=2e-3)  # float16
    (here / "sharded" / "parts" / "000" / "00000001.json").unlink()
    assert KeptRun.read(here / "sharded").lacking.startswith("1 shard was not done; attnvis run --resume")
