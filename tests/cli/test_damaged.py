"""Every file of a run's and of a sweep's folder, damaged in turn: it is made anew, or --resume refuses."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
from conftest import make_photo

RUN = ["run", "a.png", "b.png", "preprocess.size=96", "batch_size=1", "workers=1", "query=class"]
SWEEP = [
    *("sweep", "a.png", "b.png", "preprocess.size=96", "seed=0,1", "query=mean", "scaling=none,inv_d"),
    *("sheets=1", "cache.use=false"),
]
REFUSED = {
    "run": {"run.json", "plan.json"},
    "sweep": {"plan.json"},
}  # what is lost with them is known nowhere else


def spoil_empty(path, content):
    path.write_bytes(b"")


def spoil_half(path, content):
    path.write_bytes(content[: len(content) // 2])


def spoil_bit(path, content):
    """One bit in the middle."""
    middle = len(content) // 2
    path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])


def spoil_folder(path, content):
    path.unlink()
    path.mkdir()


def spoil_gone(path, content):
    path.unlink()


def spoil_pipe(path, content):
    path.unlink()
    os.mkfifo(path)


SPOILS = (spoil_empty, spoil_half, spoil_bit, spoil_folder, spoil_gone, spoil_pipe)


def left():
    """Every file but Hydra's and those that no second time needs; without how long it took."""
    files = {}
    for path in Path("out").rglob("*"):
        if path.is_file() and ".hydra" not in path.parts and path.name != "multirun.yaml":
            content = re.sub(rb"<b>[^<]*</b> (seconds|passes[^<]*)", rb"", path.read_bytes())
            files[str(path)] = content
            if path.name == "job.json":
                record = json.loads(content)
                files[str(path)] = {key: record[key] for key in record if key not in ("seconds", "seal")}
    return files


def verdict(attnvis, verb, path, spoil):
    """What --resume made of it, in a copy of the folder."""
    shutil.rmtree("out")
    shutil.copytree("whole", "out")
    before = left()
    spoil(path, path.read_bytes())
    ended = attnvis(verb, "--resume", "out")
    if ended.code == 0 and left() == before:
        return "made anew"
    lines = ended.err.splitlines()
    if ended.code and all(line.startswith("attnvis: ") for line in lines) and path.name in ended.err:
        return "refused"
    return f"wrong: {ended}"


@pytest.mark.slow
@pytest.mark.parametrize("spoil", SPOILS)
@pytest.mark.parametrize("verb", ["run", "sweep"])
def test_every_damaged_file_is_made_anew_or_refused(attnvis, verb, spoil):
    for number, name in enumerate(("a.png", "b.png")):
        make_photo(Path(name), seed=number)
    words = RUN if verb == "run" else SWEEP
    assert attnvis(*words, "hydra.run.dir=out", "hydra.sweep.dir=out").code == 0
    shutil.copytree("out", "whole")
    paths = sorted(path for path in Path("out").rglob("*") if path.is_file())
    figures = [path for path in paths if "figures" in path.parts]
    verdicts = {}
    for path in (path for path in paths if path not in figures[1:]):
        verdicts[str(path)] = verdict(attnvis, verb, path, spoil)
    lost = [name for name, what in verdicts.items() if what not in ("made anew", "refused")]
    assert not lost, {name: verdicts[name] for name in lost}
    refused = {name.removeprefix("out/") for name, what in verdicts.items() if what == "refused"}
    if spoil in (spoil_empty, spoil_half, spoil_bit, spoil_gone):
        assert refused <= REFUSED[verb], refused
