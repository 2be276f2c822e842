"""What people type: photos of any name, settings, networks, questions."""

import json
import os
import shlex
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import yaml
from conftest import make_photo, records
from hydra.core.override_parser.overrides_parser import OverridesParser

from attnvis.cli.commands.registry import COMMANDS
from attnvis.cli.common import photos
from attnvis.cli.resuming import resume_words, resumed
from attnvis.cli.stages import choices_in
from attnvis.cli.words import to_overrides

NAMES = [
    "a b.png",
    "it's.png",
    'say "hi".png',
    "x[1],{2}.png",
    "k=v.png",
    "größe 猫.png",
    "-dash.png",
    "<img src=x onerror=alert(1)>.png",
    "a\\b.png",
]


@pytest.mark.parametrize(
    "value, choices",
    [
        ("1,4,random:4,1", ["1", "4", "random:4,1"]),
        ("one, 2,pca:3", ["one", "2", "pca:3"]),
        ("random:4,1", ["random:4,1"]),
        ("random(count=4, seed=1),8,2", ["random(count=4, seed=1)", "8", "2"]),
    ],
)
def test_a_number_of_heads_alone_is_a_choice_and_behind_a_colon_a_setting(value, choices):
    assert choices_in("heads", value, {"one", "pca", "random", "contiguous"}) == choices


@pytest.fixture(autouse=True)
def command_line(monkeypatch):
    """`resumed` puts the command that is resumed into the environment, where the door takes it out again."""
    monkeypatch.setenv("ATTNVIS_COMMAND", "")


def test_photos_of_any_name_are_taken_by_name(attnvis, here):
    for number, name in enumerate(NAMES):
        make_photo(here / name, seed=number)
    words = [f"./{name}" if name.startswith("-") else name for name in NAMES]
    assert attnvis("run", *words, "render.panel=false").code == 0
    cells = [f"'{name}" if name.startswith("-") else name for name in NAMES]  # no formula
    assert sorted(row["photo"] for row in records()) == sorted(cells)
    page = Path("out/index.html").read_text(encoding="utf-8")
    assert "<img src=x" not in page and "&lt;img src=x" in page


@pytest.mark.parametrize("name", NAMES)
def test_images_takes_a_photo_of_any_name(here, name):
    word = f"./{name}" if name.startswith("-") else name
    path = make_photo(here / name)
    (override,) = to_overrides([f"images={word}"], COMMANDS["run"])
    parsed = OverridesParser.create().parse_override(override)
    assert parsed.key_or_group == "images"
    (chosen,) = photos(parsed.value())
    assert chosen.samefile(path) and chosen.name == name


def test_a_name_that_is_no_unicode_is_a_photo_like_any_other(attnvis, here):
    name = os.fsdecode(b"caf\xe9.png")
    try:
        make_photo(here / name)
    except OSError:
        pytest.skip("this file system wants Unicode")
    assert attnvis("run", name, "render.panel=false").code == 0
    assert [row["photo"] for row in records()] == ["caf\\udce9.png"]


def test_photos_stand_beside_overrides_and_flags(attnvis, cat):
    make_photo(Path("dog.png"), seed=1)
    assert attnvis("run", "query=mean", "cat.png", "--config-dir", ".", "scaling=none", "dog.png").code == 0
    assert [(row["photo"], row["query"], row["scaling"]) for row in records()] == [
        ("cat.png", "mean", "none"),
        ("dog.png", "mean", "none"),
    ]
    assert "query:" in attnvis("run", "cat.png", "--cfg", "job").out


@pytest.mark.parametrize(
    "words, scaling",
    [
        ("", ("inv_sqrt_d", {})),
        ("query=mean", ("inv_sqrt_d", {})),
        ("query=class", ("perplexity", {"target": 0.1})),
        ("query=class scaling=inv_sqrt_d", ("inv_sqrt_d", {})),
        ("query=norm scaling.target=0.3", ("perplexity", {"target": 0.3})),
        ("experiment=queries", ("perplexity", {"target": 0.1})),
        ("experiment=queries scaling=zscore", ("zscore", {"tau": 1.0})),
    ],
)
def test_a_question_without_a_scaling_gets_one_that_suits_it(attnvis, cat, words, scaling):
    composed = yaml.safe_load(attnvis("run", "cat.png", *words.split(), "--cfg", "job").out)["scaling"]
    name = composed.pop("_target_").removeprefix("attnvis.attention.scaling.")
    del composed["_partial_"]
    assert (name, composed) == scaling


def test_the_records_say_the_scaling_that_was_chosen_for_a_question(attnvis, cat):
    assert attnvis("run", "cat.png", "render.panel=false", "experiment=queries").code == 0
    assert {row["scaling"] for row in records()} == {"perplexity(target=0.1)"}
    assert attnvis("run", "cat.png", "render.panel=false").code == 0
    assert {row["scaling"] for row in records()} == {"inv_sqrt_d"}


def test_a_class_is_named_as_it_is_written(attnvis, cat):
    for name in ("jack-o'-lantern", "tabby", "281", "black-and-tan coonhound"):
        words = ("query=class", f"query.name={name}", "render.panel=false")
        assert attnvis("run", "cat.png", *words).code == 0, name
        assert records()[0]["label"] == {"281": "tabby"}.get(name, name)


def test_a_network_needs_no_family_and_random_weights_are_loud(attnvis, cat):
    words = ("backbone=resnet18", "backbone.weights=random", "backbone.placement=stretch", "query=mean")
    ended = attnvis("run", "cat.png", *words, "render.panel=false")
    assert (
        ended.code == 0
        and ended.err == "attnvis: RANDOM WEIGHTS: NOTHING WAS LEARNED, THE MAPS MEAN NOTHING\n"
    )
    record = json.loads(Path("out/run.json").read_text())
    warning = "random weights: nothing was learned, the maps mean nothing"
    assert (
        record["backbone"] == "resnet18"
        and record["weights digest"] == "random"
        and record["warnings"] == [warning]
    )
    assert "random weights: nothing was learned" in Path("out/index.html").read_text()


# ----------------------------------------------------------------------------------------- word by word


@pytest.mark.parametrize(
    "verb, words, overrides",
    [
        ("run", [], []),
        ("run", ["cat.png", "seed=1"], ["images=['cat.png']", "seed=1"]),
        ("run", ["a.png", "b c.png"], ["images=['a.png','b c.png']"]),
        (
            "run",
            ["seed=1", "-m", "cat.png", "-cd", "confs"],
            ["-m", "-cd=confs", "images=['cat.png']", "seed=1"],
        ),
        ("run", ["images=a,b.png"], ["images='a,b.png'"]),
        ("run", ["-m", "images=a.png,b.png"], ["-m", "images='a.png','b.png'"]),
        ("run", ["images=[a.png,b.png]"], ["images=['a.png','b.png']"]),
        (
            "run",
            ["query=class", "query.name=it's"],
            ["query=class", r"query.name='it\'s'", "scaling=perplexity"],
        ),
        ("run", ["seed=1,2"], ["seed=1,2"]),
        ("redraw", ["out/a b"], ["run='out/a b'"]),
        ("redraw", ["run=out/a b"], ["run='out/a b'"]),
        ("backbones", ["resnet", "vgg"], ["names=['resnet','vgg']"]),
        ("video", ["clip.mp4", "query=norm"], ["clip='clip.mp4'", "query=norm", "scaling=perplexity"]),
        ("calibrate", ["cat.png", "query=class"], ["images=['cat.png']", "query=class"]),
        ("sweep", ["query=class,point:120,80"], ["queries=['class','point:120,80']"]),
        ("sweep", ["scaling=none,temperature:2"], ["scalings=['none','temperature:2']"]),
        ("sweep", ["scalings=[none]", "normalise=softmax"], ["scalings=['none']", "normalisers=['softmax']"]),
        ("sweep", ["seed=1,2", "cat.png"], ["--multirun", "images=['cat.png']", "seed=1,2"]),
        ("sweep", ["sharpness=[0.1,0.2]"], ["sharpness=[0.1,0.2]"]),
    ],
)
def test_words_become_overrides(here, verb, words, overrides):
    assert to_overrides(words, COMMANDS[verb]) == overrides


def test_a_name_that_leads_out_of_outputs_is_refused(here, capsys):
    with pytest.raises(SystemExit) as ended:
        to_overrides(["name=../escape"], COMMANDS["run"])
    assert ended.value.code == 2 and "leads out of outputs/" in capsys.readouterr().err


@pytest.mark.parametrize(
    "verb, record, words",
    [
        ("run", {"command": "attnvis run 'a b.png' seed=1 resume=true hydra.run.dir=old"},
         ["a b.png", "seed=1", "hydra.run.dir=done", "resume=true"]),
        ("sweep", {"command": "attnvis sweep a.png seed=1", "many": False},
         ["a.png", "seed=1", "hydra.run.dir=done"]),
        ("sweep", {"command": "attnvis sweep a.png seed=1,2 hydra.sweep.dir=old", "many": True},
         ["a.png", "seed=1,2", "hydra.sweep.dir=done"]),
    ],
)  # fmt: skip
def test_resume_types_again_what_was_typed(here, monkeypatch, verb, record, words):
    monkeypatch.setenv("ATTNVIS_COMMAND", f"attnvis {verb} --resume done")
    Path("done").mkdir()
    Path("done", {"run": "run.json", "sweep": "plan.json"}[verb]).write_text(json.dumps(record))
    assert resumed(["--resume", "done"], COMMANDS[verb]) == words
    assert os.environ["ATTNVIS_COMMAND"] == record["command"]


MARK = "{_target_: builtins.open, file: hacked, mode: w}"


@pytest.mark.parametrize(
    "evil",
    [
        ["trust=[torch]", "backbone=own", "backbone.net._target_=torch.hub.load"],
        ["trust=torch"],
        [f"++hydra.callbacks.x={MARK}"],
        [f"hydra.callbacks={{x: {MARK}}}"],
        [f"backbone.net={MARK}"],
        [f"backbone={MARK}"],
        [f"+backbone.x={MARK}"],
        ["-cd", "stranger"],
        ["-cp=stranger"],
        ["--config-dir", "stranger"],
        ["--config-name=stranger"],
        ["--config-path", "stranger"],
        ["hydra/launcher=joblib"],
        ["hydra/job_logging@x=stranger"],
        ["hydra.launcher.setup=['touch hacked']"],
        ["hydra.launcher.partition=x"],
        ["hydra.sweep.subdir=../x"],
        ["hydra.job.env_set.LD_PRELOAD=x"],
        ["hydra.searchpath=[file://stranger]"],
        ["~logger=wandb"],
        ["seed=${oc.env:HOME}"],
        ["query={_target_: builtins.open, file: hacked, mode: w}"],
        ["unknown=1"],
        ["backbone.weights=theirs.pth"],
        ["backbone.weights=/tmp/theirs"],
        ["backbone.name=hf-hub:theirs/net"],
        ["cache.folder=theirs"],
        ["cache.limit=0.001"],
        ["logger.mode=online"],
        ["logger.project=theirs/project"],
        ["logger.entity=theirs"],
        ["logger={mode: online}"],
        ["cache={folder: theirs}"],
        ["https://theirs/a.jpg"],
        ["s3://bucket/private"],
        ["s{3..3}://bucket/private"],
        ["images=[a.png,s3://bucket/b.png]"],
        ["query=exemplar:/home/me/secret.jpg"],
        ["query=vector:/home/me/secret.npy"],
        ["query=mask:/home/me/secret.png"],
        ["query=exemplar(photo=/home/me/secret.jpg)"],
        ["query=class:tabby - 0.5*exemplar:/home/me/secret.jpg"],
        ["query=class:tabby,vector:/home/me/secret.npy"],
        ["query=several", "query.of=['mask:/home/me/secret.png']"],
        [r"query.of=[exemplar\:/home/me/secret.jpg]"],
        ["query=formula", "query.text=mean - mask:/home/me/secret.png"],
        ["query=exemplar", "query.photo=/home/me/secret.jpg"],
        ["query.shape=/home/me/secret.png"],
        ["query.file=/home/me/secret.npy"],
        ["launcher=slurm"],
        ["launcher=ray"],
    ],
)  # fmt: skip
@pytest.mark.parametrize("verb", ["run", "sweep"])
def test_nothing_that_a_folder_says_chooses_code(here, capsys, verb, evil):
    """What may run code has to be typed again, and then it is what was typed that counts."""
    Path("done").mkdir()
    command = shlex.join(["attnvis", verb, "a.png", "seed=1", *evil, "hydra.run.dir=old"])
    Path("done", {"run": "run.json", "sweep": "plan.json"}[verb]).write_text(json.dumps({"command": command}))
    with pytest.raises(SystemExit) as ended:
        resumed(["--resume", "done"], COMMANDS[verb])
    complaint = capsys.readouterr().err
    assert ended.value.code == 1 and complaint.count("\n") == 1 and "type it again" in complaint
    assert not Path("hacked").exists() and not Path("old").exists()
    typed = shlex.split(complaint.partition("--resume done ")[2])
    words = resumed(["--resume", "done", *typed], COMMANDS[verb])
    assert words[:2] == ["a.png", "seed=1"] and words[-1] in ("resume=true", "hydra.run.dir=done")
    for word in typed:
        assert word in words


@pytest.mark.parametrize(
    "words",
    [
        ["query=class", "query.name=tabby", "scaling=temperature", "scaling.tau=2", "render.high=8"],
        [
            "backbone=resnet18",
            "backbone.weights=IMAGENET1K_V1",
            "backbone.layer=layer4",
            "preprocess.size=321",
        ],
        [
            "cache.use=true",
            "logger.mode=disabled",
            "logger.project=mine",
            "maps=false",
            "workers=2",
            "images=[a.png,'b c.png']",
        ],
        ["launcher=joblib", "hydra.launcher.n_jobs=2", "experiment=null"],
        ["name=${oc.env:HOME}", "images=a.png,${oc.env:HOME}"],  # texts, as they stand
        ["query=stranger", "scaling=temperature:2", "normalise=top_k(k=5)"],  # a class
        ["-m", "query=class:tabby,mean", "scaling=none,zscore:2"],
        ["query=point:120,80", "launcher=local"],
        ["query=class:mask - class:ski mask"],
        ["query=mask:10,20,100,20,60.5,90"],
        ["query=mask", "query.shape=10,20,100,20,60.5,90"],
        ["query=exemplar:run"],
    ],
)
def test_settings_of_our_own_need_not_be_typed_again(here, words):
    Path("done").mkdir()
    Path("done", "run.json").write_text(json.dumps({"command": shlex.join(["attnvis", "run", *words])}))
    assert resumed(["--resume", "done"], COMMANDS["run"]) == [*words, "hydra.run.dir=done", "resume=true"]


@pytest.mark.parametrize("word", ["{}", "images=[a.png,{}]", "images={}"])
@pytest.mark.parametrize("ending", [".csv", ".tsv", ".txt", ".parquet"])
def test_a_list_that_names_addresses_is_typed_again_and_one_of_files_is_not(here, capsys, word, ending):
    Path("done").mkdir()
    file = f"list{ending}"
    words = ["attnvis", "run", word.format(file)]
    Path("done", "run.json").write_text(json.dumps({"command": shlex.join(words)}))
    for place, is_own in [("b.png", True), ("https://theirs/b.png", False)]:
        if ending == ".parquet":
            pyarrow.parquet.write_table(pyarrow.table({"path": [place]}), file)
        else:
            Path(file).write_text(f"{place}\n" if ending == ".txt" else f"path\n{place}\n")
        if is_own:
            assert resumed(["--resume", "done"], COMMANDS["run"])[0] == words[2]
            continue
        with pytest.raises(SystemExit):
            resumed(["--resume", "done"], COMMANDS["run"])
        assert f"type it again: attnvis run --resume done {shlex.quote(words[2])}" in capsys.readouterr().err
        assert resumed(["--resume", "done", words[2]], COMMANDS["run"])[0] == words[2]


def test_a_word_that_needs_no_typing_again_is_not_taken(here, capsys):
    Path("done").mkdir()
    Path("done", "run.json").write_text(json.dumps({"command": "attnvis run a.png seed=1 trust=mine"}))
    for words in (["seed=2"], ["trust=mine", "seed=2"], ["trust=mine", "trust=mine"], ["-cd", "x"]):
        with pytest.raises(SystemExit) as ended:
            resumed(["--resume", "done", *words], COMMANDS["run"])
        assert ended.value.code == 2 and "and nothing else" in capsys.readouterr().err


def test_only_what_leaves_a_record_is_resumed():
    assert resumed(["--resume", "done"], COMMANDS["calibrate"]) == ["--resume", "done"]
    assert resumed(["cat.png", "--resume"], COMMANDS["run"]) == ["cat.png", "--resume"]


def test_a_file_called_like_weights_is_typed_again(here, capsys):
    Path("done").mkdir()
    record = {"command": "attnvis run a.png backbone=resnet18 backbone.weights=theirs"}
    Path("done", "run.json").write_text(json.dumps(record))
    assert resumed(["--resume", "done"], COMMANDS["run"])[2] == "backbone.weights=theirs"  # a name
    Path("theirs").write_text("weights")
    with pytest.raises(SystemExit):
        resumed(["--resume", "done"], COMMANDS["run"])
    assert "type it again" in capsys.readouterr().err


@pytest.mark.parametrize(
    "verb, of", [("run", "redraw"), ("redraw", "run"), ("run", "video"), ("video", "run")]
)
def test_the_folder_of_another_verb_is_not_gone_on_with(here, capsys, verb, of):
    Path("done").mkdir()
    Path("done", "run.json").write_text(json.dumps({"command": f"attnvis {of} a.png"}))
    with pytest.raises(SystemExit):
        resumed(["--resume", "done"], COMMANDS[verb])
    assert (
        f"done is not the folder of a {verb}: its run.json is damaged or another's" in capsys.readouterr().err
    )


@pytest.mark.parametrize("words", ["cat.png seed=3", "cat.png seed=3 cache.folder=mine 'trust=[my_net]'"])
def test_what_is_advised_to_go_on_is_accepted_as_it_stands(here, words):
    Path("out").mkdir()
    Path("out/run.json").write_text(json.dumps({"command": f"attnvis run {words}"}))
    advice = shlex.split(resume_words(COMMANDS["run"], Path("out")))
    assert advice[:4] == ["attnvis", "run", "--resume", "out"]
    assert advice[4:] == shlex.split(words)[2:]
    assert "resume=true" in resumed(advice[2:], COMMANDS["run"])


def test_a_folder_that_names_no_command_is_not_advised_to_go_on_with(here):
    Path("out").mkdir()
    for record in ({}, {"command": ""}, {"command": "attnvis sweep a.png"}):
        Path("out/run.json").write_text(json.dumps(record))
        assert resume_words(COMMANDS["run"], Path("out")) == ""


def test_a_formula_of_several_words_is_typed_again_as_a_whole(here, capsys):
    Path("done").mkdir()
    words = ["a.png", "query=class:tabby", "+", "exemplar:/home/me/secret.jpg"]
    Path("done/run.json").write_text(json.dumps({"command": shlex.join(["attnvis", "run", *words])}))
    with pytest.raises(SystemExit):
        resumed(["--resume", "done"], COMMANDS["run"])
    complaint = capsys.readouterr().err
    typed = shlex.split(complaint.partition("--resume done ")[2])
    assert typed == ["query=class:tabby + exemplar:/home/me/secret.jpg"]
    assert resumed(["--resume", "done", *typed], COMMANDS["run"])[:2] == ["a.png", *typed]


def test_of_what_is_typed_anew_to_go_on_the_last_counts_and_it_is_said(here, capsys):
    evaluate = COMMANDS["evaluate"]
    Path("done").mkdir()
    Path("done", evaluate.record).write_text(json.dumps({"command": "attnvis evaluate photos against=a"}))
    words = resumed(["--resume", "done", "against=b", "against=c"], evaluate)
    assert words[:2] == ["photos", "against=c"]
    assert "against=b and against=c were both given" in capsys.readouterr().err
