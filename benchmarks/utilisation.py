"""How busy a GPU is while something runs, as its driver tells several times a second."""

from __future__ import annotations

import statistics
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pynvml

SECONDS_BETWEEN = 0.2  # the driver's own window is a sixth of a second to a second


class Utilisation:
    """Percent of time in which the GPU computed something, sampled.

    index: of the GPU, as NVML counts. None samples nothing, for runs on a CPU.
    """

    def __init__(self, index: int | None) -> None:
        self._index = index
        self._samples: list[float] = []
        self._done = threading.Event()

    def __str__(self) -> str:
        if self._index is None:
            return "not sampled on a CPU"
        if not self._samples:
            return "the driver did not tell"
        mean, middle = statistics.fmean(self._samples), statistics.median(self._samples)
        return f"mean {mean:.0f} %, median {middle:.0f} % of {len(self._samples)} samples"

    @contextmanager
    def sampled(self) -> Iterator[None]:
        """Sample while the block runs; several blocks add up."""
        if self._index is None:
            yield
            return
        self._done.clear()
        thread = threading.Thread(target=self._sample, args=(self._index,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._done.set()
            thread.join()

    def _sample(self, index: int) -> None:
        try:
            pynvml.nvmlInit()
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
            while not self._done.wait(SECONDS_BETWEEN):
                self._samples.append(float(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu))
            pynvml.nvmlShutdown()
        except pynvml.NVMLError:
            return  # some virtual and partitioned GPUs do not tell; `str` says so
