"""Slots are leased once, and shared devices fill evenly."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from clip_pkg.scheduling.job import SlotPool
from support.fold_tasks import gpu, gpus


def test_first_slots_of_all_devices_come_first() -> None:
    pool = SlotPool(gpus(2), jobs_per_device=2)
    assert [slot.name for slot in pool.free()] == ["0.0", "1.0", "0.1", "1.1"]
    taken = pool.free()[:3]
    pool.lease(taken)
    assert not pool.is_idle(gpu(0))
    pool.release([taken[2], taken[0]])
    assert [slot.name for slot in pool.free()] == ["0.0", "0.1", "1.1"]


def test_a_device_that_is_set_aside_keeps_what_runs_and_gets_nothing_more() -> None:
    pool = SlotPool(gpus(2))
    first, second = pool.free()
    pool.lease([first])
    pool.put_aside(gpu(0), "broken")
    assert pool.free() == [second]
    assert (pool.size, pool.usable_devices) == (2, 1)
    pool.release([first])
    assert pool.free() == [second]
    pool.grow(gpu(0), 4)
    assert pool.free() == [second]
    assert pool.size == 1


@given(st.lists(st.integers(0, 5), max_size=30), st.integers(1, 3), st.integers(1, 3))
def test_no_slot_is_lost_or_doubled(steps: list[int], devices: int, jobs: int) -> None:
    pool = SlotPool(gpus(devices), jobs)
    held = []
    for step in steps:
        if step % 2 and held:
            pool.release([held.pop(step % len(held))])
        elif pool.free():
            slot = pool.free()[step % len(pool.free())]
            pool.lease([slot])
            held.append(slot)
        if step == 5:
            pool.grow(gpu(0), jobs + 1)
        names = [slot.name for slot in (*pool.free(), *held)]
        assert len(set(names)) == len(names) == pool.size
