"""Utilisation of a GPU, sampled from a driver that a stand-in plays."""

from __future__ import annotations

import itertools
import threading
from types import SimpleNamespace

import pynvml
import pytest

from benchmarks import utilisation
from benchmarks.utilisation import Utilisation


def test_samples_are_taken_while_the_block_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    told, enough = itertools.cycle([50, 100]), threading.Event()

    def rates(handle: str) -> SimpleNamespace:
        assert handle == "gpu 1"
        value = next(told)
        if value == 100:
            enough.set()
        return SimpleNamespace(gpu=value)

    monkeypatch.setattr(utilisation, "SECONDS_BETWEEN", 0.001)
    monkeypatch.setattr(pynvml, "nvmlInit", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlShutdown", lambda: None)
    monkeypatch.setattr(pynvml, "nvmlDeviceGetHandleByIndex", lambda index: f"gpu {index}")
    monkeypatch.setattr(pynvml, "nvmlDeviceGetUtilizationRates", rates)
    seen = Utilisation("1")
    with seen.sampled():
        assert enough.wait(10)
    assert "mean" in str(seen)
    before = str(seen)
    assert before == str(seen)  # nothing is added once the block is over
    number = int(before.split(" of ")[1].split(maxsplit=1)[0])
    assert number >= 2


def test_a_driver_that_does_not_tell_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)

    monkeypatch.setattr(pynvml, "nvmlInit", refuse)
    seen = Utilisation("0")
    with seen.sampled():
        pass
    assert str(seen) == "the driver did not tell"


def test_a_cpu_is_not_sampled() -> None:
    seen = Utilisation(None)
    with seen.sampled():
        pass
    assert str(seen) == "not sampled on a CPU"
