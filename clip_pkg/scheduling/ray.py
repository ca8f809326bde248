"""Runs each task as one remote task of a Ray cluster, which starts a worker process there.

Ray finds a node with free GPUs and CPUs, and starts a remote task again elsewhere when its node is
lost; the fold then resumes from its checkpoint. The worker is a separate process, so that CUDA
contexts, crashes in native code, signals and redirected output do not affect Ray; it exits when the
remote task or the launcher has ended. Ray is optional and imported only by runs that use it.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from signal import SIGTERM
from typing import Any

from typing_extensions import TypedDict

from clip_pkg.base.child_process import how_it_ended
from clip_pkg.base.errors import DamagedFile, UserError
from clip_pkg.base.files import write_json
from clip_pkg.base.paths import RunPaths
from clip_pkg.base.reading import read_json
from clip_pkg.scheduling.devices import Device, find_devices
from clip_pkg.scheduling.job import Assignment, JobState, write_fresh_task
from clip_pkg.scheduling.process import Worker, crash
from clip_pkg.scheduling.ray_cluster import Cluster, Layout, connect, lay_out
from clip_pkg.scheduling.resources import Execution, Resources
from clip_pkg.study.identity import PACKAGE
from clip_pkg.study.tasks import (
    FoldFailure,
    Task,
    failure_from_json,
    failure_of,
    finished,
    task_to_json,
)
from clip_pkg.training.worker import TaskPlacement


class Announcement(TypedDict):
    """Where Ray started a task: its node, process and time, in seconds since 1970."""

    node: str
    process: str
    time: float


NODE_FILE = "ray_node.json"  # in the folder of a fold, while Ray runs it
PLACE = "ray"  # and a number: the ids of places
# Weights are looked for in the same folders as on the launcher's machine.
FORWARDED = ("HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "TORCH_HOME", "XDG_CACHE_HOME")
MAX_RESTARTS = 3  # by Ray, of one attempt
SECONDS_BETWEEN_POLLS = 0.5
SECONDS_TO_CHECKPOINT = 60.0  # then the worker is killed
SECONDS_TO_DIE = 90.0  # after a kill; then the node counts as lost
SECONDS_TO_LEAVE = 10.0
SECONDS_FOR_SHARED_FILES = 90.0  # until a file is seen on another node; network folders cache


def places(layout: Layout) -> tuple[Device, ...]:
    """The places of a cluster as devices; Ray decides which GPU a place is on."""
    return tuple(Device(f"{PLACE}{number}", "", "", PLACE) for number in range(layout.places))


# --- on the node


def run_on_node(request: Mapping[str, Any]) -> dict[str, Any]:
    """Run a task in a worker process on the GPUs that Ray gave to this remote task.

    Returns the worker's report, `problem`: why the task cannot run here, or `crash`: how the worker
    ended. For the request see `RayExecutor`.
    """
    host = socket.gethostname()
    for path in (request["task_file"], Path(request["log_file"]).parent):
        if not Path(path).exists():
            return {
                "problem": f"{path} does not exist on node {host}; all nodes must see the same "
                "folders"
            }
    os.environ.update(request["environment"])
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    if Path(request["folder"]).is_dir():
        os.chdir(request["folder"])  # relative paths of a config count from there
    devices, _ = find_devices(None) if request["has_gpu"] else find_devices(None, gpus=())
    names = [f"{host} CPU"]
    if devices[0].is_gpu:
        names = [
            f"{host} GPU {one}" for one in os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")
        ]
    elif request["has_gpu"]:
        with Path(request["log_file"]).open("a", encoding="utf-8") as log:
            log.write(f"NOTE: Ray allocated a GPU of {host}, but no CUDA device was found\n")
    place = TaskPlacement(
        devices[0].torch_name, "+".join(names), request["threads"], request["log_file"]
    )
    worker = Worker(devices)
    try:
        worker.send(request["task"], place)
        ray: Any = importlib.import_module("ray")
        node, address = ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address()
        process = f"pid {worker.pid} on Ray node {host} ({address}, {node[:8]})"
        announcement = {"node": node, "process": process, "time": time.time()}
        write_json(Path(request["task_file"]).parent / NODE_FILE, announcement)
        return _report(worker)
    except KeyboardInterrupt:  # ray.cancel
        worker.signal(SIGTERM)
        return _report(worker, SECONDS_TO_CHECKPOINT)
    finally:
        worker.close()


def _report(worker: Worker, seconds: float = float("inf")) -> dict[str, Any]:
    """Wait for the worker's report; kill it after `seconds`."""
    deadline = time.monotonic() + seconds
    while (report := worker.answer()) is None and worker.exit_code() is None:
        if time.monotonic() > deadline:
            worker.kill()
        time.sleep(0.1)
    report = report or worker.answer()  # written just before it ended
    return report or {"crash": how_it_ended(worker.exit_code() or 0)}


def _remote_function() -> Any:
    def clip_pkg_task(checkout: str, request: dict[str, Any]) -> dict[str, Any]:
        # Pickled by value, so that a node without the package can report that.
        import sys  # noqa: PLC0415

        sys.path.insert(0, checkout)
        try:
            from clip_pkg.scheduling.ray import run_on_node  # noqa: PLC0415
        except ImportError as error:
            return {"problem": f"{error}; the node must have {checkout}, as the launcher's machine"}
        return run_on_node(request)

    return clip_pkg_task


# --- on the launcher's machine


class RayJob:
    """One assignment as a remote task."""

    def __init__(self, executor: RayExecutor, assignment: Assignment, reference: Any) -> None:
        self.reference = reference
        self.failure: FoldFailure | None = None
        self.state = JobState.QUEUED
        self.node_file = assignment.task.paths.root / NODE_FILE
        self._executor = executor
        self._assignment = assignment
        self._announced: Announcement | None = None
        self._starts = 0
        self._next_look = 0.0
        self._killed_at: float | None = None
        self._report: dict[str, Any] | None = None
        self._reported_at = 0.0

    @property
    def process(self) -> str:
        return "" if self._announced is None else self._announced["process"]

    def poll(self) -> JobState:
        if self.state.is_over:
            return self.state
        now = time.monotonic()
        if self._report is None and self._executor.has_ended(self):
            self._report, self._reported_at = self._executor.report(self), now
        if self._report is not None:
            self._end(self._report, now - self._reported_at)
        elif self._killed_at is not None and now - self._killed_at > SECONDS_TO_DIE:
            self._executor.cancel(self, force=True)
            self._fail("did not end when it was killed")
        elif now >= self._next_look:
            self._next_look = now + SECONDS_BETWEEN_POLLS
            self._look_for_node()
        if self.state.is_over:
            self.node_file.unlink(missing_ok=True)
        return self.state

    def stop(self) -> None:
        if not self.state.is_over:
            self._executor.cancel(self)

    def kill(self) -> None:
        self._killed_at = time.monotonic()
        self.stop()

    def _look_for_node(self) -> None:
        """Follow where Ray runs the task; after the loss of its node it is queued again."""
        try:
            announced = read_json(self.node_file, Announcement)
        except (FileNotFoundError, DamagedFile):
            return
        has_moved = announced != self._announced
        self._starts += has_moved
        self._announced = announced
        was_lost = has_moved and self.state is JobState.RUNNING
        is_running = not was_lost and self._executor.is_alive(announced["node"])
        self.state = JobState.RUNNING if is_running else JobState.QUEUED
        if self._starts > MAX_RESTARTS + 1:  # Ray itself has no limit if memory is short
            self._executor.cancel(self, force=True)
            self._fail(f"was started {self._starts} times by Ray and lost each time")

    def _end(self, report: Mapping[str, Any], seconds: float) -> None:
        """Take the outcome from a report that came `seconds` ago."""
        task = self._assignment.task
        if "problem" in report:
            log = self._assignment.log_file
            self.failure = failure_of(task, "user error", report["problem"], log)
            self.state = JobState.FAILED
        elif "crash" in report:
            self._fail(report["crash"])
        elif report["state"] != JobState.DONE.value:
            self.failure = report["failure"] and failure_from_json(report["failure"])
            self.state = JobState(report["state"])
        else:
            list(task.paths.root.iterdir())  # makes a network folder show new files
            if finished(task) is not None:
                self.state = JobState.DONE
            elif seconds > SECONDS_FOR_SHARED_FILES:
                self._fail("reported success, but its result cannot be seen here")

    def _fail(self, how: str) -> None:
        self.state, self.failure = JobState.FAILED, crash(self._assignment, how)


class RayExecutor:
    """Submits remote tasks to a cluster; Ray queues those for which it has no room."""

    def __init__(self, cluster: Cluster, layout: Layout) -> None:
        self.layout = layout
        self._cluster = cluster
        self._ray = cluster.ray
        self._open: list[RayJob] = []
        self._ended: set[Any] = set()
        self._next_wait = 0.0

    def submit(self, assignments: Sequence[Assignment]) -> list[RayJob]:
        jobs = [RayJob(self, one, self._start(one)) for one in assignments]
        self._open += jobs
        return jobs

    def _start(self, assignment: Assignment) -> Any:
        task = assignment.task
        write_fresh_task(task)
        (task.paths.root / NODE_FILE).unlink(missing_ok=True)
        threads = self.layout.threads(task.gpus)
        forwarded = {name: os.environ[name] for name in FORWARDED if name in os.environ}
        request = {
            "task": task_to_json(task),
            "task_file": str(task.paths.task),
            "log_file": str(assignment.log_file),
            "has_gpu": self.layout.gpus > 0,
            "threads": threads,
            "folder": str(Path.cwd()),
            "environment": {**forwarded, "OMP_NUM_THREADS": str(threads)},
        }
        function = self._ray.remote(_remote_function()).options(
            **self.layout.resources(task.gpus),
            max_retries=MAX_RESTARTS,
            scheduling_strategy="SPREAD",
        )
        with self._connected():
            return function.remote(str(PACKAGE.parent), request)

    def has_ended(self, job: RayJob) -> bool:
        now = time.monotonic()
        if now >= self._next_wait:
            self._next_wait = now + SECONDS_BETWEEN_POLLS
            self._open = [one for one in self._open if not one.state.is_over]
            self._ended = self._wait(0.0)
        return job.reference in self._ended

    def _wait(self, seconds: float) -> set[Any]:
        """Return the open references that have a result."""
        references = [one.reference for one in self._open]
        if not references:
            return set()
        with self._connected():
            count = len(references)
            return set(self._ray.wait(references, num_returns=count, timeout=seconds)[0])

    def report(self, job: RayJob) -> dict[str, Any]:
        """Return the value of `run_on_node`, or a report of Ray's error."""
        try:
            with self._connected():
                report: dict[str, Any] = self._ray.get(job.reference)
        except self._ray.exceptions.TaskCancelledError:
            return {"state": JobState.INTERRUPTED.value, "failure": None}
        except self._ray.exceptions.RayError as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            return {"crash": f"was lost by Ray ({lines[-1] if lines else type(error).__name__})"}
        return report

    def cancel(self, job: RayJob, *, force: bool = False) -> None:
        """Withdraw a queued job; interrupt a running one, or end it at once with `force`."""
        with self._connected():
            self._ray.cancel(job.reference, force=force)

    def is_alive(self, node: str) -> bool:
        """Whether a node is still in the cluster."""
        with self._connected():
            return self._cluster.is_alive(node)

    @contextlib.contextmanager
    def _connected(self) -> Iterator[None]:
        try:
            yield
        except ConnectionError as error:
            raise UserError(
                f"the connection to the Ray cluster broke ({error}); run the same command again to "
                "resume"
            ) from None

    def jobs_on(self, device: Device, task: Task) -> int:
        """Folds of this place now: nodes that joined are shared out among all places."""
        del task
        now, then = self.layout.capacity(self._cluster.nodes()), self.layout.places
        number = int(device.id.removeprefix(PLACE))
        return self.layout.jobs * ((now + then - 1 - number) // then)

    def close(self) -> None:
        """Leave no process behind, and the cluster as it was."""
        self._open = [one for one in self._open if not one.state.is_over]
        # Where the connection broke, Ray ends the remote tasks, and these their workers.
        with contextlib.suppress(UserError):
            for one in self._open:
                self.cancel(one)
            self._wait(SECONDS_TO_LEAVE)
            for one in self._open:
                self.cancel(one, force=True)
        for one in self._open:
            one.node_file.unlink(missing_ok=True)
        self._cluster.close()


def open_ray(execution: Execution, run: RunPaths, say: object) -> Resources:
    """Connect to a cluster and divide it. Raises UserError."""
    del run, say
    share = execution.share
    if not isinstance(share, int):
        raise UserError("--jobs-per-gpu auto cannot be used with --executor ray; give a number")
    cluster = connect(execution.ray_address or "auto")
    try:
        nodes = cluster.nodes()
        layout = lay_out(nodes, share)
    except UserError:
        cluster.close()
        raise
    executor = RayExecutor(cluster, layout)
    kind = "GPU" if layout.gpus else "share of CPUs"
    notice = (
        f"Ray cluster {cluster.address}: {len(nodes)} node(s), {layout.places} place(s) of one "
        f"{kind} with {layout.threads(1)} CPU thread(s) per fold."
    )
    return Resources(
        devices=places(layout),
        executor=executor,
        jobs_per_device=layout.jobs,
        notices=[notice],
        most_gpus=layout.most_gpus,
        jobs_that_fit=executor.jobs_on,
    )
