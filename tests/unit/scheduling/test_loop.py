"""The loop against fake devices: order, pinning, failures, retries, sharing, stopping."""

from __future__ import annotations

import itertools
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clip_pkg.scheduling.devices import Device, Verdict
from clip_pkg.scheduling.job import Assignment, JobState, SlotPool
from clip_pkg.scheduling.ledger import Ledger, read_ledger
from clip_pkg.scheduling.loop import FAILURES_OF_A_BAD_DEVICE, Loop, Observer, Outcome
from clip_pkg.scheduling.queue import Estimates, TaskQueue, pins
from clip_pkg.scheduling.resources import queue_places
from clip_pkg.scheduling.retries import FailurePolicy
from clip_pkg.study.tasks import FailureKind, FoldFailure, FoldTask
from support.fold_tasks import after, gpus, pretraining, task


class FakeTime:
    """A second per look."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> float:
        return self.seconds

    def wait(self) -> None:
        self.seconds += 1


@dataclass
class FakeJob:
    assignment: Assignment
    polls: int
    kind: FailureKind | None = None
    ended: JobState | None = None
    process: str = "pid 1"

    @property
    def failure(self) -> FoldFailure | None:
        one = self.assignment.task
        return self.kind and FoldFailure(one.identity, one.fold, self.kind, "it broke")

    def poll(self) -> JobState:
        if self.ended is None:
            self.polls -= 1
            if self.polls <= 0:
                self.ended = JobState.DONE if self.kind is None else JobState.FAILED
        return self.ended or JobState.RUNNING

    def stop(self) -> None:
        self.ended = JobState.INTERRUPTED

    def kill(self) -> None:
        self.ended = JobState.FAILED


@dataclass
class FakeExecutor:
    """`failing`: name → kinds of failure of the first attempts, one after another."""

    failing: dict[str, list[FailureKind]] = field(default_factory=dict)
    bad_devices: frozenset[str] = frozenset()
    polls: int = 2
    submitted: list[Assignment] = field(default_factory=list)
    jobs: list[FakeJob] = field(default_factory=list)

    def submit(self, assignments: Sequence[Assignment]) -> list[FakeJob]:
        return [self.start(one) for one in assignments]

    def start(self, assignment: Assignment) -> FakeJob:
        taken = {
            slot.name for job in self.jobs if job.ended is None for slot in job.assignment.slots
        }
        assert not taken & {slot.name for slot in assignment.slots}, "two tasks in one slot"
        kinds = self.failing.get(assignment.task.name, [])
        kind = kinds[assignment.attempt - 1] if assignment.attempt <= len(kinds) else None
        if assignment.device.id in self.bad_devices:
            kind = "crash"
        job = FakeJob(assignment, self.polls, kind)
        self.submitted.append(assignment)
        self.jobs.append(job)
        return job

    def close(self) -> None:
        pass


@dataclass
class Notes(Observer):
    """Remembers the events of a run."""

    ended_with: dict[str, JobState] = field(default_factory=dict)
    failures: dict[str, FoldFailure] = field(default_factory=dict)
    retries: list[str] = field(default_factory=list)
    aside: dict[str, str] = field(default_factory=dict)

    def ended(
        self, assignment: Assignment, state: JobState, failure: FoldFailure | None = None
    ) -> None:
        assert assignment.task.display_name not in self.ended_with, "ended twice"
        self.ended_with[assignment.task.display_name] = state
        if failure is not None:
            self.failures[assignment.task.display_name] = failure

    def retrying(self, assignment: Assignment, failure: FoldFailure, reason: str) -> None:
        self.retries.append(f"{assignment.task.display_name}: {failure.kind}, {reason}")

    def set_aside(self, device: Device, reason: str) -> None:
        self.aside[device.id] = reason


def run(
    tmp_path: Path,
    tasks: Sequence[FoldTask],
    devices: Sequence[Device],
    executor: FakeExecutor | None = None,
    notes: Notes | None = None,
    jobs: int = 1,
    ledger: Ledger | None = None,
    **settings: Any,
) -> tuple[FakeExecutor, Notes, Outcome]:
    executor, notes = executor or FakeExecutor(), notes or Notes()
    loop = Loop(
        pool=SlotPool(devices, jobs),
        queue=TaskQueue(tasks, Estimates(), pins(tasks, devices)),
        executor=executor,
        ledger=ledger or Ledger(tmp_path / "ledger.jsonl"),
        observer=notes,
        log_file=lambda one, slot: tmp_path / f"{one.name}_{slot.name}.log",
        clock=FakeTime(),
        cores=8,
        **{
            "stop_requested": lambda: False,
            "last_progress": lambda one: None,
            **settings,
        },
    )
    return executor, notes, loop.run()


def names(assignments: Sequence[Assignment]) -> list[str]:
    return [one.task.display_name for one in assignments]


def test_every_task_runs_once_in_order_over_two_devices(tmp_path: Path) -> None:
    tasks = [task(name, fold) for name in "abc" for fold in (1, 2)]
    executor, notes, outcome = run(tmp_path, tasks, gpus(2))
    assert [one.task for one in executor.submitted] == tasks
    assert sorted(t.display_name for t in outcome[JobState.DONE]) == sorted(
        t.display_name for t in tasks
    )
    assert {one.device.id for one in executor.submitted} == {"0", "1"}
    assert set(notes.ended_with.values()) == {JobState.DONE}


def test_an_attempt_that_resumed_teaches_what_a_whole_training_takes(tmp_path: Path) -> None:
    tasks = [task(name, fold, encoder=name) for name in ("quick", "resumed") for fold in (1, 2)]

    def expected(one: FoldTask, seconds: float) -> float:
        return 100 * seconds if one.name == "resumed" else seconds

    executor, _, _ = run(tmp_path, tasks, gpus(1), expected_seconds=expected)
    assert names(executor.submitted)[2:] == ["resumed fold 2", "quick fold 2"]


def test_a_pinned_config_waits_for_its_device_and_others_pass_it(tmp_path: Path) -> None:
    tasks = [
        task("pinned", 1, gpu_id=1),
        task("pinned", 2, gpu_id=1),
        task("free"),
        task("free", 2),
    ]
    executor, _, _ = run(tmp_path, tasks, gpus(2))
    where = {(one.task.name, one.device.id) for one in executor.submitted}
    assert ("pinned", "0") not in where
    assert executor.submitted[0].task.name == "free"
    assert executor.submitted[1].task.name == "pinned"


def test_one_gpu_that_every_config_names_is_no_pin_if_the_run_lists_more(tmp_path: Path) -> None:
    tasks = [task(name, gpu_id=0) for name in "abcd"]
    executor, _, _ = run(tmp_path, tasks, gpus(4))
    assert [one.device.id for one in executor.submitted] == ["0", "1", "2", "3"]
    executor, _, _ = run(tmp_path, [*tasks, task("e", gpu_id=1)], gpus(4))
    assert {one.device.id for one in executor.submitted} == {"0", "1"}


def test_a_failing_config_stops_no_other(tmp_path: Path) -> None:
    executor = FakeExecutor({"b": ["diverged"]})
    _, notes, outcome = run(tmp_path, [task(name) for name in "abc"], gpus(1), executor)
    assert [one.name for one in outcome[JobState.FAILED]] == ["b"]
    assert [one.name for one in outcome[JobState.DONE]] == ["a", "c"]
    assert notes.failures["b fold 1"].kind == "diverged"
    assert notes.retries == []  # the same numbers would come out again


def test_a_crash_is_tried_again_a_bounded_number_of_times(tmp_path: Path) -> None:
    executor = FakeExecutor({"once": ["crash"], "always": ["crash"] * 9})
    _, notes, outcome = run(tmp_path, [task("once"), task("always")], gpus(1), executor)
    assert [one.name for one in outcome[JobState.DONE]] == ["once"]
    assert [one.name for one in outcome[JobState.FAILED]] == ["always"]
    assert [one.attempt for one in executor.submitted if one.task.name == "always"] == [1, 2, 3]
    assert len(notes.retries) == 3
    assert "attempt 2 of 3" in notes.retries[0]
    record = read_ledger(tmp_path / "ledger.jsonl")
    assert record.tasks["once", 1].state == "done"
    assert record.tasks["once", 1].attempts == 2
    assert record.tasks["always", 1].state == "failed"
    assert record.tasks["always", 1].reason == "it broke"


def test_damaged_files_are_restored_a_bounded_number_of_times_and_cost_no_attempt(
    tmp_path: Path,
) -> None:
    executor = FakeExecutor(
        {"few": ["damaged file"] * 3 + ["crash"] * 2, "many": ["damaged file"] * 9}
    )
    restored: list[str] = []
    tasks = [task("few"), task("many")]
    _, _, outcome = run(
        tmp_path, tasks, gpus(1), executor, restore=lambda one: restored.append(one.name)
    )
    assert [one.name for one in outcome[JobState.DONE]] == ["few"]
    assert [one.name for one in outcome[JobState.FAILED]] == ["many"]
    assert sorted(restored) == ["few"] * 6 + ["many"] * 4


def test_out_of_memory_is_tried_again_in_smaller_parts_of_the_same_batch(tmp_path: Path) -> None:
    executor = FakeExecutor({"big": ["out of memory"] * 2})
    run(tmp_path, [task("big")], gpus(1), executor)
    assert [one.task.micro_batch_size for one in executor.submitted] == [None, 16, 8]
    assert {one.task.config.batch_size for one in executor.submitted} == {32}


def test_a_full_disk_is_waited_for_while_others_work(tmp_path: Path) -> None:
    executor = FakeExecutor({"full": ["disk full"]})
    run(tmp_path, [task("full"), task("b"), task("c")], gpus(1), executor)
    assert [one.task.name for one in executor.submitted] == ["full", "b", "c", "full"]


def test_fail_fast_stops_the_rest(tmp_path: Path) -> None:
    executor = FakeExecutor({"bad": ["user error"]}, polls=3)
    tasks = [task("bad"), *(task(name) for name in "abc")]
    _, _, outcome = run(tmp_path, tasks, gpus(2), executor, fail_fast=True)
    assert [one.name for one in outcome[JobState.FAILED]] == ["bad"]
    assert len(executor.submitted) == 2
    assert len(outcome[JobState.DONE]) + len(outcome[JobState.INTERRUPTED]) == 1


def test_a_task_that_does_not_move_is_killed_and_tried_again(tmp_path: Path) -> None:
    executor = FakeExecutor(polls=50)
    _, notes, outcome = run(
        tmp_path, [task("a")], gpus(1), executor, stall_timeout=10, policy=FailurePolicy(1)
    )
    assert len(executor.submitted) == 2
    assert notes.failures["a fold 1"].kind == "hung"
    assert "stall-timeout" in notes.failures["a fold 1"].reason
    assert outcome[JobState.FAILED]


@pytest.mark.parametrize("offset", [-3600, 0, 3600])
def test_a_node_whose_clock_is_wrong_is_not_taken_for_one_that_hangs(
    tmp_path: Path, offset: float
) -> None:
    steps = itertools.count(time.time() + offset)
    _, _, outcome = run(
        tmp_path,
        [task("a")],
        gpus(1),
        FakeExecutor(polls=50),
        stall_timeout=10,
        last_progress=lambda one: next(steps),
    )
    assert outcome[JobState.DONE]
    still = time.time() + offset
    _, notes, _ = run(
        tmp_path,
        [task("a")],
        gpus(1),
        FakeExecutor(polls=50),
        stall_timeout=10,
        policy=FailurePolicy(0),
        last_progress=lambda one: still,
    )
    assert notes.failures["a fold 1"].kind == "hung"


def test_several_folds_share_a_device_and_its_cores(tmp_path: Path) -> None:
    tasks = [task(name) for name in "abcd"]
    executor, _, outcome = run(tmp_path, tasks, gpus(2), jobs=2)
    assert sorted(slot.name for one in executor.submitted for slot in one.slots) == [
        "0.0",
        "0.1",
        "1.0",
        "1.1",
    ]
    assert [one.device.id for one in executor.submitted[:2]] == ["0", "1"]  # spread out first
    assert {one.threads for one in executor.submitted} == {2}
    assert len(outcome[JobState.DONE]) == 4


def test_a_device_gets_more_slots_once_the_first_fold_was_measured(tmp_path: Path) -> None:
    tasks = [task("a", fold) for fold in range(1, 6)]
    executor, _, _ = run(tmp_path, tasks, gpus(1), jobs_that_fit=lambda device, one: 3)
    assert [one.slots[0].name for one in executor.submitted[:4]] == ["0.0", "0.0", "0.1", "0.2"]


def test_a_task_for_two_gpus_gets_two_and_is_not_starved(tmp_path: Path) -> None:
    tasks = [*(task("small", fold) for fold in range(1, 6)), task("wide", gpus=2, epochs=50)]
    executor, _, outcome = run(tmp_path, tasks, gpus(2))
    wide = next(one for one in executor.submitted if one.task.name == "wide")
    assert sorted(slot.device.id for slot in wide.slots) == ["0", "1"]
    assert names(executor.submitted).index("wide fold 1") <= 2
    assert len(outcome[JobState.DONE]) == 6


class Gate:
    """Answers from a list per device; the last answer stays."""

    def __init__(self, **answers: list[Verdict]) -> None:
        self.answers = {name.removeprefix("gpu"): list(one) for name, one in answers.items()}

    def check(self, device: Device, now: float) -> tuple[Verdict, str]:
        answers = self.answers.get(device.id, [Verdict.READY])
        return (answers.pop(0) if len(answers) > 1 else answers[0]), "reason"


def test_a_bad_gpu_is_set_aside_while_work_moves_on(tmp_path: Path) -> None:
    gate = Gate(gpu0=[Verdict.UNUSABLE])
    tasks = [*(task(name) for name in "ab"), task("pinned", gpu_id=0)]
    executor, notes, outcome = run(tmp_path, tasks, gpus(2), gate=gate)
    assert {one.device.id for one in executor.submitted} == {"1"}
    assert notes.aside == {"0": "reason"}
    assert len(outcome[JobState.DONE]) == 3  # the pin is to a device that is not used any more
    assert read_ledger(tmp_path / "ledger.jsonl").set_aside == {"0": "reason"}


def test_a_busy_gpu_is_used_once_it_is_free(tmp_path: Path) -> None:
    gate = Gate(gpu0=[Verdict.WAIT] * 5 + [Verdict.READY])
    executor, notes, outcome = run(tmp_path, [task("a")], gpus(1), gate=gate)
    assert [one.device.id for one in executor.submitted] == ["0"]
    assert notes.aside == {}
    assert outcome[JobState.DONE]


def test_without_a_usable_device_the_rest_is_left_for_the_next_run(tmp_path: Path) -> None:
    gate = Gate(gpu0=[Verdict.UNUSABLE])
    executor, _, outcome = run(tmp_path, [task("a"), task("b")], gpus(1), gate=gate)
    assert executor.submitted == []
    assert [one.name for one in outcome.stranded] == ["a", "b"]


def test_a_device_on_which_everything_fails_is_set_aside(tmp_path: Path) -> None:
    executor = FakeExecutor(bad_devices=frozenset({"1"}))
    tasks = [task(name) for name in "abcdefgh"]
    _, notes, outcome = run(
        tmp_path, tasks, gpus(2), executor, policy=FailurePolicy(retries=FAILURES_OF_A_BAD_DEVICE)
    )
    assert list(notes.aside) == ["1"]
    assert len(outcome[JobState.DONE]) == len(tasks)


def test_a_stop_request_ends_what_runs_and_starts_nothing_new(tmp_path: Path) -> None:
    executor = FakeExecutor()
    _, _, outcome = run(
        tmp_path,
        [task(name) for name in "abc"],
        gpus(1),
        executor,
        stop_requested=lambda: bool(executor.submitted),
    )
    assert [one.name for one in outcome[JobState.INTERRUPTED]] == ["a"]
    assert len(executor.submitted) == 1
    record = read_ledger(tmp_path / "ledger.jsonl")
    assert [record.tasks[name, 1].state for name in "abc"] == ["interrupted", "waiting", "waiting"]


@pytest.mark.parametrize("devices", [1, 3])
@settings(max_examples=50, deadline=None)
@given(
    kinds=st.lists(
        st.tuples(
            st.lists(st.sampled_from(["crash", "diverged", "out of memory", "error"]), max_size=4),
            st.integers(1, 4),
            st.sampled_from([None, 0, 1, 9]),
            st.integers(1, 2),
        ),
        min_size=1,
        max_size=6,
    ),
    jobs=st.integers(1, 3),
)
def test_no_task_is_lost_or_ends_twice(
    kinds: list[tuple[list[Any], int, int | None, int]],
    jobs: int,
    devices: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    tasks, failing = [], {}
    for number, (failures, folds, pin, wide) in enumerate(kinds):
        failing[f"c{number}"] = failures
        width = min(wide, devices)
        tasks += [task(f"c{number}", fold, pin, width) for fold in range(1, folds + 1)]
    folder = tmp_path_factory.mktemp("run")
    executor = FakeExecutor(failing)
    _, notes, outcome = run(folder, tasks, gpus(devices), executor, jobs=jobs, ledger=Ledger(None))
    ended = [*outcome[JobState.DONE], *outcome[JobState.FAILED]]
    assert sorted(one.display_name for one in (*ended, *outcome.stranded)) == sorted(
        one.display_name for one in tasks
    )
    assert set(notes.ended_with) == {one.display_name for one in ended}
    # Only devices on which everything failed can leave too few for a task.
    assert not outcome.stranded or len(notes.aside) > devices - 2


def test_a_place_in_a_cluster_is_one_job_of_any_size_and_never_set_aside(tmp_path: Path) -> None:
    attempts = FAILURES_OF_A_BAD_DEVICE + 2
    executor = FakeExecutor({"bad": ["crash"] * attempts})
    tasks = [task("wide", gpus=4), *(task("bad", fold) for fold in range(1, attempts))]
    _, notes, outcome = run(
        tmp_path,
        tasks,
        queue_places("slurm", 2),
        executor,
        slots_for_task=lambda one: 1,
        policy=FailurePolicy(attempts),
    )
    assert notes.aside == {}
    assert {len(one.slots) for one in executor.submitted} == {1}
    assert len(outcome[JobState.DONE]) == len(tasks)


class RequeuedJob(FakeJob):
    """Waits, runs, waits again for longer than a fold may stand still, runs, and is done."""

    states = iter([*"qqrr", *"q" * 20, *"rr"])

    def poll(self) -> JobState:
        state = next(self.states, "d")
        return {"q": JobState.QUEUED, "r": JobState.RUNNING, "d": JobState.DONE}[state]


class OneJob(FakeExecutor):
    def start(self, assignment: Assignment) -> FakeJob:
        return RequeuedJob(assignment, 0)


def test_a_job_that_waits_again_is_not_running(tmp_path: Path) -> None:
    class Watcher(Notes):
        running: ClassVar[list[int]] = []

        def tick(self, running: Sequence[Assignment]) -> None:
            self.running.append(len(running))

    watcher = Watcher()
    _, _, outcome = run(
        tmp_path, [task("a")], queue_places("slurm", 1), OneJob(), watcher, stall_timeout=10
    )
    assert len(outcome[JobState.DONE]) == 1
    assert sum(watcher.running) == 4
    lines = (tmp_path / "ledger.jsonl").read_text().splitlines()
    events = [json.loads(line)["event"] for line in lines]
    assert events == ["queued", "running", "queued", "running", "done"]


def test_one_pretraining_serves_every_fold_of_every_config(tmp_path: Path) -> None:
    before = pretraining("before")
    folds = [after(before, name, fold, n_folds=5) for name in "abc" for fold in range(1, 6)]
    ledger = Ledger(tmp_path / "ledger.jsonl")
    executor, _, outcome = run(tmp_path, [*folds, before], gpus(4), ledger=ledger)
    assert executor.submitted[0].task == before
    assert len(outcome[JobState.DONE]) == 16
    events = [json.loads(line) for line in (tmp_path / "ledger.jsonl").read_text().splitlines()]
    done = [(event["config"], event["fold"]) for event in events if event["event"] == "done"]
    assert done[0] == ("before", 0)
    assert sorted(done) == sorted({(one.name, one.fold) for one in (before, *folds)})


def test_what_starts_from_a_pretraining_that_failed_is_not_begun(tmp_path: Path) -> None:
    before = pretraining("before")
    folds = [after(before, "a", fold) for fold in (1, 2)]
    executor = FakeExecutor(failing={"before": ["diverged", "diverged", "diverged", "diverged"]})
    ledger = Ledger(tmp_path / "ledger.jsonl")
    executor, _, outcome = run(
        tmp_path, [before, *folds, task("b")], gpus(2), executor, ledger=ledger
    )
    assert {one.task.name for one in executor.submitted} == {"before", "b"}
    assert outcome.blocked == folds
    assert [one.name for one in outcome[JobState.FAILED]] == ["before"]
    assert [one.name for one in outcome[JobState.DONE]] == ["b"]
    record = read_ledger(tmp_path / "ledger.jsonl").tasks["a", 1]
    assert record.reason == "before pre-training is not done"


def test_a_pretraining_that_is_tried_again_lets_its_folds_wait(tmp_path: Path) -> None:
    before = pretraining("before")
    executor = FakeExecutor(failing={"before": ["crash"]})
    executor, _, outcome = run(tmp_path, [before, after(before, "a")], gpus(2), executor)
    assert [one.task.name for one in executor.submitted] == ["before", "before", "a"]
    assert not outcome.blocked
