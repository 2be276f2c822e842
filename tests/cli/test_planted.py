"""What somebody planted in an output folder is neither followed nor waited for: it is one line."""

import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import make_photo

from attnvis import files

HYDRA = (".hydra/config.yaml", ".hydra/hydra.yaml", ".hydra/overrides.yaml")
RUN = ("plan.json", "run.json", "records.csv", "index.html", *HYDRA)
PICTURES = ("maps", "overlays", "panels", "thumbnails")
LOGS = (".hydra", "wandb")
JOB = ("job.json", "rows.parquet", "curves.safetensors", ".rows.part")
VERBS = {  # words, the files and the folders that they write
    "run": (["run", "a.png", "preprocess.size=96", "explore=1"], RUN, (*PICTURES, "explorers", *LOGS)),
    "redraw": (["redraw", "source"], RUN, (*PICTURES, *LOGS)),
    "video": (
        ["video", "clip.avi", "preprocess.size=96", "codec=mp4v"],
        ("plan.json", "run.json", "numbers.csv", "legend.png", "overlay.mp4", *HYDRA),
        (".hydra", "wandb"),
    ),
    "sweep": (
        ["sweep", "a.png", "preprocess.size=96", "query=mean", "scaling=none", "cache.use=false"],
        ("plan.json", "index.html", "sweep.parquet", *JOB, *HYDRA),
        ("sheets", "tiles", "figures", ".hydra", "wandb"),
    ),
    "sweep of several": (
        ["sweep", "a.png", "preprocess.size=96", "seed=0,1", "query=mean", "scaling=none", "cache.use=false"],
        ("multirun.yaml", *(f"1/{name}" for name in (*JOB, *HYDRA))),
        ("1", "1/sheets", "1/tiles", "1/.hydra", "1/wandb", ".submitit"),
    ),
}  # fmt: skip


@pytest.fixture
def world(attnvis):
    make_photo(Path("a.png"))
    writer = cv2.VideoWriter("clip.avi", cv2.VideoWriter.fourcc(*"MJPG"), 12, (64, 48))
    for number in range(3):
        writer.write(np.full((48, 64, 3), 60 * number, np.uint8))
    writer.release()
    Path("victim").mkdir()
    Path("victim/file").write_text("mine")
    assert attnvis("run", "a.png", "preprocess.size=96", "hydra.run.dir=source").code == 0


def begun(attnvis, verb):
    return attnvis(*VERBS[verb][0], "hydra.run.dir=out", *["hydra.sweep.dir=out"] * verb.startswith("sweep"))


def unharmed():
    """Whether the victim is as it was."""
    return [path.name for path in Path("victim").iterdir()] == ["file"] and Path(
        "victim/file"
    ).read_text() == "mine"


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_writes_no_other_names_than_these(attnvis, world, verb):
    """Else a name that is missing in the list would not be tried."""
    _, own_files, own_folders = VERBS[verb]
    assert begun(attnvis, verb).code == 0
    place = Path("out/1") if verb == "sweep of several" else Path("out")
    written = {str(path.relative_to("out")) for path in (*place.iterdir(), *place.glob(".hydra/*"))}
    known = {*own_files, *own_folders}
    assert written <= known and known - written <= {
        *("wandb", "1/wandb", ".rows.part", "1/.rows.part", "multirun.yaml", "1", ".submitit"),
    }


@pytest.mark.slow
@pytest.mark.parametrize("planted", ["link", "pipe", "other kind"])
@pytest.mark.parametrize("verb", VERBS)
def test_what_was_planted_in_a_fresh_folder_is_refused_in_one_line(attnvis, world, verb, planted):
    _, own_files, own_folders = VERBS[verb]
    for name in (*own_files, *own_folders, ".lock"):
        path, is_folder = Path("out", name), name in own_folders
        path.parent.mkdir(parents=True, exist_ok=True)
        match planted, is_folder:
            case "link", True:
                path.symlink_to(Path("victim").absolute())
            case "link", False:
                path.symlink_to(Path("victim/file").absolute())
            case "pipe", _:
                os.mkfifo(path)
            case "other kind", True:
                path.write_text("a file")
            case "other kind", False:
                path.mkdir()
        before = os.lstat(path)
        complaint = begun(attnvis, verb).complaint
        assert f"{path}" in complaint and "remove it" in complaint, (name, complaint)
        assert unharmed() and os.lstat(path).st_ino == before.st_ino, name
        shutil.rmtree("out")


def test_links_planted_in_wandbs_own_folder_are_refused(attnvis, world):
    Path("out/wandb").mkdir(parents=True)
    Path("out/wandb/artifacts").symlink_to(Path("victim").absolute())
    assert "out/wandb/artifacts is a link; remove it" in begun(attnvis, "run").complaint and unharmed()


@pytest.mark.parametrize("verb", ["run", "redraw", "video", "sweep"])
def test_a_folder_that_is_held_is_left_as_it_is_by_a_second_command(attnvis, world, verb):
    assert begun(attnvis, verb).code == 0
    before = {path: path.read_bytes() for path in Path("out").rglob("*") if path.is_file()}
    with files.locked(Path("out")):
        assert "another run is writing into" in begun(attnvis, verb).complaint
        assert attnvis(verb, "--resume", "out").code == 1
        Path("out/.lock").touch()
        now = {path: path.read_bytes() for path in Path("out").rglob("*") if path.is_file()}
        now.pop(Path("out/.lock"))
    assert now == before  # what Hydra writes too
