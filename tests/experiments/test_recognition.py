"""Attention by class in place of the mean: logits by plain loops, who is right by hand, what a name tells."""

import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from conftest import LOADED, fake_backbone, make_photo, normal
from scipy import stats

from attnvis.attention import scaling
from attnvis.attention.dot_product import attend
from attnvis.backbone.heads import Linear
from attnvis.data.decoding import load
from attnvis.data.preprocessing import collate
from attnvis.data.truth import read_truth
from attnvis.experiments.recognition import measure, page
from attnvis.experiments.recognition import page as recognition_page
from attnvis.experiments.recognition.measure import (
    DIVISORS,
    Findings,
    SettingResult,
    attended_logits,
    measure_recognition,
    recognise_photo,
    rescale,
    settings,
    summarise,
)
from attnvis.experiments.recognition.page import write_recognition
from attnvis.metrics.intervals import Interval
from attnvis.types import PhotoError, Preprocessing

B, N, D, C = 2, 5, 7, 11
CATEGORIES = ("tabby", "tiger cat", "crane", "ant", "bee", "fly", "hen", "jay", "owl", "pug", "yak")


TOKENS, HEAD = normal(B, N, D), Linear(3 * normal(C, D, seed=1), normal(C, seed=2), CATEGORIES)


def by_loops(weigh) -> list[list[float]]:
    """sum_i a_ic s_ic + b_c, one number at a time; `weigh` turns a list of scores into weights."""
    logits = []
    for b in range(B):
        logits.append([])
        for c in range(C):
            scores = [sum(float(TOKENS[b, i, d] * HEAD.weight[c, d]) for d in range(D)) for i in range(N)]
            logits[b].append(sum(a * s for a, s in zip(weigh(scores), scores)) + float(HEAD.bias[c]))
    return logits


def softmax(logits: list[float]) -> list[float]:
    powers = [math.exp(z - max(logits)) for z in logits]
    return [power / sum(powers) for power in powers]


def standardised(scores: list[float]) -> list[float]:
    mean = sum(scores) / len(scores)
    return [(s - mean) / math.sqrt(sum((t - mean) ** 2 for t in scores) / len(scores)) for s in scores]


@pytest.mark.parametrize(
    "name, weigh",
    [
        ("none", softmax),
        ("inv_sqrt_d", lambda scores: softmax([s / math.sqrt(D) for s in scores])),
        ("temperature:4", lambda scores: softmax([s / 4 for s in scores])),
        ("zscore", lambda scores: softmax(standardised(scores))),
        (
            "minmax",
            lambda scores: softmax([(s - min(scores)) / (max(scores) - min(scores)) / 0.25 for s in scores]),
        ),
        ("GAP", lambda scores: [1 / N] * N),
        ("max", lambda scores: [float(s == max(scores)) for s in scores]),
    ],
)
@pytest.mark.parametrize("most", [2**22, 1, B * D * 4])
def test_the_logits_are_those_of_plain_loops_in_blocks_of_any_size(monkeypatch, name, weigh, most):
    monkeypatch.setattr(measure, "MOST", most)
    function = {setting.name: setting.scaling for setting in settings(D)}[name]
    torch.testing.assert_close(
        attended_logits(TOKENS, HEAD, function), torch.tensor(by_loops(weigh), dtype=torch.float64)
    )


def test_each_class_reads_its_own_context():
    contexts = attend(HEAD.weight.expand(B, -1, -1), TOKENS).context  # [B, C, D]
    expected = torch.einsum("bcd,cd->bc", contexts, HEAD.weight) + HEAD.bias
    torch.testing.assert_close(attended_logits(TOKENS, HEAD, scaling.inv_sqrt_d), expected)


def test_the_temperatures_lead_from_the_best_patch_to_the_mean():
    def at(tau):
        return attended_logits(TOKENS, HEAD, partial(scaling.temperature, tau=tau))

    best = torch.einsum("bnd,cd->bnc", TOKENS, HEAD.weight).amax(1) + HEAD.bias
    torch.testing.assert_close(at(1e-6), best)
    torch.testing.assert_close(at(1e9), HEAD(TOKENS.mean(1)), rtol=1e-6, atol=1e-6)
    steps = torch.stack([best, *(at(tau) for tau in (0.1, 1.0, 10.0, 100.0)), HEAD(TOKENS.mean(1))])
    assert (steps.diff(dim=0) <= 1e-12).all(), "the sharper, the higher"


def test_uniform_attention_is_the_network_as_it_is(tmp_path):
    net, how = LOADED(precision="fp32"), Preprocessing(65)
    (features,) = net(collate([load(make_photo(tmp_path / "a.png"))], how))
    torch.testing.assert_close(
        attended_logits(features.tokens, features.head, measure.uniform),
        features.logits,
        rtol=1e-4,
        atol=1e-4,
    )


def test_half_precision_is_not_what_is_summed_in():
    assert attended_logits(TOKENS.half(), HEAD, scaling.none).dtype == torch.float32


def test_settings_run_from_flat_to_sharp_with_none_and_the_root_once():
    asked = settings(1024)  # whose root, 32, is on the grid
    taus = [setting.tau for setting in asked if setting.tau is not None]
    assert asked[0].name == "GAP" and taus == sorted(set(taus), reverse=True)
    assert {setting.name: setting.tau for setting in asked}.items() >= {
        "inv_sqrt_d": 32.0,
        "none": 1.0,
        "max": 0.0,
        "zscore": None,
    }.items()


# -------------------------------------------------------------------------------- who is right

LOGS = [math.log(p) for p in (0.4, 0.3, 0.1, 0.08, 0.06, 0.04, 0.02)]


@pytest.mark.parametrize(
    "truth, top1, top5", [(0, True, True), (1, False, True), (4, False, True), (5, False, False)]
)
def test_who_is_right_among_the_first_five_and_how_surely(truth, top1, top5):
    photo = recognise_photo(torch.tensor([LOGS, [z + 100 for z in LOGS]]), truth)
    assert photo.top1.tolist() == [top1] * 2 and photo.top5.tolist() == [top5] * 2
    assert photo.predicted.tolist() == [0, 0]
    np.testing.assert_allclose(photo.nll, -LOGS[truth], rtol=1e-5)


def test_one_answer_for_every_class_is_not_right():
    photo = recognise_photo(torch.zeros(1, 7), 0)
    assert not photo.top1[0] and not photo.top5[0] and photo.nll[0] == pytest.approx(math.log(7))


def test_the_curve_is_the_nll_of_divided_logits():
    photo = recognise_photo(torch.tensor([LOGS]), 2)
    for divisor, nll in zip(DIVISORS, photo.rescaled[0]):
        powers = [math.exp(z / divisor) for z in LOGS]
        assert nll == pytest.approx(-math.log(powers[2] / sum(powers)), rel=1e-5)


def told_by_chance(sharpness: float, photos: int, seed: int) -> list:
    """Logits that know their chances, but multiplied by `sharpness`; the truth is drawn from those."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 2, (photos, 7))
    chances = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return [
        recognise_photo(torch.tensor(sharpness * z)[None], int(random.choice(7, p=p)))
        for z, p in zip(logits, chances)
    ]


@pytest.mark.parametrize("sharpness", [0.3, 1.0, 3.7])
def test_rescaling_finds_what_the_logits_were_multiplied_by(sharpness):
    photos = told_by_chance(sharpness, 1500, 0)
    nll, divisor = rescale(np.stack([photo.rescaled for photo in photos]))
    assert np.unique(divisor).size == 2 and np.allclose(divisor, sharpness, rtol=0.15)
    right = [photo.nll[0] for photo in told_by_chance(1.0, 1500, 0)]
    np.testing.assert_allclose(nll.mean(), np.mean(right), atol=4e-3)


def test_rescaling_between_two_divisors_is_what_the_one_between_gives():
    random = np.random.default_rng(0)
    logits, truths = random.normal(0, 3, (60, 11)), random.integers(0, 11, 60)
    nll, divisor = rescale(
        np.stack([recognise_photo(torch.tensor(z)[None], int(t)).rescaled for z, t in zip(logits, truths)])
    )
    divided = logits / divisor
    exact = np.log(np.exp(divided).sum(1)) - divided[range(60), truths]
    np.testing.assert_allclose(nll[:, 0], exact, atol=2e-3)


def test_rescaling_is_fitted_on_the_other_half():
    half = np.random.default_rng(0).permutation(40) % 2 == 0
    log = np.log2(DIVISORS)
    # one half wants 2, the other 1/2
    curves = np.where(half[:, None], (log - 1) ** 2, (log + 1) ** 2)[:, None]
    nll, divisor = rescale(curves)
    np.testing.assert_allclose(divisor[:, 0], np.where(half, 0.5, 2.0))
    np.testing.assert_allclose(nll[:, 0], 4.0)


# -------------------------------------------------------------------------------- intervals


def test_differences_are_paired():
    """Every photo's NLL falls by the same: of the difference no doubt is left, of the means there is."""
    random = np.random.default_rng(1)
    names = [setting.name for setting in settings(D)]
    photos = []
    for n in range(40):
        logits = torch.tensor(random.normal(0, 3, C))
        photo = recognise_photo(logits.expand(len(names), -1), n % C)
        nll = photo.nll.copy()
        nll[names.index("none")] -= 0.5
        photos.append(replace(photo, nll=nll))
    none = summarise(settings(D), photos).row("none")
    assert (none.delta_nll.value, none.delta_nll.low, none.delta_nll.high) == pytest.approx((-0.5,) * 3)
    assert none.nll.high - none.nll.low > 0.5


def test_a_share_of_all_photos_has_a_lower_limit_and_no_change_leaves_doubt():
    """Every answer is right: of 40 that is [91.2, 100] % (scipy), and 1.96 / 42 could change unseen."""
    logits = torch.eye(C).repeat(40, 1)[:40]
    findings = summarise(
        settings(D),
        [recognise_photo(row.expand(len(settings(D)), -1), n % C) for n, row in enumerate(logits)],
    )
    limits = stats.binomtest(40, 40).proportion_ci(method="exact")
    for row in findings.rows:
        assert (row.top1.value, row.top1.low, row.top1.high) == pytest.approx((1, limits.low, 1))
    for row in findings.rows[1:]:
        assert (row.delta_top1.low, row.delta_top1.high) == pytest.approx((-1.959964 / 42, 1.959964 / 42))
        assert not row.delta_top1.certain and row.chance == 1.0


def test_a_row_of_many_is_real_where_holm_still_says_so():
    """One setting of all is wrong on 12 of 40 photos: 2 / 2^12 times the number of settings is under .05."""
    names = [setting.name for setting in settings(D)]
    photos = []
    for n in range(40):
        logits = torch.eye(C)[n % C].repeat(len(names), 1)
        if n < 12:
            logits[names.index("none")] = -logits[names.index("none")]
        photos.append(recognise_photo(logits, n % C))
    findings = summarise(settings(D), photos)
    assert [row.name for row in findings.rows if row.chance < 0.05] == ["none"]
    assert findings.row("none").chance == pytest.approx(2 / 2**12 * (len(names) - 1))
    assert " ≠" in recognition_page.cells_right(findings.row("none"))[3]
    assert "≠" not in "".join(recognition_page.cells_right(findings.row("max")))


def some(photos: int = 40) -> Findings:
    asked = settings(D)
    random = np.random.default_rng(0)
    judged = [
        recognise_photo(
            torch.tensor(random.normal(0, 2, (len(asked), C))),
            n % C,
            {"index": n, "label": CATEGORIES[n % C]},
        )
        for n in range(photos)
    ]
    return summarise(asked, judged)


def test_the_rows_are_means_over_photos_and_gap_is_no_better_than_itself():
    findings = some()
    table = findings.table.to_pydict()
    for row in findings.rows:
        places = [n for n, name in enumerate(table["setting"]) if name == row.name]
        assert len(places) == findings.photos == 40
        for estimate, name in (
            (row.top1, "top1"),
            (row.top5, "top5"),
            (row.nll, "nll"),
            (row.rescaled, "nll_rescaled"),
        ):
            assert estimate.value == pytest.approx(sum(table[name][n] for n in places) / 40, rel=1e-6)
            assert estimate.low <= estimate.value <= estimate.high
        assert row.delta_nll.value == pytest.approx(row.nll.value - findings.rows[0].nll.value)
    gap = findings.rows[0]
    assert (gap.delta_top1, gap.delta_rescaled) == (
        Interval(0.0, 0.0, 0.0, 40),
        Interval(0.0, 0.0, 0.0, 40),
    ) and not gap.delta_top1.certain


# -------------------------------------------------------------------------------- truth


@pytest.mark.parametrize(
    "path, truth",
    [
        ("test/002_n02012849_crane.jpg", 2),
        ("3_x.png", 3),
        ("photos/10/a.jpg", 10),
        ("photos/4_bee/a.jpg", 4),
        ("photos/Tiger_Cat/0001_a.jpg", 1),
        ("photos/n02012849_crane/a.jpg", 2),
        ("photos/3/3_a.jpg", 3),
    ],
)
def test_the_class_is_read_from_the_name_of_the_file_or_of_its_folder(path, truth):
    assert read_truth(Path(path), HEAD.categories, len(HEAD.weight)) == truth


@pytest.mark.parametrize(
    "path, words",
    [
        ("photos/a.jpg", "photos/a.jpg does not say its class; call the file 281_anything"),
        ("photos/n02012849/a.jpg", "does not say its class"),
        ("photos/17.jpg", "does not say its class"),
        ("photos/4/0001_a.jpg", "names two classes, 1 and 4"),
        ("11_a.jpg", "class index 11 is not among the 11 classes"),
    ],
)
def test_a_name_that_tells_no_class_or_two_is_refused_with_advice(path, words):
    with pytest.raises(PhotoError) as caught:
        read_truth(Path(path), HEAD.categories, len(HEAD.weight))
    assert words in str(caught.value) and "\n" not in str(caught.value)


# -------------------------------------------------------------------------------- photos


RED, GREEN = (255, 0, 0), (0, 255, 0)
# the mean colours of six tiles, and a classifier that reads them: 0 is red, 1 is green, no other is meant
COLOURS = Linear(torch.tensor([[9.0, 0, 0], [0, 9, 0], *[[-9.0] * 3] * 9]), torch.zeros(11), CATEGORIES)
HOW = Preprocessing(40, "stretch", multiple=1)
NET = fake_backbone(torch.nn.AdaptiveAvgPool2d((3, 2)), HOW, COLOURS, name="<i>tiles</i>")


def plain(path: Path, colour: tuple[int, int, int]) -> Path:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 40), colour).save(path)
    return path


@pytest.fixture
def photos(tmp_path):
    # the third is none of what its name says
    named = [("0_a", RED), ("1_b", GREEN), ("1_c", RED), ("0_d", RED)]
    return [plain(tmp_path / f"{name}.png", colour) for name, colour in named]


def test_three_of_four_are_right_and_the_others_are_told(tmp_path, photos):
    nameless, broken = plain(tmp_path / "e.png", RED), tmp_path / "1_f.png"
    broken.write_bytes(b"")
    findings = measure_recognition([nameless, *photos, broken], NET, HOW, batch_size=3)
    assert findings.photos == 4 and [Path(path).name for path, _ in findings.failures] == ["e.png", "1_f.png"]
    # one colour: no patch to attend to, whatever the scaling
    assert {row.top1.value for row in findings.rows} == {0.75}
    table = findings.table.to_pydict()
    assert [Path(path).name for path in table["path"][:: len(findings.rows)]] == [
        "0_a.png",
        "1_b.png",
        "1_c.png",
        "0_d.png",
    ]
    assert table["label"][:: len(findings.rows)] == ["tabby", "tiger cat", "tiger cat", "tabby"]


def test_what_cannot_be_judged_is_one_line(tmp_path, photos):
    nameless = [plain(tmp_path / f"{name}.png", RED) for name in "xy"]
    for paths, words in (
        (nameless, "none of 2 photos says its class"),
        (nameless[:1], "x.png does not say its class"),
        (photos[:1], "at least 2"),
    ):
        with pytest.raises(ValueError, match=words) as caught:
            measure_recognition(paths, NET, HOW)
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match=r"backbone\.layer=last"):
        measure_recognition(photos, fake_backbone(torch.nn.AdaptiveAvgPool2d((3, 2)), HOW), HOW)


def test_the_folder_holds_a_page_that_needs_nothing_else_and_the_rows(tmp_path, photos):
    findings = measure_recognition(photos, NET, HOW, 3)
    path = write_recognition(
        findings, tmp_path / "out", NET.describe().entries() | {"command": "attnvis <sweep>"}
    )
    page = path.read_text("utf-8")
    assert sorted(file.name for file in path.parent.iterdir()) == ["index.html", "recognition.parquet"]
    assert (
        "http" not in page.replace("http-equiv", "")
        and "default-src 'none'" in page
        and "<script" not in page
    )
    assert (
        "&lt;i&gt;tiles&lt;/i&gt;" in page
        and "attnvis &lt;sweep&gt;" in page
        and page.count('src="data:image/png') == 2
    )
    printed = recognition_page.as_text(findings)
    for text in (printed, page):
        assert "right on 75.0 %." in text and "4 photos, fewer than 6 photos: no interval" in text
        assert "interval +" not in text
    assert "| inv_sqrt_d " in printed and "nan" not in printed.lower()
    rows = pq.read_table(path.parent / "recognition.parquet").to_pylist()
    assert (
        len(rows) == 4 * len(settings(3))
        and sum(row["top1"] for row in rows if row["setting"] == "none") == 3
    )


def test_the_page_tells_what_failed(tmp_path):
    page = write_recognition(
        replace(some(), failures=[("a<b>.jpg", "a<b>.jpg does not say its class")]), tmp_path, {}
    ).read_text("utf-8")
    assert "1 failed" in page and "a&lt;b&gt;.jpg does not say its class" in page


# -------------------------------------------------------------------------------- words


def row(name: str, tau: float, **changes: Interval) -> SettingResult:
    nothing = Interval(0.0, -0.1, 0.1, 40)
    usual = dict.fromkeys(
        ("top1", "top5", "nll", "rescaled", "delta_top1", "delta_top5", "delta_nll", "delta_rescaled"),
        nothing,
    )
    return SettingResult(name=name, tau=tau, divisor=0.5, **(usual | changes))


@pytest.mark.parametrize(
    "more, words",
    [
        (Interval(0.02, 0.01, 0.03, 40), "√d = 2 gains 2.0 points (95 % interval +1.0 to +3.0)"),
        (Interval(-0.02, -0.03, -0.01, 40), "√d = 2 costs 2.0 points (95 % interval −3.0 to −1.0)"),
        (
            Interval(0.02, -0.01, 0.03, 40),
            "√d = 2 makes no difference that these photos could show (+2.0 points",
        ),
        (Interval(0.02, 0.0, 0.03, 40), "makes no difference"),
    ],
)
def test_the_words_say_no_more_than_the_interval(more, words):
    found = Findings(
        [row("GAP", math.inf), row("inv_sqrt_d", 2.0, delta_top1=more), row("none", 1.0)], pa.table({}), 9, []
    )
    assert words in " ".join(page.conclusions(found))


@pytest.mark.parametrize(
    "gap, divided, change, words",
    [
        (
            0.7,
            0.8,
            -0.2,
            "falls from 1.000 to 0.800 with √d (−0.200 [−0.210, −0.190]). "
            "That much needs no attention: GAP's own logits",
        ),
        (0.9, 0.8, -0.2, "Part of that is mere rescaling: GAP's own logits divided by 0.50"),
        (0.7, 1.2, 0.2, "rises from 1.000 to 1.200 with √d (+0.200 [+0.190, +0.210]). For comparison: GAP's"),
    ],
)
def test_a_better_nll_is_held_against_plain_rescaling(gap, divided, change, words):
    whole = Interval(1.0, 0.9, 1.1, 40)
    moved = Interval(change, change - 0.01, change + 0.01, 40)
    rows = [
        row("GAP", math.inf, nll=whole, rescaled=Interval(gap, 0.0, 1.0, 40)),
        row("inv_sqrt_d", 2.0, nll=Interval(divided, 0.0, 1.0, 40), delta_nll=moved),
        row("none", 1.0),
    ]
    said = " ".join(page.conclusions(Findings(rows, pa.table({}), 40, [])))
    assert words in said and "is not shown to differ from that of GAP" in said


def test_the_figures_are_pictures():
    top1, nll = page.figures(some())
    assert top1.png[:4] == nll.png[:4] == b"\x89PNG" and top1.png != nll.png
