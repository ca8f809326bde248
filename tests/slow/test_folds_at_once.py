"""Folds that train at the same time give the numbers of folds that train alone, killed or not.

The GPU is a stand-in; the launcher, its workers and what they train are real.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from support.outcomes import SECONDS_TO_END, alive, check_readable, outcome
from support.tiny import command, half_the_cores, program_environment

pytestmark = pytest.mark.slow
# Python runs this at its start, in the workers too: a GPU that computes as this CPU does.
PRETENDED_GPU = """
import importlib.abc, importlib.util, sys

def change(module):
    module.installed_gpus = lambda: (module.Device("0", "GPU-pretended", "pretended"),)
    module.Device.torch_name = property(lambda device: "cpu")
    module.gpu_memory = lambda device: module.Memory(8 << 30, 8 << 30)

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "clip_pkg.scheduling.devices":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        sys.meta_path.insert(0, self)
        execute = spec.loader.exec_module

        def execute_and_change(module):
            execute(module)
            change(module)

        spec.loader.exec_module = execute_and_change
        return spec

sys.meta_path.insert(0, Finder())
"""


def until(true: Callable[[], bool], process: psutil.Popen) -> None:
    deadline = time.monotonic() + 300  # for busy machines
    while not true():
        assert process.poll() is None, "it ended too soon"
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_nothing_is_left_behind_and_every_number_is_that_of_a_fold_alone(
    images: Path,
    tmp_path: Path,
    write_configs: Callable[..., Path],
    train: Callable[..., str],
) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(PRETENDED_GPU, encoding="utf-8")
    configs = write_configs({"name": "a", "epochs": 8})
    environment = program_environment()
    environment |= {"CUDA_VISIBLE_DEVICES": "0", "CUDA_MPS_PIPE_DIRECTORY": str(tmp_path)}
    environment["PYTHONPATH"] = f"{tmp_path / 'site'}{os.pathsep}{environment['PYTHONPATH']}"
    words = ["--data-dir", images, "--output-dir", tmp_path / "out", "--config-file", configs]
    histories = [tmp_path / f"out/a/fold_{fold}/history.json" for fold in (1, 2)]

    def start() -> psutil.Popen:
        with (tmp_path / "stdout.txt").open("ab") as stream:
            return psutil.Popen(
                command(*words, "--folds-at-once", "2"),
                cwd=tmp_path,
                env=environment,
                stdout=stream,
                stderr=stream,
            )

    process = start()
    until(lambda: all(path.exists() for path in histories), process)
    family = process.children(recursive=True)
    process.kill()
    process.wait()
    assert alive(family, SECONDS_TO_END) == []
    check_readable(tmp_path / "out")

    assert start().wait() == 0
    shown = (tmp_path / "stdout.txt").read_text(encoding="utf-8")
    assert "Folds take turns on a GPU" in shown
    with half_the_cores():  # as many threads as one of the two had
        train("--config-file", configs, output="alone")
    assert outcome(tmp_path / "out/a") == outcome(tmp_path / "alone/a")
