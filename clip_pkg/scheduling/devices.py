"""Devices of this machine and their condition, found without torch.

GPUs are listed in PCI order, the order of nvidia-smi; CUDA's own default order can differ, so every
child process also gets CUDA_DEVICE_ORDER=PCI_BUS_ID and sees only the devices of its task.
"""

from __future__ import annotations

import os
import platform
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Any, Protocol

import pynvml

from clip_pkg.base.errors import UserError

MPS_FOLDER = "/tmp/nvidia-mps"  # noqa: S108 - NVIDIA's default
MIN_FREE_SHARE = 0.5  # of a GPU's memory; a desktop or an idle context takes less than the rest
SECONDS_TO_ANSWER = 10.0
SECONDS_BETWEEN_QUERIES = 5.0
GIB = 1 << 30


@dataclass(frozen=True, order=True)
class Device:
    """A GPU, a MIG instance, the CPU, or a place in a cluster.

    id: the user's name for it, also used in the names of log files (`0`, a UUID, `mps`, `cpu`).
    visible: CUDA_VISIBLE_DEVICES of its processes; empty for the CPU and for Apple's GPU. cluster:
    kind of the cluster that the place belongs to; empty on this machine.
    """

    id: str
    visible: str
    name: str
    cluster: str = ""

    @property
    def is_gpu(self) -> bool:
        return bool(self.visible)

    @property
    def torch_name(self) -> str:
        """Torch's name for the device in a process that sees no other."""
        return "cuda:0" if self.is_gpu else self.id if self.id in OTHERS else "cpu"

    @property
    def log_tag(self) -> str:
        """`gpu0`, `mps`, `cpu` or the kind of cluster, for names of log files."""
        return self.cluster or (f"gpu{self.id}" if self.is_gpu else self.id)


CPU, MPS = "cpu", "mps"
OTHERS = {CPU: Device(CPU, "", "CPU"), MPS: Device(MPS, "", "Apple GPU")}


def child_environment(devices: Sequence[Device], inherited: Mapping[str, str]) -> dict[str, str]:
    """Environment of a process that sees these devices and no others."""
    return {
        # Threads that wait by spinning make training many times slower on a CPU that is shared.
        "OMP_WAIT_POLICY": "PASSIVE",
        **inherited,
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
        "CUDA_VISIBLE_DEVICES": ",".join(device.visible for device in devices),
    }


def mps_is_running(environment: Mapping[str, str]) -> bool:
    """Whether CUDA programs find a daemon of NVIDIA's Multi-Process Service in this environment."""
    folder = Path(environment.get("CUDA_MPS_PIPE_DIRECTORY", MPS_FOLDER))
    return (folder / "control").exists()


# --- finding devices


@contextmanager
def _nvml() -> Iterator[None]:
    pynvml.nvmlInit()
    try:
        yield
    finally:
        pynvml.nvmlShutdown()


def has_nvidia_library() -> bool:
    """Whether NVIDIA's driver is installed, whatever its state."""
    try:
        with _nvml():
            return True
    except pynvml.NVMLError_LibraryNotFound:
        return False
    except pynvml.NVMLError:
        return True


def installed_gpus() -> tuple[Device, ...]:
    """GPUs of this machine in PCI order; empty without an NVIDIA driver."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ()
    try:  # a GPU that fails from here on is an error, not a reason to train on the CPU
        handles = map(pynvml.nvmlDeviceGetHandleByIndex, range(pynvml.nvmlDeviceGetCount()))
        return tuple(
            Device(str(i), str(pynvml.nvmlDeviceGetUUID(one)), str(pynvml.nvmlDeviceGetName(one)))
            for i, one in enumerate(handles)
        )
    finally:
        pynvml.nvmlShutdown()


def parse_ids(text: str) -> tuple[str, ...]:
    """Split `0,1`, `0 1` or UUIDs. Raises UserError for an empty, repeated or invalid id."""
    ids = tuple(text.replace(",", " ").split())
    if not ids:
        raise UserError("--gpus: no device given; write indices or UUIDs such as 0,1")
    repeated = sorted({one for one in ids if ids.count(one) > 1})
    if repeated:
        raise UserError(f"--gpus: {', '.join(repeated)} is listed twice; list each device once")
    for one in ids:
        if not (one.isdigit() or one.startswith(("GPU-", "MIG-")) or ids in ((CPU,), (MPS,))):
            raise UserError(
                f"--gpus: invalid device {one!r}; write indices or UUIDs such as 0,1, or one of "
                "cpu and mps"
            )
    return ids


def has_apple_gpu() -> bool:
    """Whether this is a Mac with an Apple chip, whose GPU torch calls `mps`."""
    return platform.system() == "Darwin" and platform.machine() == "arm64"


def find_devices(
    wanted: Sequence[str] | None,
    *,
    gpus: Sequence[Device] | None = None,
    environment: Mapping[str, str] | None = None,
) -> tuple[tuple[Device, ...], list[str]]:
    """Choose the devices of a run; returns them and notices for the user.

    wanted: ids given by the user; None for all. An inherited CUDA_VISIBLE_DEVICES is respected:
    indices then count within it, as for any CUDA program. Without an NVIDIA GPU, that of an Apple
    chip is used, else the CPU. Raises UserError for a GPU that does not exist.
    """
    if wanted == (CPU,):
        return (OTHERS[CPU],), []
    gpus = installed_gpus() if gpus is None else gpus
    environment = os.environ if environment is None else environment
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    allowed = list(gpus)
    if visible is not None:
        allowed = []
        by_key = {key: gpu for gpu in gpus for key in (gpu.id, gpu.visible)}
        for position, key in enumerate(part.strip() for part in visible.split(",")):
            if key.startswith("MIG-"):
                allowed.append(Device(str(position), key, "MIG instance"))
            elif key in by_key:
                allowed.append(replace(by_key[key], id=str(position)))
            else:
                break  # as in CUDA, an unknown entry hides all that follow
    if not allowed and has_apple_gpu():
        return (OTHERS[MPS],), []
    if wanted == (MPS,):
        raise UserError("--gpus: mps is the GPU of an Apple chip, which this machine has not")
    if not allowed:
        return (OTHERS[CPU],), ["No usable NVIDIA GPU found: training runs on the CPU."]
    if wanted is None:
        return tuple(allowed), []
    by_id = {name: device for device in allowed for name in (device.id, device.visible)}
    unknown = [one for one in wanted if one not in by_id]
    if unknown:
        present = ", ".join(f"{device.id} ({device.name})" for device in allowed)
        raise UserError(f"--gpus: {', '.join(unknown)} is not on this machine; found {present}")
    return tuple(by_id[one] for one in wanted), []


# --- their condition


@dataclass(frozen=True)
class Memory:
    """Memory of a GPU in bytes."""

    free: int
    total: int


def gpu_memory(device: Device) -> Memory:
    """Ask the driver. Raises NVMLError, also for a GPU that has fallen off the bus."""
    with _nvml():
        info = pynvml.nvmlDeviceGetMemoryInfo(pynvml.nvmlDeviceGetHandleByUUID(device.visible))
        return Memory(int(info.free), int(info.total))


def gpu_utilization(device: Device) -> int | None:
    """Percent of recent time in which the GPU was busy; None where it is unknown (MIG)."""
    try:
        with _nvml():
            handle: Any = pynvml.nvmlDeviceGetHandleByUUID(device.visible)
            return int(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)
    except pynvml.NVMLError:
        return None


class Verdict(Enum):
    """Whether a device can be used."""

    READY = "ready"
    WAIT = "wait"
    UNUSABLE = "unusable"


class DeviceGate(Protocol):
    """Checks a device before a task is started on it, unless this run uses it already."""

    def check(self, device: Device, now: float) -> tuple[Verdict, str]:
        """Return the verdict and, unless it is READY, the reason."""
        ...


@dataclass
class GpuGate:
    """Accepts a GPU that responds and has enough free memory; every CPU.

    patience: seconds to wait for memory that other processes use. memory: queries the driver;
    raises NVMLError if the GPU does not work.
    """

    patience: float = 0.0
    memory: Callable[[Device], Memory] = field(default_factory=lambda: gpu_memory)
    seconds_to_answer: float = SECONDS_TO_ANSWER
    _busy_since: dict[str, float] = field(default_factory=dict)
    _queried: dict[str, float] = field(default_factory=dict)

    def check(self, device: Device, now: float) -> tuple[Verdict, str]:
        if not device.is_gpu:
            return Verdict.READY, ""
        if (
            device.id in self._busy_since
            and now - self._queried[device.id] < SECONDS_BETWEEN_QUERIES
        ):
            return Verdict.WAIT, "checked a moment ago"
        self._queried[device.id] = now
        answers: list[Memory | str] = []

        def query() -> None:
            try:
                answers.append(self.memory(device))
            except pynvml.NVMLError as error:
                answers.append(f"the driver reports: {error}")

        # In its own thread, because a GPU that has fallen off the bus can block the query for ever.
        thread = threading.Thread(target=query, daemon=True)
        thread.start()
        thread.join(self.seconds_to_answer)
        memory = answers[0] if answers else f"no answer within {self.seconds_to_answer:.0f} s"
        if isinstance(memory, str):
            return Verdict.UNUSABLE, memory
        if memory.free >= MIN_FREE_SHARE * memory.total:
            self._busy_since.pop(device.id, None)
            return Verdict.READY, ""
        since = self._busy_since.setdefault(device.id, now)
        reason = (
            f"only {memory.free / GIB:.1f} of {memory.total / GIB:.1f} GiB of its memory are free; "
            "other processes use it"
        )
        if now - since < self.patience:
            return Verdict.WAIT, reason
        hint = "" if self.patience else " (--wait-for-gpu SECONDS waits for them)"
        return Verdict.UNUSABLE, reason + hint
