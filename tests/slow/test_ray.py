"""The Ray executor without a cluster: flags, addresses, sharing, and what becomes of a fold."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from clip_pkg.base.errors import UserError
from clip_pkg.cli import main
from clip_pkg.cli.main import parser_of
from clip_pkg.launch.execution import _log_names
from clip_pkg.scheduling import devices, ray_node
from clip_pkg.scheduling import ray as ray_cluster
from clip_pkg.scheduling.devices import Gpu
from clip_pkg.scheduling.job import Assignment, JobState, Slot
from clip_pkg.scheduling.ray import RayExecutor, places
from clip_pkg.scheduling.ray_connection import Connection, Layout, lay_out
from clip_pkg.scheduling.ray_seat import SeatLost
from clip_pkg.study.identity import NUMERICS_VERSION
from clip_pkg.study.tasks import FoldResult, FoldTask, write_record, write_task
from support.fold_tasks import task as paper_task
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
    connection = SimpleNamespace(nodes=lambda: now)
    executor = RayExecutor(connection, lay_out(now, 2))  # type: ignore[arg-type]

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
    assert name(task(tmp_path), slot).name.startswith("a_ray_fold2_")


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
        (["--ray-address", "auto"], "--ray-address applies to --executor ray only"),
        (["--executor", "ray", "--gpus", "0"], "Ray chooses"),
        (["--executor", "ray", "--wait-for-gpu", "5"], "Ray chooses"),
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
        "import clip_pkg.scheduling.ray_connection as c, sys\n"
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
    assert "did not say hello within 1 s" in shown.stdout


# --- what becomes of a fold


def task(root: Path, fold: int = 2, gpus: int = 1) -> FoldTask:
    return paper_task("a", fold, gpus=gpus, n_folds=3, batch_size=4, root=root / "out")


def write_result(one: FoldTask) -> None:
    result = FoldResult(
        one.identity, one.fold, 1, 1, 1, 1, False, {}, {}, {}, "reported fold", "cpu", {}, 1, 1,
        None, [],
    )  # fmt: skip
    write_record(one.paths.result, result)


NODE = {
    "id": "0123456789ab",
    "ip": "10.0.0.7",
    "host": "n7",
    "problem": "",
    "numerics": NUMERICS_VERSION,
}


class FakeSeat:
    """Answers what a test says; nothing until then."""

    made: list[FakeSeat]

    def __init__(self, connection: object, layout: Layout, gpus: int) -> None:
        self.gpus = gpus
        self.idle_since = 0.0
        self.node: dict[str, str] | None = None
        self.place = "n7 (10.0.0.7, 01234567)"
        self.asked: list[tuple[Any, ...]] = []
        self.told: list[tuple[Any, ...]] = []
        self.is_silent = True
        self.next: Any = None
        self.lost = ""
        self.killed = False
        FakeSeat.made.append(self)

    def is_ready(self) -> bool:
        return self.node is not None

    def ask(self, name: str, *arguments: Any) -> None:
        assert self.is_silent
        self.is_silent = False
        self.asked.append((name, *arguments))

    def answer(self) -> Any:
        if self.lost:
            raise SeatLost(self.lost)
        found, self.next = self.next, None
        self.is_silent = self.is_silent or found is not None
        return found

    def tell(self, name: str, *arguments: Any) -> None:
        self.told.append((name, *arguments))

    def kill(self) -> None:
        assert not self.killed
        self.killed = True


class Cluster:
    """An executor with fake seats and a clock that the test turns."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.seconds = 0.0
        self.executor = RayExecutor(
            Connection(SimpleNamespace(shutdown=lambda: None), "fake"), Layout(2, 1, 1.0, 1.0, 1)
        )

    def submit(self, fold: int = 1, gpus: int = 1) -> ray_cluster.RayJob:
        one = task(self.root, fold, gpus)
        one.paths.root.mkdir(parents=True, exist_ok=True)
        slot = Slot(places(self.executor.layout)[0])
        return self.executor.submit([Assignment(one, (slot,), self.root / "a.log", 1)])[0]

    def running(self, fold: int = 1) -> tuple[ray_cluster.RayJob, FakeSeat]:
        job = self.submit(fold)
        seat = FakeSeat.made[-1]
        seat.node = dict(NODE)
        job.poll()
        seat.next = {"problem": "", "pid": 4711}
        assert job.poll() is JobState.RUNNING
        assert job.poll() is JobState.RUNNING
        assert [question[0] for question in seat.asked[-2:]] == ["begin", "look"]
        return job, seat


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    FakeSeat.made = []
    one = Cluster(tmp_path)
    monkeypatch.setattr(ray_cluster, "Seat", FakeSeat)
    monkeypatch.setattr(ray_cluster, "time", SimpleNamespace(monotonic=lambda: one.seconds))
    return one


def report(state: str = "done", failure: object = None) -> dict[str, Any]:
    return {"report": {"state": state, "failure": failure}, "exit_code": None}


def test_a_fold_is_queued_until_ray_has_room(cluster: Cluster) -> None:
    job = cluster.submit()
    assert (job.poll(), job.process) == (JobState.QUEUED, "")
    (seat,) = FakeSeat.made
    seat.node = dict(NODE)
    assert job.poll() is JobState.QUEUED
    assert seat.asked == [("begin", job.assignment)]
    seat.next = {"problem": "", "pid": 4711}
    assert job.poll() is JobState.RUNNING
    assert job.process == "pid 4711 on Ray node n7 (10.0.0.7, 01234567)"


def test_done_means_that_the_result_can_be_seen_here(cluster: Cluster) -> None:
    job, seat = cluster.running()
    seat.next = report()
    assert job.poll() is JobState.RUNNING  # the shared folder has not shown it yet
    write_result(job.assignment.task)
    assert job.poll() is JobState.DONE
    lying, seat = cluster.running(fold=2)
    seat.next = report()
    lying.poll()
    cluster.seconds += ray_cluster.SECONDS_FOR_SHARED_FILES + 1
    assert lying.poll() is JobState.FAILED
    assert "left no result" in str(lying.failure)


def test_a_seat_serves_several_folds_and_is_given_up_when_it_has_none(cluster: Cluster) -> None:
    job, seat = cluster.running()
    write_result(job.assignment.task)
    seat.next = report()
    assert job.poll() is JobState.DONE
    wide = cluster.submit(2, gpus=2)  # needs another kind of seat
    assert len(FakeSeat.made) == 2
    again = cluster.submit(3)
    again.poll()
    assert seat.asked[-1] == ("begin", again.assignment)
    assert len(FakeSeat.made) == 2
    write_result(again.assignment.task)
    seat.next = {"problem": "", "pid": 1}
    again.poll()
    seat.next = report()
    cluster.seconds += 1
    again.poll()
    assert again.poll() is JobState.DONE
    cluster.seconds += ray_cluster.SECONDS_IDLE + 1
    wide.poll()
    assert seat.killed
    assert not FakeSeat.made[1].killed


def test_the_first_queued_fold_takes_over_a_seat_that_becomes_free(cluster: Cluster) -> None:
    busy, seat = cluster.running(1)
    first, second = cluster.submit(2), cluster.submit(3)
    write_result(busy.assignment.task)
    seat.next = report()
    assert [busy.poll(), first.poll(), second.poll()] == [
        JobState.DONE,
        JobState.QUEUED,
        JobState.QUEUED,
    ]
    assert seat.asked[-1] == ("begin", first.assignment)
    cluster.submit(1)
    assert len(FakeSeat.made) == 3  # waits where the first one did


def test_a_lost_node_fails_the_fold_and_says_so(cluster: Cluster) -> None:
    job, seat = cluster.running()
    seat.lost = "was lost with its node n7"
    assert job.poll() is JobState.FAILED
    assert job.failure is not None
    assert job.failure.kind == "crash"  # the loop tries again
    assert "lost with its node n7" in job.failure.reason
    assert seat.killed


@pytest.mark.parametrize(
    ("node", "begun", "sentence"),
    [
        ({"code": "other"}, None, "other sources of clip_pkg"),
        ({"problem": "No module named 'filelock'"}, None, "filelock"),
        ({}, {"problem": "/o/task.json is not there on the node n7", "pid": 0}, "same folders"),
    ],
)
def test_a_node_that_cannot_work_is_no_reason_to_try_again(
    node: dict[str, str], begun: dict[str, Any] | None, sentence: str, cluster: Cluster
) -> None:
    job = cluster.submit()
    (seat,) = FakeSeat.made
    seat.node = {**NODE, **node}
    job.poll()
    seat.next = begun
    assert job.poll() is JobState.FAILED
    assert job.failure is not None
    assert job.failure.kind == "user error"
    assert sentence in job.failure.reason


def test_how_a_fold_ended_is_taken_from_its_worker(cluster: Cluster) -> None:
    job, seat = cluster.running(1)
    failure = {"identity": vars(job.assignment.task.identity), "fold": 1, "kind": "diverged"}
    seat.next = report("failed", {**failure, "reason": "NaN"})
    assert job.poll() is JobState.FAILED
    assert job.failure is not None
    assert (job.failure.kind, job.failure.reason) == ("diverged", "NaN")
    stopped, seat = cluster.running(2)
    stopped.stop()
    assert seat.told == [("signal", 15)]
    seat.next = report("interrupted")
    assert stopped.poll() is JobState.INTERRUPTED
    crashed, seat = cluster.running(3)
    seat.next = {"report": None, "exit_code": -9}
    assert crashed.poll() is JobState.FAILED
    assert "SIGKILL" in str(crashed.failure)
    assert all(one.killed for one in FakeSeat.made)  # the next fold gets a fresh process


def test_what_has_not_begun_is_withdrawn(cluster: Cluster) -> None:
    job = cluster.submit()
    job.stop()
    assert job.poll() is JobState.INTERRUPTED
    assert FakeSeat.made[0].killed
    job.kill()
    assert job.poll() is JobState.INTERRUPTED


def test_a_node_that_does_not_obey_counts_as_lost(cluster: Cluster) -> None:
    job, seat = cluster.running()
    job.kill()
    assert seat.told == [("signal", 9)]
    assert job.poll() is JobState.RUNNING
    cluster.seconds += ray_cluster.SECONDS_TO_DIE + 1
    assert job.poll() is JobState.FAILED
    assert seat.killed


# --- on the node


class FakeWorker:
    def __init__(self, wanted: list[devices.Device]) -> None:
        self.devices = wanted
        self.sent: list[Assignment] = []
        self.pid = 5

    def send(self, assignment: Assignment) -> None:
        self.sent.append(assignment)


@pytest.mark.parametrize(
    ("gpus", "has_gpu", "device", "visible", "note"),
    [
        ([Gpu(0, "GPU-a", "H"), Gpu(1, "GPU-b", "H")], True, "cuda:0", "GPU-b", False),
        ([Gpu(0, "GPU-a", "H"), Gpu(1, "GPU-b", "H")], False, "cpu", "", False),
        ([], True, "cpu", "", True),
    ],
)
def test_a_fold_sees_the_gpu_that_ray_gave_and_no_other(
    gpus: list[Gpu],
    has_gpu: bool,
    device: str,
    visible: str,
    note: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "environ", {**os.environ, "CUDA_VISIBLE_DEVICES": "1"})
    monkeypatch.setattr(devices, "installed_gpus", lambda: tuple(gpus))
    monkeypatch.setattr(ray_node, "Worker", FakeWorker)
    settings = {"HF_HOME": "/shared/hf"}
    node = ray_node.NodeWorker(
        has_gpu=has_gpu, threads=3, folder=str(Path.cwd()), settings=settings
    )
    assert os.environ["HF_HOME"] == "/shared/hf"
    assert os.environ["OMP_NUM_THREADS"] == "3"
    one = task(tmp_path)
    slot = Slot(places(Layout(1, 1, 1.0, 1.0, 1))[0])
    assignment = Assignment(one, (slot,), tmp_path / "a.log", 1)
    assert "task.json is not there" in node.begin(assignment)["problem"]
    write_task(one)
    for _ in range(2):  # what may have been lost on the way is sent again, and done once
        assert node.begin(assignment) == {"problem": "", "pid": 5}
    worker: Any = node._worker
    (sent,) = worker.sent
    assert (sent.place["device"], sent.place["threads"]) == (device, 3)
    assert sent.place["device_id"].endswith(" GPU 1" if device == "cuda:0" else " CPU")
    assert [one.visible for one in worker.devices] == [visible]
    assert (tmp_path / "a.log").exists() is note
    node.begin(replace(assignment, attempt=2))
    assert len(worker.sent) == 2
