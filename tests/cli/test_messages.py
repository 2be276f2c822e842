"""What people are told when something is wrong: one line, what was given, what to do."""

import io
import os
from pathlib import Path
from urllib.error import URLError

import pytest
import torch
from conftest import make_photo
from safetensors.torch import save_file

from attnvis.cli.messages import note, print_above_bar, progress


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
        ("text.jpg", "text.jpg is no photo of a kind that is read", "save it as JPEG"),
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
        ("run cat.png query=claas", "unknown class 'claas'", "Or the query class?"),
        ("run cat.png scaling=temprature", "unknown scaling 'temprature'", "did you mean temperature?"),
        ("run cat.png backbone=maxvit_t", "unknown backbone 'maxvit_t'", "resnet"),
        (
            "run cat.png backbone=efficentnet_lite",
            "unknown backbone 'efficentnet_lite'",
            "did you mean efficientnet_lite",
        ),
        ("run cat.png bacth_size=4", "no setting 'bacth_size'", "did you mean batch_size"),
        ("run cat.png query.nmae=tabby", "no setting 'query.nmae'", "did you mean query.name"),
        ("run cat.png query.x=3", "query.x is a setting of", "query=point"),
        (
            "sweep cat.png attended=true",
            "attnvis sweep has no setting 'attended'",
            "attended is one of attnvis run; see",
        ),
        (
            "explore cat.png query=mean",
            "explore has no setting 'query'",
            "one of attnvis evaluate, run, sweep, video and why",
        ),
        ("explore cat.png logger.mode=x", "no setting 'logger.mode'", "logger is one of attnvis evaluate"),
        (
            "explore cat.png clases=3",
            "no setting 'clases'; did you mean classes?",
            "see attnvis explore --help",
        ),
        (
            "sweep cat.png method=occlusion",
            "no setting 'method'",
            "method is one of attnvis evaluate and run",
        ),
        ("sweep cat.png qeury=mean", "no setting 'qeury'", "did you mean query?"),
        ("run cat.png query=point", "query 'point'", "it is written point:x,y"),
        ("run cat.png query=point query.x=3", "query.y needs a value", "query.y=..."),
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
        ("run cat.png scaling=cosine +scaling.taw=1", "no setting scaling.taw", "did you mean scaling.tau?"),
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
        ("run cat.png scaling=none,cosine", "names 2 and attnvis run takes one", "attnvis sweep PHOTO"),
        ("video cat.mp4 query=class,mean", "names 2 and attnvis video takes one", "give one"),
        ("run cat.png scaling=[1", "unknown scaling '[1'", "settings follow a colon"),
        ("run cat.png seed=[1", "cannot read 'seed=[1'", "grammar"),
        ("run cat.png --query class", "settings have no dashes", "query=class"),
        ("run cat.png --scaling=none", "settings have no dashes", "scaling=none"),
        ("run cat.png --batch-size 4", "settings have no dashes", "batch_size=4"),
        ("run cat.png --query --scaling", "settings have no dashes", "query=..."),
        ("run cat.png --qurey class", "no flag --qurey", "did you mean query"),
        ("run cat.png -q class", "no flag -q", "settings have no dashes, as in seed=1"),
        ("run cat.png --multi", "no flag --multi", "see attnvis run --help"),
        ("run -dash.png", "no flag -dash.png", "./-dash.png"),
        ("run cat.png --resume out", "--resume FOLDER comes first", "attnvis run --resume FOLDER"),
        (
            "redraw --resume",
            "--resume takes the folder of a redraw and nothing else",
            "attnvis redraw --resume",
        ),
        ("redraw out -cd", "-cd needs a word behind it", "-cd FOLDER"),
        ("run cat.png images=dog.png", "'cat.png' and images=... were both given", "give one of them"),
        ("run cat.png hydra.run.dir=cat.png/below", "cat.png/below", "choose another place"),
        ("redraw cat.png", "cat.png is not the folder of a run", "outputs/run/"),
        ("redraw", "attnvis redraw was given no FOLDER", "type attnvis redraw FOLDER"),
        ("redraw one two", "not 2: 'one', 'two'", "the folder of one run"),
    ],
)
def test_a_mistake_is_one_line_with_what_was_given_and_what_to_do(attnvis, cat, words, given, advice):
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


def test_redrawing_a_sweep_says_to_redraw_one_of_its_runs(attnvis, here):
    make_photo(here / "cat.png")
    assert attnvis("run", "-m", "cat.png", "scaling=none,cosine", "render.panel=false").code == 0
    complaint = attnvis("redraw", "run=out", "hydra.run.dir=again").complaint
    assert "it is a sweep" in complaint and "out/0" in complaint


def test_a_note_is_one_line_that_a_terminal_can_show(capsys):
    note("a\nb\x1b[31m.png, größer")
    assert capsys.readouterr().err == "attnvis: a\\nb\\x1b[31m.png, größer\n"


class Terminal(io.StringIO):
    """Where stdout and stderr both go."""

    def isatty(self):
        return True

    def lines(self):
        """As they stand there: after a carriage return signs are written over those of the line."""
        for line in self.getvalue().split("\n"):
            shown = ""
            for part in line.split("\r"):
                shown = part + shown[len(part) :]
            yield shown.rstrip()


def test_what_is_printed_beside_a_bar_has_a_line_of_its_own(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setattr("sys.stderr", terminal)
    for photo in progress(["one", "two"], 2):
        print_above_bar(f"the table of {photo}")
    assert "0/2" in terminal.getvalue(), "there was a bar"
    first, second, *_ = terminal.lines()
    assert (first, second) == ("the table of one", "the table of two")
