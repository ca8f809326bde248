"""A real Slurm on this machine: one node, two GPUs that are none, no accounting.

Everything is in one temporary folder and in child processes; nothing of the system is used but the
programs, which are installed where that is allowed.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

DEVICES = ("/dev/null", "/dev/zero")  # what stands for a GPU must be some device
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol")
PACKAGES = ("munge", "slurm-client", "slurmctld", "slurmd")
SECONDS_TO_START = 60
# Every task notes when it runs and what it was given. The GPUs are none that CUDA could use.
TASK_PROLOG = """#!/bin/sh
echo "begin $(date +%s.%N) $SLURM_JOB_ID gpus=$CUDA_VISIBLE_DEVICES" >>'{root}/tasks'
"""
TASK_EPILOG = """#!/bin/sh
echo "end $(date +%s.%N) $SLURM_JOB_ID" >>'{root}/tasks'
"""
SLURM_CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={root}/munge.socket,cred_expire=5
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
GresTypes=gpu
TaskProlog={root}/task_prolog
TaskEpilog={root}/task_epilog
SlurmdParameters=config_overrides
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=1,sched_min_interval=0
KillWait=10
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs=8 RealMemory=1000 Gres=gpu:{gpus} State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=60 DefaultTime=10 State=UP
"""


@dataclass(frozen=True)
class Interval:
    """A task that ran: its job, from when to when, and the GPUs that it was given."""

    job: str
    begin: float
    end: float
    gpus: tuple[str, ...]


@dataclass(frozen=True)
class SlurmCluster:
    """A running cluster; its commands need `environment`."""

    root: Path

    @property
    def environment(self) -> Mapping[str, str]:
        """What makes Slurm's commands talk to it."""
        return {"SLURM_CONF": str(self.root / "slurm.conf")}

    def ask(self, *words: str) -> str:
        """Run one of Slurm's commands."""
        return subprocess.run(
            words,
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        ).stdout.strip()

    def queue(self, *words: str) -> list[str]:
        """Ids of the jobs in the queue, each element of an array by itself."""
        return self.ask("squeue", "--noheader", "--array", "--format=%i", *words).split()

    def intervals(self) -> list[Interval]:
        """What ran, as the cluster itself noted it; what still runs ends in the future."""
        path = self.root / "tasks"
        lines = path.read_text().splitlines() if path.exists() else []
        open_ones: dict[str, tuple[float, tuple[str, ...]]] = {}
        found = []
        for line in lines:
            event, moment, job, *rest = line.split(" ")
            if event == "begin":
                gpus = rest[0].removeprefix("gpus=")
                open_ones[job] = float(moment), tuple(gpus.split(",")) if gpus else ()
            elif job in open_ones:
                begin, devices = open_ones.pop(job)
                found.append(Interval(job, begin, float(moment), devices))
        return found + [Interval(j, *one[:1], float("inf"), one[1]) for j, one in open_ones.items()]


def why_not() -> str:
    """Install what is missing, if that is allowed; returns why there can be no cluster, or ''."""
    if all(map(_program, PROGRAMS)):
        return ""
    apt = shutil.which("apt-get")
    if os.geteuid() != 0 or apt is None:
        return "Slurm is not installed, and only root can install Debian's packages"
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for words in (["update"], ["install", "--yes", "--no-install-recommends", *PACKAGES]):
        done = subprocess.run([apt, *words], env=environment, capture_output=True, text=True)
    if done.returncode != 0 or not all(map(_program, PROGRAMS)):
        return f"Slurm could not be installed: {done.stderr.strip()[-300:]}"
    return ""


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")


@contextmanager
def slurm_cluster() -> Iterator[SlurmCluster]:
    """Start a cluster; afterwards none of its processes and files is left."""
    # Not pytest's folder: munge insists on parents that only their owner can change.
    root = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
    root.chmod(0o755)
    cluster = SlurmCluster(root)
    try:
        with ExitStack() as stack:
            _write_files(root)
            munge = _start(stack, root, "munged", *_munge_options(root))
            _wait_for((root / "munge.socket").exists, munge)
            controller = _start(stack, root, "slurmctld", "-D", "-i")
            node = _start(stack, root, "slurmd", "-D")
            _wait_for(lambda: _is_idle(cluster), controller, node)
            stack.callback(_cancel_everything, cluster)
            yield cluster
    finally:
        _end_stragglers(root)
        shutil.rmtree(root)


def _write_files(root: Path) -> None:
    for name in ("state", "spool"):
        (root / name).mkdir()
    (root / "munge.key").write_bytes(os.urandom(128))
    (root / "munge.key").chmod(0o400)
    gpus = [root / f"gpu{number}" for number in range(len(DEVICES))]
    for gpu, device in zip(gpus, DEVICES, strict=True):
        gpu.symlink_to(device)
    text = "AutoDetect=off\n" + "".join(f"Name=gpu File={gpu}\n" for gpu in gpus)
    (root / "gres.conf").write_text(text)
    for name, script in (("task_prolog", TASK_PROLOG), ("task_epilog", TASK_EPILOG)):
        (root / name).write_text(script.format(root=root))
        (root / name).chmod(0o755)
    (root / "slurm.conf").write_text(
        SLURM_CONF.format(
            root=root,
            host=socket.gethostname().partition(".")[0],
            user=psutil.Process().username(),
            controller_port=_free_port(),
            node_port=_free_port(),
            gpus=len(DEVICES),
        )
    )


def _munge_options(root: Path) -> list[str]:
    return [
        "--foreground",
        "--force",
        f"--socket={root}/munge.socket",
        f"--key-file={root}/munge.key",
        f"--pid-file={root}/munged.pid",
        f"--log-file={root}/munged.log",
        f"--seed-file={root}/munged.seed",
        "--num-threads=2",
    ]


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@dataclass(frozen=True)
class Daemon:
    """A process in the foreground, and what it says."""

    process: subprocess.Popen[bytes]
    output: Path


def _start(stack: ExitStack, root: Path, name: str, *options: str) -> Daemon:
    program = _program(name)
    assert program is not None
    output = root / f"{name}.out"
    with output.open("wb") as stream:
        process = subprocess.Popen(
            [program, *options],
            env={**os.environ, "SLURM_CONF": str(root / "slurm.conf")},
            stdout=stream,
            stderr=stream,
            stdin=subprocess.DEVNULL,
        )
    stack.callback(_end, process)
    return Daemon(process, output)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _wait_for(condition: Callable[[], bool], *daemons: Daemon) -> None:
    deadline = time.monotonic() + SECONDS_TO_START
    while not condition():
        alive = all(daemon.process.poll() is None for daemon in daemons)
        if time.monotonic() > deadline or not alive:
            said = "\n".join(daemon.output.read_text()[-2000:] for daemon in daemons)
            raise AssertionError(f"Slurm did not start:\n{said}")
        time.sleep(0.1)


def _is_idle(cluster: SlurmCluster) -> bool:
    try:
        return cluster.ask("sinfo", "--noheader", "--format=%t") == "idle"
    except subprocess.SubprocessError:
        return False


def _cancel_everything(cluster: SlurmCluster) -> None:
    deadline = time.monotonic() + 30
    while (left := cluster.queue()) and time.monotonic() < deadline:
        cluster.ask("scancel", "--quiet", *left)
        time.sleep(0.3)


def _end_stragglers(root: Path) -> None:
    """Kill what still uses the folder: a job that would not end, and the step that held it."""
    killed = []
    for process in psutil.process_iter(["environ"]):
        environment = process.info["environ"] or {}
        if environment.get("SLURM_CONF") == str(root / "slurm.conf"):
            with suppress(psutil.NoSuchProcess):
                process.kill()
                killed.append(process)
    psutil.wait_procs(killed, timeout=20)
