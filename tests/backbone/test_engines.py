"""Every engine says what eager PyTorch says, to the digits that its precision leaves,
for any shape and from any thread.
"""

import json
import threading

import pytest
import torch
from conftest import fake_backbone, make_photo
from torch import nn
from torch.fx.experimental.optimization import fuse

from attnvis.backbone import agreement, build, build_backbone, cutting, engines, pace
from attnvis.backbone.heads import Linear
from attnvis.backbone.pace import Choice, Workload
from attnvis.data.decoding import load
from attnvis.data.preprocessing import collate
from attnvis.types import Preprocessing

CPU = torch.device("cpu")


def network():
    torch.manual_seed(0)
    layers = nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU()
    )
    return nn.Sequential(layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 5)).eval()


def batch(count=3, size=(70, 90)):
    generator = torch.Generator().manual_seed(count)
    return torch.randn(count, 3, *size, generator=generator)


SHAPES = ((3, (70, 90)), (1, (70, 90)), (2, (96, 64)))


def agrees(name):
    """Batches and photos of several sizes; the second leaves a batch half full."""
    trunk = cutting.divide(network(), ("0",))[0]
    run = engines.start(name, engines.folded(trunk), torch.float32, CPU, 1)
    for count, size in SHAPES:
        images = batch(count, size)
        with torch.inference_mode():
            (expected,), (found,) = trunk(images), run(images)
        assert found.shape == expected.shape
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_eager_says_what_the_network_says():
    agrees("eager")


def rows(*layers):
    """A network of `features` and `classifier`, whose batch norm has seen something; its trunk."""
    torch.manual_seed(0)
    features = nn.Sequential(nn.Sequential(nn.Conv2d(3, 7, 3, 2, bias=False), nn.BatchNorm2d(7)), *layers)
    for norm in features.modules():
        if isinstance(norm, nn.BatchNorm2d) and norm.track_running_stats:
            nn.init.uniform_(norm.running_mean, -1, 1)
            nn.init.uniform_(norm.running_var, 0.5, 2)
    return cutting.SequentialTrunk(features.eval().requires_grad_(False), [len(features)])


@pytest.mark.parametrize(
    ("layers", "untraced"),
    [
        ([nn.ReLU(), nn.Sequential(nn.Conv2d(7, 5, 1), nn.BatchNorm2d(5), nn.ReLU())], True),
        ([nn.ReLU(), nn.BatchNorm2d(7)], False),  # after no convolution
    ],
)
def test_batch_norm_is_folded_as_tracing_folds_it(layers, untraced):
    trunk, images = rows(*layers), batch()
    fused = engines.folded(trunk)
    with torch.no_grad():
        (found,), (traced,), (plain,) = fused(images), fuse(trunk)(images), trunk(images)
    assert torch.equal(found, traced)
    torch.testing.assert_close(found, plain, rtol=1e-4, atol=1e-5)
    assert isinstance(fused, cutting.SequentialTrunk) is untraced
    left = sum(isinstance(module, nn.BatchNorm2d) for module in fused.modules())
    assert left == (not untraced)


class Refusing(nn.Module):
    """Takes no photo of 97 px, of which the convolution before it leaves 48."""

    def forward(self, images):
        if images.shape[-1] == 48:
            raise ValueError("give another side")
        return images


@pytest.mark.parametrize("layer", [Refusing(), nn.BatchNorm2d(7, track_running_stats=False)])
def test_a_row_of_layers_that_cannot_be_folded_is_copied_as_it_is(layer):
    trunk, images = rows(nn.Conv2d(7, 7, 1), layer), batch(size=(71, 90))
    copied = engines.folded(trunk)
    with torch.no_grad():
        assert torch.equal(copied(images)[0], trunk(images)[0])
    assert copied is not trunk and isinstance(copied.features[0][1], nn.BatchNorm2d)


def test_openvino_says_what_the_network_says():
    pytest.importorskip("openvino")
    agrees("openvino")


@pytest.mark.slow
def test_compile_says_what_the_network_says():
    agrees("compile")


def test_openvino_gives_several_layers_in_one_pass():
    pytest.importorskip("openvino")
    trunk = cutting.divide(network(), ("0.2", "0"))[0]
    run = engines.start("openvino", engines.folded(trunk), torch.float32, CPU, 1)
    with torch.inference_mode():
        for found, expected in zip(run(batch()), trunk(batch()), strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_openvinos_answers_are_not_overwritten_and_threads_do_not_mix():
    pytest.importorskip("openvino")
    trunk = cutting.divide(network(), ("0",))[0]
    run = engines.start("openvino", engines.folded(trunk), torch.float32, CPU, 2)
    first = run(batch(2))[0]
    kept = first.clone()
    run(batch(4)[:2])
    assert torch.equal(first, kept)
    expected = {count: run(batch(count))[0] for count in (1, 2, 3)}
    wrong = []

    def ask(count):
        for _ in range(30):
            if not torch.equal(run(batch(count))[0], expected[count]):
                wrong.append(count)

    threads = [threading.Thread(target=ask, args=(count,)) for count in (1, 2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_backbone_starts_its_engine_and_measures_how_it_agrees(tmp_path):
    pytest.importorskip("openvino")
    how = Preprocessing(65)
    photos = collate([load(make_photo(tmp_path / f"{n}.png", seed=n)) for n in range(2)], how)
    eager, other = (
        build_backbone(network(), "0", "linear:3", precision="fp32", engine=name)
        for name in ("eager", "openvino")
    )
    (expected,), (found,) = eager(photos), other(photos)
    torch.testing.assert_close(found.tokens, expected.tokens, rtol=1e-3, atol=1e-4)
    assert (
        found.placements == expected.placements
        and other.engine.name == "openvino"
        and eager.engine.name == "eager"
    )
    eager.prepare(1000, 2, photos)
    assert eager.describe().engine == "eager", "float32 in eager has nothing to agree with but itself"
    other.prepare(1000, 2, photos)
    told = other.describe().engine
    assert told.startswith(
        "openvino (attention correlates with that of eager float32 by 1.00000 at least, "
        "1.00000 at the 10th percentile, 1.00000 in the median; "
        "the hottest patch is the same on 2 of 2 photos; perplexity is off by up to "
    )


@pytest.mark.parametrize("with_class", [False, True])
def test_agreement_is_of_weights_perplexity_and_hottest_patch_by_photo(with_class):
    """Against numpy, with an engine that is wrong on purpose."""
    import numpy as np

    torch.manual_seed(0)
    exact = fake_backbone(nn.Conv2d(3, 4, 8, 8), Preprocessing(65)).engine.eager
    images = batch(11, (64, 64))
    head = Linear(torch.randn(5, 4), torch.zeros(5), ()) if with_class else None
    found = engines.compare_with_float32(
        lambda images: tuple(maps.relu() for maps in exact(images)), exact, images, torch.float32, head=head
    )
    correlations, same, missed = [], [], 0.0
    with torch.inference_mode():
        maps = exact(images)[0].double().flatten(2).mT.numpy()
    for v in maps:
        by_question = []
        for question in ("mean", "class")[: 1 + with_class]:
            weights = []
            for tokens in (np.maximum(v, 0), v):
                query = tokens.mean(0)
                if question == "class":
                    rows = head.weight.double().numpy()
                    query = rows[(rows @ query).argmax()]
                scores = tokens @ query
                logits = (scores - scores.mean()) / scores.std()
                weights.append(np.exp(logits) / np.exp(logits).sum())
            spread = [np.exp(-(w * np.log(w)).sum()) for w in weights]
            missed = max(missed, abs(spread[0] / spread[1] - 1))
            by_question.append((np.corrcoef(*weights)[0, 1], weights[0].argmax() == weights[1].argmax()))
        correlations.append(min(correlation for correlation, _ in by_question))
        same.append(all(hottest for _, hottest in by_question))
    assert found.correlations == pytest.approx(correlations, abs=1e-5)
    assert list(found.same_hottest) == same and not all(same)
    assert found.perplexity_error == pytest.approx(missed, rel=1e-3)
    assert found.tail == pytest.approx(np.quantile(correlations, 0.1), abs=1e-5)
    text = str(found)
    assert f"by {min(correlations):.5f} at least, {np.quantile(correlations, 0.1):.5f} at the 10th" in text
    assert f"{np.median(correlations):.5f} in the median" in text
    assert f"the same on {sum(same)} of 11 photos; perplexity is off by up to {missed:.1e}" in text


GOOD, BAD = (0.999,) * 8, (0.98,) * 2 + (1.0,) * 6


@pytest.mark.parametrize(
    "photos, correlations, different, taken",
    [
        (32, GOOD, 0, True),
        (31, GOOD, 0, False),  # too few photos to pay for the comparison
        (32, GOOD[:4], 0, True),
        (32, GOOD[:3], 0, False),  # three say little
        (32, BAD, 0, False),  # the median is 1
        (32, GOOD, 1, False),  # one hottest patch moved
        (32, (), 0, False),  # uniform attention says nothing
    ],
)
def test_auto_takes_bf16_only_where_the_first_photos_agree(
    monkeypatch, photos, correlations, different, taken
):
    same = tuple(index >= different for index in range(len(correlations)))
    monkeypatch.setattr(
        engines,
        "compare_with_float32",
        lambda *_, **__: agreement.Agreement(tuple(correlations), same, perplexity_error=0.0),
    )
    trunk = cutting.divide(network(), ("0",))[0]
    engine = engines.Engine(trunk, CPU, torch.float32, "eager", faster=torch.bfloat16)
    engine.prepare(Workload(photos, images=batch(2)))
    precision = "bf16" if taken else "fp32"
    assert f"precision auto: {precision}, " in str(engine)
    dtype = torch.bfloat16 if taken else torch.float32
    assert engine.dtype == dtype and next(engine.eager.parameters()).dtype == dtype
    (maps,) = engine.run(batch(2))
    assert maps.dtype == torch.float32
    (exact,) = trunk(batch(2))
    assert torch.equal(maps, maps.bfloat16().float()) == taken
    torch.testing.assert_close(maps, exact, rtol=0.05, atol=0.05)


def test_auto_stays_in_float32_where_bf16_rounds_a_maps_contrast_away(tmp_path, monkeypatch):
    """Every channel is 1000 and a little: bf16 has steps of 4 there."""
    monkeypatch.setattr(build, "has_fast_bf16", lambda device: True)
    how = Preprocessing(65)
    photos = collate([load(make_photo(tmp_path / f"{n}.png", seed=n)) for n in range(8)], how)
    for bias, precision in ((1000.0, "float32"), (0.0, "bfloat16")):
        net = network()
        with torch.no_grad():
            for layer in (net[0][0], net[0][3]):
                layer.weight.abs_()
            net[0][3].bias.fill_(bias)
        backbone = build_backbone(net, "0", "none")
        assert backbone.dtype == torch.float32, "until photos are seen"
        backbone.prepare(100, 1, photos)
        record = backbone.describe()
        assert record.precision == precision, record.engine
        assert "10th percentile" in record.engine or "uniform" in record.engine


class Other(nn.Module):
    """In the place of an engine: the trunk, and what it does to the maps."""

    def __init__(self, trunk, change=lambda maps: maps):
        super().__init__()
        self.trunk, self.change, self.calls = trunk, change, 0

    def forward(self, images):
        self.calls += 1
        return tuple(self.change(maps) for maps in self.trunk(images))


@pytest.fixture
def auto(monkeypatch):
    """An engine that chooses, and a function that has it find another the fastest."""
    trunk = cutting.divide(network(), ("0",))[0]
    engine = engines.Engine(trunk, CPU, torch.float32)

    def prefer(other, name="openvino"):
        def choose(eager, others, work, book, about):
            return Choice(name, "5 ms and 9 ms", other)

        monkeypatch.setattr(engines, "choose", choose)

    return engine, prefer


def test_auto_takes_the_engine_that_is_done_first_and_says_why(auto):
    engine, prefer = auto
    other = Other(engine.trunk)
    prefer(other)
    engine.prepare(Workload(1000, images=batch(8)))
    assert engine.name == "openvino" and engine.forward is other
    text = str(engine)
    assert text.startswith(
        "openvino (auto: 5 ms and 9 ms; attention correlates with that of eager float32 by 1.0"
    )
    compared = other.calls
    torch.testing.assert_close(engine.run(batch(2)), engine.trunk(batch(2)))
    assert other.calls == compared + 1


def test_auto_does_not_take_a_faster_engine_that_says_something_else(auto):
    engine, prefer = auto
    prefer(Other(engine.trunk, change=lambda maps: maps.flip(-1)))
    engine.prepare(Workload(1000, images=batch(8)))
    assert engine.name == "eager" and engine.forward is engine.eager
    assert "openvino does not agree: attention correlates" in str(engine)


def test_auto_spends_nothing_on_few_photos_on_a_gpu_or_without_photos(auto, monkeypatch):
    engine, _ = auto
    monkeypatch.setattr(engines, "choose", lambda *_, **__: pytest.fail("something was timed"))
    engine.prepare(Workload(31, images=batch(8)))
    assert str(engine) == "eager (auto: timing others does not pay for 31 photos)"
    engine.prepare(Workload(10_000))
    assert str(engine) == "eager (auto: there is no photo at hand to time others on)"
    engine.device = torch.device("cuda")
    engine.prepare(Workload(10_000, images=batch(8)))
    assert str(engine) == "eager (auto: a GPU, which decoding keeps busy)"


def test_engines_are_timed_in_the_precision_that_was_taken(monkeypatch):
    """bf16 first, then who is quickest in it."""
    monkeypatch.setattr(agreement, "CLOSE", 0.9)
    trunk = cutting.divide(network(), ("0",))[0]
    engine = engines.Engine(trunk, CPU, torch.float32, "auto", faster=torch.bfloat16)
    seen = []

    def choose(eager, others, work, book, about):
        seen.append((work.timed.dtype, next(eager.parameters()).dtype, about["precision"]))
        return Choice("eager", "it is")

    monkeypatch.setattr(engines, "choose", choose)
    engine.prepare(Workload(1000, images=batch(8, (33, 33))))
    assert seen == [(torch.bfloat16, torch.bfloat16, "torch.bfloat16")], str(engine)


def test_a_run_that_goes_on_takes_the_engine_and_the_precision_it_was_begun_with(monkeypatch):
    trunk = cutting.divide(network(), ("0",))[0]
    begun = "openvino (auto: eager 9 ms a photo (or so) and openvino 5 ms)"
    other, started = Other(trunk), []

    def start(name, trunk, dtype, device, workers):
        started.append((name, dtype, workers))
        return other

    monkeypatch.setattr(engines, "start", start)
    monkeypatch.setattr(engines, "find_spec", lambda name: object())
    engine = engines.Engine(trunk, CPU, torch.float32, faster=torch.bfloat16)
    assert engine.go_on(begun, torch.bfloat16, workers=3) == ""
    assert str(engine) == begun and engine.dtype == torch.bfloat16 and not started
    engine.forward(batch(2)), engine.forward(batch(2))
    assert started == [("openvino", torch.bfloat16, 3)] and other.calls == 2


def test_a_run_that_goes_on_without_its_engine_says_so(monkeypatch):
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    engine = engines.Engine(cutting.divide(network(), ("0",))[0], CPU, torch.float32)
    remark = engine.go_on("openvino (auto: the fastest)")
    assert remark == "this was begun with engine openvino, which cannot run here: eager does the rest"
    assert engine.name == "eager" and "begun with openvino" in str(engine)
    torch.testing.assert_close(engine.run(batch(2)), engine.trunk(batch(2)))


def test_a_run_that_goes_on_does_without_no_engine_that_was_asked_for(monkeypatch):
    monkeypatch.setattr(engines, "find_spec", lambda name: None)
    engine = engines.Engine(cutting.divide(network(), ("0",))[0], CPU, torch.float32, "openvino")
    with pytest.raises(ValueError, match="pip install"):
        engine.go_on("openvino (attention correlates)")


def test_nine_shapes_and_batches_are_compiled_at_most_three_times(monkeypatch):
    """By threads with one core each, after a comparison: as in a run."""
    graphs = []
    real = torch.compile

    def counting(trunk, dynamic, options):
        torch.compiler.reset()

        def backend(graph, inputs):
            graphs.append(graph)
            return graph.forward

        return real(trunk, dynamic=dynamic, backend=backend)

    monkeypatch.setattr(engines.torch, "compile", counting)
    trunk = cutting.divide(network(), ("0",))[0]
    engine = engines.Engine(trunk, CPU, torch.float32, "compile")
    engine.prepare(Workload(100, workers=2, images=batch(8)))
    shapes = [(70, 90), (96, 64), (64, 64), (128, 70), (80, 80), (33, 65), (90, 70), (70, 70), (65, 33)]
    sizes = [*zip([8, 8, 3, 5, 8, 2, 7, 4, 6], shapes, strict=True), (1, (70, 90)), (1, (96, 64))]
    with pace.lanes(2) as submit:
        running = [submit(pace.run_once, engine.run, batch(*size)) for size in sizes * 2]
        for size, maps in zip(sizes * 2, running, strict=True):
            torch.testing.assert_close(maps.result(), trunk(batch(*size)), rtol=1e-4, atol=1e-5)
    assert 1 <= len(graphs) <= 3


def test_what_cannot_be_is_one_line(attnvis, here, monkeypatch):
    make_photo(here / "a.png")
    ended = attnvis("run", "a.png", "backbone.engine=warp")
    assert ended.code == 1 and "unknown engine 'warp': auto, eager, compile, openvino" in ended.err
    monkeypatch.setattr(engines.shutil, "which", lambda name: None)
    ended = attnvis("run", "a.png", "backbone.engine=compile")
    assert ended.code == 1 and "needs a C++ compiler" in ended.err and "engine=openvino or eager" in ended.err
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    ended = attnvis("run", "a.png", "backbone.engine=openvino")
    assert ended.code == 1 and "pip install 'attnvis[openvino]'" in ended.err


def test_a_run_with_openvino_says_so_in_its_record_and_draws_the_same(attnvis, here):
    import csv

    pytest.importorskip("openvino")
    for number in range(3):
        make_photo(here / f"{number}.png", seed=number)
    said = {}
    for name in ("eager", "openvino"):
        words = (
            "query=class",
            "query.name=tabby",
            "scaling=zscore",
            "backbone.precision=fp32",
            f"backbone.engine={name}",
            f"hydra.run.dir={name}",
        )
        assert (
            attnvis("run", "0.png", "1.png", "2.png", *words, "workers=2", f"hydra.run.dir={name}").code == 0
        )
        said[name] = [
            float(row["perplexity"]) for row in csv.DictReader((here / name / "records.csv").open())
        ]
    assert said["openvino"] == pytest.approx(said["eager"], rel=1e-3)
    assert json.loads((here / "openvino" / "run.json").read_text())["engine"].startswith(
        "openvino (attention correlates"
    )


def test_a_run_times_engines_once_and_the_next_one_remembers(attnvis, here, monkeypatch):
    monkeypatch.setenv("ATTNVIS_CACHE", str(here / "cache"))
    monkeypatch.setattr(engines, "ENOUGH", 2)
    monkeypatch.setattr(engines, "can_run", lambda name, device: name == "openvino")

    def start(name, trunk, dtype, device, workers):  # in no time
        return engines.on_device(trunk, device, dtype)

    monkeypatch.setattr(engines, "start", start)
    monkeypatch.setattr(pace, "SHARE", 1e9)
    names = [f"{number}.png" for number in range(3)]
    for number, name in enumerate(names):
        make_photo(here / name, seed=number)
    timed = []
    run_once = pace.run_once
    monkeypatch.setattr(pace, "run_once", lambda run, images: timed.append(run) or run_once(run, images))

    def run_and_read(*words):
        timed.clear()
        ended = attnvis("run", *names, "backbone.precision=fp32", "workers=2", *words)
        assert ended.code == 0, ended.err
        return json.loads((here / "out" / "run.json").read_text())["engine"]

    without = run_and_read("cache.engines=false")
    assert "timed on the first of them" in without and not (here / "cache").exists() and timed
    first = run_and_read()
    assert (
        "auto: eager " in first and "openvino " in first and "timed on the first of them" in first and timed
    )
    (file,) = (here / "cache" / "engines").iterdir()
    kept = file.read_bytes()
    second = run_and_read()
    assert "timed here before" in second and not timed and file.read_bytes() == kept
