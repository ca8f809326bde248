"""A weekend in two minutes: killed workers, killed launchers, a hang, a full disk, a bad config.

Afterwards everything is complete but for the fold that always fails, equal to the last bit to what
an undisturbed run gives, and no process is left.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from clip_pkg.scheduling.ledger import read_ledger
from support.disturbance import write_disturbance
from support.outcomes import SECONDS_TO_END, alive, check_readable, outcome
from support.tiny import TINY, command, half_the_cores, program_environment

NAMES = "abc"
FAILING, HANGING = ("b", 2), ("c", 1)
STALL = 60  # seconds; importing torch on a busy machine must not look like a hang
DISK = 160 << 20  # bytes; images are only decoded where plenty is left


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path | None]:
    """A file system of its own that can be filled; None where none can be made."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(folder)], capture_output=True
    )
    if made.returncode != 0:
        yield None
        return
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def configs() -> list[dict[str, object]]:
    losses = [{"type": name} for name in ("clip", "superclip", "siglip")]
    return [
        {**TINY, "name": name, "epochs": 3, "n_splits": 3, "loss": loss}
        for name, loss in zip(NAMES, losses, strict=True)
    ]


def words(images: Path, root: Path, output: Path) -> Sequence[str]:
    (root / "configs.json").write_text(json.dumps(configs()), encoding="utf-8")
    where = ["--data-dir", images, "--output-dir", output, "--log-dir", root / "logs"]
    how = ["--jobs-per-gpu", 2, "--stall-timeout", STALL, "--retries", 2]
    return command(*where, *map(str, how), "--config-file", root / "configs.json", "--multi-config")


class Launcher:
    """A launcher whose whole family can be seen."""

    def __init__(self, arguments: Sequence[str], root: Path, site: Path | None = None) -> None:
        environment = program_environment()
        if site is not None:
            environment["PYTHONPATH"] = os.pathsep.join([str(site), environment["PYTHONPATH"]])
        with (root / "stdout.txt").open("ab") as stream:
            self.process = psutil.Popen(
                arguments, cwd=root, env=environment, stdout=stream, stderr=stream
            )
        self.family: set[psutil.Process] = set()

    def workers(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            children = self.process.children(recursive=True)
            self.family |= set(children)
            return [one for one in children if _is_worker(one)]
        return []

    def wait(self, until: Callable[[], bool], seconds: float) -> bool:
        """Wait until something is so; false when the launcher ended before."""
        deadline = time.monotonic() + seconds
        while not until():
            self.workers()
            if self.process.poll() is not None:
                return False
            assert time.monotonic() < deadline, "the run does not get on"
            time.sleep(0.2)
        return True


def _is_worker(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return "clip_pkg.training.worker" in process.cmdline()
    return False


def finished_folds(output: Path) -> int:
    return len(list(output.glob("*/fold_*/result.json")))


@pytest.mark.slow
def test_everything_that_can_go_wrong(
    images: Path, tmp_path: Path, small_disk: Path | None, train: Callable[..., str]
) -> None:
    marker = tmp_path / "has_hung"
    stdout = tmp_path / "stdout.txt"
    site = write_disturbance(
        tmp_path / "site",
        f"""
        if (task.name, task.fold) == {FAILING!r}:
            raise RuntimeError("this one always fails")
        seen = "(hung)" in pathlib.Path({str(stdout)!r}).read_text()
        if (task.name, task.fold) == {HANGING!r} and not seen:
            pathlib.Path({str(marker)!r}).write_text(str(os.getpid()))
            time.sleep(3600)
        """,
    )
    output = (small_disk or tmp_path) / "out"
    moments = random.Random(5)
    everybody: set[psutil.Process] = set()

    def launch() -> Launcher:
        return Launcher(words(images, tmp_path, output), tmp_path, site)

    def folds_done(count: int) -> Callable[[], bool]:
        return lambda: finished_folds(output) >= count

    for count in (1, 3):  # two launchers are killed, and a worker of each before
        launcher = launch()
        if launcher.wait(folds_done(count), 240):
            while not (workers := launcher.workers()) and launcher.process.poll() is None:
                time.sleep(0.05)
            for one in workers[:1]:
                one.kill()
        launcher.wait(folds_done(count + 1), 240)
        launcher.workers()
        launcher.process.kill()
        launcher.process.wait()
        everybody |= launcher.family
        assert alive(launcher.family, SECONDS_TO_END) == [], (
            "a worker lives on without its launcher"
        )
        check_readable(output)

    launcher = launch()
    launcher.wait(folds_done(5), 240)
    if small_disk is not None:
        with contextlib.suppress(OSError), (small_disk / "filler").open("wb") as filler:
            while True:
                filler.write(bytes(1 << 16))
                filler.flush()
        launcher.wait(lambda: "(disk full)" in stdout.read_text(), 120)
        (small_disk / "filler").unlink()
    for _ in range(2):
        time.sleep(moments.uniform(2, 6))
        hanging = int(marker.read_text()) if marker.exists() else 0
        if workers := [one for one in launcher.workers() if one.pid != hanging]:
            moments.choice(workers).kill()
    launcher.wait(lambda: False, 400)
    everybody |= launcher.family
    # A fold that was unlucky three times is done by the next run, as after any weekend.
    launcher = launch()
    launcher.wait(lambda: False, 400)
    everybody |= launcher.family
    assert launcher.process.wait() == 1
    shown = stdout.read_text(encoding="utf-8")
    assert "this one always fails" in shown
    assert "(hung)" in shown
    assert alive(everybody, 1) == []

    with half_the_cores():  # as many threads as each of two workers had
        train("--config-file", tmp_path / "configs.json", "--multi-config", output="undisturbed")
    wanted = outcome(tmp_path / "undisturbed")
    got = outcome(output)
    name, fold = FAILING
    incomplete = {
        key for key in wanted if key.startswith((f"{name}/fold_{fold}/", f"{name}/cv_summary"))
    }
    assert {key: got.get(key) for key in set(wanted) - incomplete} == {
        key: wanted[key] for key in set(wanted) - incomplete
    }
    summary = json.loads((output / name / "cv_summary.json").read_text(encoding="utf-8"))
    assert summary["status"] == {"fold_1": "done", "fold_2": "failed", "fold_3": "done"}
    record = read_ledger(output / "ledger.jsonl")
    assert record.tasks[FAILING].state == "failed"
    assert record.launches == 4
    others = [one.state for key, one in record.tasks.items() if key != FAILING]
    assert set(others) == {"done"}
