"""Workers that are killed at moments when nothing is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from clip_pkg.scheduling.devices import Device
from clip_pkg.scheduling.job import Assignment, JobState, Slot
from clip_pkg.scheduling.process import ProcessExecutor, ProcessJob, Worker
from clip_pkg.study.tasks import FoldResult, write_record
from support.fold_tasks import task

CPU = Device("cpu", "", "CPU")


@pytest.mark.parametrize("has_result", [True, False])
def test_a_worker_that_is_killed_before_its_answer(tmp_path: Path, has_result: bool) -> None:
    fold = task("a", root=tmp_path)
    result = FoldResult(
        identity=fold.identity,
        fold=1,
        n_train=15,
        n_val=0,
        best_epoch=None,
        last_epoch=1,
        stopped_early=False,
        best={},
        last={},
        untrained={},
        chosen_on="no image",
        device="cpu",
        environment={},
        seconds=1.0,
        train_seconds=1.0,
        peak_memory_bytes=None,
        notices=[],
    )
    worker = Worker([CPU])
    try:
        job = ProcessJob(Assignment(fold, (Slot(CPU),), tmp_path / "log", 1), worker)
        assert job.poll() is JobState.RUNNING
        fold.paths.root.mkdir(parents=True)
        if has_result:
            fold.paths.history.write_text("{}")
            write_record(fold.paths.result, result)
        worker.kill()
        worker.wait()
        assert job.poll() is (JobState.DONE if has_result else JobState.FAILED)
        assert (job.failure is None) == has_result
    finally:
        worker.close()


def test_a_worker_that_is_killed_while_idle_is_replaced() -> None:
    executor = ProcessExecutor()
    try:
        first = executor.worker("cpu.0", [CPU])
        assert executor.worker("cpu.0", [CPU]) is first
        first.kill()
        first.wait()
        second = executor.worker("cpu.0", [CPU])
        assert second.pid != first.pid
        assert second.exit_code() is None
    finally:
        executor.close()
