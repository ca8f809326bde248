"""A small soak: real workers that are killed, hang and fail, and every fold done once."""

from __future__ import annotations

from pathlib import Path

from benchmarks import soak

JOBS = 4
FAULTY_SEED = 24108  # with which the twenty folds meet seven of the eight faults, and one hang


def test_every_fold_is_done_once_whatever_happens_to_workers(tmp_path: Path) -> None:
    result = soak.soak(
        tmp_path, tasks=20, jobs=JOBS, stall_timeout=8.0, seed=FAULTY_SEED, seconds=0.2
    )
    assert result.mistakes == []
    assert len(result.faults) == 7
    assert result.commands >= 2
    harmless = ("killed before its answer", "killed afterwards")
    faults = sum(count for kind, count in result.faults.items() if kind not in harmless)
    assert sum(result.failures.values()) >= faults
    assert result.held(0.1, 1.0)["processes started by it, most"] <= JOBS
    text = soak.section(result, jobs=JOBS)
    assert "every fold was trained exactly once" in text
    assert text.count("\n| ") == 2 + len(soak.MEASURES) - 1
