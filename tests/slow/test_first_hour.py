"""From a clone to results: the launcher, then each command that it prints, pasted as printed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import urllib.request
from pathlib import Path

import pytest

from support.tiny import CHECKOUT

PYTHON = "/usr/bin/python3"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("git"), reason="needs git, to know a clone's files"),
    pytest.mark.skipif(
        not shutil.which(PYTHON)
        or subprocess.run([PYTHON, "-c", "import venv, ensurepip"], capture_output=True).returncode
        != 0,
        reason="needs the system's Python, with its module venv",
    ),
]

# What a shell knows about the network, which decides where packages are installed from.
NETWORK = ("PIP_", "UV_", "SSL_", "HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "HOME")
BARE = {
    **{name: value for name, value in os.environ.items() if name.startswith(NETWORK)},
    "PATH": "/usr/bin:/bin",
    "HF_HUB_OFFLINE": "1",
    "COLUMNS": "160",
}


def pasted(command: str, folder: Path, code: int = 0) -> str:
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=folder,
        env=BARE,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def serves(command: str, folder: Path) -> bool:
    """Whether the command, which does not end by itself, serves a page."""
    server = subprocess.Popen(
        ["bash", "-c", f"exec {command} --port 0"],
        cwd=folder,
        env=BARE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert server.stderr is not None
        for line in server.stderr:
            if "http://" in line:
                address = "http://" + line.split("http://")[1].split()[0]
                with urllib.request.urlopen(address, timeout=60) as page:
                    return bool(page.status == 200)
        return False
    finally:
        server.terminate()
        server.wait(60)


def test_every_printed_command_works_as_pasted(tmp_path: Path) -> None:
    clone = tmp_path / "a clone"
    tracked = subprocess.run(
        ["git", "ls-files", "-z"], cwd=CHECKOUT, capture_output=True, text=True, check=True
    ).stdout
    for name in tracked.split("\0")[:-1]:
        if (CHECKOUT / name).exists():
            (clone / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(CHECKOUT / name, clone / name)
    # Two folds instead of five: every command sees the same files.
    configs = clone / "train_clip_config.json"
    configs.write_text(
        configs.read_text("utf-8").replace('"n_splits": 5', '"n_splits": 2'), "utf-8"
    )

    refused = pasted("python3 train_clip.py --help 2>&1", clone, 2)
    assert "Traceback" not in refused
    assert f"bash '{clone}/environment/prepare.sh' runtime" in refused
    shown = pasted("bash run_train_clip.sh", clone)
    lines = [line.strip() for line in shown.split("Next:\n")[1].splitlines()]
    assert len(lines) == 5
    for line in lines:
        if "tensorboard" in line:
            assert serves(line, clone)
        else:
            pasted(line, clone)

    summary = clone / "checkpoints/clip_models/superclip_digits/cv_summary.json"
    assert json.loads(summary.read_text())["average_results"]["avg_val_acc"] > 85
    assert (clone / "checkpoints/clip_models/report/index.html").exists()
    assert (clone / "predictions.csv").exists()
    assert not (clone / "single_label_data").exists()
    for script in ("main_clip.py", "train.py"):  # as other guides call it
        assert f"usage: python3 {script} " in pasted(f"python3 {script} --help", clone)

    # From elsewhere, what is printed names the clone.
    again = pasted(f"bash '{clone}/run_train_clip.sh'", tmp_path)
    pasted(again.split("Next:\n")[1].splitlines()[3].strip(), tmp_path)
    assert "started on" not in again, "a finished fold was trained again"
