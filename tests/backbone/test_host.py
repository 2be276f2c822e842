"""A process that calls attnvis finds itself as it was, and what it has set misleads nobody."""

import os
import threading
import warnings

import numpy as np
import pytest
import torch

from attnvis.api import explain
from attnvis.backbone.sources import load_backbone, load_once

SETTINGS = {"weights": "random", "precision": "fp32", "engine": "eager"}


@pytest.fixture
def picture():
    return np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)


@pytest.fixture
def expected(picture):
    """What a process in its usual state gets."""
    torch.manual_seed(5)
    return explain(picture, size=96, **SETTINGS).weights


@pytest.fixture(autouse=True)
def anew():
    load_once.cache_clear()
    yield
    load_once.cache_clear()


def state() -> dict:
    return {
        "random": torch.get_rng_state().tolist(),
        "numpy": np.random.get_state()[1].tolist(),  # noqa: NPY002 - the state that callers still use
        "dtype": torch.get_default_dtype(),
        "device": torch.empty(0).device,
        "environment": dict(os.environ),
        "filters": list(warnings.filters),
        "grad": torch.is_grad_enabled(),
        "threads": torch.get_num_threads(),
        "autocast": torch.is_autocast_enabled("cpu"),
    }


@pytest.mark.parametrize("name", ["efficientnet_lite0", "resnet18"])
def test_the_first_explain_leaves_the_process_as_it_was(picture, name):
    before = state()
    explain(picture, query="class", backbone=name, size=96, **SETTINGS)
    assert state() == before


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_default_dtype_of_the_callers_changes_nothing(picture, expected, dtype):
    load_once.cache_clear()
    torch.manual_seed(5)
    torch.set_default_dtype(dtype)
    try:
        weights = explain(picture, size=96, **SETTINGS).weights
        assert torch.get_default_dtype() == dtype
    finally:
        torch.set_default_dtype(torch.float32)
    np.testing.assert_array_equal(weights, expected)


def test_a_default_device_of_the_callers_changes_nothing(picture, expected):
    load_once.cache_clear()
    torch.manual_seed(5)
    torch.set_default_device("meta")
    try:
        weights = explain(picture, size=96, **SETTINGS).weights
        assert torch.empty(0).device.type == "meta"
    finally:
        torch.set_default_device(None)
    np.testing.assert_array_equal(weights, expected)


def test_autocast_of_the_callers_changes_nothing(picture, expected):
    load_once.cache_clear()
    torch.manual_seed(5)
    with torch.autocast("cpu", torch.bfloat16):
        weights = explain(picture, size=96, **SETTINGS).weights
        assert torch.is_autocast_enabled("cpu")
    np.testing.assert_array_equal(weights, expected)


def test_threads_that_call_at_once_load_a_network_once_and_agree(picture):
    """Tracing is not thread-safe; seven of eight threads once died of it."""
    results, errors = [], []

    def call() -> None:
        try:
            results.append(explain(picture, query="class", backbone="resnet18", size=96, **SETTINGS).weights)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=call) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors and len(results) == 8
    assert all(np.array_equal(weights, results[0]) for weights in results), "random weights: one network"
    assert load_once.cache_info().misses == 1


def test_a_network_is_loaded_with_the_same_weights_for_the_same_seed():
    torch.manual_seed(3)
    first = load_backbone("efficientnet_lite0", **SETTINGS).network.net.state_dict()
    load_once.cache_clear()
    torch.manual_seed(3)
    second = load_backbone("efficientnet_lite0", **SETTINGS).network.net.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
