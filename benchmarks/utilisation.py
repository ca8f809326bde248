"""How busy a GPU is while something runs, as its driver tells several times a second."""

from __future__ import annotations

import statistics
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pynvml

from clip_pkg.scheduling.devices import find_devices

SECONDS_BETWEEN = 0.2  # the driver's own window is a sixth of a second to a second


def first_gpu(device: str) -> str | None:
    """Index or UUID of the GPU that programs with `--gpus 0` run on; None for "cpu"."""
    return find_devices(None)[0][0].visible or None if device == "cuda" else None


class Utilisation:
    """Percent of time in which the GPU computed something, sampled.

    gpu: its index or UUID. None samples nothing, for runs on a CPU.
    """

    def __init__(self, gpu: str | None) -> None:
        self._gpu = gpu
        self._samples: list[float] = []
        self._done = threading.Event()

    def __str__(self) -> str:
        if self._gpu is None:
            return "not sampled on a CPU"
        if not self._samples:
            return "the driver did not tell"
        mean, middle = statistics.fmean(self._samples), statistics.median(self._samples)
        return f"mean {mean:.0f} %, median {middle:.0f} % of {len(self._samples)} samples"

    @contextmanager
    def sampled(self) -> Iterator[None]:
        """Sample while the block runs; several blocks add up."""
        if self._gpu is None:
            yield
            return
        self._done.clear()
        thread = threading.Thread(target=self._sample, args=(self._gpu,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._done.set()
            thread.join()

    def _sample(self, gpu: str) -> None:
        try:
            pynvml.nvmlInit()
            handle = (
                pynvml.nvmlDeviceGetHandleByIndex(int(gpu))
                if gpu.isdigit()
                else pynvml.nvmlDeviceGetHandleByUUID(gpu)
            )
            while not self._done.wait(SECONDS_BETWEEN):
                self._samples.append(float(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu))
            pynvml.nvmlShutdown()
        except pynvml.NVMLError:
            return  # some virtual and partitioned GPUs do not tell; `str` says so
