"""A small soak: real workers that are killed, hang and fail, and every fold done once."""

from __future__ import annotations

from pathlib import Path

from benchmarks import soak

JOBS = 4
FAULTY_SEED = 19844  # with which the twenty folds meet six of the seven faults, and one hang


def test_every_fold_is_done_once_whatever_happens_to_workers(tmp_path: Path) -> None:
    result = soak.soak(tmp_path, tasks=20, jobs=JOBS, stall_timeout=5.0, seed=FAULTY_SEED)
    assert result.mistakes == []
    assert len(result.faults) == 6
    assert result.commands >= 2
    assert sum(result.failures.values()) >= sum(result.faults.values())
    assert result.held(0.1, 1.0)["processes started by it, most"] <= JOBS
    text = soak.section(result, jobs=JOBS)
    assert "every fold was trained exactly once" in text
    assert text.count("\n| ") == 2 + len(soak.MEASURES) - 1
