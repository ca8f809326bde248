"""Devices are asked before they are leased."""

from __future__ import annotations

import time

import pynvml
import pytest

from clip_pkg.scheduling.devices import Device
from clip_pkg.scheduling.health import GIB, GpuGate, Memory, OpenGate, Verdict
from support.fold_tasks import gpu

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


@pytest.mark.parametrize("gate", [OpenGate(), GpuGate(memory=lambda device: BUSY)])
def test_the_cpu_is_always_ready(gate: OpenGate | GpuGate) -> None:
    assert gate.check(Device("cpu", "", "CPU"), 0.0)[0] is Verdict.READY
