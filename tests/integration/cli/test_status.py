"""`status` and `plan`: what they say comes from files alone."""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from clip_pkg.base.paths import RunPaths
from clip_pkg.cli import main
from clip_pkg.launch.run_view import RunView
from clip_pkg.launch.status import read_status, render
from clip_pkg.launch.tables import results_table
from clip_pkg.launch.terminal import NARROW, Terminal
from clip_pkg.scheduling.ledger import Ledger
from clip_pkg.scheduling.queue import Estimates
from clip_pkg.study.run_folder import sole_launcher
from clip_pkg.study.tasks import FoldFailure, FoldTask, read_task, write_record, write_task
from support.tiny import TINY, command, program_environment

LONG = "a_rather_long_name_resnet18_clip_ViT-B_32"


@pytest.fixture(scope="module")
def one_run(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("run")
    configs = [{**TINY, "name": "a"}, {**TINY, "name": LONG, "epochs": 1}]
    (root / "configs.json").write_text(json.dumps(configs), encoding="utf-8")
    where = ["--data-dir", images, "--output-dir", root / "out", "--log-dir", root / "logs"]
    how = ["--config-file", root / "configs.json", "--multi-config", "--executor", "inline"]
    assert main([str(word) for word in (*where, *how)]) == 0
    return root


@pytest.fixture
def finished_run(one_run: Path, tmp_path: Path) -> Path:
    """A copy of the run that a test may change."""
    shutil.copytree(one_run, tmp_path, dirs_exist_ok=True)
    for path in tmp_path.glob("out/*/fold_*/task.json"):
        task = read_task(path)
        assert isinstance(task, FoldTask)
        write_task(replace(task, run_dir=path.parents[1]))
    return tmp_path


def shown(folder: Path, width: int = 160) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(render(read_status(folder), is_narrow=width < NARROW))
    return console.export_text()


def pretend(folder: Path, name: str, fold: int, event: str, **details: object) -> FoldTask:
    """Undo a fold and let the ledger say something else about it."""
    task = read_task(folder / name / f"fold_{fold}/task.json")
    assert isinstance(task, FoldTask)
    task.paths.result.unlink()
    ledger = Ledger(folder / "ledger.jsonl")
    ledger.append("launched", pid=os.getpid(), host=os.uname().nodename)
    ledger.append(event, config=name, fold=fold, attempt=2, device="0", **details)
    return task


def test_a_finished_run(finished_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(finished_run / "out")]) == 0
    text = capsys.readouterr().out
    assert "4 of 4 folds done" in text
    assert LONG in text
    summary = json.loads((finished_run / "out/a/cv_summary.json").read_text())
    for accuracy in summary["fold_results"]["fold_val_acc"]:
        assert f"{accuracy:.1f}" in text
    assert main(["status", str(finished_run / "out"), "--watch"]) == 0  # it is over already


@pytest.mark.parametrize("width", [80, 100, 120, 160])
def test_the_table_of_results_fits_and_loses_nothing(finished_run: Path, width: int) -> None:
    found = [json.loads(path.read_text()) for path in finished_run.glob("out/*/cv_summary.json")]
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(results_table(found, width=width))
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= width
    assert text.count("2/2") == 2
    assert "…" not in text.replace("… stands for", "").replace("│ …", "")


def test_configs_of_earlier_lists_are_not_counted(finished_run: Path) -> None:
    Ledger(finished_run / "out/ledger.jsonl").append("launched", configs=["a"])
    text = shown(finished_run / "out")
    assert text.startswith("2 of 2 folds done")
    assert f"Not in the list that was launched last: {LONG} (2 of 2 folds done)" in text


def test_watch_waits_for_a_run_that_begins(finished_run: Path, tmp_path: Path) -> None:
    later = finished_run / "later"
    assert main(["status", str(later)]) == 2
    with subprocess.Popen(
        command("status", later, "--watch"),
        env=program_environment(),
        stdout=subprocess.PIPE,
        text=True,
    ) as watching:
        assert watching.stdout is not None
        assert watching.stdout.readline().startswith(f"Waiting for a run in {later}")
        (finished_run / "out").rename(later)
        assert "4 of 4 folds done" in watching.stdout.read()
    assert watching.returncode == 0


def test_a_running_fold_and_its_launcher(finished_run: Path) -> None:
    out = finished_run / "out"
    task = pretend(out, "a", 2, "running")
    progress = json.loads(task.paths.progress.read_text())
    progress |= {"phase": "train", "epoch": 2, "step": 1, "steps": 2, "updated": time.time()}
    task.paths.progress.write_text(json.dumps(progress))
    (out / ".launcher.holder").write_text(f"process {os.getpid()} on {os.uname().nodename}")
    text = shown(out)
    assert "3 of 4 folds done" in text
    assert f"process {os.getpid()} on {os.uname().nodename}" in text
    assert "▶75%" in text
    assert "train 1/2" in text
    assert "left" in text.splitlines()[0]


def test_time_left_counts_what_is_kept_of_folds_that_wait(finished_run: Path) -> None:
    out = finished_run / "out"
    for path in out.glob("a/fold_*/result.json"):
        result = json.loads(path.read_text())
        path.write_text(json.dumps({**result, "seconds": 90.0, "undisturbed_seconds": 1000.0}))
    task = pretend(out, "a", 2, "interrupted")
    progress = json.loads(task.paths.progress.read_text())
    progress |= {"phase": "train", "epoch": 2, "step": 1, "steps": 2}  # of two epochs
    task.paths.progress.write_text(json.dumps(progress))
    (out / ".launcher.holder").write_text(f"process {os.getpid()} on {os.uname().nodename}")
    assert "about 8 min left" in shown(out).splitlines()[0]
    estimates = Estimates()
    estimates.learn(task, 1000.0)
    terminal = Terminal(Console(width=160, file=io.StringIO()))
    with RunView(terminal, [task], 3, lambda name: None, estimates) as view:
        assert "about 8 min left" in str(view._table([]).title)


def test_a_launcher_that_is_gone_runs_nothing(finished_run: Path) -> None:
    out = finished_run / "out"
    pretend(out, "a", 2, "running")
    text = shown(out)
    assert "no launcher is running; run the same command again" in " ".join(text.split())
    assert "paused" in text
    assert "Running" not in text


def test_a_failed_fold_shows_its_last_lines(finished_run: Path) -> None:
    out = finished_run / "out"
    task = pretend(out, LONG, 1, "failed", kind="error", reason="it [broke]")
    detail = "Traceback\n  one\n  two\nValueError: it [broke]"
    failure = FoldFailure(task.identity, 1, "error", "it [broke]", detail, "/logs/x.log")
    write_record(task.paths.failure, failure)
    text = shown(out, width=200)
    assert "1 failed" in text
    assert f"{LONG} fold 1 FAILED (error): it [broke]" in text
    assert "ValueError: it [broke]" in text
    assert "see /logs/x.log" in text


def test_a_copy_of_a_run_is_read_where_it_is(one_run: Path, tmp_path: Path) -> None:
    out = shutil.copytree(one_run / "out", tmp_path / "copy")
    (out / "a/fold_1/result.json").unlink()
    assert "3 of 4 folds done" in shown(out)


def test_a_run_in_preparation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = RunPaths(tmp_path)
    with sole_launcher(run):
        assert main(["status", str(tmp_path)]) == 0
        me = f"process {os.getpid()} on {os.uname().nodename}"
        assert capsys.readouterr().out == f"{me} prepares the run; no fold is planned yet\n"
        for other in ("process 999999999 on " + os.uname().nodename, "process 1 on", "x"):
            run.holder.write_text(other)
            assert main(["status", str(tmp_path)]) == 2


@pytest.mark.parametrize("width", [60, 80, 160])
def test_every_width_shows_every_config(finished_run: Path, width: int) -> None:
    text = shown(finished_run / "out", width)
    assert max(map(len, text.splitlines())) <= width
    letters = "".join(char for char in text if char.isalnum() or char in "-_")
    assert LONG[:30] in letters or width < 80


def test_many_folds_are_counted_instead_of_listed(finished_run: Path) -> None:
    out = finished_run / "out"
    task = read_task(out / "a/fold_1/task.json")
    assert isinstance(task, FoldTask)
    for number in range(1, 13):
        one = replace(task, fold=number, n_folds=12)
        write_task(one)
    text = shown(out)
    assert "waiting" in text
    assert "2" in next(line for line in text.splitlines() if " a " in line)


def test_a_folder_without_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(tmp_path)]) == 2
    assert "holds no run" in capsys.readouterr().err


def planned(finished_run: Path, images: Path, *more: str) -> None:
    where = ["--data-dir", str(images), "--output-dir", str(finished_run / "out")]
    configs = ["--config-file", str(finished_run / "configs.json"), "--multi-config"]
    assert main(["plan", *where, *configs, *more]) == 0


def test_a_plan_says_what_is_done_and_how_long_the_rest_takes(
    finished_run: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    planned(finished_run, images)
    text = capsys.readouterr().out
    assert "4 of 4 folds are finished" in text
    assert "Simulated" not in text
    (finished_run / "out/a/fold_2/result.json").unlink()
    before = sorted(path for path in finished_run.rglob("*"))
    planned(finished_run, images, "--simulate", "GPUS=3")
    text = capsys.readouterr().out
    assert "3 of 4 folds are finished" in text
    assert "Simulated with the real scheduler" in text
    assert "With 80 % power, 30 images in 2 folds show a difference" in text
    assert "33 %" in text  # one task cannot keep three GPUs busy
    assert sorted(path for path in finished_run.rglob("*")) == before, "a plan writes nothing"


@pytest.mark.parametrize(
    ("gpu_ids", "busy", "idle"), [((0, 0, 0, 0), "100 %", "none"), ((0, 0, 1, 1), "50 %", "2, 3")]
)
def test_a_plan_names_the_gpus_that_pins_leave_idle(
    gpu_ids: Sequence[int],
    busy: str,
    idle: str,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    configs = [
        {**TINY, "name": name, "gpu_id": gpu_id, "epochs": 2}
        for name, gpu_id in zip("abcd", gpu_ids, strict=True)
    ]
    (tmp_path / "configs.json").write_text(json.dumps(configs), encoding="utf-8")
    where = ["--data-dir", str(images), "--output-dir", str(tmp_path / "out")]
    file = ["--config-file", str(tmp_path / "configs.json"), "--multi-config"]
    assert main(["plan", *where, *file, "--simulate", "GPUS=4"]) == 0
    (row,) = [line for line in capsys.readouterr().out.splitlines() if busy in line]
    assert idle in row


@pytest.mark.parametrize("value", ["64", "GPUS=0", "GPUS=x", "CPUS=2"])
def test_simulate_says_how_it_is_written(
    value: str, finished_run: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["plan", "--data-dir", str(images), "--output-dir", "o", "--simulate", value]
    assert main(words) == 2
    assert "GPUS=64" in capsys.readouterr().err
