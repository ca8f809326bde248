"""The loop against fake devices: order, pinning, failures, stopping."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from clip_pkg.planning.tasks import FoldTask, Identity
from clip_pkg.scheduling.devices import Device
from clip_pkg.scheduling.job import Assignment, JobState
from clip_pkg.scheduling.ledger import Ledger
from clip_pkg.scheduling.loop import Loop

IDENTITY = Identity("c", "d", "s", "t", "k")


def task(name: str, fold: int = 1, gpu_id: int | None = None) -> FoldTask:
    config = {"name": name, "gpu_id": gpu_id, "epochs": 1}
    return FoldTask(IDENTITY, config, fold, 2, "run", "m", "f", "t", "p", "c")


@dataclass
class FakeJob:
    assignment: Assignment
    polls: int
    end: JobState
    stopped: bool = False

    def poll(self) -> JobState:
        if self.stopped:
            return JobState.INTERRUPTED
        self.polls -= 1
        return JobState.RUNNING if self.polls > 0 else self.end

    def stop(self) -> None:
        self.stopped = True

    def kill(self) -> None:
        self.stopped = True


@dataclass
class FakeExecutor:
    failing: frozenset[str] = frozenset()
    submitted: list[Assignment] = field(default_factory=list)
    busy: dict[str, FakeJob] = field(default_factory=dict)

    def submit(self, assignment: Assignment) -> FakeJob:
        before = self.busy.get(assignment.device.id)
        assert before is None or before.polls <= 0, "two tasks on one device"
        end = JobState.FAILED if assignment.task.name in self.failing else JobState.DONE
        job = self.busy[assignment.device.id] = FakeJob(assignment, 2, end)
        self.submitted.append(assignment)
        return job

    def close(self) -> None:
        pass


class Nobody:
    def started(self, assignment: Assignment) -> None:
        pass

    def ended(self, assignment: Assignment, state: JobState) -> None:
        pass

    def tick(self, running: Sequence[Assignment]) -> None:
        pass


def gpu(number: int) -> Device:
    return Device(str(number), f"GPU-{number}", "fake")


def loop(
    tmp_path: Path, executor: FakeExecutor, devices: Sequence[Device], **settings: object
) -> Loop:
    return Loop(
        devices=devices,
        executor=executor,
        ledger=Ledger(tmp_path / "ledger.jsonl"),
        observer=Nobody(),
        log_file=lambda one, device: tmp_path / f"{one.name}_{device.log_tag}.log",
        threads=1,
        **{"stop_requested": lambda: False, **settings},  # type: ignore[arg-type]
    )


def test_every_task_runs_once_in_order_over_two_devices(tmp_path: Path) -> None:
    executor = FakeExecutor()
    tasks = [task(name, fold) for name in "abc" for fold in (1, 2)]
    outcome = loop(tmp_path, executor, [gpu(0), gpu(1)]).run(tasks)
    assert [one.task for one in executor.submitted] == tasks
    assert sorted(t.label for t in outcome[JobState.DONE]) == sorted(t.label for t in tasks)
    assert {one.device.id for one in executor.submitted} == {"0", "1"}


def test_a_pinned_config_waits_for_its_device_and_others_pass_it(tmp_path: Path) -> None:
    executor = FakeExecutor()
    tasks = [
        task("pinned", 1, gpu_id=1),
        task("pinned", 2, gpu_id=1),
        task("free"),
        task("free", 2),
    ]
    loop(tmp_path, executor, [gpu(0), gpu(1)]).run(tasks)
    where = {(one.task.name, one.device.id) for one in executor.submitted}
    assert ("pinned", "0") not in where
    assert executor.submitted[0].task.name == "free"
    assert executor.submitted[1].task.name == "pinned"


def test_a_failing_config_stops_no_other(tmp_path: Path) -> None:
    executor = FakeExecutor(failing=frozenset({"b"}))
    outcome = loop(tmp_path, executor, [gpu(0)]).run([task(name) for name in "abc"])
    assert [one.name for one in outcome[JobState.FAILED]] == ["b"]
    assert [one.name for one in outcome[JobState.DONE]] == ["a", "c"]


def test_a_stop_request_ends_what_runs_and_starts_nothing_new(tmp_path: Path) -> None:
    executor = FakeExecutor()
    stopping = loop(tmp_path, executor, [gpu(0)], stop_requested=lambda: bool(executor.submitted))
    outcome = stopping.run([task(name) for name in "abc"])
    assert [one.name for one in outcome[JobState.INTERRUPTED]] == ["a"]
    assert len(executor.submitted) == 1


def test_the_ledger_tells_the_story(tmp_path: Path) -> None:
    import json

    loop(tmp_path, FakeExecutor(), [gpu(3)]).run([task("a"), task("b")])
    events = [json.loads(line) for line in (tmp_path / "ledger.jsonl").read_text().splitlines()]
    assert [(e["event"], e["config"], e["device"]) for e in events] == [
        ("running", "a", "3"),
        ("done", "a", "3"),
        ("running", "b", "3"),
        ("done", "b", "3"),
    ]
