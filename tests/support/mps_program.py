"""A stand-in for `nvidia-cuda-mps-control` that starts processes which only sleep."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

PROGRAM = """#!{python} -IS
import json, os, pathlib, signal, subprocess, sys, time

SLEEP = "import time; time.sleep(600)"
DAEMON = '''
import json, os, pathlib, subprocess, sys, time
server = subprocess.Popen([sys.executable, "-IS", "-c", "import time; time.sleep(600)"])
pids = pathlib.Path(sys.argv[1])
pids.with_suffix(".new").write_text(json.dumps([os.getpid(), server.pid]))
pids.with_suffix(".new").replace(pids)
time.sleep(600)
'''
pipes = pathlib.Path(os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "/nowhere"))
pids = pipes / "pids"
words = sys.argv[1:] or sys.stdin.read().split()
with open({calls!r}, "a") as stream:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    stream.write(json.dumps([words, str(pipes), visible]) + "\\n")

def alive(pid):
    try:
        state = pathlib.Path(f"/proc/{{pid}}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"

if words == ["-d"]:
    if {mode!r} == "fails":
        sys.exit("something\\nMPS is not allowed here")
    subprocess.Popen([sys.executable, "-IS", "-c", DAEMON, str(pids)], start_new_session=True)
    while not pids.exists():
        time.sleep(0.01)
    sys.exit(0)
known = json.loads(pids.read_text()) if pids.exists() else []
if not known or not alive(known[0]):
    sys.exit("Cannot find MPS control daemon process")
if words == ["quit"] and {mode!r} != "stubborn":
    for pid in known:
        os.kill(pid, signal.SIGTERM)
if words[0] == "get_server_list":
    print(known[1])
if words[0] == "get_server_status":
    print("ACTIVE")
if words[0] == "get_default_active_thread_percentage":
    print("100.0")
"""


@dataclass(frozen=True)
class MpsProgram:
    """Where it is, and what was asked of it so far."""

    folder: Path

    @property
    def _calls(self) -> Path:
        return self.folder / "calls.jsonl"

    @property
    def path(self) -> str:
        """A PATH that leads to it first."""
        return os.pathsep.join([str(self.folder), os.environ["PATH"]])

    def calls(self) -> list[tuple[str, str, str | None]]:
        """Words, folder of the sockets and visible GPUs of each call."""
        if not self._calls.exists():
            return []
        lines = self._calls.read_text(encoding="utf-8").splitlines()
        return [(" ".join(words), pipes, gpus) for words, pipes, gpus in map(json.loads, lines)]

    def words(self) -> list[str]:
        """What it was asked."""
        return [words for words, _, _ in self.calls()]


def write_mps_program(folder: Path, mode: str = "") -> MpsProgram:
    """Write it; mode: `fails` to start, or `stubborn`, which does not quit."""
    folder.mkdir()
    program = MpsProgram(folder)
    text = PROGRAM.format(python=sys.executable, calls=str(program._calls), mode=mode)
    (folder / "nvidia-cuda-mps-control").write_text(text, encoding="utf-8")
    (folder / "nvidia-cuda-mps-control").chmod(0o755)
    return program


def processes_in(pipes: str | Path) -> list[psutil.Process]:
    """The daemon and the server whose sockets are in this folder."""
    pids: list[Any] = json.loads((Path(pipes) / "pids").read_text(encoding="utf-8"))
    return [psutil.Process(pid) for pid in pids]
