"""Real photos and settings, changed at random.

What comes out is a photo or one line that says what is wrong, and nothing else, in time.
"""

import io
import os
import subprocess
import sys
import textwrap
from contextlib import suppress
from functools import cache

import fake_pngs
import fake_tiffs
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from attnvis.data.decoding import load
from attnvis.data.paths import find
from attnvis.data.preprocessing import preprocess
from attnvis.types import PhotoError, Preprocessing

TURNED = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"  # orientation 6
KINDS = {
    "JPEG": [{"quality": 80}, {"progressive": True}, {"exif": TURNED}],
    "PNG": [{}, {"mode": "P"}, {"mode": "RGBA"}, {"mode": "I;16"}],
    "WEBP": [{}, {"lossless": True}, {"mode": "RGBA"}],
    "GIF": [{"mode": "P"}, {"mode": "P", "interlace": 0}],
    "BMP": [{}, {"mode": "L"}],
    "TIFF": [
        {}, {"compression": "tiff_lzw"}, {"compression": "tiff_deflate"}, {"mode": "RGBA"}, {"mode": "CMYK"},
    ],
    "PPM": [{}, {"mode": "L"}, {"mode": "1"}],
    "BY HAND": [],
}  # fmt: skip

# PIL's on damaged files; attnvis silences them, pytest does not
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


@cache
def seeds(kind: str) -> list[bytes]:
    """A sample photo, small, in every flavour of a format."""
    with Image.open(find("samples/cat")[0]) as whole:
        small = whole.convert("RGB").resize((48, 32))
    made = []
    if kind == "BY HAND":
        return by_hand()
    for options in KINDS[kind]:
        mode = options.get("mode", "RGB")
        picture = (
            Image.fromarray(np.asarray(small.convert("L")).astype(np.uint16) * 257)
            if mode == "I;16"
            else small.convert(mode)
        )
        file = io.BytesIO()
        picture.save(file, kind, **{key: value for key, value in options.items() if key != "mode"})
        made.append(file.getvalue())
    return made


def by_hand() -> list[bytes]:
    """What PIL does not write: TIFFs of every depth and layout, deep PNGs, Netpbm."""
    tiffs = [case for number, case in enumerate(fake_tiffs.every_case()) if number % 271 == 0]
    pngs = [case for number, case in enumerate(fake_pngs.every_case()) if number % 29 == 0]
    pixels = np.arange(29 * 37, dtype=np.uint16)
    maps = [
        b"P5 37 29 4095\n" + pixels.astype(">u2").tobytes(),
        b"Pf 37 29 -1\n" + (pixels / 2000).astype("<f4").tobytes(),
    ]
    return [*map(fake_tiffs.write_tiff, tiffs), *map(fake_pngs.write_png, pngs), *maps]


NUMBERS = st.sampled_from(
    [
        b"\0",
        b"\xff",
        b"\x7f",
        b"\x80",
        b"\0\0",
        b"\xff\xff",
        b"\0\0\0\0",
        b"\xff\xff\xff\xff",
        b"\x7f\xff\xff\xff",
        b"\0\0\1\0",
    ]
)


@st.composite
def mutated(draw, kind: str) -> bytes:
    """Bytes flipped, numbers made extreme, pieces cut out, doubled, moved or replaced.

    Mostly near the start, where the headers are.
    """
    data = bytearray(draw(st.sampled_from(seeds(kind))))
    for _ in range(draw(st.integers(1, 6))):
        near = min(len(data), draw(st.sampled_from([32, 128, 1024, 1 << 20])))
        at = draw(st.integers(0, max(0, near - 1)))
        match draw(st.integers(0, 6)):
            case 0:
                data[at : at + 1] = bytes([draw(st.integers(0, 255))])
            case 1:
                number = draw(NUMBERS)
                data[at : at + len(number)] = number
            case 2:
                del data[at:]
            case 3:
                del data[at : at + draw(st.integers(1, 64))]
            case 4:
                data[at:at] = data[at : at + draw(st.integers(1, 64))]
            case 5:
                data[at : at + 8] = draw(st.binary(min_size=0, max_size=16))
            case 6:
                other = draw(st.sampled_from(seeds(draw(st.sampled_from(sorted(KINDS))))))
                data[at:] = other[draw(st.integers(0, len(other) - 1)) :]
    return bytes(data)


def tried(data: bytes) -> None:
    """A photo that can be fitted, or a PhotoError of one line; anything else is raised."""
    said, photo = "", None
    try:
        with suppress(PhotoError):
            load(data, depth="used", truncated="take")
        photo = load(data, name="photo")
    except PhotoError as error:
        said = str(error)
    if photo is None:
        assert said.startswith("photo") and said.isprintable() and len(said) < 500, said
        return
    assert (
        photo.pixels.dtype == np.uint8
        and photo.pixels.shape == (*photo.size, 3)
        and photo.pixels.flags["C_CONTIGUOUS"]
    )
    assert photo.size[0] * photo.size[1] <= 178_956_970
    preprocess(photo, Preprocessing(32))


def fuzz(kind: str, examples: int) -> None:
    everything = [HealthCheck.too_slow, HealthCheck.data_too_large]

    @settings(max_examples=examples, deadline=None, derandomize=True, suppress_health_check=everything)
    @given(mutated(kind))
    def run(data: bytes) -> None:
        tried(data)

    run()


@pytest.mark.parametrize("kind", KINDS)
def test_every_seed_is_a_photo(kind):
    sizes = {load(data).size for data in seeds(kind)}
    assert sizes <= {(32, 48), (48, 32), (29, 37), (37, 29)}


@pytest.mark.parametrize("kind", KINDS)
def test_a_changed_photo_is_a_photo_or_one_line(kind):
    fuzz(kind, 100)


LIMITED = """
    import resource, sys
    sys.path[:0] = [{folder!r}]
    from test_fuzz import fuzz, seeds
    seeds({kind!r})
    resource.setrlimit(resource.RLIMIT_AS, (6 << 30, 6 << 30))
    resource.setrlimit(resource.RLIMIT_CPU, (1500, 1500))
    fuzz({kind!r}, 5000)
    # Not ru_maxrss, which counts what the parent held when it forked.
    status = open("/proc/self/status").read()
    peak = int(status.split("VmHWM:")[1].split()[0]) / 1024
    assert peak < 4000, f"{{peak}} MB"
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="resource limits and kilobytes are Linux'")
@pytest.mark.parametrize("kind", KINDS)
def test_5000_changed_photos_are_photos_or_one_line_within_limits(kind):
    """In a process of its own: a decoder that crashes takes only that along, and says so by its code."""
    code = textwrap.dedent(LIMITED).format(folder=os.path.dirname(__file__), kind=kind)
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=1800, check=False
    )
    assert ended.returncode == 0, ended.stderr[-2000:]


# --------------------------------------------------------------------------------------------------- settings


WORDS = [
    "query=class", "query.name=tabby", "query=point", "query.x=5", "query.y=6", "scaling=temperature",
    "scaling.tau=0.5", "normalise=top_k", "normalise.k=3", "preprocess.size=96", "preprocess.fit=crop",
    "render.opacity=0.5", "render.colours=magma", "batch_size=2", "seed=1", "name=run", "maps=false",
    "logger.mode=disabled", "backbone.layer=stage3", "backbone.precision=fp32", "query=several",
    "query.of=[mean,'box:1,2,3,4']", "cache.limit=1.5", "experiment=queries",
]  # fmt: skip
ODD = [
    "", "=", "[", "]", "{", "}", "'", '"', "\\", "${", "${name}", ",", ":", "~", "+", "++", "@", "null",
    "-1", "1e999", "nan", "&a", "*a", "\n", "\x1b", "猫", "../", "!!python/object:os.system",
]  # fmt: skip


@st.composite
def words(draw) -> list[str]:
    found = []
    for word in draw(st.lists(st.sampled_from(WORDS), min_size=1, max_size=4)):
        for _ in range(draw(st.integers(0, 3))):
            at, length = draw(st.integers(0, len(word))), draw(st.integers(0, 6))
            word = word[:at] + draw(st.sampled_from(ODD) | st.text(max_size=5)) + word[at + length :]
        found.append(word.replace("\0", ""))
    return found


def composed(given_words: list[str]) -> None:
    """The door's own path from words to functions, as far as no file is touched.

    What is wrong is told in one line.
    """
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from attnvis import catalogue
    from attnvis.cli.commands.run import COMMAND
    from attnvis.cli.config import build, require
    from attnvis.cli.messages import explain_hydra_error, format_error, visible
    from attnvis.cli.words import to_overrides

    said = "nothing"
    try:
        with initialize_config_dir(str(catalogue.config_folder()), version_base="1.3"):
            overrides = [word for word in to_overrides(given_words, COMMAND) if not word.startswith("-")]
            cfg = compose("run", overrides)
            require(cfg, "run")
            for group in ("query", "scaling", "normalise", "render"):
                build(cfg, group)
    except SystemExit:  # the door has said it
        pass
    except (HydraException, OmegaConfBaseException) as error:
        said = explain_hydra_error(error, "run")
    except (ValueError, OSError, RecursionError) as error:
        said = format_error(error)
    assert said and visible(said).isprintable()


def fuzz_words(examples: int) -> None:
    @settings(max_examples=examples, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(words())
    def run(found: list[str]) -> None:
        composed(found)

    run()


def test_settings_that_are_whole_are_composed():
    composed(["query=class", "query.name=tabby", "scaling=temperature", "scaling.tau=0.5"])


def test_changed_settings_are_settings_or_one_line(here, capsys):
    fuzz_words(25)


@pytest.mark.slow
def test_a_thousand_changed_settings_are_settings_or_one_line(here, capsys):
    fuzz_words(1000)
