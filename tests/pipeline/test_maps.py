"""What lies in a run's folder as maps is read as it was written, or not at all."""

import json
import os
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import make_photo, records
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from attnvis.attention.dot_product import weigh
from attnvis.attention.normalise import softmax
from attnvis.attention.scaling import inv_sqrt_d
from attnvis.geometry import as_placement
from attnvis.methods.answer import Answer
from attnvis.pipeline.maps import map_photo, read_maps, write_maps
from attnvis.types import Box, Photo, Placement, Scores

PHOTO = Photo("a.png", np.zeros((60, 80, 3), np.uint8), (60, 80), "d" * 64)
PLACEMENT = Placement((10.0, 10.0), (20.0, 20.0), (3, 4), (60, 80), Box(0.0, 0.0, 60.0, 80.0), (30.0, 30.0))


def answer(seed=0) -> Answer:
    random = torch.Generator().manual_seed(seed)
    scores = Scores(torch.randn(1, 1, 5, generator=random), torch.randn(1, 12, 5, generator=random))
    attention = weigh(scores, scores.keys, scaling=inv_sqrt_d, normalise=softmax)
    return Answer(
        query="point:1,2",
        label="a point",
        weights=attention.weights[0, 0],
        placement=PLACEMENT,
        diagnostics={},
        attention=attention,
        vector=scores.query[0, 0],
        mark=(1.0, 2.0),
        layer="last",
    )


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(write_maps(PHOTO, [answer(0), answer(1)], "none"))
    return path


def numbers(answers):
    return [
        (entry.query, entry.label, entry.mark, entry.placement, entry.layer, entry.weights.tolist())
        for entry in answers
    ]


def test_maps_are_written_the_same_each_time_and_say_whose_they_are(path):
    assert path.read_bytes() == write_maps(PHOTO, [answer(0), answer(1)], "none")
    assert map_photo(path) == ("d" * 64, 2)
    assert numbers(read_maps(path)) == numbers([answer(0), answer(1)])


def test_no_flipped_bit_of_a_map_is_drawn(path):
    whole = path.read_bytes()
    expected = numbers(read_maps(path))
    dice = np.random.default_rng(0)
    for place in dice.choice(8 * len(whole), 600, replace=False):
        damaged = bytearray(whole)
        damaged[place // 8] ^= 1 << (place % 8)
        path.write_bytes(damaged)
        owner = map_photo(path)
        if owner is not None:  # a bit that says nothing, such as a space
            assert owner == ("d" * 64, 2) and numbers(read_maps(path)) == expected
            continue
        with pytest.raises(ValueError, match="is damaged") as raised:
            read_maps(path)
        assert "\n" not in str(raised.value)


def rewritten(path, change):
    """By somebody who leaves no digest, as earlier versions did."""
    with safe_open(path, "pt") as file:
        metadata = json.loads(file.metadata()["attnvis"])
    tensors = load_file(path)
    del metadata["digest"]
    change(metadata["answers"][0], tensors)
    save_file(tensors, path, {"attnvis": json.dumps(metadata)})


def placed(**changes):
    return lambda entry, tensors: entry.update(placement=asdict(PLACEMENT) | changes)


SCORE = {"index": 3, "name": "cat", "probability": 0.5, "logit": 1.25, "rank": 1}
HOSTILE = {
    "huge": placed(grid=[100_000, 100_000]),
    "huge photo": placed(size=[10**9, 10**9]),
    "another grid": placed(grid=[3, 1]),
    "no grid": placed(grid=[0, 4]),
    "negative": placed(grid=[-3, -4]),
    "fractions": placed(grid=[3.0, 4.0]),
    "words": placed(step="abc"),
    "a word": placed(step=["a", 1.0]),
    "NaN": placed(first=[float("nan"), 0.0]),
    "infinite": placed(field=[float("inf"), 1.0]),
    "no step": placed(step=[0.0, 20.0]),
    "one number": placed(size=[60]),
    "seen": placed(seen={"top": 0, "left": 0, "height": "x", "width": 1}),
    "seen nothing": placed(seen=None),
    "no placement": lambda entry, tensors: entry.pop("placement"),
    "weights": lambda entry, tensors: tensors["weights.0"].fill_(torch.nan),
    "scores": lambda entry, tensors: tensors["scores.0"][0].fill_(torch.inf),
    "logits": lambda entry, tensors: tensors["logits.0"].fill_(torch.nan),
    "fewer": lambda entry, tensors: tensors.update({"logits.0": tensors["logits.0"][:1].clone()}),
    "mark": lambda entry, tensors: entry.update(mark=["x", 1]),
    "mark of three": lambda entry, tensors: entry.update(mark=[1, 2, 3]),
    "box": lambda entry, tensors: entry.update(mark={"top": 1}),
    "label": lambda entry, tensors: entry.update(label={"a": 1}),
    "deep": lambda entry, tensors: entry.update(mark=[[[[[1]]]]]),
    "mark beyond all photos": lambda entry, tensors: entry.update(mark=[1e300, 1]),
    "far away": placed(first=[1e6, 0.0]),
    "hardly a step": placed(step=[1e-300, 20.0]),
    "steps without end": placed(step=[1e300, 20.0]),
    "seen backwards": placed(seen={"top": 0.0, "left": 0.0, "height": -5.0, "width": 80.0}),
    "double": lambda entry, tensors: tensors.update({"weights.0": tensors["weights.0"].double()}),
    "margin": lambda entry, tensors: entry.update(sign_margin="half"),
    "margin of two": lambda entry, tensors: entry.update(sign_margin=2.0),
    "score": lambda entry, tensors: entry.update(class_score={"index": 1}),
    "chance": lambda entry, tensors: entry.update(class_score=SCORE | {"probability": "likely"}),
    "more than sure": lambda entry, tensors: entry.update(class_score=SCORE | {"probability": 1.5}),
    "no name": lambda entry, tensors: entry.update(class_score=SCORE | {"name": None}),
    "half a rank": lambda entry, tensors: entry.update(class_score=SCORE | {"rank": 1.5}),
    "logit": lambda entry, tensors: entry.update(class_score=SCORE | {"logit": float("nan")}),
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_a_map_that_cannot_be_drawn_is_one_line(path, change):
    rewritten(path, change)
    with pytest.raises(ValueError, match="holds no maps of attnvis or is damaged") as raised:
        read_maps(path)
    assert "\n" not in str(raised.value) and map_photo(path) is None


def test_maps_of_earlier_versions_are_read(path):
    rewritten(path, lambda entry, tensors: entry.update(class_score=SCORE, sign_margin=0.5))
    assert numbers(read_maps(path)) == numbers([answer(0), answer(1)])
    assert as_placement(asdict(PLACEMENT)) == PLACEMENT


def test_a_redraw_of_a_hostile_folder_waits_for_nothing_and_reads_nothing_outside(attnvis, here):
    for number in range(4):
        make_photo(here / f"{number}.png", seed=number)
    assert attnvis("run", "0.png", "1.png", "2.png", "3.png").code == 0
    maps = [row["map"] for row in records()]
    Path("elsewhere.safetensors").write_bytes(Path("out", maps[1]).read_bytes())
    Path("out", maps[0]).unlink()
    os.mkfifo(Path("out", maps[0]))
    table = Path("out/records.csv")
    table.write_text(table.read_text().replace(maps[1], "../elsewhere.safetensors"))
    Path("out", maps[2]).write_bytes(Path("out", maps[3]).read_bytes())  # of another size, had it one
    ended = attnvis("redraw", "out", "hydra.run.dir=again")
    assert ended.code == 1 and "Traceback" not in ended.err
    assert [row["status"] for row in sorted(records("again"), key=lambda row: row["index"])] == [
        "failed",
        "failed",
        "failed",
        "done",
    ]


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"config": 3, "warnings": []}', '{"config": {"name": []}}']
)
def test_a_redraw_of_a_damaged_record_is_one_line(attnvis, here, content):
    make_photo(here / "0.png")
    assert attnvis("run", "0.png").code == 0
    Path("out/run.json").write_text(content)
    assert "run.json is damaged" in attnvis("redraw", "out", "hydra.run.dir=again").complaint
    Path("out/run.json").unlink()
    os.mkfifo("out/run.json")
    assert "run.json is damaged" in attnvis("redraw", "out", "hydra.run.dir=again").complaint
