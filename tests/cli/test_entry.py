"""The door: what people type, and what they are told when it is wrong."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
import yaml
from conftest import make_photo, records
from safetensors.torch import save_file

import attnvis as package
from attnvis import backbone, catalogue, render
from attnvis.methods import answer, attention
from attnvis.render import panels

ROOT = Path(package.__file__).resolve().parents[1]


@pytest.fixture
def cat(here):
    return make_photo(here / "cat.png")


# ------------------------------------------------------------------------------------------------------------------- help


@pytest.mark.parametrize("words", [["--help"], ["run", "--help"], ["redraw", "-h"], ["--version"], []])
def test_help_needs_no_torch_and_no_hydra(words):
    code = f"""
import sys
sys.argv = ["attnvis", *{words!r}]
from attnvis.cli import main
try:
    main()
except SystemExit:
    pass
print("HEAVY", *sorted({{"torch", "hydra", "wandb", "cv2", "numpy"}} & set(sys.modules)))
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert told.splitlines()[-1] == "HEAVY" and len(told) > 10


def test_help_names_every_group_every_option_with_its_sentence_and_every_setting(attnvis):
    text = attnvis("run", "--help").out
    anatomy = {"backbone.stages", "backbone.head", "backbone.net"}
    for folder in (ROOT / "configs").iterdir():
        if not folder.is_dir():
            continue
        if folder.name in ("preprocess", "cache"):
            assert f"{folder.name}=..." not in text, "there is nothing to choose"
            continue
        assert f"{folder.name}=..." in text
        for file in folder.glob("*.yaml"):
            lines = file.read_text().splitlines()
            if folder.name == "experiment" and not any("attnvis run " in line for line in lines):
                continue  # another verb's
            if not file.name.startswith("_"):
                sentence = next(
                    line[2:] for line in lines if line.startswith("# ") and "@package" not in line
                )
                assert re.search(rf"^  {file.stem} +{re.escape(sentence)}$", text, re.MULTILINE), file
            if folder.name != "experiment":
                for key in yaml.safe_load("\n".join(lines)).keys() - {
                    "defaults",
                    "hydra",
                    "_target_",
                    "_partial_",
                }:
                    short = folder.name in ("query", "scaling", "normalise")
                    assert f"{folder.name}.{key}" in anatomy or re.search(
                        rf"[ ,]{key}=" if short else rf"{folder.name}\.{key}=", text
                    ), (
                        file,
                        key,
                    )
    own = yaml.safe_load((ROOT / "configs" / "run.yaml").read_text()).keys() - {"defaults", "hydra"}
    shared = [
        "preprocess.fit",
        "preprocess.size",
        *(f"cache.{key}" for key in ("use", "folder", "storage", "limit")),
    ]
    for key in [*own, *shared]:
        assert re.search(rf"^  {re.escape(key)}=\S+  +\S", text, re.MULTILINE), key


def test_the_words_alone_say_what_verbs_there_are(attnvis, monkeypatch):
    for verb in ("run", "redraw"):
        assert f"attnvis {verb}" in attnvis("--help").out


def test_the_script_is_the_same_door(cat, monkeypatch, capsys):
    import runpy

    monkeypatch.setattr(sys, "argv", ["run.py", "cat.png", "preprocess.size=96", "hydra.run.dir=out"])
    runpy.run_path(str(ROOT / "scripts" / "run.py"), run_name="__main__")
    assert "1 photo done" in capsys.readouterr().out and len(records()) == 1
    monkeypatch.setattr(sys, "argv", ["run.py", "--help"])
    runpy.run_path(str(ROOT / "scripts" / "run.py"), run_name="__main__")
    assert "query=..." in capsys.readouterr().out


# --------------------------------------------------------------------------------------------------------- what goes wrong


def broken_photos(folder):
    whole = make_photo(folder / "whole.jpg").read_bytes()
    (folder / "zero.jpg").write_bytes(b"")
    (folder / "text.jpg").write_text("hello, this is no photo")
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "empty").mkdir()


@pytest.mark.parametrize(
    "word, given, advice",
    [
        ("nosuch.png", "nosuch.png", "see what lies in"),
        ("whole.jpeg", "whole.jpeg", "did you mean whole.jpg"),
        ("empty", "no photos in the folder empty", "looked for .jpg"),
        ("zero.jpg", "zero.jpg is empty (0 bytes)", "copy or download it again"),
        ("text.jpg", "text.jpg is no photo: it begins with b'hello, t'", "save it as JPEG"),
        ("cut.jpg", "cut.jpg is a damaged or truncated JPEG", "copy or download it again"),
        ("images=[5]", "no such photo: 5", "see what lies in"),
        ("images=", "an empty name", "give a file"),
    ],
)
def test_a_bad_photo_is_one_line(attnvis, here, word, given, advice):
    broken_photos(here)
    complaint = attnvis("run", word).complaint
    assert given in complaint and advice in complaint


@pytest.mark.parametrize(
    "words, given, advice",
    [
        ("runn cat.png", "unknown verb 'runn'", "did you mean run?"),
        ("run cat.png qurey=mean", "no setting 'qurey'", "did you mean query"),
        ("run cat.png query=claas", "query has no option 'claas'", "did you mean class?"),
        ("run cat.png backbone=vit_b_16", "backbone has no option 'vit_b_16'", "resnet"),
        (
            "run cat.png backbone=efficentnet_lite",
            "backbone has no option 'efficentnet_lite'",
            "did you mean efficientnet_lite",
        ),
        ("run cat.png bacth_size=4", "no setting 'bacth_size'", "did you mean batch_size"),
        ("run cat.png query.nmae=tabby", "no setting 'query.nmae'", "did you mean query.name"),
        ("run cat.png query.x=3", "query.x is a setting of", "query=point"),
        ("run cat.png query=point", "query.x and query.y need a value", "query.x=..."),
        ("run cat.png query=class query.name=tabbby", "unknown class 'tabbby'", "did you mean tabby"),
        ("run cat.png query=class query.name=1000", "class index 1000", "0 ... 999"),
        (
            "run cat.png query=point query.x=500 query.y=3",
            "point 500,3 lies outside the 90x70 photo cat.png",
            "x,y in pixels",
        ),
        ("run cat.png query=box query.x=1 query.y=1 query.width=0 query.height=2", "not 0x2", "above 0"),
        ("run cat.png query=pca query.component=1.5", "query.component", "must be a whole number, not 1.5"),
        ("run cat.png query=pca query.centred=maybe", "query.centred", "must be true or false, not 'maybe'"),
        ("run cat.png backbone.layer=stage9", "no layer 'stage9'", "stages are stage1, stage2, stage3, last"),
        ("run cat.png backbone.layer=3", "backbone.layer must be a word or a list", "not 3"),
        ("run cat.png backbone.precision=fp8", "'fp8'", "auto, fp32 or bf16"),
        ("run cat.png backbone.device=banana", "banana", "cpu"),
        (
            "run cat.png backbone.placement=nearest",
            "'nearest'",
            "rf (the middle of the receptive field), calibrated",
        ),
        (
            "run cat.png preprocess.fit=squeeze",
            "no fit 'squeeze'",
            "choose resize, crop, letterbox or stretch",
        ),
        ("run cat.png preprocess.size=big", "preprocess.size", "must be a whole number or null, not 'big'"),
        ("run cat.png render.colours=rainbow", "colours 'rainbow'", "choose one of scorch"),
        ("run cat.png render.opacity=much", "render.opacity", "must be a number, not 'much'"),
        ("run cat.png scaling=temperature scaling.tau=-1", "not -1", "tau must be above 0"),
        ("run cat.png scaling=temperature scaling.tau=abc", "scaling.tau", "must be a number, not 'abc'"),
        ("run cat.png scaling=cosine +scaling.taw=1", "taw", "unexpected keyword"),
        ("run cat.png normalise=top_k normalise.k=0", "not 0", "k of at least 1"),
        (
            "run cat.png normalise=sigmoid normalise.bias=low",
            "normalise.bias",
            "must be a number or null, not 'low'",
        ),
        ("run cat.png batch_size=0", "batch_size 0", "give 1 or more"),
        ("run cat.png batch_size=many", "batch_size", "must be a whole number, not 'many'"),
        ("run cat.png seed=1.5", "seed", "must be a whole number, not 1.5"),
        ("run cat.png maps=perhaps", "maps", "must be true or false, not 'perhaps'"),
        ("run cat.png logger.mode=loud", "logger.mode 'loud'", "choose offline, online or disabled"),
        ("run cat.png logger.pictures=all", "logger.pictures", "must be a whole number, not 'all'"),
        ("run cat.png query=class,mean", "'query=class,mean'", "--multirun"),
        ("run cat.png scaling=[1", "cannot read 'scaling=[1'", "grammar"),
        ("run cat.png images=dog.png", "'cat.png' and images=... were both given", "give one of them"),
        ("run cat.png hydra.run.dir=cat.png/below", "cat.png/below", "choose another place"),
        ("redraw cat.png", "cat.png is not the folder of a run", "outputs/run/"),
        ("redraw", "run needs a value", "run=..."),
        ("redraw one two", "not 2: 'one', 'two'", "the folder of one run"),
    ],
)
def test_a_mistake_is_one_line_that_says_what_was_given_and_what_to_do(attnvis, cat, words, given, advice):
    complaint = attnvis(*words.split()).complaint
    assert given in complaint and advice in complaint


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


def test_weights_that_cannot_be_used_are_one_line_and_run_no_code(attnvis, cat):
    torch.save({"features": Bomb()}, "pickled.pth")
    torch.save({"features.0.0.weight": torch.zeros(3)}, "small.pth")
    save_file({"features.0.0.weight": torch.zeros(3)}, "small.safetensors")
    Path("cut.pth").write_bytes(Path("small.pth").read_bytes()[:400])
    Path("cut.safetensors").write_bytes(Path("small.safetensors").read_bytes()[:20])
    for file, reason in {
        "pickled.pth": "could run code",
        "small.pth": "do not fit efficientnet_lite0",
        "small.safetensors": "do not fit efficientnet_lite0",
        "cut.pth": "damaged or cut short",
        "cut.safetensors": "not a readable safetensors file",
        "nosuch.pth": "no weights file",
    }.items():
        complaint = attnvis("run", "cat.png", f"backbone.weights={file}").complaint
        assert file in complaint and reason in complaint
    assert not Path("exploded").exists()


def test_a_download_that_fails_says_where_to_put_the_file(attnvis, cat, monkeypatch):
    from torchvision.models import ResNet18_Weights

    def unreachable(*_, **__):
        raise URLError("no route to host")

    monkeypatch.setattr(ResNet18_Weights, "get_state_dict", unreachable)
    complaint = attnvis("run", "cat.png", "backbone=resnet18").complaint
    assert (
        "could not download ResNet18_Weights.IMAGENET1K_V1" in complaint and "no route to host" in complaint
    )
    assert "resnet18-f37072fd.pth" in complaint and "backbone=efficientnet_lite0" in complaint


def test_with_hydra_full_error_the_traceback_is_shown(attnvis, cat, monkeypatch):
    assert "HYDRA_FULL_ERROR" not in os.environ
    attnvis("run", "cat.png", "query=class", "query.name=tabbby").complaint  # noqa: B018 - asserts by itself
    assert "HYDRA_FULL_ERROR" not in os.environ, "one call must not change the next"
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(ValueError, match="tabbby"):
        attnvis("run", "cat.png", "query=class", "query.name=tabbby")


# ------------------------------------------------------------------------------------------------------- code of others


MINE = """
import torch

def bright(features):
    return features.tokens.amax(1, keepdim=True)

def halved(scores, by: float = 2.0):
    return scores.products / by
"""


@pytest.fixture
def mine(cat):
    Path("my_stages.py").write_text(MINE)
    for group, name in (("query", "bright"), ("scaling", "halved")):
        file = Path("confs") / group / f"{name}.yaml"
        file.parent.mkdir(parents=True)
        file.write_text(
            f"# mine\n_target_: my_stages.{name}\n_partial_: true\n"
            + ("by: 4.0\n" if name == "halved" else "")
        )
    yield "confs"
    sys.modules.pop("my_stages", None)


def test_code_of_others_runs_only_where_it_is_trusted(attnvis, mine):
    for choice in ("query=bright", "scaling=halved"):
        complaint = attnvis("run", "cat.png", "-cd", mine, choice).complaint
        assert "my_stages." in complaint and "trust=[my_stages]" in complaint
        assert "my_stages" not in sys.modules, "a refused module must not even be imported"
    assert (
        attnvis("run", "-cd", mine, "cat.png", "query=bright", "scaling=halved", "trust=my_stages").code == 0
    )
    (row,) = records()
    assert (row["query"], row["label"], row["scaling"]) == ("bright", "bright", "halved(by=4.0)")
    assert float(row["sigma_eff"]) == pytest.approx(float(row["score_std"]) / 4, rel=1e-4)
    assert (
        "scaling.by must be a number"
        in attnvis(
            "run", "-cd", mine, "cat.png", "scaling=halved", "trust=my_stages", "scaling.by=x"
        ).complaint
    )


def test_a_network_of_ones_own_is_not_taken_for_a_member_of_a_family(attnvis, mine):
    file = Path("confs/backbone/resnet_of_mine.yaml")
    file.parent.mkdir()
    file.write_text("# mine\n_target_: attnvis.backbone.efficientnet_lite\nweights: random\n")
    assert attnvis("run", "-cd", mine, "cat.png", "backbone=resnet_of_mine").code == 0


@pytest.mark.parametrize(
    "target",
    [
        "attnvis.backbone.weights.pickle.loads",
        "attnvis.backbone.weights.pickle",
        "attnvis_evil.x",
        "attnvis.attention.query_evil.mean",
        "attnvis.attention.query.kinds.torch.load",
        "attnvis.attention.query.globals",
        "attnvis.pipeline.run_page.write_page",
        "attnvis.nosuch.x",
        "os.system",
        "mean",
    ],
)
def test_what_only_looks_like_attnvis_own_is_refused(attnvis, cat, target):
    complaint = attnvis("run", "cat.png", f"query._target_={target}").complaint
    assert f"{target} is not attnvis' own" in complaint


def test_code_hidden_deeper_in_a_config_is_refused_too(attnvis, cat):
    words = ["query=several", "query.of=[{_target_: os.mkdir, path: made}]"]
    assert "os.mkdir is not attnvis' own" in attnvis("run", "cat.png", *words).complaint
    assert not Path("made").exists()


# ---------------------------------------------------------------------------------------------------- cut short, and full


def test_ctrl_c_keeps_what_was_done(attnvis, here, monkeypatch):
    for number in range(3):
        make_photo(here / f"{number}.png", seed=number)
    predictions, calls = answer.predictions, []

    def tired(*words):
        calls.append(words)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return predictions(*words)

    monkeypatch.setattr(attention, "predictions", tired)
    ended = attnvis("run", "0.png", "1.png", "2.png", "batch_size=1")
    assert ended.code == 130 and "stopped" in ended.complaint
    assert [row["photo"] for row in records()] == ["0.png", "1.png"]
    assert "1.png" in Path("out/index.html").read_text()
    assert len(list(Path("out/overlays").iterdir())) == 2


@pytest.mark.skipif(sys.platform == "win32", reason="resource limits are Unix'")
def test_a_full_disk_is_one_line_and_leaves_nothing_that_only_looks_whole(cat):
    make_photo(Path("big.png"), (600, 800))
    code = """
import resource, sys
from attnvis import cli
import hydra, torch, wandb
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
sys.argv = ["attnvis", "run", "cat.png", "big.png", "preprocess.size=96", "batch_size=1", "render.format=png", "hydra.run.dir=out"]
cli.main()
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    lines = ended.stderr.splitlines()
    assert ended.returncode == 1 and len(lines) == 1 and lines[0].startswith("attnvis: "), ended.stderr
    assert "File too large" in lines[0] and "make room" in lines[0]
    assert [row["photo"] for row in records()] == ["cat.png"]
    assert not list(Path("out").rglob("*.part")) and not list(Path("out/overlays").glob("big*"))
    assert not Path("out/index.html").exists() or Path("out/index.html").read_text().rstrip().endswith(
        "</html>"
    )


# ------------------------------------------------------------------------------------------------------- what people type


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


def test_photos_of_any_name_are_taken_by_name(attnvis, here):
    for number, name in enumerate(NAMES):
        make_photo(here / name, seed=number)
    words = [f"./{name}" if name.startswith("-") else name for name in NAMES]
    assert attnvis("run", *words).code == 0
    assert sorted(row["photo"] for row in records()) == sorted(NAMES)
    page = Path("out/index.html").read_text(encoding="utf-8")
    assert "<img src=x" not in page and "&lt;img src=x" in page
    for name in NAMES:
        assert attnvis("run", f"images={words[NAMES.index(name)]}").code == 0
        assert [row["photo"] for row in records()] == [name]


def test_a_name_that_is_no_unicode_is_a_photo_like_any_other(attnvis, here):
    name = os.fsdecode(b"caf\xe9.png")
    try:
        make_photo(here / name)
    except OSError:
        pytest.skip("this file system wants Unicode")
    assert attnvis("run", name).code == 0
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
        ("", "inv_sqrt_d"),
        ("query=mean", "inv_sqrt_d"),
        ("query=class", "perplexity(target=0.1)"),
        ("query=class scaling=inv_sqrt_d", "inv_sqrt_d"),
        ("query=norm scaling.target=0.3", "perplexity(target=0.3)"),
        ("experiment=queries", "perplexity(target=0.1)"),
        ("experiment=queries scaling=zscore", "zscore(tau=1.0)"),
    ],
)
def test_a_question_without_a_scaling_gets_one_that_suits_it(attnvis, cat, words, scaling):
    assert attnvis("run", "cat.png", "render.panel=false", *words.split()).code == 0
    assert {row["scaling"] for row in records()} == {scaling}


def test_records_say_how_likely_an_asked_class_is_and_how_free_a_sign(attnvis, cat):
    assert attnvis("run", "cat.png", "query=several", 'query.of=["class:espresso",pca,mean]').code == 0
    asked, free, plain = records()
    assert (
        asked["class_index"] == "967"
        and 0 < float(asked["class_probability"]) < 1
        and int(asked["class_rank"]) >= 1
    )
    assert 0 <= float(free["sign_margin"]) <= 1 and free["class_rank"] == asked["sign_margin"] == ""
    assert plain["class_rank"] == plain["sign_margin"] == "" and plain["placement"] == "rf -14 px"


def test_a_class_is_named_as_it_is_written(attnvis, cat):
    for name in ("jack-o'-lantern", "tabby", "281", "black-and-tan coonhound"):
        assert attnvis("run", "cat.png", "query=class", f"query.name={name}").code == 0, name
        assert records()[0]["label"] == {"281": "tabby"}.get(name, name)


def test_a_network_is_named_without_its_family_and_random_weights_are_loud(attnvis, cat):
    ended = attnvis("run", "cat.png", "backbone=resnet18", "backbone.weights=random", "query=mean")
    assert (
        ended.code == 0
        and ended.err == "attnvis: RANDOM WEIGHTS: NOTHING WAS LEARNED, THE MAPS MEAN NOTHING\n"
    )
    told = json.loads(Path("out/run.json").read_text())
    warning = "random weights: nothing was learned, the maps mean nothing"
    assert (
        told["backbone"] == "resnet18"
        and told["weights digest"] == "random"
        and told["warnings"] == [warning]
    )
    assert "random weights: nothing was learned" in Path("out/index.html").read_text()


def test_random_weights_are_said_on_the_panels(attnvis, cat, monkeypatch):
    said = []
    panel = render.panel
    monkeypatch.setattr(
        panels, "panel", lambda *words, **more: said.append(list(more["lines"])) or panel(*words, **more)
    )
    assert attnvis("run", "cat.png", "backbone.weights=random").code == 0
    assert ("warning", "random weights: nothing was learned, the maps mean nothing") in said[0]


def test_a_sweep_has_a_folder_for_each_choice_and_outlives_one_that_fails(attnvis, cat):
    ended = attnvis(
        "run", "-m", "cat.png", "query=class", "query.name=tabby,nosuchclass", "scaling=none,cosine"
    )
    assert ended.code == 1 and ended.err.count("unknown class 'nosuchclass'") == 2
    done = {(row["label"], row["scaling"]) for number in (0, 1) for row in records(f"out/{number}")}
    assert done == {("tabby", "none"), ("tabby", "cosine(tau=0.07)")}


def test_a_family_is_found_by_the_longest_name():
    assert [
        catalogue.family(name)
        for name in ("resnet18", "resnext50_32x4d", "wide_resnet50_2", "vgg16", "vit_b_16", "embedded")
    ] == [
        "resnet",
        "resnext",
        "wide_resnet",
        "vgg",
        None,
        None,
    ]
    assert backbone.torchvision.__name__ == "torchvision"


def test_redrawing_a_sweep_says_to_redraw_one_of_its_runs(attnvis, here):
    make_photo(here / "cat.png")
    assert attnvis("run", "-m", "cat.png", "scaling=none,cosine").code == 0
    complaint = attnvis("redraw", "run=out", "hydra.run.dir=again").complaint
    assert "it is a sweep" in complaint and "out/0" in complaint
