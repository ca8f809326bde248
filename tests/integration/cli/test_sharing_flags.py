"""How many folds share a device: what the flags say, and what cannot be said together."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

import clip_pkg.launch.execution
import clip_pkg.launch.probe
import clip_pkg.launch.training
import clip_pkg.scheduling.resources
from clip_pkg.base.paths import RunPaths
from clip_pkg.cli import main
from clip_pkg.cli.main import parser_of
from clip_pkg.cli.run_arguments import execution
from clip_pkg.scheduling.devices import Device
from clip_pkg.scheduling.executors import open_executor
from clip_pkg.scheduling.process import ProcessExecutor
from clip_pkg.scheduling.resources import Resources
from support.fold_tasks import gpus, task

CPU = Device("cpu", "", "CPU")


def resources(*words: str) -> Resources:
    parsed = parser_of().parse(["--data-dir", "d", "--output-dir", "o", *words])
    return open_executor(execution(parsed), RunPaths(Path("o")), print)


@pytest.fixture
def devices(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Choose the devices; no Multi-Process Service is running."""
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", "nowhere")

    def have(*found: Device) -> None:
        monkeypatch.setattr(clip_pkg.scheduling.resources, "find_devices", lambda _: (found, []))

    return have


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--folds-at-once", "2", "--jobs-per-gpu", "1"], "cannot be combined"),
        (["--folds_at_once", "0"], "'0' is neither an integer of at least 1 nor auto"),
        (["--folds-at-once", "all"], "'all' is neither"),
        (["--folds-at-once", "2", "--executor", "inline"], "one fold after another"),
        (["--jobs-per-gpu", "auto", "--executor", "inline"], "one fold after another"),
        (["--folds-at-once", "2", "--executor", "ray"], "--jobs-per-gpu N shares a GPU"),
        (["--folds-at-once", "2", "--executor", "slurm"], "GPUs of this machine"),
    ],
)
def test_what_does_not_go_together_is_a_sentence(
    words: list[str],
    sentence: str,
    images: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["--data-dir", str(images), "--output-dir", str(tmp_path / "out"), *words]) == 2
    shown = capsys.readouterr().err
    assert shown.startswith("error: ")
    assert sentence in shown
    assert not (tmp_path / "out").exists()


def test_a_plan_takes_either_flag(
    images: Path,
    tmp_path: Path,
    write_configs: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["plan", "--data-dir", images, "--output-dir", tmp_path / "out"]
    words += ["--config-file", write_configs({}), "--folds-at-once", "2"]
    assert main([str(word) for word in words]) == 0
    assert "Simulated" in capsys.readouterr().out
    assert main([str(word) for word in [*words, "--jobs-per-gpu", "2"]]) == 2
    assert "give one" in capsys.readouterr().err


def test_folds_at_once_say_whether_they_take_turns(
    devices: Callable[..., None], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices(*gpus(2))
    for words in ([], ["--jobs-per-gpu", "3"], ["--folds-at-once", "1"]):
        found = resources(*words)
        assert found.jobs_per_device == (3 if "3" in words else 1)
        assert found.notices == []
    found = resources("--folds-at-once", "3")
    assert (found.jobs_per_device, found.jobs_that_fit) == (3, None)
    assert "take turns on a GPU" in found.notices[0]
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(tmp_path))
    (tmp_path / "control").touch()
    found = resources("--folds-at-once", "auto")
    assert found.jobs_per_device == 1
    assert found.jobs_that_fit is not None
    assert found.notices == []


def test_on_a_cpu_auto_is_one(devices: Callable[..., None]) -> None:
    devices(CPU)
    assert resources("--folds-at-once", "2").notices == []
    for flag in ("--folds-at-once", "--jobs-per-gpu"):
        found = resources(flag, "auto")
        assert (found.jobs_per_device, found.jobs_that_fit) == (1, None)
        assert "on the CPU folds run one after another" in found.notices[0]


def test_no_more_places_than_there_are_folds(devices: Callable[..., None]) -> None:
    devices(*gpus(2))
    found = resources("--jobs-per-gpu", "9")
    assert isinstance(found.executor, ProcessExecutor)
    assert found.most_jobs([task("a", fold) for fold in range(1, 6)]) == 3
    pinned = [task("a", fold, gpu_id=1) for fold in range(1, 6)]
    assert found.most_jobs([*pinned, task("b", gpu_id=0)]) == 6
    assert found.most_jobs(pinned) == 3  # the list of GPUs decides
    assert found.most_jobs([task("a", gpus=2)]) == 1


def test_folds_on_a_cpu_share_its_cores_and_it_is_said(
    images: Path,
    tmp_path: Path,
    write_configs: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """More places than folds would leave cores idle."""
    seen = {}

    class Told(Exception):
        pass

    def loop(**settings: object) -> None:
        seen.update(settings)
        raise Told

    monkeypatch.setattr(clip_pkg.launch.execution, "Loop", loop)
    monkeypatch.setattr(clip_pkg.launch.training, "ask", lambda *_: clip_pkg.launch.probe.NoProbe())
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.chdir(tmp_path)
    words = ["--data-dir", images, "--output-dir", tmp_path / "out", "--folds-at-once", "9"]
    with pytest.raises(Told):
        main([str(word) for word in [*words, "--config-file", write_configs({"n_splits": 3})]])
    assert seen["pool"].size == 3
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""
