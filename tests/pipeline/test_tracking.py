"""A run at W&B, which may be absent or die: its numbers and pictures, and never at the cost of a result."""

import hashlib
import json
import math
import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import make_photo, records
from fake_wandb import announced, history, inspect, logs, send, serving, summary, table

import attnvis
from attnvis.metrics.diagnostics import DESCRIPTIONS
from attnvis.pipeline import run_folder, tracking, wandb_library


@pytest.fixture
def photos(here):
    """Two of one name in two folders."""
    return [make_photo(here / folder / "cat.png", seed=seed) for seed, folder in enumerate("ab")]


def test_the_log_written_offline_can_be_read_back(attnvis, photos, wandb):
    Path("a/none.png").write_bytes(b"no picture")
    before = dict(os.environ)
    ended = attnvis("run", "a", "b", "query=several", "query.of=[mean,class]")
    assert ended.code == 1 and ended.err.count("\n") == 2 and "W&B" not in ended.err
    assert {key: value for key, value in os.environ.items() if key != "WANDB_SERVICE"} == before, (
        "what W&B needs in the environment must not leak into the next run"
    )
    (log,) = logs()
    kinds, rows = inspect(log), records()
    items, totals = history(kinds), summary(kinds)

    done = [row for row in rows if row["status"] == "done"]
    steps = {item["index"]: item for item in items if "mean/perplexity" in item}
    assert [item["_step"] for item in steps.values()] == [0, 2] == list(steps), "a step is a photo's place"
    for row in done:
        item = steps[int(row["index"])]
        for name in DESCRIPTIONS:
            key = f"{row['query']}/{name}".replace(" ", "-")
            assert float(item[key]) == pytest.approx(float(row[name]), rel=1e-6, nan_ok=True), name

    for query in ("mean", "class"):
        own = [row for row in done if row["query"] == query]
        for name in DESCRIPTIONS:
            mean = sum(float(row[name]) for row in own) / len(own)
            assert float(totals[f"{query}/{name}"]) == pytest.approx(mean, rel=1e-6, nan_ok=True), name
    chances = [float(row["probability"]) for row in done if row["query"] == "mean"]
    assert totals["probability"] == pytest.approx(sum(chances) / 2)
    assert (totals["photos"], totals["failed"]) == (2, 1)

    (maps,) = [item for item in items if "mean/maps._type" in item]
    assert maps["mean/maps.count"] == 3 and maps["mean/maps._type"] == "images/separated"
    assert "none.png: " in maps["mean/maps.captions"][1], "a photo that failed keeps its place"
    sizes = {cv2.imread(str(log / "files" / path)).shape for path in maps["mean/maps.filenames"]}
    assert sizes == {(512, 512, 3)}, "W&B shows lists of one size only"

    content = table(log, items, "photos")
    assert {"picture", "class", "probability", "path", "photo", "index"} <= set(content["columns"])
    assert len(content["data"]) == len(rows) == 5
    for cells, row in zip(content["data"], sorted(rows, key=lambda row: int(row["index"])), strict=True):
        line = dict(zip(content["columns"], cells, strict=True))
        assert line["path"] == row["path"] and line["status"] == row["status"]
        assert (line["picture"] is None) == (row["status"] == "failed")
        if row["status"] == "done":
            assert line["class"] == row["predicted"]
            assert line["probability"] == pytest.approx(float(row["probability"]))

    (page,) = [item for item in items if "page.path" in item]
    assert (log / "files" / page["page.path"]).read_bytes() == Path("out/index.html").read_bytes()
    (artifact,) = [entry for entry in kinds["artifact"] if entry["type"] == "attention-maps"]
    names = {entry["path"] for entry in artifact["manifest"]["contents"]}
    assert names == {"maps/cat.safetensors", "maps/cat-2.safetensors", "records.csv", "run.json"}
    assert not list(Path("out/wandb").rglob("*.safetensors")), "the maps are sent from where they lie"
    assert sum("log2_times_uniform._type" in key for item in items for key in item) == 2

    (run,) = kinds["run"]
    config = json.dumps(run["config"])
    assert "attnvis.attention.query.several" in config and "weights digest" in config
    assert run["run_group"] == "run" and run["job_type"] == "run" and run["project"] == "attnvis"
    assert json.loads(Path("out/run.json").read_text())["wandb"]["id"] == run["run_id"]


def test_explorers_of_the_first_photos_are_linked_and_sent(attnvis, here, wandb):
    for number in range(3):
        make_photo(here / f"a/{number}.png", seed=number)
    assert attnvis("run", "a", "explore=2", "query=class", "logger.mode=offline").code == 0
    pages = [Path(f"out/explorers/{number}.html") for number in range(2)]
    assert sorted(Path("out/explorers").iterdir()) == pages
    assert '"path":"a/0.png"' in pages[0].read_text() and "preprocess.size=96" in pages[0].read_text()
    links = re.findall(r'href="\./(explorers/\S*?)#(.*?)"', Path("out/index.html").read_text())
    assert [name for name, _ in links] == ["explorers/0.html", "explorers/1.html"]
    for (_, question), row in zip(links, records(), strict=False):
        asked = (
            f"q=class:{row['class_index']}&amp;scaling=perplexity:0.1&amp;normalise=softmax&amp;layer=last"
        )
        assert question == asked
    (log,) = logs()
    sent = {item["index"]: item["explorer.path"] for item in history(inspect(log)) if "explorer.path" in item}
    assert {place: (log / "files" / path).read_bytes() for place, path in sent.items()} == {
        place: path.read_bytes() for place, path in enumerate(pages)
    }


def test_a_run_that_goes_on_says_which_explorers_it_lacks_and_sends_no_link(attnvis, here, wandb):
    for number in range(3):
        make_photo(here / f"a/{number}.png", seed=number)
    assert attnvis("run", "a", "explore=2", "query=class", "logger.mode=offline").code == 0
    (here / "secret").write_text("of another")
    Path("out/explorers/1.html").unlink()
    Path("out/explorers/1.html").symlink_to(here / "secret")
    before = {path.name for path in logs()}
    ended = attnvis("run", "a", "explore=3", "query=class", "logger.mode=offline", "resume=true")
    assert ended.code == 0 and "explore: 2 photos were finished without an explorer" in ended.err
    assert "explorers/1.html" not in Path("out/index.html").read_text()
    sent = [file.read_bytes() for log in logs() if log.name not in before for file in log.rglob("*.html")]
    assert b"of another" not in sent


def test_two_runs_have_their_maps_under_the_same_keys_and_places(attnvis, here, wandb):
    for folder, seed in (("a", 0), ("b", 3)):
        make_photo(here / folder / f"x{seed}.png", (60, 90), seed=seed)
        make_photo(here / folder / f"y{seed}.png", (90, 60), seed=seed + 1)
        assert attnvis("run", folder, "query=mean", f"hydra.run.dir=out-{folder}").err == ""
    keys = [{key for item in history(inspect(logs(f"out-{folder}")[0])) for key in item} for folder in "ab"]
    assert keys[0] == keys[1], "no name of a file is in a key"


# ------------------------------------------------------------------------------ who a run is at W&B


def test_what_is_typed_reaches_wandb(attnvis, photos, wandb):
    ended = attnvis(
        *("run", "a", "name=2024", "+logger.entity=myteam", "logger.project=42", "logger.tags=[1,b]"),
        *("logger.notes='two words'", "logger.job_type=try", "logger.id=mine-1", "logger.name=first"),
        "logger.group=7",
    )
    assert ended.code == 0 and ended.err == ""
    (run,) = announced()
    wanted = {"entity": "myteam", "project": "42", "tags": ["1", "b"], "notes": "two words"}
    wanted |= {"job_type": "try", "run_id": "mine-1", "display_name": "first", "run_group": "7"}
    assert {key: run[key] for key in wanted} == wanted


def test_a_name_that_is_a_number_is_the_group(attnvis, photos, wandb):
    assert attnvis("run", "a", "name=2024").err == ""
    assert announced()[0]["run_group"] == "2024"


def test_typed_comes_before_the_environment_and_that_before_defaults(attnvis, photos, wandb, monkeypatch):
    given = {"PROJECT": "p", "ENTITY": "e", "RUN_GROUP": "g", "NAME": "n", "NOTES": "o", "TAGS": "t,u"}
    given |= {"JOB_TYPE": "j", "RUN_ID": "i", "DIR": "elsewhere"}
    for name, value in given.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    assert attnvis("run", "a", "logger.project=typed", "logger.tags=[mine]").err == ""
    assert not logs()
    (run,) = announced("elsewhere")
    wanted = {"entity": "e", "project": "typed", "tags": ["mine"], "notes": "o", "job_type": "j"}
    wanted |= {"run_id": "i", "display_name": "n", "run_group": "g"}
    assert {key: run[key] for key in wanted} == wanted


def test_the_environment_turns_wandb_off_unless_it_is_typed(attnvis, photos, wandb, monkeypatch):
    monkeypatch.setenv("WANDB_DISABLED", "true")
    assert attnvis("run", "a").code == 0 and not logs()
    assert attnvis("run", "a", "logger.mode=offline").code == 0 and len(logs()) == 1


def test_what_the_user_set_for_wandb_is_kept(attnvis, photos, wandb, monkeypatch, here):
    monkeypatch.setenv("WANDB_DATA_DIR", str(here / "mine"))
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert attnvis("run", "a").code == 0 and not Path("out/wandb").exists()
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert attnvis("run", "a").code == 0 and list(Path("out/wandb").glob("offline-run-*"))
    assert os.environ["WANDB_DATA_DIR"] == str(here / "mine") and (here / "mine" / "artifacts").is_dir()
    assert "WANDB_CACHE_DIR" not in os.environ


@pytest.mark.parametrize("name, value", [("WANDB_PROJECT", "a/b"), ("WANDB_INIT_TIMEOUT", "soon")])
def test_a_variable_that_wandb_refuses_costs_a_line_only(attnvis, photos, wandb, monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    ended = attnvis("run", "a")
    assert ended.code == 0 and ended.err.count("\n") == 1 and name in ended.err
    assert os.environ[name] == value
    monkeypatch.delenv(name)  # W&B's own reader does not start with it either
    (run,) = announced()
    assert run["project"] == {"WANDB_PROJECT": "a-b"}.get(name, "attnvis")


def test_a_resumed_run_is_the_same_at_wandb_and_has_all_of_it(attnvis, here, wandb, monkeypatch):
    for number in range(3):
        make_photo(here / "photos" / f"{number}.png", seed=number)
    whole = (here / "photos/1.png").read_bytes()
    (here / "photos/1.png").write_bytes(b"no picture")
    assert attnvis("run", "photos", "query=mean", "logger.project=mine").code == 1
    (here / "photos/1.png").write_bytes(whole)
    assert attnvis("run", "--resume", "out").code == 0
    first, second = announced()
    assert first["run_id"] == second["run_id"] == json.loads(Path("out/run.json").read_text())["wandb"]["id"]
    assert first["project"] == second["project"] == "mine"
    kinds = inspect(logs()[-1])
    rows = records()
    mean = sum(float(row["perplexity"]) for row in rows) / 3
    assert summary(kinds)["mean/perplexity"] == pytest.approx(mean) and summary(kinds)["photos"] == 3
    (bins,) = [item for item in history(kinds) if "mean/log2_times_uniform.values" in item]
    patches = sum(int(float(row["patches"])) for row in rows)
    assert sum(bins["mean/log2_times_uniform.values"]) == patches, "the photos of before are in it"
    with serving(monkeypatch) as server:
        send(shlex.join(["wandb", "sync", *map(str, logs())]))
    (lines,) = server.lines.values()
    places = [line["index"] for line in lines if "mean/perplexity" in line]
    steps = [line["_step"] for line in lines]
    assert places == [0, 2, 1] and steps == sorted(set(steps)), "one part follows the other"


def test_a_record_keeps_its_seal_where_wandb_would_have_another_id(attnvis, photos, wandb, monkeypatch):
    class Renamed(run_folder.PhotoTracker):
        def __init__(self, *settings, **named):
            super().__init__(*settings, **named)
            self.id = "another1"

    monkeypatch.setattr(run_folder, "PhotoTracker", Renamed)
    assert attnvis("run", "a").code == 0
    record = json.loads(Path("out/run.json").read_text())
    seal = record.pop("seal")
    assert record["wandb"]["id"] == "another1"
    assert seal == hashlib.sha256(json.dumps(record).encode()).hexdigest()


def test_a_run_of_the_callers_own_goes_on(attnvis, photos, wandb, monkeypatch, tmp_path):
    own = wandb.init(mode="offline", dir=tmp_path, project="mine")
    try:
        assert attnvis("run", "a", "logger.mode=offline").code == 0
        with serving(monkeypatch) as server:
            session = wandb.setup().settings
            session.base_url = server.url
            ended = attnvis("run", "a", "logger.mode=online", "logger.id=theirs")
            assert ended.code == 0 and "attnvis:" not in ended.err
            assert list(server.runs) == ["theirs"] and session.mode == "online"
        assert wandb.run is own and not own._is_finished
        own.log({"still": "here"})
    finally:
        own.finish()


# --------------------------------------------------------------------------------- what goes wrong


def closed_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def test_a_run_asks_for_staged_inputs_where_somebody_may_have_staged_some(monkeypatch):
    from wandb import Run

    name, stage = "_detect_and_apply_job_inputs", "wandb.sdk.launch.inputs.internal"
    ask = getattr(Run, name)
    monkeypatch.delitem(sys.modules, stage, raising=False)
    with wandb_library.nothing_staged():
        assert getattr(Run, name)(None) is None
    assert getattr(Run, name) is ask
    monkeypatch.setitem(sys.modules, stage, sys)
    with wandb_library.nothing_staged():
        assert getattr(Run, name) is ask


@pytest.mark.parametrize("key", [None, "a" * 40])
def test_without_a_key_or_a_server_a_run_goes_on_offline(attnvis, photos, wandb, monkeypatch, key):
    from wandb.errors import term

    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{closed_port()}")
    if key:
        monkeypatch.setenv("WANDB_API_KEY", key)
    monkeypatch.setattr(
        term, "can_use_terminput", lambda: True
    )  # as at a terminal, where W&B would ask for a key
    monkeypatch.setattr(
        wandb.util, "prompt_choices", lambda *_, **__: pytest.fail("a run must not stop to ask")
    )
    monkeypatch.setattr(wandb_library, "PATIENCE", 2)
    ended = attnvis("run", "a", "logger.mode=online")
    assert ended.code == 0 and "1 photo done" in ended.out
    assert (
        ended.err.count("\n") == 1
        and ended.err.startswith("attnvis: W&B is out of reach (")
        and "wandb sync" in ended.err
    )
    assert (
        len(records()) == 1
        and Path("out/index.html").is_file()
        and list(Path("out/wandb").glob("offline-run-*"))
    )


def test_a_run_online_sends_all_of_it(attnvis, photos, wandb, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")  # typed comes first
    with serving(monkeypatch) as server:
        ended = attnvis("run", "a", "b", "query=mean", "logger.mode=online")
    assert ended.code == 0 and ended.err == ""
    ((name, lines),) = server.lines.items()
    assert [line["index"] for line in lines[:2]] == [0, 1]
    assert server.summaries[name]["photos"] == 2
    kinds = {made["artifactTypeName"] for made in server.artifacts.values()}
    assert kinds == {"attention-maps", "run_table"}
    assert server.files["maps/cat-2.safetensors"] == Path("out/maps/cat-2.safetensors").read_bytes()


def test_a_refused_artifact_is_said(attnvis, photos, wandb, monkeypatch):
    with serving(monkeypatch, refused="attention-maps"):
        ended = attnvis("run", "a", "logger.mode=online")
    assert ended.code == 0 and ended.err.count("\n") == 1
    assert "attention-maps were not taken" in ended.err and "quota" in ended.err


def test_a_lost_server_costs_a_line_and_what_it_advises_sends_all(attnvis, photos, wandb, monkeypatch):
    begin = tracking.Tracker.begin

    def begin_then_lose(self):
        begin(self)
        assert self.mode == "online"
        server.die()

    monkeypatch.setattr(tracking.Tracker, "begin", begin_then_lose)
    with serving(monkeypatch) as server:
        monkeypatch.setattr(wandb_library, "LAST_PATIENCE", 1)
        ended = attnvis("run", "a", "b", "query=mean", "logger.mode=online")
    assert ended.code == 0 and ended.err.startswith("attnvis: W&B stopped (its server"), ended.err
    assert ended.err.count("\n") == 1 and len(records()) == 2 and Path("out/index.html").is_file()
    with serving(monkeypatch) as later:
        send(ended.err.partition("send its log later: ")[2])
    ((name, lines),) = later.lines.items()
    assert [line["index"] for line in lines if "mean/perplexity" in line] == [0, 1]
    assert later.summaries[name]["photos"] == 2 and any("mean/maps" in line for line in lines)
    assert {made["artifactTypeName"] for made in later.artifacts.values()} == {"attention-maps", "run_table"}


def test_trouble_with_wandb_during_a_run_is_one_line_and_costs_nothing(attnvis, photos, wandb, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("no more")

    monkeypatch.setattr(wandb, "Table", broken)
    ended = attnvis("run", "a", "b")
    assert ended.code == 0 and ended.err.count("\n") == 1 and "W&B stopped (no more)" in ended.err
    assert len(records()) == 2 and Path("out/index.html").is_file()


def test_pictures_that_are_not_sent_are_said(attnvis, photos, wandb):
    ended = attnvis("run", "a", "b", "query=mean", "logger.pictures=1")
    assert ended.code == 0 and ended.err.count("\n") == 1
    assert "the maps of the first 1 of 2 photos were sent (logger.pictures=1)" in ended.err
    (log,) = logs()
    items = history(inspect(log))
    (maps,) = [item for item in items if "mean/maps._type" in item]
    content = table(log, items, "photos")
    pictures = [line[content["columns"].index("picture")] for line in content["data"]]
    assert maps["mean/maps.count"] == 1 and [picture is None for picture in pictures] == [False, True]


def test_a_page_that_is_too_large_is_said(attnvis, photos, wandb, monkeypatch):
    monkeypatch.setattr(tracking, "MOST_BYTES", 100)
    ended = attnvis("run", "a")
    assert ended.code == 0 and ended.err.count("\n") == 1 and "index.html was not sent" in ended.err


def test_a_netrc_that_is_no_text_costs_a_line_only(attnvis, photos, wandb, monkeypatch):
    Path(".netrc").write_bytes(b"machine api.wandb.ai login user password \xff\xfe\n")
    Path(".netrc").chmod(0o600)
    with serving(monkeypatch) as server:  # the key is in the environment
        ended = attnvis("run", "a", "logger.mode=online")
    assert ended.code == 0 and ended.err.count("\n") == 1 and ".netrc" in ended.err and server.lines
    assert "NETRC" not in os.environ


@pytest.mark.slow
def test_names_beyond_ascii_reach_wandb_in_any_locale(here, photos):
    make_photo(here / "a/caf😀.png")
    words = ["a", "name='e😀'", "logger.tags=['ü']", "hydra.run.dir=out", "query=mean"]
    words += ["backbone.weights=random", "logger.mode=offline"]
    script = Path(attnvis.__file__).parents[1] / "scripts" / "run.py"
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    ended = subprocess.run(
        [sys.executable, script, *words], capture_output=True, check=False, env=environment
    )
    assert ended.returncode == 0 and b"W&B" not in ended.stderr, ended.stderr
    (run,) = announced()
    assert run["run_group"] == "e😀" and run["tags"] == ["ü"]


def test_a_mean_over_photos_leaves_out_those_without_the_number():
    from attnvis.pipeline.photo_tracking import Means

    means = Means()
    for value in (1.0, math.nan, 3.0):
        means.add([{"status": "done", "query": "mean", "perplexity": value, "margin": math.nan}])
    assert means.values()["mean/perplexity"] == 2.0 and np.isnan(means.values()["mean/margin"])


def test_keys_tell_layers_and_queries_of_one_name_apart():
    from attnvis.pipeline.photo_tracking import keyed

    rows = [
        {"query": query, "layer": layer}
        for query, layer in [("class:tabby cat", "last"), ("class:tabby-cat", "last"), ("mean", "stage3")]
    ]
    assert [key for key, _ in keyed(rows)] == [
        "class-tabby-cat.last",
        "class-tabby-cat.last-2",
        "mean.stage3",
    ]
