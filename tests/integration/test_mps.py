"""The daemon of a run comes and goes with it, whatever ends it; that of others is left alone."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from clip_pkg.scheduling import mps
from clip_pkg.scheduling.devices import Device
from clip_pkg.scheduling.mps import LOGS, PIPES, start_mps
from clip_pkg.scheduling.process import ProcessExecutor
from support.fold_tasks import gpu, gpus
from support.mps_program import MpsProgram, processes_in, write_mps_program
from support.outcomes import SECONDS_TO_END, alive
from support.tiny import CHECKOUT

MIG = Device("0", "MIG-1", "MIG instance")
LAUNCHER = """
import os, subprocess, sys, time
from clip_pkg.scheduling.devices import Device
from clip_pkg.scheduling.mps import start_mps
from clip_pkg.scheduling.process import ProcessExecutor

device = Device("0", "GPU-0", "fake")
daemon, notice = start_mps([device], os.environ)
executor = ProcessExecutor(daemon)
pids = []
{code}
print(daemon.environment([device])["CUDA_MPS_PIPE_DIRECTORY"], *pids, flush=True)
time.sleep(600)
"""


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Without a daemon of this machine."""
    for name in (PIPES, LOGS):
        monkeypatch.delenv(name, raising=False)
    return {**os.environ, "PYTHONPATH": str(CHECKOUT)}


@pytest.fixture
def program(tmp_path: Path, environment: dict[str, str]) -> MpsProgram:
    made = write_mps_program(tmp_path / "bin")
    environment["PATH"] = made.path
    return made


def eventually(true: Callable[[], bool], seconds: float = 20) -> bool:
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_it_serves_the_gpus_of_the_run_and_ends_with_it(
    program: MpsProgram, environment: dict[str, str]
) -> None:
    daemon, notice = start_mps([gpu(3), gpu(1), MIG], environment)
    assert daemon is not None
    assert "at the same time" in notice
    assert "ends with this run" in notice
    found = daemon.environment([gpu(1)])
    assert set(found) == {PIPES, LOGS}
    assert len(found[PIPES]) < 100
    assert daemon.environment([MIG]) == {}
    processes = processes_in(found[PIPES])
    assert set(alive(processes, 0)) == set(processes)
    (start,) = [call for call in program.calls() if call[0] == "-d"]
    assert start[1:] == (found[PIPES], "GPU-3,GPU-1")
    daemon.close()
    assert program.words()[-1] == "quit"
    assert alive(processes, 0) == []
    assert not Path(found[PIPES]).parent.exists()


def test_one_that_runs_already_is_used_and_left_alone(
    program: MpsProgram, environment: dict[str, str], tmp_path: Path
) -> None:
    environment[PIPES] = str(tmp_path)
    subprocess.run(["nvidia-cuda-mps-control", "-d"], env=environment, check=True)
    theirs = processes_in(tmp_path)
    try:
        daemon, notice = start_mps(gpus(1), environment)
        assert daemon is None
        assert "runs already" in notice
        assert program.words() == ["-d", "get_default_active_thread_percentage"]
        assert set(alive(theirs, 0)) == set(theirs)
    finally:
        for process in theirs:
            process.kill()


def test_a_container_that_has_only_the_socket_of_one(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mps.shutil, "which", lambda *_, **__: None)
    with tempfile.TemporaryDirectory(dir="/tmp") as folder, socket.socket(socket.AF_UNIX) as one:
        assert "take turns" in start_mps(gpus(1), {**environment, PIPES: folder})[1]
        one.bind(f"{folder}/control")
        assert "runs already" in start_mps(gpus(1), {**environment, PIPES: folder})[1]


def test_where_there_is_none_folds_take_turns_and_it_is_said(
    environment: dict[str, str], tmp_path: Path
) -> None:
    environment["PATH"] = str(tmp_path)
    daemon, notice = start_mps(gpus(1), environment)
    assert daemon is None
    assert notice.startswith("Folds take turns on a GPU")
    assert "nvidia-cuda-mps-control is not installed" in notice
    daemon, notice = start_mps([MIG], environment)
    assert daemon is None
    assert "MIG device take turns" in notice


def test_one_that_does_not_start_is_named_with_its_own_words(
    environment: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr(mps, "LONGEST_FOLDER", 1000)
    environment["PATH"] = write_mps_program(tmp_path / "bin", "fails").path
    daemon, notice = start_mps(gpus(1), environment)
    assert daemon is None
    assert notice.endswith("could be started (MPS is not allowed here).")
    assert list(folder.iterdir()) == []


def test_names_of_sockets_stay_short(
    program: MpsProgram, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", "/tmp/" + "long/" * 20)
    daemon, _ = start_mps(gpus(1), environment)
    assert daemon is not None
    assert len(daemon.environment(gpus(1))[PIPES]) < 40
    daemon.close()


def test_without_its_watcher_it_still_ends(
    program: MpsProgram, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", program.path)
    daemon, _ = start_mps(gpus(1), environment)
    assert daemon is not None
    pipes = daemon.environment(gpus(1))[PIPES]
    processes = processes_in(pipes)
    for child in psutil.Process().children():
        if "clip_pkg.scheduling.mps" in child.cmdline():
            child.kill()
    daemon.close()
    assert alive(processes, 5) == []
    assert not Path(pipes).exists()


def test_one_that_does_not_quit_is_killed(environment: dict[str, str], tmp_path: Path) -> None:
    environment["PATH"] = write_mps_program(tmp_path / "bin", "stubborn").path
    folder = tmp_path / "mps"
    folder.mkdir()
    environment |= {PIPES: str(folder / "pipe"), LOGS: str(folder / "log")}
    code = "import sys; from pathlib import Path; from clip_pkg.scheduling import mps\n"
    code += "mps.SECONDS_TO_END = 0.3\nmps.watch(Path(sys.argv[1]))"
    watcher = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert watcher.stdout is not None
    assert watcher.stdout.readline() == b"\n"
    processes = processes_in(folder / "pipe")
    watcher.send_signal(signal.SIGTERM)  # as to all processes of a job: its workers are not done
    time.sleep(0.2)
    assert set(alive(processes, 0)) == set(processes)
    watcher.communicate(timeout=20)
    assert watcher.returncode == 0
    assert alive(processes, 0) == []


class Launcher:
    """A launcher with a daemon, and the processes of both."""

    def __init__(self, code: str, environment: dict[str, str]) -> None:
        self.process = psutil.Popen(
            [sys.executable, "-c", LAUNCHER.format(code=code)],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        pipes, *pids = self.process.stdout.readline().split()
        self.named = [psutil.Process(int(pid)) for pid in pids]
        self.daemon = processes_in(pipes)
        self.family = self.process.children(recursive=True)  # the watcher adopts the daemon

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


@pytest.fixture
def launch(program: MpsProgram, environment: dict[str, str]) -> Iterator[Callable[[str], Launcher]]:
    launched: list[Launcher] = []

    def start(code: str) -> Launcher:
        launched.append(Launcher(code, environment))
        return launched[-1]

    yield start
    for one in launched:
        for process in [one.process, *one.family]:
            if process.is_running():
                process.kill()


def test_a_killed_launcher_leaves_nothing_behind(launch: Callable[[str], Launcher]) -> None:
    workers = "workers = [executor.worker(name, [device]) for name in ('0.0', '0.1')]"
    launcher = launch(workers)
    assert len(launcher.family) == 5  # two workers, the watcher, the daemon and its server
    launcher.kill()
    assert alive(launcher.family, SECONDS_TO_END) == []


def test_it_stays_until_the_last_worker_has_written_its_checkpoint(
    launch: Callable[[str], Launcher],
) -> None:
    worker = "writes = [sys.executable, '-c', 'import time; time.sleep(600)']\n"
    worker += "pids.append(subprocess.Popen(writes, pass_fds=[daemon.lifeline]).pid)"
    launcher = launch(worker)
    (writing,) = launcher.named
    launcher.kill()
    time.sleep(0.5)
    assert set(alive(launcher.daemon, 0)) == set(launcher.daemon)
    writing.kill()
    assert alive(launcher.family, SECONDS_TO_END) == []


def test_workers_find_it_and_a_killed_one_does_not_end_it(
    program: MpsProgram, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon, _ = start_mps(gpus(1), environment)
    assert daemon is not None
    monkeypatch.setenv("PYTHONPATH", str(CHECKOUT))
    executor = ProcessExecutor(daemon)
    try:
        worker = executor.worker("0.0", gpus(1))
        child = psutil.Process(worker.pid)
        assert eventually(lambda: PIPES in child.environ())  # once it has become the program
        found = child.environ()
        assert found[PIPES] == daemon.environment(gpus(1))[PIPES]
        assert found["CUDA_VISIBLE_DEVICES"] == "GPU-0"
        processes = processes_in(found[PIPES])
        worker.kill()
        assert eventually(lambda: worker.exit_code() is not None)
        assert set(alive(processes, 0)) == set(processes)
    finally:
        executor.close()
    assert alive(processes, 0) == []
