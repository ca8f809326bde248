"""NVIDIA's Multi-Process Service, with which several processes compute on a GPU at the same time.

Without it the processes on a GPU take turns. A run that wants it starts a control daemon of its
own, with folders of its own; one that runs already is used and never touched.

A watcher starts the daemon and ends it: `python -m clip_pkg.scheduling.mps FOLDER`. The launcher
and every worker hold the other end of its standard input, so that the kernel tells it when the last
of them is gone, however they ended. It waits for the workers too, because without the daemon they
could not write their last checkpoint. The daemon detaches itself from whoever starts it, but not
from the watcher, which adopts its orphans and leaves none behind.

The commands are those of https://docs.nvidia.com/deploy/mps/.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

from clip_pkg.scheduling.devices import Device

PROGRAM = "nvidia-cuda-mps-control"
PIPES, LOGS = "CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_LOG_DIRECTORY"
DEFAULT_PIPES = "/tmp/nvidia-mps"  # noqa: S108 - where NVIDIA's programs look
LONGEST_FOLDER = 80  # bytes: the path of a socket below it must be shorter than 108
SECONDS_TO_ANSWER = 10.0
SECONDS_TO_START = 30.0
SECONDS_TO_END = 10.0  # politely; then by force
SECONDS_BETWEEN_LOOKS = 0.05
PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


class MpsDaemon:
    """A control daemon that was started for this run, by a watcher that ends it."""

    def __init__(self, watcher: subprocess.Popen[str], folder: Path) -> None:
        self._watcher = watcher
        self._folder = folder

    @property
    def lifeline(self) -> int:
        """File descriptor that workers inherit: the daemon stays while any of them holds it."""
        assert self._watcher.stdin is not None
        return self._watcher.stdin.fileno()

    def environment(self, devices: Sequence[Device]) -> dict[str, str]:
        """What a worker on these devices needs to find the daemon; nothing where none serves."""
        return _directories(self._folder) if all(map(_is_served, devices)) else {}

    def close(self) -> None:
        """End the daemon; workers that still live are waited for, not for ever."""
        assert self._watcher.stdin is not None
        assert self._watcher.stdout is not None
        self._watcher.stdin.close()
        try:
            killed = self._watcher.wait(2 * SECONDS_TO_END) != 0
        except subprocess.TimeoutExpired:
            return  # it goes on waiting for a worker that cannot be killed
        finally:
            self._watcher.stdout.close()
        if killed:  # the watcher, which was to do this
            _command("quit", {**os.environ, **_directories(self._folder)})
            shutil.rmtree(self._folder, ignore_errors=True)


def start_mps(
    devices: Sequence[Device], environment: Mapping[str, str]
) -> tuple[MpsDaemon | None, str]:
    """Start a daemon for these devices unless one runs already.

    Returns it, None if there is none of our own, and how folds will share the devices in words.
    """
    gpus = [device.visible for device in devices if _is_served(device)]
    if not gpus:
        return None, "Folds on a MIG device take turns: they share it without further service."
    pipes = environment.get(PIPES) or DEFAULT_PIPES
    program = shutil.which(PROGRAM, path=environment.get("PATH"))
    if _runs_already(environment, Path(pipes), program):
        return None, (
            f"Folds compute on a GPU at the same time, through the Multi-Process Service that runs "
            f"already ({pipes})."
        )
    if program is None:
        return None, _take_turns(f"{PROGRAM} is not installed")
    folder = Path(tempfile.mkdtemp(prefix="clip-mps-", dir=_short_folder()))
    watcher = subprocess.Popen(
        [sys.executable, "-m", "clip_pkg.scheduling.mps", str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**environment, **_directories(folder), "CUDA_VISIBLE_DEVICES": ",".join(gpus)},
        start_new_session=True,  # Ctrl-C is not for it
        text=True,
    )
    daemon = MpsDaemon(watcher, folder)
    assert watcher.stdout is not None
    answer = watcher.stdout.readline()
    if answer != "\n":
        daemon.close()
        return None, _take_turns(answer.strip() or "its watcher ended")
    return daemon, (
        "Folds compute on a GPU at the same time, through a Multi-Process Service that ends with "
        "this run."
    )


def _is_served(device: Device) -> bool:
    return device.is_gpu and not device.visible.startswith("MIG-")


def _take_turns(reason: str) -> str:
    return f"Folds take turns on a GPU: no Multi-Process Service could be started ({reason})."


def _directories(folder: Path) -> dict[str, str]:
    return {PIPES: str(folder / "pipe"), LOGS: str(folder / "log")}


def _short_folder() -> str | None:
    """Where temporary files go, unless that leaves no room for the name of a socket."""
    usual = tempfile.gettempdir()
    return usual if len(os.fsencode(usual)) <= LONGEST_FOLDER else "/tmp"  # noqa: S108


def _runs_already(environment: Mapping[str, str], pipes: Path, program: str | None) -> bool:
    """Whether clients that are started in this environment find a daemon."""
    if program is None:  # a container may be given no more than its socket
        return PIPES in environment and (pipes / "control").is_socket()
    return _command("get_default_active_thread_percentage", environment) is not None


def _command(words: str, environment: Mapping[str, str]) -> str | None:
    """Return what the daemon of this environment answers; None where none does."""
    try:
        done = subprocess.run(
            [PROGRAM],
            check=False,
            input=f"{words}\n",
            capture_output=True,
            text=True,
            env=environment,
            timeout=SECONDS_TO_ANSWER,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


# --- the watcher


def watch(folder: Path) -> None:
    """Start a daemon with its files in `folder`, say so, and end it when standard input ends."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _on_signal)
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
    problem = _start()
    with contextlib.suppress(BrokenPipeError):  # the launcher may have ended meanwhile
        print(problem, flush=True)
    if not problem:
        sys.stdin.read()
    _end()
    shutil.rmtree(folder, ignore_errors=True)


def _on_signal(number: int, frame: FrameType | None) -> None:
    """Go on: whoever ends all processes of a run ends those that are waited for.

    To ignore these signals would be inherited by the daemon.
    """
    del number, frame


def _start() -> str:
    """Start the daemon and its server; returns why that did not succeed, in one line."""
    for name in (PIPES, LOGS):
        Path(os.environ[name]).mkdir(mode=0o700)
    output = Path(os.environ[LOGS]) / "start.txt"  # not a pipe, which the daemon might hold open
    with output.open("wb") as stream:
        try:
            code = subprocess.run(
                [PROGRAM, "-d"],
                check=False,
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                timeout=SECONDS_TO_START,
            ).returncode
        except subprocess.TimeoutExpired:
            return f"{PROGRAM} -d did not return within {SECONDS_TO_START:.0f} s"
    said = output.read_text(encoding="utf-8", errors="replace").split("\n")
    if code != 0:
        return next((line for line in reversed(said) if line.strip()), f"it ended with {code}")
    # Workers would start the server by themselves, and fail where it cannot run.
    _command(f"start_server -uid {os.getuid()}", os.environ)
    return "" if _server_is_up() else "its server did not start"


def _server_is_up() -> bool:
    deadline = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < deadline:
        servers = (_command("get_server_list", os.environ) or "").split()
        if servers:
            # Older daemons do not know this question; their answer does not name that state.
            status = _command(f"get_server_status {servers[0]}", os.environ) or ""
            if "INITIALIZING" not in status.upper():
                return True
        time.sleep(SECONDS_BETWEEN_LOOKS)
    return False


def _end() -> None:
    """End the daemon and its servers, which are descendants of this process."""
    _command("quit", os.environ)
    forced = time.monotonic() + SECONDS_TO_END
    while (children := _children()) and time.monotonic() < forced + SECONDS_TO_END:
        if time.monotonic() > forced:
            for child in children:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
        time.sleep(SECONDS_BETWEEN_LOOKS)


def _children() -> list[int]:
    """Living children of this process, adopted ones too; the dead are buried."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            # The name, in brackets, may hold blanks and brackets.
            parent = entry.read_text(errors="replace").rpartition(")")[2].split()[1]
            if int(parent) == os.getpid():
                found.append(int(entry.parent.name))
    return found


if __name__ == "__main__":
    watch(Path(sys.argv[1]))
