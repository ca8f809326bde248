"""Programs that a benchmark runs and times, each in a process of its own, one at a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Finished:
    """What a program printed, and seconds from its start to its end."""

    output: str
    seconds: float


def run_python(words: Sequence[str | Path], device: str) -> Finished:
    """Run Python with these arguments, for `cpu` or `cuda`, under the same conditions each time.

    Raises RuntimeError with the end of what was said when the program fails.
    """
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        env=environment(device),
        cwd=CHECKOUT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - started
    if done.returncode:
        said = "\n".join((done.stdout + done.stderr).splitlines()[-30:])
        raise RuntimeError(f"{' '.join(map(str, words))} ended with {done.returncode}:\n{said}")
    return Finished(done.stdout, seconds)


def answer(words: Sequence[str | Path], device: str) -> dict[str, Any]:
    """JSON object on the last line that a program prints, with its `command_seconds`."""
    done = run_python(words, device)
    answered: dict[str, Any] = json.loads(done.output.splitlines()[-1])
    return {**answered, "command_seconds": done.seconds}


def environment(device: str) -> dict[str, str]:
    """Variables of a program: threads wait without spinning, and a CPU run sees no GPU."""
    elsewhere = os.environ.get("PYTHONPATH", "")
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if device == "cpu" else {}
    return {
        "OMP_WAIT_POLICY": "PASSIVE",
        **os.environ,
        **hidden,
        "HF_HUB_OFFLINE": "1",  # nothing here has pretrained weights
        "PYTHONPATH": os.pathsep.join(filter(None, [str(CHECKOUT), elsewhere])),
    }
