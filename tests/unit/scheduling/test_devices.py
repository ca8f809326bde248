from __future__ import annotations

import time

import pynvml
import pytest

from clip_pkg.base.errors import UserError
from clip_pkg.scheduling.devices import (
    GIB,
    Device,
    GpuGate,
    Memory,
    Verdict,
    child_environment,
    find_devices,
    parse_ids,
)
from support.fold_tasks import gpu

GPUS = [
    Device("0", "GPU-aaa", "A100"),
    Device("1", "GPU-bbb", "A100"),
    Device("2", "GPU-ccc", "H100"),
]


def ids(wanted: list[str] | None, visible: str | None = None) -> list[tuple[str, str]]:
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    devices, _ = find_devices(wanted, gpus=GPUS, environment=environment)
    return [(device.id, device.visible) for device in devices]


def test_indices_and_uuids_name_the_same_device() -> None:
    assert ids(["2", "GPU-aaa"]) == [("2", "GPU-ccc"), ("0", "GPU-aaa")]
    assert [one for one, _ in ids(None)] == ["0", "1", "2"]


def test_inherited_visibility_is_respected() -> None:
    assert ids(None, "2,0") == [("0", "GPU-ccc"), ("1", "GPU-aaa")]
    assert ids(["1"], "GPU-ccc,GPU-bbb") == [("1", "GPU-bbb")]
    assert ids(None, "MIG-x/1/0") == [("0", "MIG-x/1/0")]
    assert ids(None, "0,7,1") == [("0", "GPU-aaa")]
    with pytest.raises(UserError, match="2 is not on this machine"):
        ids(["2"], "0,1")


def test_without_gpus_the_cpu_is_used_and_it_is_said() -> None:
    for gpus, environment in (([], {}), (GPUS, {"CUDA_VISIBLE_DEVICES": ""})):
        devices, notices = find_devices(["6"], gpus=gpus, environment=environment)
        assert [(d.id, d.is_gpu, d.log_tag) for d in devices] == [("cpu", False, "cpu")]
        assert "CPU" in notices[0]


def test_a_child_sees_one_device_in_pci_order() -> None:
    devices, _ = find_devices(["1"], gpus=GPUS, environment={})
    child = child_environment(devices, {"PATH": "p", "CUDA_VISIBLE_DEVICES": "0,1,2"})
    assert child == {
        "OMP_WAIT_POLICY": "PASSIVE",
        "PATH": "p",
        "CUDA_VISIBLE_DEVICES": "GPU-bbb",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }


@pytest.mark.parametrize("text", ["", ",", "0,0", "gpu0", "-1", "0,x"])
def test_bad_lists_are_sentences(text: str) -> None:
    with pytest.raises(UserError, match="--gpus"):
        parse_ids(text)


def test_commas_and_spaces() -> None:
    assert parse_ids("0, 1 GPU-x") == ("0", "1", "GPU-x")


# --- their condition

FREE, BUSY = Memory(30 * GIB, 40 * GIB), Memory(2 * GIB, 40 * GIB)


def test_a_gpu_with_room_is_ready() -> None:
    assert GpuGate(memory=lambda device: FREE).check(gpu(0), 0.0) == (Verdict.READY, "")


def test_a_busy_gpu_is_unusable_at_once_unless_somebody_is_patient() -> None:
    verdict, reason = GpuGate(memory=lambda device: BUSY).check(gpu(0), 0.0)
    assert verdict is Verdict.UNUSABLE
    assert "2.0 of 40.0 GiB" in reason
    assert "--wait-for-gpu" in reason


def test_patience_ends() -> None:
    memory = [BUSY]
    gate = GpuGate(patience=60, memory=lambda device: memory[0])
    assert gate.check(gpu(0), 0.0)[0] is Verdict.WAIT
    assert gate.check(gpu(0), 30.0)[0] is Verdict.WAIT
    assert gate.check(gpu(0), 61.0)[0] is Verdict.UNUSABLE
    memory[0] = FREE
    gate = GpuGate(patience=60, memory=lambda device: memory[0])
    assert gate.check(gpu(0), 0.0)[0] is Verdict.READY


def test_the_driver_is_not_asked_all_the_time() -> None:
    asked: list[Device] = []

    def memory(device: Device) -> Memory:
        asked.append(device)
        return BUSY

    gate = GpuGate(patience=60, memory=memory)
    for tenths in range(100):
        gate.check(gpu(0), tenths / 10)
    assert len(asked) == 2


def test_a_lost_gpu_is_unusable_with_the_drivers_words() -> None:
    def lost(device: Device) -> Memory:
        raise pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)

    verdict, reason = GpuGate(memory=lost).check(gpu(0), 0.0)
    assert verdict is Verdict.UNUSABLE
    assert "the driver reports" in reason


def test_a_gpu_that_never_answers_is_unusable() -> None:
    def hangs(device: Device) -> Memory:
        time.sleep(30)
        return FREE

    gate = GpuGate(memory=hangs, seconds_to_answer=0.1)
    verdict, reason = gate.check(gpu(0), 0.0)
    assert verdict is Verdict.UNUSABLE
    assert "no answer" in reason


def test_the_cpu_is_always_ready() -> None:
    gate = GpuGate(memory=lambda device: BUSY)
    assert gate.check(Device("cpu", "", "CPU"), 0.0)[0] is Verdict.READY
