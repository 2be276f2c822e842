"""A run's folder: everything about the run, to be read again without it."""

import base64
import json
import re
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from conftest import LOADED, make_photo, records

from attnvis import cli, files
from attnvis.attention.query import several
from attnvis.attention.query.language import parse
from attnvis.data.decoding import load
from attnvis.data.preprocessing import collate
from attnvis.methods.attention import AttentionMethod
from attnvis.metrics.diagnostics import DESCRIPTIONS
from attnvis.pipeline.maps import read_maps


@pytest.fixture
def photos(here):
    """Two of one name in two folders, and one that differs from them in case alone."""
    return [
        make_photo(here / folder / name, seed=seed)
        for seed, (folder, name) in enumerate([("a", "cat.png"), ("b", "cat.png"), ("c", "Cat.PNG")])
    ]


# ------------------------------------------------------------------------------------------------- the folder


def test_a_run_leaves_one_folder_that_describes_itself(attnvis, photos):
    words = ["run", "a", "b", "c", "query=several", 'query.of=[mean,"point:20,30"]', "seed=7"]
    assert attnvis(*words).code == 0
    out = Path("out")
    assert {path.name for path in out.iterdir()} == {
        ".hydra",
        "plan.json",
        "run.json",
        "records.csv",
        "index.html",
        "maps",
        "overlays",
        "panels",
        "thumbnails",
    }
    told = json.loads((out / "run.json").read_text())
    assert told["seed"] == "7" and told["config"]["query"]["of"] == ["mean", "point:20,30"]
    assert (
        re.fullmatch("[0-9a-f]{64}", told["weights digest"])
        and told["versions"]["torch"] == torch.__version__.partition("+")[0]
    )
    assert told["command"].startswith("attnvis run ") and "seed=7" in told["command"]
    assert (out / ".hydra" / "config.yaml").is_file()
    assert not re.search(
        r">-?\d+\.\d{10,}<", (out / "index.html").read_text()
    )  # the page rounds, the records do not
    rows = records()
    assert [(row["path"], row["query"]) for row in rows] == [
        (f"{name}", ask)
        for name in ("a/cat.png", "b/cat.png", "c/Cat.PNG")
        for ask in ("mean", "point:20,30")
    ]
    for row in rows:
        assert row["status"] == "done" and all(np.isfinite(float(row[name])) for name in DESCRIPTIONS)
        assert int(row["rows"]) * int(row["columns"]) == int(row["patches"]) and (
            row["height"],
            row["width"],
        ) == ("70", "90")
        assert cv2.imread(str(out / row["overlay"])).shape == (70, 90, 3) and (out / row["panel"]).is_file()
        heatmap = out / "thumbnails/heatmaps" / f"{Path(row['overlay']).stem}.jpg"
        thumbnail = out / "thumbnails/overlays" / heatmap.name
        assert cv2.imread(str(heatmap)).shape == cv2.imread(str(thumbnail)).shape == (70, 90, 3)
        assert base64.b64encode(thumbnail.read_bytes()) in (out / "index.html").read_bytes()
    photos_shown = {path.name: cv2.imread(str(path)) for path in (out / "thumbnails/photos").iterdir()}
    assert set(photos_shown) == {"cat.jpg", "cat-2.jpg", "Cat-3.jpg"}
    difference = np.abs(photos_shown["cat-2.jpg"].astype(int) - cv2.imread("b/cat.png"))
    assert difference.mean() < 12, "the photo as it is"
    assert (
        len({row["map"].lower() for row in rows}) == 3 and len({row["overlay"].lower() for row in rows}) == 6
    )
    assert not list(out.rglob("*.part"))


def test_the_command_in_the_record_can_be_typed_again(attnvis, here, monkeypatch):
    make_photo(here / "it's mine.png")
    assert attnvis("run", "it's mine.png", "query=mean").code == 0
    import shlex

    first = records()
    command = shlex.split(json.loads(Path("out/run.json").read_text())["command"])
    monkeypatch.setattr(sys, "argv", command)
    cli.main()
    assert records() == first


def test_a_failed_photo_has_its_reason_in_the_records_and_on_the_page(attnvis, photos, here):
    (here / "a" / "bad.jpg").write_text("<b>no photo</b>")
    assert attnvis("run", "a").code == 1
    by_name = {row["photo"]: row for row in records()}
    assert by_name["bad.jpg"]["status"] == "failed" and "is no photo" in by_name["bad.jpg"]["reason"]
    assert by_name["cat.png"]["status"] == "done" and "is no photo" in Path("out/index.html").read_text()


def test_a_photo_that_changes_during_the_run_fails_alone(attnvis, here, monkeypatch):
    make_photo(here / "big.jpg", (600, 800)), make_photo(here / "cat.png")
    from attnvis.data import decoding
    from attnvis.pipeline import streaming

    read = decoding.load

    def load_then_change(path, **settings):
        photo = read(path, **settings)
        if path.name == "big.jpg":  # decoded reduced, and read again for the overlay
            make_photo(path, (600, 800), seed=9)
        return photo

    monkeypatch.setattr(streaming, "load", load_then_change)
    ended = attnvis("run", "big.jpg", "cat.png")
    assert ended.code == 1 and "1 photo done" in ended.out and "changed since it was read" in ended.err
    assert [(row["photo"], row["status"]) for row in records()] == [
        ("big.jpg", "failed"),
        ("cat.png", "done"),
    ]


def test_maps_read_again_are_what_the_network_found_and_where(attnvis, photos):
    asked = ["mean", "point:20,30", "box:5,6,30,20", "rarity"]
    assert (
        attnvis(
            "run",
            "a",
            "query=several",
            f"query.of={json.dumps(asked)}",
            "scaling=inv_sqrt_d",
            "backbone.precision=fp32",
        ).code
        == 0
    )
    photo = load(Path("a/cat.png"), short=96)
    network = LOADED(precision="fp32")
    method = AttentionMethod(network, lambda features: several(features, asked))
    (expected,) = method(collate([photo], network.preprocessing.changed("resize", 96)))
    again = read_maps(Path("out") / records()[0]["map"])
    assert [answer.query for answer in again] == asked
    for found, true in zip(again, expected, strict=True):
        assert found.placement == true.placement and found.mark == true.mark and found.label == true.label
        torch.testing.assert_close(found.attention.weights, true.attention.weights, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(found.attention.scores, true.attention.scores, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(found.vector, true.vector, rtol=1e-4, atol=1e-4)
        assert found.diagnostics["perplexity"] == pytest.approx(true.diagnostics["perplexity"], rel=1e-4)
    assert parse(asked[1])


def test_names_stay_unique_where_case_is_ignored_and_are_counted_on():
    taken: dict[str, int] = {}
    assert [files.unique(name, taken) for name in ("cat", "Cat", "cat-2", "cat", "dog")] == [
        "cat",
        "Cat-2",
        "cat-2-2",
        "cat-3",
        "dog",
    ]
    looks = []

    class Watched(dict):
        def __contains__(self, name):
            looks.append(name)
            return super().__contains__(name)

    watched = Watched(taken)
    assert len({files.unique("photo", watched) for _ in range(1000)}) == 1000
    assert len(looks) <= 2 * 1000  # counted from 1 each time they are half a million


@pytest.mark.parametrize("name", ["../../etc/passwd", "a/b", "..", "con:", "größe", "<img>", "x" * 300])
def test_a_slug_is_no_path_and_no_html(name):
    assert re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,79}", files.slug(name))


# -------------------------------------------------------------------------------------------------- redrawing


def test_redraw_gives_the_same_overlays_without_the_network(attnvis, photos, monkeypatch):
    assert attnvis("run", "a", "b", "c", "query=several", 'query.of=[mean,"point:20,30"]').code == 0
    from attnvis import backbone

    monkeypatch.setattr(backbone, "efficientnet_lite", None)
    monkeypatch.setattr(backbone.Backbone, "__call__", None)
    assert attnvis("redraw", "out", "hydra.run.dir=again").code == 0
    first = {path.name: path.read_bytes() for path in Path("out/overlays").iterdir()}
    assert len(first) == 6 and first == {
        path.name: path.read_bytes() for path in Path("again/overlays").iterdir()
    }
    assert [row["perplexity"] for row in records("again")] == [row["perplexity"] for row in records("out")]
    assert attnvis("redraw", "out", "hydra.run.dir=magma", "render.colours=magma").code == 0
    assert first != {path.name: path.read_bytes() for path in Path("magma/overlays").iterdir()}


def test_redraw_refuses_another_photo_and_a_damaged_map(attnvis, photos):
    assert attnvis("run", "a", "b", "c").code == 0
    make_photo(photos[0], seed=77)
    (Path("out") / records()[1]["map"]).write_bytes(b"nothing")
    ended = attnvis("redraw", "out", "hydra.run.dir=again")
    assert ended.code == 1 and "its bytes have changed" in ended.err and "is damaged" in ended.err
    assert [row["status"] for row in records("again")] == ["failed", "failed", "done"]


def test_redraw_without_maps_says_so_and_spares_the_run_itself(attnvis, photos):
    assert attnvis("run", "a", "maps=false").code == 0
    assert not Path("out/maps").exists()
    assert "kept no maps" in attnvis("redraw", "out", "hydra.run.dir=again").complaint
    assert attnvis("run", "a").code == 0
    assert "redraw into another folder" in attnvis("redraw", "out", "hydra.run.dir=out").complaint
    assert records()[0]["map"]


def test_a_page_is_the_same_wherever_its_cards_were_made(attnvis, photos):
    assert attnvis("run", "a", "b", "c", "workers=2").code == 0
    page = Path("out/index.html").read_bytes()
    assert page.count(b'<img src="data:image/jpeg;base64,') == 3
    Path("out/index.html").unlink()
    assert attnvis("run", "--resume", "out").code == 0  # from the files now
    assert Path("out/index.html").read_bytes() == page
