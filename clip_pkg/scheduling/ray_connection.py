"""Ray clusters: finding one, or starting one here, and how many folds it holds at a time.

Ray is optional, so it is imported only when a run asks for it.
"""

from __future__ import annotations

import importlib
import math
import os
import socket
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from clip_pkg.base.errors import UserError

LOCAL, AUTO = "local", "auto"
CLIENT = "ray://"
SECONDS_TO_REACH = 10.0
SECONDS_TO_CONNECT = 60.0  # Ray itself would try for many minutes
OBJECT_STORE_BYTES = 80 << 20  # near Ray's smallest: nothing of a fold travels through it
SMALLEST_SHARE = 10_000  # Ray counts resources in so many parts of one


@dataclass(frozen=True)
class Layout:
    """How many folds a cluster holds, and what one of them gets.

    places: GPUs of the cluster; without any, nodes' worth of CPUs. jobs: folds that share a place.
    gpus: share of a GPU per fold, 0 without any. cpus: per fold. most_gpus: that one fold can have,
    because all its GPUs are on one node.
    """

    places: int
    jobs: int
    gpus: float
    cpus: float
    most_gpus: int

    def resources(self, gpus: int) -> dict[str, float]:
        """What a fold on so many GPUs asks Ray for; one on several has these for itself."""
        share = self.gpus if gpus == 1 or not self.gpus else float(gpus)
        return {"num_gpus": share, "num_cpus": _part(self.cpus * gpus)}

    def capacity(self, nodes: Sequence[Mapping[str, float]]) -> int:
        """How many places such nodes have now."""
        if self.gpus:
            return sum(int(node.get("GPU", 0)) for node in nodes)
        return sum(int(node.get("CPU", 0) / self.cpus) for node in nodes) // self.jobs

    def threads(self, gpus: int) -> int:
        """CPU threads of a fold on so many GPUs."""
        return max(1, int(self.cpus * gpus))


def lay_out(nodes: Sequence[Mapping[str, float]], jobs: int) -> Layout:
    """Share out nodes, each given as Ray's resources (`GPU`, `CPU`), with `jobs` folds per GPU.

    The CPUs of a node are shared evenly by its GPUs. Where no node has a GPU, a place is as many
    CPUs as the smallest node has. Raises UserError for a cluster that has neither.
    """
    with_gpus = [node for node in nodes if node.get("GPU", 0) >= 1]
    with_cpus = [node["CPU"] for node in nodes if node.get("CPU", 0) >= 1]
    if with_gpus:
        cpus = min(node.get("CPU", 0) / int(node["GPU"]) for node in with_gpus)
        most = max(int(node["GPU"]) for node in with_gpus)
        layout = Layout(0, jobs, _part(1 / jobs), _part(cpus / jobs), most)
    elif with_cpus:
        layout = Layout(0, jobs, 0.0, _part(min(with_cpus) / jobs), 1)
    else:
        raise UserError("the Ray cluster has neither GPUs nor CPUs; start nodes that have some")
    return replace(layout, places=layout.capacity(nodes))


def _part(amount: float) -> float:
    """Round down to what Ray can count: whole ones, or small parts of one."""
    parts = 1 if amount >= 1 else SMALLEST_SHARE
    return math.floor(amount * parts) / parts


@dataclass
class Connection:
    """A cluster that this process is connected to. ray: the package."""

    ray: Any
    address: str
    _folder: tempfile.TemporaryDirectory[str] | None = field(default=None)

    def nodes(self) -> list[Mapping[str, float]]:
        """Resources of the nodes that are alive."""
        return [node["Resources"] for node in self.ray.nodes() if node["Alive"]]

    def is_alive(self, node_id: str) -> bool:
        """Whether a node is still part of the cluster."""
        return any(node["NodeID"] == node_id and node["Alive"] for node in self.ray.nodes())

    def close(self) -> None:
        """Leave the cluster; one that was started for this run ends."""
        self.ray.shutdown()
        if self._folder is not None:
            self._folder.cleanup()


def connect(address: str) -> Connection:
    """Connect to `host:port`, `ray://host:port` or `auto`, or start a cluster on this machine.

    Raises UserError if the package is missing or no cluster answers.
    """
    ray = _import_ray()
    if address == LOCAL:
        return _start_here(ray)
    wanted = os.environ.get("RAY_ADDRESS", "") if address == AUTO else address
    if wanted:
        _check_reachable(wanted)
    errors: list[BaseException] = []

    def enter() -> None:
        try:
            ray.init(wanted or AUTO, log_to_driver=False, logging_level="ERROR")
        except BaseException as error:  # whatever it is, the main thread tells it
            errors.append(error)

    # An address at which something else answers keeps Ray busy for ever: it gets a thread and a
    # deadline. Nothing that Ray starts belongs to that thread: the cluster is there already.
    thread = threading.Thread(target=enter, daemon=True)
    thread.start()
    thread.join(SECONDS_TO_CONNECT)
    if thread.is_alive():
        _refuse(address, f"what answers there did not say hello within {SECONDS_TO_CONNECT:.0f} s")
    if errors:
        _refuse(address, " ".join(str(errors[0]).split()))
    return Connection(ray, wanted or AUTO)


def _import_ray() -> Any:
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise UserError(
            f"--executor ray needs the package ray ({error}); install it with: "
            "pip install 'clip_pkg[ray]'"
        ) from None


def _start_here(ray: Any) -> Connection:
    """Start a cluster that ends with this process, even if that is killed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    folder = tempfile.TemporaryDirectory(prefix="clip-ray-", ignore_cleanup_errors=True)
    try:
        ray.init(
            LOCAL,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            object_store_memory=OBJECT_STORE_BYTES,
            _temp_dir=folder.name,
        )
    except (OSError, RuntimeError, ValueError) as error:
        folder.cleanup()
        _refuse(LOCAL, " ".join(str(error).split()))
    return Connection(ray, LOCAL, folder)


def _check_reachable(address: str) -> None:
    """Look whether anything listens there: Ray would try for minutes before it says so."""
    host, _, port = address.removeprefix(CLIENT).rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), SECONDS_TO_REACH).close()
    except (OSError, ValueError) as error:
        _refuse(address, str(error))


def _refuse(address: str, reason: str) -> None:
    reason = reason.rstrip(".")
    if address.startswith(CLIENT) and "timeout" in reason:
        reason += " (a cluster that asks for a token wants RAY_AUTH_MODE=token here)"
    raise UserError(
        f"--ray-address {address}: no Ray cluster can be used there: {reason}. Start one "
        "(ray start --head), name another address, or take --ray-address local"
    ) from None
