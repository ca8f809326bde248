"""Whether a device can take a fold: asked before every lease of a device that nobody of us uses.

The driver is asked through NVML, in a thread of its own: a GPU that has fallen off the bus can
leave the question unanswered for ever.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

import pynvml

from clip_pkg.scheduling.devices import Device

FREE_SHARE = 0.5  # of a GPU's memory; a desktop or an idle context takes less than the rest
SECONDS_TO_ANSWER = 10.0
SECONDS_BETWEEN_QUESTIONS = 5.0
GIB = 1 << 30


class Verdict(Enum):
    """What to do with a device."""

    READY = "ready"
    WAIT = "wait"
    UNUSABLE = "unusable"


@dataclass(frozen=True)
class Memory:
    """Bytes of a GPU's memory."""

    free: int
    total: int


class DeviceGate(Protocol):
    """Decides about devices."""

    def check(self, device: Device, now: float) -> tuple[Verdict, str]:
        """Return the verdict and, unless it is READY, the reason in words."""
        ...


class OpenGate:
    """Lets every device through: the CPU, and clusters, which look after theirs."""

    def check(self, device: Device, now: float) -> tuple[Verdict, str]:
        """See `DeviceGate`."""
        del device, now
        return Verdict.READY, ""


@dataclass
class GpuGate:
    """Lets a GPU through that answers and has memory to spare.

    patience: seconds to wait for memory that other processes use. memory: asks the driver; raises
    NVMLError if it has no good answer.
    """

    patience: float = 0.0
    memory: Callable[[Device], Memory] = field(default_factory=lambda: gpu_memory)
    seconds_to_answer: float = SECONDS_TO_ANSWER
    _busy_since: dict[str, float] = field(default_factory=dict)
    _asked: dict[str, float] = field(default_factory=dict)

    def check(self, device: Device, now: float) -> tuple[Verdict, str]:
        """See `DeviceGate`."""
        if not device.is_gpu:
            return Verdict.READY, ""
        if device.id in self._busy_since and now - self._asked[device.id] < (
            SECONDS_BETWEEN_QUESTIONS
        ):
            return Verdict.WAIT, "asked a moment ago"
        self._asked[device.id] = now
        answer = self._ask(device)
        if isinstance(answer, str):
            return Verdict.UNUSABLE, answer
        if answer.free >= FREE_SHARE * answer.total:
            self._busy_since.pop(device.id, None)
            return Verdict.READY, ""
        since = self._busy_since.setdefault(device.id, now)
        reason = (
            f"only {answer.free / GIB:.1f} of {answer.total / GIB:.1f} GiB of its memory are free; "
            "other processes use it"
        )
        if now - since >= self.patience:
            hint = "" if self.patience else " (--wait-for-gpu SECONDS waits for them)"
            return Verdict.UNUSABLE, reason + hint
        return Verdict.WAIT, reason

    def _ask(self, device: Device) -> Memory | str:
        """Memory of a GPU, or what is wrong with it."""
        answers: list[Memory | str] = []

        def ask() -> None:
            try:
                answers.append(self.memory(device))
            except pynvml.NVMLError as error:
                answers.append(f"the driver reports: {error}")

        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        thread.join(self.seconds_to_answer)
        return answers[0] if answers else f"no answer within {self.seconds_to_answer:.0f} s"


def gpu_memory(device: Device) -> Memory:
    """Ask the driver. Raises NVMLError, for a GPU that is lost too."""
    pynvml.nvmlInit()
    try:
        handle = pynvml.nvmlDeviceGetHandleByUUID(device.visible)
        info = pynvml.nvmlDeviceGetMemoryInfo(handle)
        return Memory(int(info.free), int(info.total))
    finally:
        pynvml.nvmlShutdown()


def gpu_utilization(device: Device) -> int | None:
    """Percent of the last moments in which the GPU was busy; None where nobody knows (MIG)."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    try:
        handle = pynvml.nvmlDeviceGetHandleByUUID(device.visible)
        return int(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)
    except pynvml.NVMLError:
        return None
    finally:
        pynvml.nvmlShutdown()
