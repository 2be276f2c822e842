"""Photos of like shape share a batch, a bounded number waits, and a bad photo is its own affair."""

import threading
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import LOADED, make_photo

from attnvis.attention import query, scaling
from attnvis.attention.query import language
from attnvis.data import decoding
from attnvis.methods.attention import AttentionMethod
from attnvis.pipeline import streaming
from attnvis.pipeline.streaming import Outcome
from attnvis.types import Features, PhotoError, Placement, Preprocessing

HOW = Preprocessing(65)
SIZES = ((70, 90), (90, 70), (64, 64), (80, 200))


def bands(batch):
    """A network of one line: the mean colour of 3 x 2 tiles, two channels more so that D differs from
    every other axis."""
    tiles = torch.nn.functional.adaptive_avg_pool2d(batch.images, (3, 2))
    tokens = torch.cat([tiles, tiles[:, :2] ** 2], 1).flatten(2).mT.contiguous()
    placements = tuple(
        Placement(
            (view.seen.height / 6, view.seen.width / 4),
            (view.seen.height / 3, view.seen.width / 2),
            (3, 2),
            photo.size,
            view.seen,
        )
        for view, photo in zip(batch.views, batch.photos)
    )
    return (Features(tokens, (3, 2), placements, names=tuple(photo.name for photo in batch.photos)),)


def broken(folder: Path, kind: int) -> Path:
    whole = make_photo(folder / "whole.jpg").read_bytes()
    path = folder / f"broken{kind}.{('jpg', 'png', 'gif')[kind % 3]}"
    match kind % 6:
        case 0:
            path.write_bytes(b"")
        case 1:
            path.write_text("no photo at all")
        case 2:
            path.write_bytes(whole[: len(whole) // 2])
        case 3:
            path.mkdir()
        case 4:
            path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(50))
        case _:
            pass  # no such file
    return path


def test_of_200_photos_the_20_broken_ones_fail_alone_with_their_reason(attnvis, here):
    photos = [make_photo(here / f"{number}.png", SIZES[number % 4], number) for number in range(180)]
    bad = [broken(here, kind) for kind in range(20)]
    paths = [*photos]
    for number, path in enumerate(bad):
        paths.insert(number * 10, path)
    outcomes = list(streaming.stream(paths, AttentionMethod(bands), HOW))
    assert [outcome.index for outcome in outcomes] == list(range(200)) and [
        outcome.path for outcome in outcomes
    ] == paths
    failed = {outcome.path: outcome.error for outcome in outcomes if outcome.error}
    assert set(failed) == set(bad) and all(path.name in reason for path, reason in failed.items())
    assert len({reason.replace(path.stem, "") for path, reason in failed.items()}) >= 5, (
        "each kind has words of its own"
    )
    assert all(len(outcome.answers) == 1 for outcome in outcomes if not outcome.error)


def test_a_run_with_broken_photos_ends_with_a_code_that_is_not_0(attnvis, here):
    good = [make_photo(here / f"{number}.png", seed=number) for number in range(3)]
    bad = [broken(here, kind) for kind in (0, 1, 5)]
    ended = attnvis("run", *(path.name for path in (bad[0], *good, *bad[1:])), "render.panel=false")
    assert ended.code == 1 and "3 photos done" in ended.out
    lines = ended.err.splitlines()
    assert (
        all(line.startswith("attnvis: ") for line in lines)
        and len(lines) == 4
        and "3 done, 3 failed" in lines[-1]
    )


@pytest.mark.parametrize("batch_size, waiting", [(2, 5), (4, None), (16, 6)])
def test_at_most_waiting_photos_are_decoded_and_waiting(tmp_path, monkeypatch, batch_size, waiting):
    paths = [make_photo(tmp_path / f"{number}.png", (40 + number % 7, 60), number) for number in range(60)]
    alive: list[weakref.ref] = []
    most, load = 0, decoding.load

    def counted(*words, **settings):
        nonlocal most
        photo = load(*words, **settings)
        alive.append(weakref.ref(photo))
        most = max(most, sum(ref() is not None for ref in alive))
        return photo

    monkeypatch.setattr(streaming, "load", counted)
    done = sum(
        1
        for _ in streaming.stream(
            paths, AttentionMethod(bands), Preprocessing(65, "stretch", multiple=1), batch_size, waiting
        )
    )
    done += sum(
        1
        for _ in streaming.stream(
            paths, AttentionMethod(bands), Preprocessing(64, "letterbox"), batch_size, waiting
        )
    )
    assert done == 120
    allowed = 4 * batch_size if waiting is None else waiting
    assert 1 < most <= allowed + 1  # and the one that whoever reads the outcomes still holds


def numbers(outcomes: list[Outcome]) -> dict[str, torch.Tensor]:
    return {outcome.path.name: outcome.answers[0].attention.weights[0, 0] for outcome in outcomes}


def test_results_depend_neither_on_the_batch_size_nor_on_the_order(tmp_path):
    paths = [make_photo(tmp_path / f"{number}.png", SIZES[number % 3], number) for number in range(9)]
    method = AttentionMethod(LOADED(precision="fp32"), query.class_, scaling.inv_sqrt_d)
    alone = numbers(list(streaming.stream(paths, method, HOW, 1)))
    assert len({tuple(weights.tolist()) for weights in alone.values()}) == 9
    for order, batch_size in (
        (paths, 4),
        (paths[::-1], 9),
        (sorted(paths, key=lambda path: path.name[::-1]), 2),
    ):
        other = numbers(list(streaming.stream(order, method, HOW, batch_size)))
        for name, weights in alone.items():
            torch.testing.assert_close(other[name], weights, rtol=1e-4, atol=1e-6)


def test_a_point_outside_one_photo_of_a_batch_fails_that_photo_alone(tmp_path):
    large, small = (
        make_photo(tmp_path / "large.png", (140, 180)),
        make_photo(tmp_path / "small.png", (70, 90)),
    )
    sizes = []

    def net(batch):
        sizes.append(len(batch.photos))
        return bands(batch)

    ask = language.parse("point:150,100")
    outcomes = {
        outcome.path.name: outcome
        for outcome in streaming.stream([large, small, large], AttentionMethod(net, ask), HOW, batch_size=3)
    }
    assert sizes[0] == 3, "the two sizes make one input size, or this test tests nothing"
    assert outcomes["large.png"].error == "" and len(outcomes["large.png"].answers) == 1
    assert "point 150,100 lies outside the 90x70 photo small.png" in outcomes["small.png"].error


@pytest.mark.parametrize("workers", [2, 5])
def test_several_workers_give_the_same_outcomes_to_the_bit_in_order(tmp_path, workers):
    method = AttentionMethod(LOADED(precision="fp32"), query.class_, scaling.inv_sqrt_d)
    paths = [make_photo(tmp_path / f"{number}.png", SIZES[number % 3], number) for number in range(17)]
    paths.insert(4, tmp_path / "missing.png")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as each of the workers has
    try:
        alone = list(streaming.stream(paths, method, HOW, 4))
        others = list(streaming.stream(paths, method, HOW, 4, workers=workers))
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(threads)
    assert [outcome.path for outcome in alone] == [outcome.path for outcome in others] == paths
    for one, other in zip(alone, others, strict=True):
        assert (
            one.error == other.error
            and [answer.predicted for answer in one.answers] == [answer.predicted for answer in other.answers]
            and bool(one.error) == (one.path.name == "missing.png")
        )
        assert all(
            torch.equal(a.attention.weights, b.attention.weights)
            for a, b in zip(one.answers, other.answers, strict=True)
        )


def test_a_photo_of_an_odd_shape_does_not_hold_the_others_back_for_ever(tmp_path):
    sizes = [(30, 90)] + [(70, 90)] * 59
    outcomes = streaming.stream(
        (make_photo(tmp_path / f"{n}.png", size, n) for n, size in enumerate(sizes)),
        AttentionMethod(bands),
        HOW,
        4,
        10,
    )
    assert next(outcomes).index == 0
    assert len(list(tmp_path.iterdir())) == 10, "as many as may wait"
    assert [outcome.index for outcome in outcomes] == list(range(1, 60))


def test_several_threads_work_on_outcomes_and_give_them_back_in_order(tmp_path):
    paths = [make_photo(tmp_path / f"{number}.png", SIZES[number % 3], number) for number in range(24)]
    barrier = threading.Barrier(3, timeout=120)  # three are drawn at one time, or this breaks

    def drawn(outcome):
        if outcome.index in (0, 8, 16):
            barrier.wait()
        if outcome.index == 5:
            raise PhotoError("vanished meanwhile")
        return outcome.path.name

    how = Preprocessing(65, "stretch")
    outcomes = list(streaming.stream(paths, AttentionMethod(bands), how, 8, workers=3, after=drawn))
    assert [outcome.made for outcome in outcomes] == [None if n == 5 else f"{n}.png" for n in range(24)]
    assert [outcome.error for outcome in outcomes if outcome.error] == ["vanished meanwhile"] and outcomes[
        5
    ].error


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError(
            "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
        ),
    ],
)
def test_a_batch_that_memory_does_not_hold_is_halved(tmp_path, error):
    paths = [make_photo(tmp_path / f"{number}.png", seed=number) for number in range(20)]
    asked, said = [], []

    def small(batch):
        asked.append(len(batch.photos))
        if len(batch.photos) > 3:
            raise error
        return bands(batch)

    outcomes = list(streaming.stream(paths, AttentionMethod(small), HOW, 8, say=said.append))
    assert [outcome.index for outcome in outcomes] == list(range(20)) and not any(
        outcome.error for outcome in outcomes
    )
    assert asked[:3] == [8, 4, 2] and max(asked[2:]) == 2, "what was too much once is not tried again"
    assert len(said) == 2 and "batch_size=2" in said[-1]
    right = list(streaming.stream(paths, AttentionMethod(bands), HOW, 8))
    for one, other in zip(right, outcomes, strict=True):
        torch.testing.assert_close(one.answers[0].attention.weights, other.answers[0].attention.weights)


def test_groups_that_fail_at_a_time_halve_the_limit_once(tmp_path):
    paths = [make_photo(tmp_path / f"{number}.png", seed=number) for number in range(7)]
    both, said = threading.Barrier(2, timeout=120), []

    def small(batch):
        if len(batch.photos) > 2:
            both.wait()  # the 4 and the 3 photos fail while the other is under way
            raise MemoryError
        return bands(batch)

    outcomes = list(streaming.stream(paths, AttentionMethod(small), HOW, 4, workers=2, say=said.append))
    assert not any(outcome.error for outcome in outcomes)
    assert len(said) == 1 and said[0].endswith("the same as batch_size=2")


def test_a_photo_that_memory_does_not_hold_alone_fails_alone(tmp_path):
    paths = [
        make_photo(tmp_path / f"{number}.png", (200, 90) if number == 2 else (70, 90), number)
        for number in range(5)
    ]

    def small(batch):
        if any(photo.size == (200, 90) for photo in batch.photos):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return bands(batch)

    outcomes = list(streaming.stream(paths, AttentionMethod(small), HOW, 8, say=lambda text: None))
    assert [bool(outcome.error) for outcome in outcomes] == [False, False, True, False, False]
    assert "2.png (200 x 90 px) does not fit into memory; give a smaller preprocess.size" in outcomes[2].error


def test_another_runtime_error_is_not_taken_for_a_lack_of_memory(tmp_path):
    def wrong(batch):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    for workers in (1, 2):
        with pytest.raises(RuntimeError, match="cannot be multiplied"):
            list(
                streaming.stream(
                    [make_photo(tmp_path / "a.png")], AttentionMethod(wrong), HOW, workers=workers
                )
            )


def test_a_mistake_that_is_no_photos_ends_the_run(tmp_path):
    paths = [make_photo(tmp_path / f"{number}.png", seed=number) for number in range(3)]

    def wrong(batch):
        raise ValueError("no such class")

    with pytest.raises(ValueError, match="no such class") as caught:
        list(streaming.stream(paths, wrong, HOW))
    assert not isinstance(caught.value, PhotoError)
    with pytest.raises(ValueError, match="batch_size 0"):
        list(streaming.stream(paths, AttentionMethod(bands), HOW, 0))
    with pytest.raises(ValueError, match="0 workers"):
        list(streaming.stream(paths, AttentionMethod(bands), HOW, workers=0))


def test_the_first_outcomes_come_before_the_last_photo_is_read(tmp_path):
    def paths():
        for number in range(100):
            yield make_photo(tmp_path / f"{number}.png", seed=number)

    outcomes = streaming.stream(paths(), AttentionMethod(bands), HOW, batch_size=4)
    assert next(outcomes).index == 0
    assert len(list(tmp_path.iterdir())) == 4


def test_predictions_are_the_softmax_of_the_networks_own_logits(tmp_path):
    net = LOADED(precision="fp32")
    (outcome,) = streaming.stream([make_photo(tmp_path / "a.png")], AttentionMethod(net), HOW)
    assert outcome.photo is not None
    from attnvis.data.preprocessing import collate

    (features,) = net(collate([outcome.photo], HOW))
    logits = features.logits[0].double().numpy()
    chances = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
    best = np.argsort(-chances)[:5]
    assert [name for name, _ in outcome.answers[0].predicted] == [
        net.head.categories[index] for index in best
    ]
    np.testing.assert_allclose(
        [chance for _, chance in outcome.answers[0].predicted], chances[best], rtol=1e-4
    )
