"""`attnvis sweep`: one job or several, what outlives a mistake or a kill, what changes no bit of a number."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from browsing import comes
from conftest import make_photo

import attnvis as package
from attnvis import backbone, files
from attnvis.cli.commands.sweep import files_of_queries
from attnvis.cli.common import thread_count
from attnvis.experiments.sweep import page
from attnvis.experiments.sweep.folder import read_sweep
from attnvis.experiments.sweep.job import GridWriter, JobWriter
from attnvis.json_files import sealed

ROOT = Path(package.__file__).resolve().parents[1]
SMALL = ("hydra.run.dir=out", "hydra.sweep.dir=out", "preprocess.size=96", "sheets=0")
PHOTOS = ("0.png", "1.png")


@pytest.fixture
def photos(here):
    for number, name in enumerate(PHOTOS):
        make_photo(here / name, seed=number)


@pytest.fixture
def sweep(attnvis, photos, monkeypatch):
    """`attnvis sweep 0.png 1.png WORDS` in this process, into ./out; the page has tests of its own."""
    monkeypatch.setattr(page, "write_comparison", lambda sweep: sweep.folder / "index.html")
    monkeypatch.setenv("ATTNVIS_CACHE", "cache")

    def call(*words, photos=PHOTOS):
        return (
            attnvis("sweep", *words)
            if words[:1] == ("--resume",)
            else attnvis("sweep", *photos, *words, *small(words))
        )

    return call


def small(words):
    return [word for word in SMALL if not any(given.startswith(word.partition("=")[0]) for given in words)]


@pytest.fixture(scope="module")
def finished_sweep(tmp_path_factory):
    """Where the first test that needs a finished sweep leaves it for the others."""
    return tmp_path_factory.mktemp("finished") / "out"


@pytest.fixture
def done(sweep, finished_sweep):
    """./out with a sweep of one job, query=mean scaling=none, that has ended well."""
    if not finished_sweep.exists():
        assert sweep("query=mean", "scaling=none").code == 0
        shutil.copytree("out", finished_sweep)
    elif not Path("out").exists():
        shutil.copytree(finished_sweep, "out")


@pytest.fixture
def seen(monkeypatch):
    """The photos that went through a network, one by one."""
    names, call = [], backbone.Backbone.__call__

    def counted(self, batch):
        names.extend(photo.name for photo in batch.photos)
        return call(self, batch)

    monkeypatch.setattr(backbone.Backbone, "__call__", counted)
    return names


def job_record(folder="out"):
    return json.loads((Path(folder) / "job.json").read_text())


def plan(folder="out"):
    return json.loads((Path(folder) / "plan.json").read_text())["jobs"]


def rows(folder="out"):
    return pq.read_table(Path(folder) / "rows.parquet").to_pylist()


def bits(folder="out"):
    """Every value of every row; repr tells floats apart by the bit, and NaN from nothing."""
    return [repr(row) for row in rows(folder)]


def times(folder="out"):
    """When each job's files were written."""
    return {
        str(path): path.stat().st_mtime_ns
        for name in ("rows.parquet", "job.json")
        for path in Path(folder).rglob(name)
    }


# ------------------------------------------------------------------------------------------------- one job


def test_scalings_are_one_job_and_each_photo_passes_the_network_once(sweep, seen):
    assert sweep("query=class,point:30,40", "scaling=none,temperature:4,cosine:0.07").code == 0
    measured = [(row["photo"], row["query"], row["scaling"]) for row in rows()]
    assert sorted(measured) == sorted(
        product(PHOTOS, ("class", "point:30,40"), ("none", "temperature:4", "cosine:0.07"))
    )
    assert sorted(seen) == list(PHOTOS) and job_record()["passes"] == 2
    assert plan() == [""] and not Path("out/0").exists()


def test_the_settings_as_typed_are_the_settings_that_are_measured(sweep):
    assert (
        sweep("query=mean", "scaling=none,temperature:64,cosine:0.07", "normalise=softmax,top_k:3").code == 0
    )
    for photo in PHOTOS:
        by = {(row["scaling"], row["normalise"]): row for row in rows() if row["photo"] == photo}
        assert len(by) == 6
        plain, cooled = by["none", "softmax"], by["temperature:64", "softmax"]
        assert cooled["sigma_eff"] == pytest.approx(plain["sigma_eff"] / 64, rel=1e-5)
        assert by["none", "top_k:3"]["perplexity"] <= 3 + 1e-6 < cooled["perplexity"]


MINE = """
def bright(features):
    return features.tokens.amax(1, keepdim=True)

def divided(scores, by: float = 2.0):
    return scores.products / by

def broken(features):
    raise RuntimeError("my own mistake")
"""


@pytest.fixture
def mine(photos):
    Path("my_stages.py").write_text(MINE)
    yield
    sys.modules.pop("my_stages", None)


def test_functions_of_ones_own_are_swept_where_they_are_trusted(sweep, mine):
    words = ("query=my_stages.bright", "scaling=none,my_stages.divided:8")
    refused = sweep(*words)
    assert (
        refused.code == 1
        and "my_stages.bright is not attnvis' own" in refused.err
        and "trust=[my_stages]" in refused.err
    )
    assert "my_stages" not in sys.modules, "a refused module must not even be imported"
    assert sweep(*words, "trust=my_stages").code == 0
    whole, eighth = (
        {row["photo"]: row["sigma_eff"] for row in rows() if row["scaling"] == name}
        for name in words[1][8:].split(",")
    )
    assert whole.keys() == set(PHOTOS) == eighth.keys()
    for photo in PHOTOS:
        assert eighth[photo] == pytest.approx(whole[photo] / 8, rel=1e-5)


@pytest.mark.parametrize(
    "words, given, advice",
    [
        ("query=claas", "unknown class 'claas'", "Or the query class?"),
        ("query=class:tabbby", "unknown class 'tabbby'", "did you mean tabby"),
        ("query=my_stages.bright", "my_stages.bright is not attnvis' own", "trust=[my_stages]"),
        ("query=my_stages.nosuch trust=my_stages", "my_stages", "nosuch"),
        ("query=no_such_module.mine trust=no_such_module", "no_such_module", "no_such_module"),
        ("query=my_stages.broken trust=my_stages", "my own mistake", "my own mistake"),
        ("backbone.layer=stage9", "no layer 'stage9'", "stages are stage1, stage2, stage3, last"),
        ("backbone.layer=[stage3,last]", "a job of a sweep measures one layer", "backbone.layer=stage3,last"),
        ("study=recognition keys=centred", "study=recognition compares", "leave keys=centred out"),
        ("seed=1.5", "seed", "must be a whole number, not 1.5"),
        ("cache.storage=quarter", "unknown cache.storage 'quarter'", "exact or half"),
    ],
)
def test_a_mistake_is_one_line_and_the_job_is_told_as_failed(sweep, mine, words, given, advice):
    complaint = sweep(*words.split()).complaint
    assert given in complaint and advice in complaint
    assert job_record()["status"] == "failed" and given in job_record()["reason"]
    assert not list(Path("out").glob("*.part")) and not Path("out/rows.parquet").exists()


@pytest.mark.parametrize(
    "words, given",
    [
        ("scaling=none,temprature:4", "did you mean temperature?"),
        ("scaling=none:3", "none takes no settings"),
        ("scalings=[none,temperature:warm]", "tau must be a number, not 'warm'"),
        ("scaling=temperature:-1", "tau must be above 0, not -1"),
        ("query=point", "it is written point:x,y"),
        ("normalise=softmx", "did you mean softmax?"),
        ("query=corner -cd mine", "my_module.corner"),
    ],
)
def test_a_stage_that_no_photo_can_take_is_said_before_the_first_job(sweep, words, given):
    Path("mine/query").mkdir(parents=True)
    Path("mine/query/corner.yaml").write_text("_target_: my_stages.bright")
    ended = sweep(*words.split(), "seed=0,1")
    assert ended.code == 2 and given in ended.complaint and not Path("out").exists()


@pytest.mark.parametrize(
    "words, given",
    [
        (
            "keys=same,pca:2 random_classes=1000",
            "maps whose keys are the patches themselves; leave it out, or take keys=same",
        ),
        ("heads=1,4 random_classes=1000", "compares maps of one head; leave it out, or take heads=1"),
        ("heads=1,random:4,1 study=recognition", "the patches themselves; leave heads=random out"),
        ("fuse=max,product random_classes=99", "compares maps of one layer; leave it out, or take no fuse"),
        ("fuse=max,sum", "fuse=sum: there are mixture, product, max"),
        ("keys=same,pca:2 study=recognition", "study=recognition compares the patches themselves"),
        ("keys=same,centred experiment=note", "study=note compares the patches themselves"),
        ("seed=0,1 study=nosuch", "no study 'nosuch'"),
    ],
)
def test_settings_that_do_not_go_together_are_said_before_the_first_job(sweep, words, given):
    ended = sweep(*words.split(), "query=mean")
    assert given in ended.complaint and not Path("out/0").exists()


def test_another_matrix_and_other_names_of_classes_are_another_job(photos):
    def digests(keys, names):
        np.save("W.npy", keys)
        Path("names.txt").write_text(names)
        backbone, asked = {"categories": "names.txt"}, {"queries": ["mean"], "trust": [], "study": "scalings"}
        linear = {"_target_": "attnvis.attention.keys.linear", "_partial_": True, "file": "W.npy"}
        return files_of_queries(asked | {"backbone": backbone, "keys": linear})

    first, again = digests([[1.0]], "a\nb\n"), digests([[1.0]], "a\nb\n")
    matrix, names = digests([[2.0]], "a\nb\n"), digests([[1.0]], "b\na\n")
    assert first == again and first.keys() == {"W.npy", "names.txt"}
    assert [name for name in first if matrix[name] != first[name]] == ["W.npy"]
    assert [name for name in first if names[name] != first[name]] == ["names.txt"]


@pytest.mark.parametrize(
    "words, given, advice",
    [
        ("qurey=mean", "no setting 'qurey'", "did you mean"),
        ("backbone=maxvit_t", "unknown backbone 'maxvit_t'", "resnet"),
        ("launcher=slrm", "launcher has no option 'slrm'", "did you mean slurm?"),
        ("scaling=[none", "unknown scaling '[none'", "there are"),
    ],
)
def test_what_no_job_could_be_made_of_is_one_line_and_starts_none(sweep, words, given, advice):
    complaint = sweep(*words.split()).complaint
    assert given in complaint and advice in complaint
    assert not Path("out").exists()


def test_a_bad_photo_among_many_is_recorded_and_the_others_finish(sweep):
    Path("text.jpg").write_text("hello, this is no photo")
    ended = sweep("query=mean", "scaling=none", photos=("0.png", "text.jpg", "1.png"))
    assert "text.jpg is no photo" in ended.complaint and ended.code == 1
    assert job_record()["status"] == "done" and [row["photo"] for row in rows()] == list(PHOTOS)
    (failure,) = job_record()["failures"]
    assert failure["path"] == "text.jpg" and "is no photo" in failure["reason"]


def test_the_atlas_of_all_scalings_runs(sweep, seen):
    assert sweep("experiment=scaling_atlas", "seed=7").code == 0
    queries, scalings = ({row[axis] for row in rows()} for axis in ("query", "scaling"))
    assert len(queries) == 4 and len(scalings) == 18 and len(rows()) == 2 * 4 * 18
    assert any(query.startswith("random") and "7" in query for query in queries)
    assert sorted(seen) == list(PHOTOS)


# -------------------------------------------------------------------------------------------- several jobs


def test_several_layers_and_sizes_are_several_jobs_without_asking_for_it(sweep):
    assert (
        sweep("query=mean", "scaling=none", "backbone.layer=stage2,last", "preprocess.size=64,96").code == 0
    )
    jobs = [
        f"backbone.layer={layer}, preprocess.size={size}"
        for layer, size in product(("stage2", "last"), (64, 96))
    ]
    assert plan() == jobs
    assert sorted(path.name for path in Path("out").iterdir() if path.is_dir() and path.name[0] != ".") == [
        "0",
        "1",
        "2",
        "3",
    ]
    axes = [job_record(f"out/{number}")["axes"] for number in range(4)]
    assert [f"backbone.layer={axis['layer']}, preprocess.size={axis['size']}" for axis in axes] == jobs
    patches = [rows(f"out/{number}")[0]["patches"] for number in range(4)]
    assert (
        patches[0] > patches[2]
        and patches[1] > patches[3]
        and patches[1] > patches[0]
        and patches[3] > patches[2]
    )


def test_several_seeds_ask_different_random_queries(sweep):
    assert sweep("query=random", "scaling=none", "seed=0,1").code == 0
    assert plan() == ["seed=0", "seed=1"]
    assert [job_record(f"out/{number}")["axes"]["seed"] for number in range(2)] == ["0", "1"]
    assert rows("out/0")[0]["score_std"] != rows("out/1")[0]["score_std"]


def test_a_job_that_fails_is_named_and_does_not_stop_the_others(sweep):
    ended = sweep("query=class", "scaling=none", "backbone.layer=stage9,last")
    named, advice = ended.err.splitlines()
    assert ended.code == 1
    assert named.startswith("attnvis: job 0 (backbone.layer=stage9) failed: efficientnet_lite0 has no layer")
    assert advice.startswith("attnvis: that would fail again: leave backbone.layer=stage9 out")
    assert (
        job_record("out/0")["status"] == "failed"
        and job_record("out/1")["status"] == "done"
        and len(rows("out/1")) == 2
    )


def test_a_job_that_may_yet_succeed_is_to_be_gone_on_with(sweep):
    ended = sweep("query=mean", "scaling=none", "backbone.weights=gone.pth,random")
    named, advice = ended.err.splitlines()[-2:]
    assert "no weights file gone.pth" in named and "attnvis sweep --resume out" in advice, "a file may come"


def test_resume_does_what_is_missing_and_nothing_else(sweep, seen):
    assert sweep("query=mean", "scaling=none", "seed=0,1,2", "cache.use=false").code == 0
    whole, before = bits("out/1"), times()
    shutil.rmtree("out/1")
    seen.clear()
    assert sweep("--resume", "out").code == 0
    assert sorted(seen) == list(PHOTOS) and bits("out/1") == whole
    after = times()
    assert {path for path in before if before[path] != after[path]} == {
        "out/1/job.json",
        "out/1/rows.parquet",
    }
    seen.clear()
    # a second time: --resume is not what the sweep is resumed with
    assert sweep("--resume", "out/").code == 0
    assert not seen and times() == after, "all is done: there is nothing to do"


def test_resume_of_a_single_job_after_its_mistake_is_mended(sweep):
    Path("my_late.py").write_text("")
    assert sweep("query=my_late.late", "scaling=none", "trust=my_late").code == 1
    sys.modules.pop("my_late", None)
    Path("my_late.py").write_text(
        "def late(features):\n    '''A query that came later.'''\n    return features.tokens[:, :1]\n"
    )
    assert "trust=my_late, which may run code" in sweep("--resume", "out").complaint
    assert sweep("--resume", "out", "trust=my_late").code == 0
    assert job_record()["status"] == "done" and len(rows()) == 2
    sys.modules.pop("my_late", None)


def test_a_job_killed_while_it_is_done_anew_is_missing(done):
    JobWriter(Path("out"), {})  # begun, and never ended
    (part,) = read_sweep(Path("out")).missing
    assert part.status == "missing" and "killed" in part.reason


def test_a_mistake_in_the_folder_of_a_finished_sweep_is_not_hidden_by_it(sweep, done):
    assert (
        "seed must be" in sweep("query=mean", "scaling=none", "seed=1.5").complaint
        and job_record()["status"] == "failed"
    )


def test_features_stored_otherwise_are_measured_again(sweep, done):
    words = ("query=mean", "scaling=none")
    before = times()
    assert sweep(*words, "cache.limit=2.0").code == 0 and times() == before
    assert sweep(*words, "cache.storage=half").code == 0
    assert times()["out/job.json"] != before["out/job.json"] and job_record()["asked"]["storage"] == "half"


def test_a_job_that_asks_for_something_else_is_not_taken_for_done(sweep, done):
    assert sweep("query=mean", "scaling=inv_d").code == 0
    assert {row["scaling"] for row in rows()} == {"inv_d"}


@pytest.mark.parametrize(
    "words, given",
    [
        (["--resume"], "--resume takes the folder of a sweep"),
        (["--resume", "nosuch"], "nosuch is not the folder of a sweep"),
        (["--resume", "."], ". is not the folder of a sweep"),
        (["--resume", "out", "seed=3"], "--resume takes the folder of a sweep and nothing else"),
    ],
)
def test_resume_of_what_is_no_sweep_is_one_line(sweep, words, given):
    complaint = sweep(*words).complaint
    assert given in complaint and "outputs/sweep/" in complaint


# ----------------------------------------------------------------------------------- held against the plan


def digests(folder):
    return {row["path"]: row["digest"] for row in rows(folder)}


def now(*names):
    return {name: hashlib.sha256(Path(name).read_bytes()).hexdigest() for name in names}


SETTINGS = ("query=mean", "scaling=none", "cache.use=false")


def test_jobs_are_never_compared_on_photos_that_changed_between_them(sweep):
    assert sweep(*SETTINGS, "seed=0,1").code == 0
    assert json.loads(Path("out/plan.json").read_text())["photos"] == {
        '["0.png", "1.png"]': [{"path": name, "digest": digest} for name, digest in now(*PHOTOS).items()]
    }
    shutil.rmtree("out/1")
    make_photo(Path("0.png"), seed=71)
    ended = sweep("--resume", "out")
    assert ended.code == 0
    assert "since the sweep began 1 photo (0.png) changed; what was measured otherwise is" in ended.err
    assert digests("out/0") == digests("out/1") == now(*PHOTOS)
    shutil.rmtree("fresh", ignore_errors=True)
    assert sweep(*SETTINGS, "seed=0,1", "hydra.sweep.dir=fresh").code == 0
    assert bits("out/0") == bits("fresh/0") and bits("out/1") == bits("fresh/1")


def test_photos_that_are_gone_and_came_are_named_and_all_is_measured_again(sweep):
    Path("album").mkdir()
    for number in range(3):
        make_photo(Path("album", f"{number}.png"), seed=number)
    assert sweep(*SETTINGS, photos=("album",)).code == 0
    Path("album/0.png").unlink()
    make_photo(Path("album/3.png"), seed=3)
    ended = sweep("--resume", "out")
    assert ended.code == 0
    assert "1 photo (album/0.png) is gone, 1 photo (album/3.png) came; what was" in ended.err
    assert digests("out") == now("album/1.png", "album/2.png", "album/3.png")
    before = times()
    assert sweep("--resume", "out").err == "" and times() == before


def test_a_photo_that_changes_while_the_sweep_runs_fails_the_job_that_sees_it(sweep, monkeypatch):
    from attnvis.cli.commands import sweep as command

    measure = command.measure

    def then_change(cfg, settings, job):
        measure(cfg, settings, job)
        make_photo(Path("1.png"), seed=99)

    monkeypatch.setattr(command, "measure", then_change)
    ended = sweep(*SETTINGS, "seed=0,1")
    assert ended.code == 1 and "since the sweep began 1 photo (1.png) changed" in ended.err
    assert job_record("out/0")["status"] == "done" and job_record("out/1")["status"] == "failed"
    monkeypatch.setattr(command, "measure", measure)
    assert sweep("--resume", "out").code == 0
    assert digests("out/0") == digests("out/1") == now(*PHOTOS)


@pytest.mark.parametrize("file", ["job.json", "rows.parquet", "curves.safetensors", "tiles/0.jpg"])
@pytest.mark.parametrize("damage", ["empty", "half", "pipe", "gone", "zeros"])
def test_a_damaged_file_of_a_job_is_made_anew(sweep, done, file, damage):
    words = ("query=mean", "scaling=none", "sheets=1", "hydra.run.dir=sheets")
    if file == "tiles/0.jpg":
        assert sweep(*words).code == 0
    folder = "sheets" if file == "tiles/0.jpg" else "out"
    whole, path = bits(folder), Path(folder, file)
    content = path.read_bytes()
    path.unlink()
    match damage:
        case "empty":
            path.touch()
        case "half":
            path.write_bytes(content[: len(content) // 2])
        case "pipe":
            os.mkfifo(path)
        case "zeros":
            path.write_bytes(bytes(len(content)))
    ended = sweep("--resume", folder)
    assert ended.code == 0 and bits(folder) == whole
    if file != "job.json":  # which holds how long it took
        assert path.read_bytes() == content


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"[]", b'{"command": "attnvis sweep 0.png", "jobs": 3}', b"[" * 99999]
)
def test_a_damaged_plan_of_a_sweep_is_one_line(sweep, done, damage):
    Path("out/plan.json").write_bytes(damage)
    assert "plan.json" in sweep("--resume", "out").complaint
    Path("out/plan.json").unlink()
    os.mkfifo("out/plan.json")
    assert "plan.json" in sweep("--resume", "out").complaint


def test_a_sweep_of_before_plans_named_photos_is_gone_on_with_and_that_is_said(sweep, done):
    told = json.loads(Path("out/plan.json").read_text())
    del told["photos"]
    Path("out/plan.json").write_text(json.dumps(sealed(told)))
    record = job_record()
    del record["asked"]["photos"]
    Path("out/job.json").write_text(json.dumps(sealed(record)))
    before = times()
    ended = sweep("--resume", "out")
    assert ended.code == 0 and "out has no photos in its plan.json" in ended.err and times() == before
    make_photo(Path("0.png"), seed=71)
    assert sweep("--resume", "out").code == 0
    assert digests("out") == now(*PHOTOS), "the rows say that they are another photo's"


def test_no_plan_of_a_folder_chooses_where_a_log_goes(sweep, done, monkeypatch):
    from attnvis.pipeline import tracking

    modes = []

    class Recording(tracking.Tracker):
        def __init__(self, folder, logger, *others, **more):
            modes.append(logger["mode"])
            super().__init__(folder, logger, *others, **more)

    monkeypatch.setattr(tracking, "Tracker", Recording)
    told = json.loads(Path("out/plan.json").read_text())
    told["logger"] = {"mode": "online", "project": "theirs", "entity": "theirs"}
    Path("out/plan.json").write_text(json.dumps(sealed(told)))
    assert sweep("--resume", "out").code == 0 and modes == ["disabled"]


def test_two_sweeps_do_not_write_into_one_folder_at_the_same_time(sweep, done):
    before = {path: path.read_bytes() for path in Path("out").rglob("*.json")}
    lock = files.locked(Path("out"))
    assert "another run is writing into" in sweep("query=mean", "scaling=inv_d").complaint
    assert {path: path.read_bytes() for path in Path("out").rglob("*.json")} == before
    lock.close()
    lock = files.locked(Path("many/1"))
    ended = sweep(*SETTINGS, "seed=0,1", "hydra.sweep.dir=many")
    assert ended.code == 1 and "another run is writing into" in ended.err
    assert Path("many/0/job.json").exists() and not Path("many/1/job.json").exists()
    lock.close()
    assert sweep("--resume", "many").code == 0 and not list(Path(".").rglob(".lock"))


def test_links_planted_in_a_sweeps_folder_are_not_followed(sweep):
    Path("victim").write_text("mine")
    for name in (".rows.part", "rows.parquet", "curves.safetensors", "sweep.parquet", ".lock", "plan.json"):
        Path("out").mkdir()
        Path("out", name).symlink_to(Path("victim").absolute())
        assert f"out/{name} is a link" in sweep(*SETTINGS).complaint and Path("victim").read_text() == "mine"
        shutil.rmtree("out")


# ------------------------------------------------------------------------------------ bit for bit the same


def test_the_cache_cold_warm_and_off_give_the_same_numbers(sweep, seen):
    words = ("query=class,pca,random", "scaling=none,zscore")
    numbers = {}
    for name, word in {"cold": "cache.use=true", "warm": "cache.use=true", "off": "cache.use=false"}.items():
        seen.clear()
        assert sweep(*words, word, f"hydra.run.dir={name}").code == 0
        numbers[name] = bits(name)
        assert len(seen) == job_record(name)["passes"] == (0 if name == "warm" else 2), name
    assert numbers["cold"] == numbers["warm"] == numbers["off"] and len(numbers["off"]) == 12


def test_what_sweeps_have_kept_is_listed_and_cleared(attnvis, sweep):
    assert sweep("query=mean", "scaling=none", "preprocess.size=64,96").code == 0
    Path("cache/mine.txt").write_text("not of the cache")
    size = sum(path.stat().st_size for path in Path("cache").rglob("*.safetensors")) / 1e6
    listed = attnvis("cache", "folder=cache")
    network, total = listed.out.splitlines()
    assert (
        listed.code == 0
        and network.split()[:4] == [f"{size:.1f}", "MB", "4", "photos"]
        and "efficientnet_lite0" in network
    )
    assert f"{size:.1f} MB in cache" in total and "clear=true" in total
    cleared = attnvis("cache", "folder=cache", "clear=true")
    assert cleared.code == 0 and f"{size:.1f} MB freed in cache" in cleared.out
    assert [path.name for path in Path("cache").iterdir()] == ["mine.txt"]
    assert attnvis("cache", "folder=cache").out.split() == ["0.0", "MB", "in", "cache"]


# ------------------------------------------------------------------------------ processes, and their death


TIRED = """
import os, signal
from pathlib import Path
import torch

def tired(features):
    armed = Path("armed")
    if torch.initial_seed() == 1 and armed.exists():  # of the jobs the one with seed=1
        if armed.read_text() == "once":
            armed.unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    return features.tokens.mean(1, keepdim=True)
"""
WITHOUT_A_PAGE = """
from attnvis.experiments.sweep import page
page.write_comparison = lambda sweep: sweep.folder / "index.html"
from attnvis.cli import main
main()
"""
TIRED_WORDS = ("query=my_tired.tired", "trust=my_tired", "scaling=none", "seed=0,1,2")
JOBLIB = ("launcher=joblib", "hydra.launcher.n_jobs=2")
SLURM = (
    "launcher=slurm",
    "hydra.launcher.cpus_per_task=1",
    "hydra.launcher.mem_gb=1",
    "hydra.launcher.timeout_min=10",
)


@pytest.fixture
def process(photos, monkeypatch):
    """`attnvis sweep WORDS` in a process of its own, as launchers need it; one thread, for the same bits."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def call(*words):
        if words[0] != "--resume":
            words = (*PHOTOS, *words, *small(words))
        return subprocess.run(
            [sys.executable, "-c", WITHOUT_A_PAGE, "sweep", *words],
            capture_output=True,
            text=True,
            check=False,
        )

    return call


@pytest.fixture
def tired(photos):
    Path("my_tired.py").write_text(TIRED)
    return Path("armed")


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def same_as_built_in(sweep, process, launcher):
    words = ("query=class,random", "scaling=none,cosine:0.07", "seed=0,1,2", "cache.use=false")
    assert sweep(*words, "hydra.sweep.dir=one").code == 0
    ended = process(*words, *launcher, "hydra.sweep.dir=two")
    assert ended.returncode == 0 and ended.stderr == "", ended.stderr
    assert plan("one") == plan("two") == ["seed=0", "seed=1", "seed=2"]
    for number in range(3):
        assert bits(f"one/{number}") == bits(f"two/{number}") and len(bits(f"one/{number}")) == 8


def killed_always_is_named_and_resumed(process, tired, launcher):
    tired.write_text("always")
    ended = process(*TIRED_WORDS, *launcher)
    lines = ended.stderr.splitlines()
    assert ended.returncode == 1 and all(line.startswith("attnvis: ") for line in lines), ended.stderr
    named = [line for line in lines if line.startswith("attnvis: job ")]
    assert named == [
        "attnvis: job 1 (seed=1) missing: "
        "it was started and never ended: killed, out of memory, or out of room"
    ]
    again = ["--resume", "out", "trust=my_tired", *(word for word in launcher if word == "launcher=slurm")]
    assert lines[-1].endswith(" ".join(["attnvis sweep", *again])) and len(lines) <= 6, ended.stderr
    assert [Path(f"out/{number}/job.json").exists() for number in range(3)] == [True, False, True]
    tired.unlink()
    before = times()
    ended = process(*again)
    assert ended.returncode == 0 and ended.stderr == "", ended.stderr
    assert before.items() <= times().items(), "what was done is not done again"
    assert job_record("out/1")["status"] == "done" and len(rows("out/1")) == 2
    assert not list(Path("out").rglob("*.part"))


@pytest.mark.slow
def test_two_processes_give_the_same_numbers_as_one(sweep, process, one_thread):
    same_as_built_in(sweep, process, JOBLIB)


@pytest.mark.slow
def test_a_job_that_is_killed_once_is_tried_again(process, tired):
    tired.write_text("once")
    ended = process(*TIRED_WORDS, *JOBLIB)
    assert ended.returncode == 0, ended.stderr
    assert not tired.exists(), "nobody was killed"
    assert "tried once more" in ended.stderr and "Traceback" not in ended.stderr
    assert all(
        job_record(f"out/{number}")["status"] == "done" and len(rows(f"out/{number}")) == 2
        for number in range(3)
    )


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for the workers in /proc")
def test_workers_end_with_a_killed_parent_and_resume_does_the_rest(process, photos):
    Path("my_slow.py").write_text(
        "import time\ndef slow(features):\n    time.sleep(600)\n    return features.tokens[:, :1]\n"
    )
    words = ("query=my_slow.slow", "trust=my_slow", "scaling=none", "seed=0,1", "cache.use=false")
    parent = subprocess.Popen(
        [sys.executable, "-c", WITHOUT_A_PAGE, "sweep", *PHOTOS, *words, *JOBLIB, *small(words)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    while not all(Path(f"out/{number}/.rows.part").exists() for number in (0, 1)):
        assert parent.poll() is None
        time.sleep(0.1)
    parent.kill()
    parent.wait()
    for number in (0, 1):
        comes(partial(is_free, Path(f"out/{number}")))
    Path("my_slow.py").write_text("def slow(features):\n    return features.tokens[:, :1]\n")
    ended = process("--resume", "out", "trust=my_slow")
    assert ended.returncode == 0 and ended.stderr == "", ended.stderr
    assert all(len(rows(f"out/{number}")) == 2 for number in (0, 1))


def is_free(folder):
    """Whether nobody holds it any more."""
    try:
        files.locked(folder).close()
    except files.Held:
        return False
    return True


@pytest.mark.slow
def test_a_job_that_is_always_killed_is_named_and_resume_finishes_it(process, tired):
    killed_always_is_named_and_resumed(process, tired, JOBLIB)


# --------------------------------------------------------------------------------------------------- Slurm


@pytest.mark.slurm
def test_slurm_gives_the_same_numbers_as_the_built_in_launcher(slurm, sweep, process, one_thread):
    same_as_built_in(sweep, process, SLURM)


@pytest.mark.slurm
def test_a_killed_job_of_slurm_is_named_and_resume_finishes_it(slurm, process, tired):
    killed_always_is_named_and_resumed(process, tired, SLURM)


# ---------------------------------------------------------------------------------------- several threads


@pytest.fixture
def album(here):
    """Seven photos of two shapes in turn."""
    for number in range(7):
        make_photo(here / f"album/{number}.png", (70, 90) if number % 2 else (90, 70), number)
    return ("album",)


def test_a_sweep_of_two_workers_is_stopped_in_the_middle_and_resumed(sweep, album, monkeypatch):
    words = ("query=mean", "scaling=none,zscore", "batch_size=2")
    assert sweep(*words, "hydra.run.dir=whole", "workers=1", photos=album).code == 0
    add = GridWriter.add

    def stopped(writer, outcome):
        if outcome.index == 3:
            signal.raise_signal(signal.SIGINT)
        add(writer, outcome)

    with monkeypatch.context() as patch:
        patch.setattr(GridWriter, "add", stopped)
        ended = sweep(*words, "workers=2", photos=album)
    assert ended.code == 130 and "attnvis sweep --resume out" in ended.complaint
    record = job_record()
    assert (record["status"], record["reason"]) == ("failed", "it was stopped")
    assert not list(Path("out").rglob("*.part")) and not Path("out/rows.parquet").exists()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("attnvis")]
    assert sweep("--resume", "out").code == 0
    for name in ("rows.parquet", "curves.safetensors"):
        assert Path("out", name).read_bytes() == Path("whole", name).read_bytes()


def test_what_other_workers_measured_is_not_measured_again(sweep, done, seen):
    assert sweep("query=mean", "scaling=none", "workers=2").code == 0
    assert not seen and "workers" not in job_record()["asked"]


@pytest.mark.parametrize("study", ["scalings", "recognition"])
def test_a_sweep_works_with_as_many_threads_as_it_is_told(sweep, monkeypatch, study):
    for number, name in enumerate(PHOTOS):
        Path(name).rename(f"{number}_{name}")
    threads, call = set(), backbone.Backbone.__call__

    def noted(self, batch):
        threads.add(threading.current_thread().name.rpartition("_")[0])
        return call(self, batch)

    monkeypatch.setattr(backbone.Backbone, "__call__", noted)
    folders = []
    for workers in (1, 2):
        threads.clear()
        words = (f"study={study}", f"workers={workers}", f"hydra.run.dir={workers}", "cache.use=false")
        images = [f"{number}_{name}" for number, name in enumerate(PHOTOS)]
        assert sweep(*words, "query=mean", "scaling=none", photos=images).code == 0
        assert threads == ({"attnvis"} if workers == 2 else {""})
        table = {"scalings": "rows.parquet", "recognition": "recognition.parquet"}[study]
        folders.append(Path(str(workers), table).read_bytes())
    assert folders[0] == folders[1]


def test_a_number_of_workers_that_is_none_is_one_line(sweep):
    ended = sweep("query=mean", "scaling=none", "workers=0")
    assert "workers=0: give auto (one a core) or a number from 1 on" in ended.complaint


def test_memory_that_does_not_hold_a_batch_is_told(sweep, album, monkeypatch):
    call = backbone.Backbone.__call__

    def small(self, batch):
        if len(batch.photos) > 2:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return call(self, batch)

    monkeypatch.setattr(backbone.Backbone, "__call__", small)
    ended = sweep("query=mean", "scaling=none", "cache.use=false", "batch_size=4", "workers=2", photos=album)
    assert ended.code == 0 and "the same as batch_size=2" in ended.err and len(rows()) == 7


@pytest.mark.slow
def test_jobs_of_two_processes_share_the_cores(monkeypatch):
    joblib = pytest.importorskip("joblib")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    both = joblib.Parallel(n_jobs=2, backend="loky")(joblib.delayed(thread_count)("auto", 99) for _ in "ab")
    assert max(both) <= max(1, joblib.cpu_count() // 2)


@pytest.mark.parametrize("cores, threads", [("3", "3"), ("", "7")])
def test_a_task_of_slurm_has_a_thread_for_each_of_its_cores(cores, threads):
    launcher = yaml.safe_load((ROOT / "configs/launcher/slurm.yaml").read_text())["hydra"]["launcher"]
    script = "\n".join([*launcher["setup"], "echo $OMP_NUM_THREADS"])
    environment = {"SLURM_CPUS_PER_TASK": cores, "OMP_NUM_THREADS": "7", "PATH": os.environ["PATH"]}
    ended = subprocess.run(["sh", "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == threads
