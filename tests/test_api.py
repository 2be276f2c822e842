"""One photo and one question from Python."""

import csv
import subprocess
import sys
from dataclasses import FrozenInstanceError
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import LOADED, make_photo

import attnvis as package
from attnvis import api, render
from attnvis.attention import query, scaling
from attnvis.backbone import sources
from attnvis.cli.messages import explain_unknown_option
from attnvis.data import video as data_video
from attnvis.data.decoding import load
from attnvis.data.preprocessing import collate
from attnvis.pipeline import video, video_file, video_run
from attnvis.pipeline.maps import read_maps
from attnvis.pipeline.plan import RunPlan
from attnvis.render import overlays
from attnvis.types import PhotoError, Provenance, percent


@pytest.fixture
def net():
    return LOADED(precision="fp32")


def ask(photo, *words, backbone=None, **settings):
    return package.explain(photo, *words, backbone=backbone or LOADED(precision="fp32"), size=96, **settings)


def test_importing_attnvis_imports_no_torch():
    code = (
        "import sys, attnvis; assert not {'torch', 'numpy'} & set(sys.modules); "
        "attnvis.explain; assert 'torch' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_there_is_shows_and_can_be_had():
    from importlib.metadata import version

    assert {*package.__all__, "__version__"} <= set(dir(package)) and package.__version__ == version(
        "attnvis"
    )
    for name in package.__all__:
        assert getattr(package, name).__name__ == name and getattr(package, name).__doc__, name


def test_what_attnvis_does_not_have_it_says():
    with pytest.raises(AttributeError, match="explian"):
        package.explian  # noqa: B018


def test_the_weights_sum_to_one_and_the_context_is_weights_times_tokens(cat):
    found = ask(cat, "mean", "inv_sqrt_d")
    tokens = found.answer.attention.values[0].double().numpy()  # [N, D]
    assert found.weights.shape == found.scores.shape == found.logits.shape == found.answer.placement.grid
    assert found.weights.sum() == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(
        found.context, found.weights.astype(float).ravel() @ tokens, rtol=1e-4, atol=1e-5
    )
    scores = tokens @ tokens.mean(0)  # the mean query, by its definition
    np.testing.assert_allclose(found.scores.ravel(), scores, rtol=1e-4)
    logits = scores / np.sqrt(tokens.shape[1])
    np.testing.assert_allclose(
        found.weights.ravel(), np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum(), rtol=1e-3
    )
    assert found.map.shape == (70, 90)


@pytest.mark.parametrize(
    "text, label",
    [
        ("tabby", "tabby"),
        ("class:tabby", "tabby"),
        ("point:20,30", "point 20,30"),
        ("box:1,2,30,40", "box 1,2,30,40"),
        ("rarity", "rarity"),
    ],
)
def test_a_query_is_a_text(cat, text, label):
    assert ask(cat, text).label == label


def test_texts_and_functions_give_the_same(cat):
    text = ask(cat, "point:20,30", "temperature:3")
    called = ask(
        cat,
        lambda features: query.point(features, 20.0, 30.0),
        lambda scores: scaling.temperature(scores, 3.0),
    )
    np.testing.assert_array_equal(text.weights, called.weights)
    bare = ask(cat, lambda features: features.mean.unsqueeze(1), "none")
    np.testing.assert_allclose(bare.weights, ask(cat, "mean", "none").weights, rtol=1e-5)


def test_a_photo_is_a_file_bytes_or_an_array(cat):
    by_path, by_text = ask(cat, "mean"), ask(str(cat), "mean")
    by_bytes, by_array = ask(cat.read_bytes(), "mean"), ask(load(cat).pixels, "mean")
    for other in (by_text, by_bytes, by_array):
        np.testing.assert_array_equal(other.weights, by_path.weights)
    assert ask("samples/cat", "mean").photo.name == "chelsea.png"


def test_one_photo_is_asked_for(cat, here):
    make_photo(here / "dog.png", seed=1)
    with pytest.raises(ValueError, match=r"takes one photo and .* stands for 2"):
        ask(here)
    with pytest.raises(PhotoError, match=r"did you mean cat\.png"):
        ask("cat.pgn")


def test_mistakes_say_what_there_is(cat):
    with pytest.raises(ValueError, match=r"unknown class 'tabbby'.*did you mean tabby"):
        ask(cat, "tabbby")
    with pytest.raises(ValueError, match=r"unknown scaling 'cosin'.*did you mean cosine"):
        ask(cat, "mean", "cosin")
    for name, near in {
        "maxvit_t": "",
        "embedded": "",
        "efficentnet_lite": "did you mean efficientnet_lite",
    }.items():
        with pytest.raises(
            ValueError, match=f"unknown backbone '{name}'; {near}.*there are alexnet"
        ) as caught:
            package.explain(cat, backbone=name)
        assert str(caught.value) == explain_unknown_option("backbone", name), "as at the command line"
    with pytest.raises(ValueError, match=r"this makes 2; attnvis\.explain_all"):
        ask(cat, lambda features: query.random(features, count=2))
    for several in ("class,mean", ["class", "mean"]):
        with pytest.raises(ValueError, match=r"takes one query and .* names 2; attnvis\.explain_all"):
            ask(cat, several)
    with pytest.raises(ValueError, match="takes one scaling"):
        ask(cat, "mean", "none,cosine")
    with pytest.raises(ValueError, match=r"scaling must be a text such as temperature:2, .* not 2"):
        ask(cat, "mean", 2)


@pytest.mark.parametrize(
    "question, scaling", [("mean", "inv_sqrt_d"), ("tabby", "perplexity"), ("point:20,30", "perplexity")]
)
def test_who_names_no_scaling_gets_one_that_suits_the_question(cat, question, scaling):
    found, named = ask(cat, question), ask(cat, question, scaling)
    assert found.scaling == scaling
    np.testing.assert_array_equal(found.weights, named.weights)


def test_a_class_says_its_probability_and_the_size_it_was_tested_at(cat):
    """The probability from the network's own logits, by hand."""
    found = ask(cat, "espresso")
    network = LOADED(precision="fp32")
    logits = (
        network(collate([load(cat, short=96)], network.preprocessing.changed("resize", 96)))[0]
        .logits[0]
        .double()
        .numpy()
    )
    chances = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    assert found.class_score.name == "espresso" and found.class_score.index == 967
    assert found.class_score.probability == pytest.approx(chances[967], rel=1e-4)
    assert found.class_score.rank == 1 + int((chances > chances[967]).sum())
    assert "class scores at 96 px: the classifier was tested at 224 px" in found.warnings
    assert any(
        text.startswith(f"unlikely: the network gives espresso {percent(chances[967])}")
        for text in found.warnings
    )
    assert ask(cat, "mean").class_score is None and not any(
        "tested at" in text for text in ask(cat, "mean").warnings
    )


@pytest.mark.parametrize(
    "question, text",
    [
        (281, "class:281"),
        ((20, 30), "point:20,30"),
        ((1, 2, 30, 40.5), "box:1,2,30,40.5"),
        ("pca(2)", "pca:2"),
    ],
)
def test_a_query_may_be_a_number_or_a_place(cat, question, text):
    one, other = ask(cat, question), ask(cat, text)
    assert one.answer.query == other.answer.query == text and one.scaling == "perplexity"
    np.testing.assert_array_equal(one.weights, other.weights)


def test_a_vector_asks_for_itself(cat):
    """Scores are its products with the patches, by hand."""
    vector = np.random.default_rng(0).standard_normal(1280)
    for given in (vector, torch.from_numpy(vector)):
        found = ask(cat, given, "none")
        tokens = found.answer.attention.values[0].double().numpy()
        np.testing.assert_allclose(found.scores.ravel(), tokens @ vector, rtol=1e-3, atol=1e-3)
    assert found.label == "vector"
    with pytest.raises(
        ValueError, match="vector of 7 numbers does not fit layer last, whose patches have 1280"
    ):
        ask(cat, vector[:7])


def test_compare_answers_what_explain_does_of_each(cat, here):
    make_photo(here / "dog.png", seed=1, size=(60, 50))
    net = LOADED(precision="fp32")
    compared = package.compare(
        ["cat.png", "dog.png"], "class,point:20,30", ["none", "temperature:4"], backbone=net, size=96
    )
    rows = iter(compared.rows())
    for photo in ("cat.png", "dog.png"):
        for question in ("class", "point:20,30"):
            for setting in ("none", "temperature:4"):
                row, found = next(rows), ask(photo, question, setting)
                assert (row["photo"], row["query"], row["scaling"]) == (photo, question, setting)
                assert row["label"] == found.label
                assert row["perplexity"] == pytest.approx(found.diagnostics["perplexity"], rel=1e-4)
    assert next(rows, None) is None
    figure = compared.figure(side=100)
    assert (
        figure.dtype == np.uint8
        and figure.shape[1] < 500
        and repr(compared).startswith("<2 photos, 2 queries")
    )
    assert compared.save("new/dir/figure.png").is_file() and compared._repr_png_().startswith(b"\x89PNG")
    with pytest.raises(FrozenInstanceError):
        compared.settings = ()


def test_compare_takes_one_of_each_and_lists_of_anything(cat, here):
    net = LOADED(precision="fp32")
    one = package.compare("cat.png", backbone=net, size=96)
    assert [(row["query"], row["scaling"]) for row in one.rows()] == [("mean", "inv_sqrt_d")]
    mixed = package.compare(
        cat.read_bytes(), [281, (20, 30), np.ones(1280), query.pca], backbone=net, size=96
    )
    assert [row["query"] for row in mixed.rows()] == ["class:281", "point:20,30", "vector", "pca"]
    assert mixed.settings == (("perplexity", "softmax"),)
    assert len(package.compare(here, "mean", backbone=net, size=96).photos) == 1
    for group, words in {"query": ([],), "scaling": ("mean", []), "photo": ("mean",)}.items():
        with pytest.raises(ValueError, match=f"no {group} was given: the list is empty"):
            package.compare([] if group == "photo" else "cat.png", *words, backbone=net, size=96)


def test_a_result_is_saved_as_any_picture_or_numbers_into_a_new_folder(cat):
    import cv2

    found = ask(cat, "point:20,30")
    np.testing.assert_array_equal(np.load(found.save("a/b/map.npy")), found.map)
    for picture in ("heatmap", "colour_bar", "panel"):
        written = cv2.imread(str(found.save(f"new/{picture}.png", picture)))[..., ::-1]
        np.testing.assert_array_equal(written, getattr(found, picture)())
    assert found.heatmap(longest=None).shape == (70, 90, 3)
    with pytest.raises(ValueError, match="no picture 'heat'; there are overlay, panel, heatmap, colour_bar"):
        found.save("x.png", "heat")
    with pytest.raises(ValueError, match="gif"):
        found.save("other/heat.gif")
    assert not Path("other").exists()


def test_a_method_gives_its_map_and_says_what_it_has_not(cat, here):
    """Of a pooled linear head Grad-CAM is the positive part of the class query's scores (Selvaraju 2017)."""
    net = LOADED(precision="fp32")
    scores = ask(cat, "class:tabby", "none").scores
    result = ask(cat, method="gradcam:tabby", backbone=net)
    positive = np.maximum(scores, 0)
    assert np.allclose(result.weights, positive / positive.sum(), atol=1e-6)
    assert "tabby, gradcam:tabby" in repr(result) and result.map.shape == ask(cat).map.shape
    assert result.save(here / "panel.png", "panel").stat().st_size and "scaling" not in dict(result.lines())
    for use in (lambda: result.scores, lambda: result.context, result.explore):
        with pytest.raises(ValueError, match=r"gradcam:tabby(,| is) no attention"):
            use()
    with pytest.raises(ValueError, match="a question of its own"):
        ask(cat, "class", method="centre")
    swallowed = {"heads": 4, "fuse": "max", "stability": True, "random_classes": 99, "attended": True}
    with pytest.raises(ValueError, match=f"leave out keys, {', '.join(swallowed)}$"):
        ask(cat, method="centre", keys="l2", **swallowed)
    with pytest.raises(ValueError, match="unknown method 'gradcamm'"):
        ask(cat, method="gradcamm")


@pytest.mark.parametrize(
    ("check", "said"),
    [
        ({"attended": "yes"}, "attended='yes': give True or False"),
        ({"stability": 1}, "stability=1: give True or False"),
        ({"random_classes": True}, "random_classes=True: give 0"),
        ({"random_classes": 18}, "of so few is 0.053, and never .05; give 19 or more"),
    ],
)
def test_a_check_that_says_nothing_is_refused(check, said):
    with pytest.raises(ValueError, match=said):
        api.checks(**{"stability": False, "random_classes": 0, "attended": False} | check)


def test_one_map_of_layers_is_given_where_keys_take_a_third(cat):
    net = LOADED(precision="fp32", layer=["stage2", "stage3", "last"])
    found = ask(cat, keys="layer:stage2", fuse="mixture", backbone=net)
    assert found.answer.layer == "stage3+last" and found.label == "mean, mixture"
    with pytest.raises(ValueError, match="a map joined of the layers stage3, last"):
        found.why()


def test_the_result_cannot_be_changed(cat):
    found = ask(cat, "mean")
    with pytest.raises(FrozenInstanceError):
        found.scaling = "mine"
    before = found.weights.copy()
    found.weights[:] = 0
    np.testing.assert_array_equal(found.weights, before)
    with pytest.raises(ValueError, match="read-only"):
        found.map[:] = 0


def test_save_overlay_and_the_notebooks_picture(cat, here):
    import cv2

    found = ask(cat, "point:20,30")
    assert found.overlay().shape == (70, 90, 3) and found.overlay().dtype == np.uint8
    written = found.save("heat.png")
    np.testing.assert_array_equal(cv2.imread(str(written))[..., ::-1], found.overlay())
    assert not np.array_equal(found.overlay(colours="magma"), found.overlay())
    (again,) = read_maps(found.save(here / "heat.safetensors"))
    np.testing.assert_array_equal(
        again.attention.weights[0, 0].reshape(again.placement.grid).numpy(), found.weights
    )
    assert again.placement == found.answer.placement and again.mark == (30, 20)
    picture = found._repr_png_()
    assert (
        picture.startswith(b"\x89PNG")
        and min(cv2.imdecode(np.frombuffer(picture, np.uint8), 1).shape[:2]) > 100
    )
    with pytest.raises(ValueError, match="gif"):
        found.save("heat.gif")
    assert "point 20,30" in repr(found) and "patches" in repr(found)


def test_run_redraw_python_and_video_draw_one_picture(attnvis, cat, monkeypatch, here):
    found = ask(cat, "point:20,30")
    answer, pixels, style = found.answer, load(Path("cat.png")).pixels, render.Style()
    expected = render.overlay(pixels, answer.cells, style, answer.mark, placement=answer.placement)
    np.testing.assert_array_equal(found.overlay(), expected)
    # bilinear, then coloured on a log scale
    assert not np.array_equal(render.overlay(pixels, found.map, style, answer.mark), expected)
    words = ["query=point", "query.x=20", "query.y=30", "render.format=png", "backbone.precision=fp32"]
    assert attnvis("run", "cat.png", *words).code == 0
    assert attnvis("redraw", "out", "render.format=png", "hydra.run.dir=again").code == 0
    for folder in ("out", "again"):
        (path,) = Path(folder, "overlays").iterdir()
        drawn = overlays.cv2.imread(str(path))[..., ::-1].astype(int)
        # a weight that differs in its last digit may round to the next colour
        assert np.abs(drawn - expected).max() <= 1, folder
    frames = []
    monkeypatch.setattr(video_file.VideoWriter, "add", lambda movie, picture, turn: frames.append(picture))
    look = video.FrameAttention(answer, answer.attention.weights.flatten().double().numpy())
    with video_run.VideoRun(
        here / "film",
        data_video.Clip(Path("clip"), pixels.shape[:2], 10.0, 1, ""),
        RunPlan((), style, Provenance()),
    ) as film:
        film.add([video.DrawnFrame(data_video.Frame(0, 0.0, pixels), look, True)])
    assert np.abs(frames[0].astype(int) - expected).max() <= 1


def test_python_and_the_command_line_find_the_same_numbers(attnvis, cat):
    assert (
        attnvis(
            "run",
            "cat.png",
            "query=point",
            "query.x=20",
            "query.y=30",
            "scaling=temperature",
            "scaling.tau=2",
            "backbone.precision=fp32",
        ).code
        == 0
    )
    with Path("out/records.csv").open(newline="", encoding="utf-8") as file:
        (row,) = csv.DictReader(file)
    found = ask(cat, "point:20,30", "temperature:2")
    assert (row["label"], row["query"]) == (found.label, "point:20,30")
    for name, value in found.diagnostics.items():
        assert float(row[name]) == pytest.approx(value, rel=1e-5, abs=1e-9), name
    assert row["predicted"] == found.predicted[0][0]


def test_a_backbone_by_name_is_loaded_once_with_the_settings_of_its_config(here):
    sources.load_once.cache_clear()
    net = sources.load_backbone("resnet18", weights="random", placement="stretch")
    assert (
        net.name == "resnet18"
        and net.digest == "random"
        and sources.load_backbone("resnet18", weights="random", placement="stretch") is net
    )
    assert isinstance(sources.load_backbone("efficientnet_lite0", precision="fp32").dtype, torch.dtype)
