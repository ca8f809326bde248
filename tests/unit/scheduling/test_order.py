"""Order of tasks: longest first as far as is known, learning on the way."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_pkg.scheduling.job import Slot
from clip_pkg.scheduling.queue import Estimates, TaskQueue, seconds_left
from clip_pkg.scheduling.simulation import simulate
from clip_pkg.study.tasks import FoldTask
from support.fold_tasks import after, gpu, gpus, pretraining, task

SLOT = Slot(gpu(0))


def drained(queue: TaskQueue, slot: Slot = SLOT) -> list[str]:
    names = []
    while (one := queue.take(slot)) is not None:
        names.append(one.display_name)
    return names


def test_an_unknown_encoder_is_tried_first_with_its_shortest_task() -> None:
    tasks = [task("a", epochs=9), task("b", epochs=5), task("c", epochs=7, encoder="other")]
    queue = TaskQueue(tasks, Estimates(), [])
    assert drained(queue) == ["b fold 1", "c fold 1", "a fold 1"]


def test_estimates_come_from_the_config_then_the_encoder_then_everything() -> None:
    estimates = Estimates()
    known, kin, stranger = task("a"), task("b", epochs=2), task("c", epochs=3, encoder="other")
    assert not estimates.knows_anything
    estimates.learn(known, 10.0)
    estimates.learn(known, 20.0)
    assert estimates.knows_anything
    assert estimates.seconds(known) == 15.0
    assert estimates.seconds(kin) == pytest.approx(2 * 15.0)
    assert estimates.seconds(stranger) == pytest.approx(3 * 15.0)
    estimates.learn(stranger, 9.0)
    assert estimates.seconds(task("d", encoder="other")) == pytest.approx(3.0)


def test_the_order_follows_what_was_learned() -> None:
    estimates = Estimates()
    for name, seconds in (("slow", 50.0), ("fast", 5.0)):
        estimates.learn(task(name, encoder=name), seconds)
    tasks = [task("x", encoder="fast"), task("y", encoder="slow"), task("z", encoder="fast")]
    queue = TaskQueue(tasks, estimates, [])
    queue.learn(task("fast", encoder="fast"), 500.0)
    queue.learn(task("fast", encoder="fast"), 500.0)
    assert drained(queue) == ["x fold 1", "z fold 1", "y fold 1"]


def test_equals_keep_their_order_and_a_task_that_comes_back_its_place() -> None:
    tasks = [task("a", fold, n_folds=5) for fold in range(1, 6)]
    queue = TaskQueue(tasks, Estimates(), [])
    first = queue.take(SLOT)
    assert first == tasks[0]
    queue.take(SLOT)
    queue.add(first)
    assert drained(queue) == [f"a fold {fold}" for fold in (1, 3, 4, 5)]


def test_pins() -> None:
    tasks = [task("free"), task("pinned", gpu_id=1, epochs=3), task("elsewhere", gpu_id=7)]
    queue = TaskQueue(tasks, Estimates(), ["0", "1"])
    assert drained(queue, Slot(gpu(0))) == ["free fold 1", "elsewhere fold 1"]
    assert len(queue) == 1
    queue.unlist("1")
    assert drained(queue, Slot(gpu(0))) == ["pinned fold 1"]


@given(
    st.lists(
        st.tuples(st.sampled_from("abcd"), st.integers(1, 9), st.sampled_from([None, 0, 1])),
        max_size=12,
    ),
    st.data(),
)
def test_every_task_is_taken_exactly_once(
    kinds: list[tuple[str, int, int | None]], data: st.DataObject
) -> None:
    tasks = [
        task(f"{encoder}{number}", epochs=epochs, gpu_id=pin, encoder=encoder)
        for number, (encoder, epochs, pin) in enumerate(kinds)
    ]
    queue = TaskQueue(tasks, Estimates(), ["0", "1"])
    taken: list[FoldTask] = []
    slots = [Slot(gpu(0)), Slot(gpu(1))]
    while queue:
        slot = data.draw(st.sampled_from(slots))
        expected = queue.peek(slot)
        one = queue.take(slot)
        assert one == expected
        if one is not None:
            assert one.config.gpu_id in (None, int(slot.device.id))
            taken.append(one)
            queue.learn(one, data.draw(st.floats(0.1, 100)))
    assert sorted(one.display_name for one in taken) == sorted(one.display_name for one in tasks)


def test_time_left_counts_what_is_done_of_running_folds() -> None:
    estimates = Estimates()
    estimates.learn(task("a"), 100.0)
    tasks = [task("a", 1), task("a", 2)]
    assert seconds_left(tasks, {"a fold 1": 0.75}, estimates, 2) == pytest.approx(62.5)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 5))
def test_the_makespan_is_near_what_no_order_could_beat(seed: int, folds: int) -> None:
    draw = random.Random(seed)
    speeds = {f"encoder{number}": draw.lognormvariate(2, 1) for number in range(6)}
    tasks, seconds = [], {}
    for number in range(100 // folds):
        encoder, epochs = draw.choice(list(speeds)), draw.choice([20, 50, 100])
        for fold in range(1, folds + 1):
            one = task(f"c{number}", fold, epochs=epochs, encoder=encoder, n_folds=folds)
            tasks.append(one)
            seconds[one.display_name] = speeds[encoder] * epochs * draw.uniform(0.7, 1.1)
    recorded = Estimates()
    for one in tasks:
        recorded.learn(one, seconds[one.display_name])
    known = simulate(tasks, gpus(4), lambda one: seconds[one.display_name], estimates=recorded)
    assert known.makespan <= 1.05 * known.lower_bound
    # Of the first run nothing is known beforehand; then no greedy order is worse than this.
    first = simulate(tasks, gpus(4), lambda one: seconds[one.display_name])
    assert first.makespan <= first.work / 4 + (1 - 1 / 4) * max(seconds.values()) + 1e-6
    assert first.work == pytest.approx(sum(seconds.values()))


def test_simulated_wide_tasks_take_their_devices_together() -> None:
    tasks = [task("wide", gpus=2), task("narrow", 1), task("narrow", 2)]
    simulation = simulate(tasks, gpus(2), lambda one: 10.0)
    assert simulation.makespan == 20.0
    assert simulation.utilisation == 1.0


def test_pretrainings_come_first_and_what_starts_from_them_waits() -> None:
    before = pretraining("before", epochs=2)
    tasks = [task("long", epochs=50), after(before, "a", 1), before, after(before, "a", 2)]
    queue = TaskQueue(tasks, Estimates(), [])
    assert len(queue) == 4
    assert [one.display_name for one in (queue.take(SLOT), queue.take(SLOT)) if one] == [
        "before pre-training",
        "long fold 1",
    ]
    assert queue.peek(SLOT) is None
    assert len(queue) == 2
    for held in queue.withdraw(before):
        queue.add(held)
    assert drained(queue) == ["a fold 1", "a fold 2"]
    assert len(queue) == 0


def test_a_pretraining_that_is_done_holds_nothing_up() -> None:
    before = pretraining("before")
    queue = TaskQueue([after(before, "a")], Estimates(), [])
    assert drained(queue) == ["a fold 1"]


def test_what_waits_can_be_withdrawn_and_cleared_in_the_given_order() -> None:
    one, two = pretraining("one"), pretraining("two")
    tasks = [after(one, "a"), after(two, "b"), task("c"), one, two, after(one, "a", 2)]
    queue = TaskQueue(tasks, Estimates(), [])
    assert [held.display_name for held in queue.withdraw(one)] == ["a fold 1", "a fold 2"]
    assert len(queue) == 4
    assert [left.display_name for left in queue.clear()] == [
        "b fold 1",
        "c fold 1",
        "one pre-training",
        "two pre-training",
    ]
    assert len(queue) == 0


def test_a_pretraining_tells_nothing_about_the_speed_of_folds() -> None:
    before = pretraining("before")
    estimates = Estimates()
    estimates.learn(before, 1000.0)
    assert not estimates.knows(after(before, "a"))
    assert estimates.knows(pretraining("another"))
