"""Real workers lose their decoded images, and the whole cache, while they train."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from support.disturbance import write_disturbance
from support.outcomes import outcome
from support.tiny import command, program_environment

# In the workers: fold 1 loses its pixels after its first epoch, fold 2 all of the cache just before
# it reads its inputs, once.
CODE = """
def lose_pixels():
    while not task.paths.history.exists():
        time.sleep(0.001)
    size = task.pixel_store.stat().st_size
    with task.pixel_store.open("r+b") as stream:
        stream.seek(200)
        stream.write(bytes(size - 200))
        stream.truncate(size // 2)
    pathlib.Path({marker!r}, "pixels").touch()

import shutil, threading
if task.fold == 1:
    threading.Thread(target=lose_pixels, daemon=True).start()
elif not pathlib.Path({marker!r}, "cache").exists():
    shutil.rmtree(task.cache_dir)
    pathlib.Path({marker!r}, "cache").touch()
"""


@pytest.mark.slow
def test_pixels_and_cache_are_lost_while_workers_train(
    train: Callable[..., str], write_configs: Callable[..., Path], images: Path, tmp_path: Path
) -> None:
    config = write_configs({"name": "a", "epochs": 6})
    site = write_disturbance(tmp_path / "site", CODE.format(marker=str(tmp_path)))
    environment = program_environment()
    environment["PYTHONPATH"] = os.pathsep.join([str(site), environment["PYTHONPATH"]])
    where = ["--data-dir", images, "--output-dir", tmp_path / "out", "--config-file", config]
    done = subprocess.run(
        command(*where, "--retries", "0"),
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "pixels").exists()
    assert (tmp_path / "cache").exists()
    logs = "".join(path.read_text("utf-8") for path in (tmp_path / "logs").rglob("*.log"))
    assert "was damaged meanwhile; its damaged images are decoded again" in logs
    assert "its files are restored, which costs no attempt" in done.stdout
    train("--config-file", config, output="undisturbed")
    assert outcome(tmp_path / "out") == outcome(tmp_path / "undisturbed")
