"""What is exported is read back by pysaliency, in the environment that .ci/oracles makes."""

import importlib.util
import json
import sys
import types

import numpy as np
import pytest
from conftest import make_photo
from safetensors import safe_open

from attnvis.geometry import as_placement, to_pixels

MISSING = [name for name in ("pysaliency", "h5py") if importlib.util.find_spec(name) is None]
if MISSING:
    pytest.skip(f"{', '.join(MISSING)} not installed: see .ci/oracles", allow_module_level=True)

FILES = ("a/1.png", "b/1.png")  # in folders of categories, as in CAT2000
SIZES = ((70, 90), (64, 50))


@pytest.fixture
def pysaliency(monkeypatch):
    """It calls np.trapz, which numpy 2.4 no longer has."""
    if not hasattr(np, "trapz"):
        monkeypatch.setattr(np, "trapz", np.trapezoid, raising=False)
    if importlib.util.find_spec("pkg_resources") is None:
        monkeypatch.setitem(sys.modules, "pkg_resources", types.ModuleType("pkg_resources"))
    import pysaliency

    return pysaliency


@pytest.fixture
def stimuli(pysaliency, attnvis, here):
    for number, (name, size) in enumerate(zip(FILES, SIZES)):
        make_photo(here / "photos" / name, size, seed=number)
    assert attnvis("run", "photos", "scaling=zscore", "render.panel=false").code == 0
    return pysaliency.FileStimuli([str(here / "photos" / name) for name in FILES])


def densities():
    """Over the photos' own pixels, by the library's geometry and a division."""
    maps = []
    for number in range(2):
        stem = ("1", "1-2")[number]
        with safe_open(f"out/maps/{stem}.safetensors", "np") as file:
            (answer,) = json.loads(file.metadata()["attnvis"])["answers"]
            pixels = to_pixels(file.get_tensor("weights.0"), as_placement(answer["placement"]))
        maps.append(pixels.astype(float) / pixels.sum(dtype=float))
    return maps


@pytest.mark.parametrize("kind", ["hdf5", "npy"])
def test_pysaliency_reads_the_log_densities(pysaliency, stimuli, attnvis, kind):
    words = ("format=pysaliency", f"kind={kind}", "hydra.run.dir=there")
    assert attnvis("export", "out", *words).code == 0
    if kind == "hdf5":
        model = pysaliency.HDF5Model(stimuli, "there/log_densities.hdf5")
    else:
        model = pysaliency.ModelFromDirectory(stimuli, "there/maps")
    for stimulus, density in zip(stimuli, densities()):
        assert model.log_density(stimulus) == pytest.approx(np.log(density), abs=2e-6)


@pytest.mark.parametrize("kind, close", [("png", 1e-2), ("jpg", 1e-2), ("png16", 1e-4), ("npy", 1e-6)])
def test_pysaliency_measures_of_the_pictures_what_it_measures_of_the_maps(
    pysaliency, stimuli, attnvis, kind, close
):
    assert attnvis("export", "out", f"kind={kind}", "hydra.run.dir=there").code == 0
    model = pysaliency.SaliencyMapModelFromDirectory(stimuli, "there/maps")
    rows, columns = np.array([20, 33, 61]), np.array([11, 48, 30])
    for stimulus, density in zip(stimuli, densities()):
        read = model.saliency_map(stimulus)
        assert read.shape == density.shape
        ours = pysaliency.metrics.NSS(density, columns, rows)
        assert pysaliency.metrics.NSS(read, columns, rows) == pytest.approx(ours, abs=close)
        assert pysaliency.metrics.SIM(read, density) == pytest.approx(1, abs=close)


def test_information_gain_of_what_was_exported_is_that_of_the_densities(pysaliency, stimuli, attnvis):
    words = ("format=pysaliency", "floor=0.01", "hydra.run.dir=there")
    assert attnvis("export", "out", *words).code == 0
    model = pysaliency.HDF5Model(stimuli, "there/log_densities.hdf5")
    places = [(0, 20, 11), (0, 33, 48), (1, 61, 30), (1, 5, 5)]  # photo, row, column
    fixations = pysaliency.FixationTrains.from_fixation_trains(
        [[float(column)] for _, _, column in places],
        [[float(row)] for _, row, _ in places],
        [[0.0]] * len(places),
        [photo for photo, _, _ in places],
        [0] * len(places),
    )
    gain = model.information_gain(stimuli, fixations, average="fixation")
    maps = densities()
    expected = [
        np.log2((0.99 * maps[photo][row, column] + 0.01 / maps[photo].size) * maps[photo].size)
        for photo, row, column in places
    ]
    assert gain == pytest.approx(np.mean(expected), abs=1e-5)
