"""Which devices there are, found without torch.

GPUs are listed in PCI order, the order of nvidia-smi; CUDA's own default order can differ, which
is why every child also gets CUDA_DEVICE_ORDER=PCI_BUS_ID. A child sees exactly one device.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pynvml

from clip_pkg.base.errors import UserError

MPS_FOLDER = "/tmp/nvidia-mps"  # noqa: S108 - NVIDIA's default


@dataclass(frozen=True, order=True)
class Device:
    """A GPU, a part of one, the CPU, or a place in a cluster.

    id: what the user calls it and log files are named after (`0`, a UUID), or `cpu`.
    visible: value of CUDA_VISIBLE_DEVICES for the child; empty for the CPU. cluster: which kind of
    cluster the place is in, empty on this machine.
    """

    id: str
    visible: str
    name: str
    cluster: str = ""

    @property
    def is_gpu(self) -> bool:
        """Whether it is a GPU."""
        return bool(self.visible)

    @property
    def torch_name(self) -> str:
        """What a child that sees this device alone calls it."""
        return "cuda:0" if self.is_gpu else "cpu"

    @property
    def log_tag(self) -> str:
        """Part of the log file's name: `gpu0`, `cpu`, or the kind of cluster."""
        return self.cluster or (f"gpu{self.id}" if self.is_gpu else "cpu")

    def environment(self, inherited: Mapping[str, str]) -> dict[str, str]:
        """Environment of a child that may use this device and no other."""
        return joint_environment([self], inherited)


def joint_environment(devices: Sequence[Device], inherited: Mapping[str, str]) -> dict[str, str]:
    """Environment of a child that may use these devices and no other."""
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


def usable_cores() -> int:
    """CPU cores that this process may use: a cluster or a container can allow fewer than exist."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@dataclass(frozen=True)
class Gpu:
    """A GPU as the driver reports it."""

    index: int
    uuid: str
    name: str


def has_nvidia_library() -> bool:
    """Whether NVIDIA's driver is installed at all, whatever state it is in."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError_LibraryNotFound:
        return False
    except pynvml.NVMLError:
        return True
    pynvml.nvmlShutdown()
    return True


def installed_gpus() -> tuple[Gpu, ...]:
    """GPUs of this machine in PCI order; empty where there is no NVIDIA driver."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ()
    try:
        handles = [
            (index, pynvml.nvmlDeviceGetHandleByIndex(index))
            for index in range(pynvml.nvmlDeviceGetCount())
        ]
        return tuple(
            Gpu(index, str(pynvml.nvmlDeviceGetUUID(handle)), str(pynvml.nvmlDeviceGetName(handle)))
            for index, handle in handles
        )
    finally:
        pynvml.nvmlShutdown()


def parse_ids(text: str) -> tuple[str, ...]:
    """Split `0,1` or `0 1` or UUIDs; raises UserError for an empty or repeated id."""
    ids = tuple(text.replace(",", " ").split())
    if not ids:
        raise UserError("--gpus: names no device; write indices or UUIDs such as 0,1")
    repeated = sorted({one for one in ids if ids.count(one) > 1})
    if repeated:
        raise UserError(f"--gpus: {', '.join(repeated)} is listed twice; list each device once")
    for one in ids:
        if not (one.isdigit() or one.startswith(("GPU-", "MIG-"))):
            raise UserError(f"--gpus: {one!r} is no GPU; write indices or UUIDs such as 0,1")
    return ids


def find_devices(
    wanted: Sequence[str] | None,
    *,
    gpus: Sequence[Gpu] | None = None,
    environment: Mapping[str, str] | None = None,
) -> tuple[tuple[Device, ...], list[str]]:
    """Choose the devices of a run; also says what had to be decided.

    `wanted` are ids from the user; None takes all. An inherited CUDA_VISIBLE_DEVICES (a cluster's
    allocation) is respected: indices then count within it, as they do for CUDA programs. Without
    any GPU the CPU is used. Raises UserError for a GPU that does not exist.
    """
    gpus = installed_gpus() if gpus is None else gpus
    environment = os.environ if environment is None else environment
    allowed = _allowed(gpus, environment.get("CUDA_VISIBLE_DEVICES"))
    if not allowed:
        return (Device("cpu", "", "CPU"),), [
            "No usable NVIDIA GPU found: training runs on the CPU."
        ]
    if wanted is None:
        return tuple(allowed), []
    by_id = {device.id: device for device in allowed} | {
        device.visible: device for device in allowed
    }
    unknown = [one for one in wanted if one not in by_id]
    if unknown:
        present = ", ".join(f"{device.id} ({device.name})" for device in allowed)
        raise UserError(f"--gpus: {', '.join(unknown)} is not on this machine; there is {present}")
    return tuple(by_id[one] for one in wanted), []


def _allowed(gpus: Sequence[Gpu], visible: str | None) -> list[Device]:
    by_key = {str(gpu.index): gpu for gpu in gpus} | {gpu.uuid: gpu for gpu in gpus}
    if visible is None:
        return [Device(str(gpu.index), gpu.uuid, gpu.name) for gpu in gpus]
    devices: list[Device] = []
    for position, key in enumerate(part.strip() for part in visible.split(",")):
        if key.startswith("MIG-"):
            devices.append(Device(str(position), key, "MIG instance"))
        elif key in by_key:
            devices.append(Device(str(position), by_key[key].uuid, by_key[key].name))
        else:
            break  # as CUDA does: an unknown entry hides all that follow
    return devices
