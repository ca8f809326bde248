"""The Ray executor without a cluster: flags, addresses, layout, and the states of a fold."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from clip_pkg.base.errors import UserError
from clip_pkg.cli import main
from clip_pkg.cli.main import parser_of
from clip_pkg.launch.execution import _log_names
from clip_pkg.scheduling import devices
from clip_pkg.scheduling import ray as ray_executor
from clip_pkg.scheduling.devices import Device
from clip_pkg.scheduling.job import Assignment, JobState, Slot
from clip_pkg.scheduling.ray import NODE_FILE, RayExecutor, RayJob, places, run_on_node
from clip_pkg.scheduling.ray_cluster import Cluster, Layout, lay_out
from clip_pkg.study.fold_files import marks_of
from clip_pkg.study.tasks import FoldFailure, FoldResult, write_record
from clip_pkg.training.worker import TaskPlacement
from support.fold_tasks import task
from support.tiny import program_environment

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="needs the extra ray"
)

# --- how a cluster is shared out


@pytest.mark.parametrize(
    ("nodes", "jobs", "places", "one_fold", "most"),
    [
        ([{"CPU": 8, "GPU": 2}, {"CPU": 32, "GPU": 4}], 1, 6, (1.0, 4), 4),
        ([{"CPU": 8, "GPU": 2}, {"CPU": 32, "GPU": 4}], 3, 6, (0.3333, 1), 4),
        ([{"CPU": 4}, {"CPU": 4, "GPU": 1}], 1, 1, (1.0, 4), 1),
        ([{"GPU": 2}], 1, 2, (1.0, 0), 2),
        ([{"CPU": 1, "GPU": 2}], 1, 2, (1.0, 0.5), 2),
        ([{"CPU": 4}, {"CPU": 9}, {}], 1, 3, (0.0, 4), 1),
        ([{"CPU": 4}, {"CPU": 8}], 2, 3, (0.0, 2), 1),
        ([{"CPU": 2}], 3, 1, (0.0, 0.6666), 1),
    ],
)
def test_a_cluster_is_shared_out(
    nodes: list[dict[str, float]],
    jobs: int,
    places: int,
    one_fold: tuple[float, float],
    most: int,
) -> None:
    layout = lay_out(nodes, jobs)
    asked = layout.resources(1)
    assert (layout.places, layout.most_gpus) == (places, most)
    assert (asked["num_gpus"], asked["num_cpus"]) == one_fold
    # All folds that may run at a time do fit, node by node.
    fitting = sum(
        min(
            int(node.get(kind, 0) // asked[f"num_{kind.lower()}s"])
            for kind in ("GPU", "CPU")
            if asked[f"num_{kind.lower()}s"]
        )
        for node in nodes
    )
    assert fitting >= layout.places * jobs


def test_a_fold_on_several_gpus_has_them_for_itself() -> None:
    layout = lay_out([{"CPU": 8, "GPU": 4}], 2)
    assert layout.resources(1) == {"num_gpus": 0.5, "num_cpus": 1}
    assert layout.resources(2) == {"num_gpus": 2.0, "num_cpus": 2}
    assert layout.threads(2) == 2


def test_a_cluster_without_anything_is_refused() -> None:
    with pytest.raises(UserError, match="neither GPUs nor CPUs"):
        lay_out([{"memory": 5.0}], 1)


def test_nodes_that_join_add_to_the_places() -> None:
    now: list[dict[str, float]] = [{"CPU": 4, "GPU": 2}, {"CPU": 4, "GPU": 1}]
    cluster = SimpleNamespace(nodes=lambda: now, ray=None)
    executor = RayExecutor(cluster, lay_out(now, 2))  # type: ignore[arg-type]

    def jobs() -> list[int]:
        return [executor.jobs_on(one, None) for one in places(executor.layout)]  # type: ignore[arg-type]

    assert jobs() == [2, 2, 2]
    now.append({"CPU": 8, "GPU": 2})
    assert jobs() == [4, 4, 2]
    del now[:]  # the whole cluster: what there is to do waits for its return
    assert jobs() == [0, 0, 0]


def test_logs_are_named_by_fold(tmp_path: Path) -> None:
    name = _log_names(tmp_path)
    slot = Slot(places(Layout(3, 1, 1.0, 1.0, 1))[2])
    assert name(task("a", 2), slot).name.startswith("a_ray_fold2_")


# --- the command line


@pytest.fixture
def refused(
    images: Path,
    tmp_path: Path,
    write_configs: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> Callable[..., str]:
    """Run the program with flags that it cannot take; returns its sentence."""

    def run(*words: str) -> str:
        where = ["--data-dir", images, "--output-dir", tmp_path / "out"]
        configs = ["--config-file", write_configs({}), "--multi-config"]
        assert main([str(word) for word in [*where, *configs, *words]]) == 2
        shown = capsys.readouterr()
        assert shown.out == ""
        assert shown.err.startswith("error: ")
        assert "Traceback" not in shown.err
        assert not (tmp_path / "out").exists()
        return shown.err

    return run


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--ray-address", "auto"], "--ray-address: only with --executor ray"),
        (["--executor", "ray", "--gpus", "0"], "Ray chooses"),
        (["--executor", "ray", "--wait-for-gpu", "5"], "Ray waits"),
        (["--executor", "ray", "--jobs-per-gpu", "auto"], "give a number"),
        (["--executor", "ray", "--ray-address", "nowhere"], "'nowhere' is none of auto, local"),
        (["--executor", "ray", "--ray-address", "http://a:1"], "ray://host:port"),
    ],
)
def test_flags_that_do_not_go_together(
    words: list[str], sentence: str, refused: Callable[..., str]
) -> None:
    assert sentence in refused(*words)


def test_flags_have_a_group_of_their_own() -> None:
    shown = parser_of().format_help()
    assert "Ray clusters (--executor ray):\n  --ray-address ADDRESS" in shown
    for address in ("auto", "local", "host-1.lan:6379", "ray://10.0.0.1:10001", "[::1]:6379"):
        assert parser_of().parse_args(["--ray-address", address]).ray_address == address


def test_a_missing_package_is_a_sentence(
    refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert "needs the package ray" in refused("--executor", "ray", "--ray-address", "local")


@needs_ray
@pytest.mark.parametrize("form", ["127.0.0.1:{}", "ray://127.0.0.1:{}", "auto"])
def test_where_nobody_listens_it_is_said_at_once(
    form: str, refused: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    shown = refused("--executor", "ray", "--ray-address", form.format(port))
    assert f"127.0.0.1:{port}" in shown
    assert "refused" in shown


@needs_ray
def test_what_is_no_ray_cluster_is_not_waited_for() -> None:
    code = (
        "import clip_pkg.scheduling.ray_cluster as c, sys\n"
        "c.SECONDS_TO_CONNECT = 1\n"
        "try: c.connect(sys.argv[1])\n"
        "except c.UserError as error: print(error)\n"
    )
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        command = [sys.executable, "-c", code, address]
        shown = subprocess.run(
            command, env=program_environment(), capture_output=True, text=True, timeout=60
        )
    assert "no response within 1 s" in shown.stdout


# --- the states of a fold


def write_result(root: Path, fold: int) -> None:
    """Leave what a worker leaves when it has finished."""
    one = task("a", fold, root=root)
    numbers = (1, 1, 1, 1, False, {}, {}, {}, "reported fold", "cpu", {}, 1, 1, None, [])
    one.paths.root.mkdir(parents=True, exist_ok=True)
    one.paths.history.write_text("{}", encoding="utf-8")
    result = FoldResult(one.identity, fold, *numbers)  # type: ignore[arg-type]
    write_record(one.paths.result, replace(result, files=marks_of([one.paths.history])))


class Lost(Exception):
    """What Ray raises about a task."""


class Cancelled(Lost):
    """The task was cancelled."""


class FakeRay:
    """Notes what it is asked for; a test decides what tasks return."""

    exceptions = SimpleNamespace(TaskCancelledError=Cancelled, RayError=Lost)

    def __init__(self) -> None:
        self.options: list[dict[str, Any]] = []
        self.requests: list[dict[str, Any]] = []
        self.results: dict[int, Any] = {}
        self.cancelled: list[tuple[int, bool]] = []
        self.alive = {"node1", "node2"}

    def remote(self, function: object) -> Any:
        def submit(checkout: str, request: dict[str, Any]) -> int:
            self.requests.append(request)
            return len(self.requests)

        def with_options(**options: Any) -> Any:
            self.options.append(options)
            return SimpleNamespace(remote=submit)

        return SimpleNamespace(options=with_options)

    def wait(self, references: list[int], **_: Any) -> tuple[list[int], list[int]]:
        return [one for one in references if one in self.results], []

    def get(self, reference: int) -> Any:
        result = self.results[reference]
        if isinstance(result, Exception):
            raise result
        return result

    def cancel(self, reference: int, *, force: bool) -> None:
        self.cancelled.append((reference, force))

    def nodes(self) -> list[dict[str, Any]]:
        return [{"NodeID": one, "Alive": one in self.alive} for one in ("node1", "node2")]

    def shutdown(self) -> None:
        """Leave."""


@dataclass
class Run:
    """An executor with a fake Ray and a clock that the test turns."""

    root: Path
    ray: FakeRay
    seconds: float = 0.0

    def __post_init__(self) -> None:
        layout = Layout(2, 1, 1.0, 1.0, 1)
        self.executor = RayExecutor(Cluster(self.ray, "fake"), layout)

    def submit(self, fold: int = 1) -> RayJob:
        one = task("a", fold, root=self.root)
        one.paths.root.mkdir(parents=True, exist_ok=True)
        slot = Slot(places(self.executor.layout)[0])
        return self.executor.submit([Assignment(one, (slot,), self.root / "a.log", 1)])[0]

    def announce(self, job: RayJob, node: str = "node1") -> None:
        content = {"node": node, "process": f"pid 7 on Ray node {node}", "time": self.seconds}
        job.node_file.write_text(json.dumps(content))

    def poll(self, job: RayJob) -> JobState:
        self.seconds += 1
        return job.poll()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    one = Run(tmp_path, FakeRay())
    time = SimpleNamespace(monotonic=lambda: one.seconds)
    monkeypatch.setattr(ray_executor, "time", time)
    return one


def done() -> dict[str, Any]:
    return {"state": "done", "failure": None}


def test_a_fold_is_queued_until_its_node_announces_it(run: Run) -> None:
    job = run.submit()
    assert (run.poll(job), job.process) == (JobState.QUEUED, "")
    assert run.ray.options[0]["num_gpus"] == 1.0
    json.dumps(run.ray.requests)  # a node may not have the package
    run.announce(job)
    assert run.poll(job) is JobState.RUNNING
    assert job.process == "pid 7 on Ray node node1"


def test_after_the_loss_of_its_node_a_fold_is_queued_and_runs_elsewhere(run: Run) -> None:
    job = run.submit()
    run.announce(job)
    assert run.poll(job) is JobState.RUNNING
    run.ray.alive.remove("node1")
    assert run.poll(job) is JobState.QUEUED
    run.announce(job, "node2")
    assert run.poll(job) is JobState.RUNNING
    assert job.process == "pid 7 on Ray node node2"
    run.announce(job, "node2")  # the process died, its node did not
    assert [run.poll(job), run.poll(job)] == [JobState.QUEUED, JobState.RUNNING]


def test_a_fold_that_is_lost_again_and_again_is_given_up(run: Run) -> None:
    job = run.submit()
    for _ in range(ray_executor.MAX_RESTARTS + 2):
        run.announce(job)
        run.poll(job)
    assert run.poll(job) is JobState.FAILED
    assert "lost each time" in str(job.failure)
    assert run.ray.cancelled == [(1, True)]


def test_done_means_that_the_result_can_be_seen_here(run: Run) -> None:
    job, lying = run.submit(1), run.submit(2)
    run.ray.results = {1: done(), 2: done()}
    assert run.poll(job) is JobState.QUEUED  # the shared folder does not show it yet
    write_result(run.root, 1)
    assert run.poll(job) is JobState.DONE
    assert not job.node_file.exists()
    run.poll(lying)
    run.seconds += ray_executor.SECONDS_FOR_SHARED_FILES
    assert run.poll(lying) is JobState.FAILED
    assert "cannot be seen here" in str(lying.failure)


@pytest.mark.parametrize(
    ("report", "state", "kind", "words"),
    [
        ({"state": "interrupted", "failure": None}, JobState.INTERRUPTED, "", ""),
        (Cancelled(), JobState.INTERRUPTED, "", ""),
        ({"crash": "ended with signal SIGKILL"}, JobState.FAILED, "crash", "SIGKILL"),
        (Lost("a\nthe node died\n"), JobState.FAILED, "crash", "lost by Ray (the node died)"),
        ({"problem": "no such folder"}, JobState.FAILED, "user error", "no such folder"),
    ],
)
def test_how_a_fold_ended(report: Any, state: JobState, kind: str, words: str, run: Run) -> None:
    job = run.submit()
    run.ray.results[1] = report
    assert run.poll(job) is state
    assert (job.failure.kind if job.failure else "") == kind
    assert words in str(job.failure)


def test_the_failure_of_a_fold_is_that_of_its_worker(run: Run) -> None:
    job = run.submit()
    failure = FoldFailure(task("a").identity, 1, "diverged", "NaN")
    run.ray.results[1] = {"state": "failed", "failure": asdict(failure)}
    assert run.poll(job) is JobState.FAILED
    assert job.failure == failure


def test_stopping_cancels_and_a_node_that_does_not_obey_counts_as_lost(run: Run) -> None:
    stopped, hung = run.submit(1), run.submit(2)
    stopped.stop()
    hung.kill()
    assert run.ray.cancelled == [(1, False), (2, False)]
    run.ray.results[1] = Cancelled()
    assert run.poll(stopped) is JobState.INTERRUPTED
    run.seconds += ray_executor.SECONDS_TO_DIE
    assert run.poll(hung) is JobState.FAILED
    assert run.ray.cancelled[2:] == [(2, True)]


def test_closing_ends_what_is_left(run: Run) -> None:
    job = run.submit()
    run.announce(job)
    run.executor.close()
    assert run.ray.cancelled == [(1, False), (1, True)]
    assert not job.node_file.exists()


# --- on the node


class FakeWorker:
    """Reports success at once; a signal is noted."""

    made: ClassVar[list[FakeWorker]] = []

    def __init__(self, wanted: list[devices.Device]) -> None:
        self.devices = wanted
        self.pid = 5
        self.signals: list[int] = []
        self.interrupts = 0
        FakeWorker.made.append(self)

    def send(self, task: dict[str, Any], place: TaskPlacement) -> None:
        self.place = place

    def answer(self) -> dict[str, Any] | None:
        if self.interrupts:
            self.interrupts -= 1
            raise KeyboardInterrupt
        return {"state": "interrupted" if self.signals else "done", "failure": None}

    def exit_code(self) -> int | None:
        return None

    def signal(self, number: int) -> None:
        self.signals.append(number)

    def close(self) -> None:
        self.is_closed = True


@pytest.fixture
def request_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setattr(os, "environ", {**os.environ, "CUDA_VISIBLE_DEVICES": "1"})
    monkeypatch.setattr(ray_executor, "Worker", FakeWorker)
    context = SimpleNamespace(get_node_id=lambda: "0123456789ab")
    util = SimpleNamespace(get_node_ip_address=lambda: "10.0.0.7")
    ray = SimpleNamespace(get_runtime_context=lambda: context, util=util)
    monkeypatch.setitem(sys.modules, "ray", ray)
    (tmp_path / "task.json").touch()
    FakeWorker.made.clear()
    return {
        "task": {},
        "task_file": str(tmp_path / "task.json"),
        "log_file": str(tmp_path / "a.log"),
        "has_gpu": True,
        "threads": 3,
        "folder": str(Path.cwd()),
        "environment": {"HF_HOME": "/shared/hf"},
    }


@pytest.mark.parametrize(
    ("gpus", "has_gpu", "device", "visible", "note"),
    [
        ([Device("0", "GPU-a", "H"), Device("1", "GPU-b", "H")], True, "cuda:0", "GPU-b", False),
        ([Device("0", "GPU-a", "H"), Device("1", "GPU-b", "H")], False, "cpu", "", False),
        ([], True, "cpu", "", True),
    ],
)
def test_a_fold_sees_the_gpu_that_ray_gave_and_no_other(
    gpus: list[Device],
    has_gpu: bool,
    device: str,
    visible: str,
    note: bool,
    request_of: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(devices, "installed_gpus", lambda: tuple(gpus))
    assert run_on_node({**request_of, "has_gpu": has_gpu}) == done()
    assert os.environ["HF_HOME"] == "/shared/hf"
    (worker,) = FakeWorker.made
    assert worker.is_closed
    assert (worker.place.device, worker.place.threads) == (device, 3)
    assert worker.place.device_id.endswith(" GPU 1" if device == "cuda:0" else " CPU")
    assert [one.visible for one in worker.devices] == [visible]
    assert (tmp_path / "a.log").exists() is note
    announced = json.loads((tmp_path / NODE_FILE).read_text())
    assert announced["node"] == "0123456789ab"
    assert "pid 5 on Ray node" in announced["process"]


def test_a_cancelled_task_lets_its_worker_write_a_checkpoint(
    request_of: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeWorker, "send", lambda self, *_: setattr(self, "interrupts", 1))
    assert run_on_node(request_of)["state"] == "interrupted"
    (worker,) = FakeWorker.made
    assert worker.signals == [signal.SIGTERM]
    assert worker.is_closed


def test_a_node_without_the_folders_says_so(request_of: dict[str, Any]) -> None:
    report = run_on_node({**request_of, "task_file": "/nowhere/task.json"})
    assert "all nodes must see the same folders" in report["problem"]
    assert FakeWorker.made == []
