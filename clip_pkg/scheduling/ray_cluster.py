"""Ray clusters: connecting to one or starting one here, and how many folds it holds at a time."""

from __future__ import annotations

import importlib
import math
import os
import socket
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from clip_pkg.base.errors import UserError

LOCAL, AUTO = "local", "auto"
CLIENT = "ray://"
SECONDS_TO_REACH = 10.0
SECONDS_TO_CONNECT = 60.0  # Ray itself would try for many minutes
OBJECT_STORE_BYTES = 80 << 20  # about Ray's minimum: no data of a fold travels through it
UNITS = 10_000  # into which Ray divides one GPU or CPU


@dataclass(frozen=True)
class Layout:
    """How many folds a cluster holds, and the resources of each.

    places: number of GPUs; without any, of equal shares of CPUs. jobs: folds per place. gpus: share
    of a GPU per fold, 0 without any. cpus: per fold. most_gpus: for one fold, on one node.
    """

    places: int
    jobs: int
    gpus: float
    cpus: float
    most_gpus: int

    def resources(self, gpus: int) -> dict[str, float]:
        """Ray resources of a fold; one on several GPUs does not share them."""
        share = self.gpus if gpus == 1 or not self.gpus else float(gpus)
        return {"num_gpus": share, "num_cpus": _rounded_down(self.cpus * gpus)}

    def capacity(self, nodes: Sequence[Mapping[str, float]]) -> int:
        """Number of places of such nodes."""
        if self.gpus:
            return sum(int(node.get("GPU", 0)) for node in nodes)
        return sum(int(node.get("CPU", 0) / self.cpus) for node in nodes) // self.jobs

    def threads(self, gpus: int) -> int:
        """CPU threads of a fold."""
        return max(1, int(self.cpus * gpus))


def lay_out(nodes: Sequence[Mapping[str, float]], jobs: int) -> Layout:
    """Divide nodes, given by their Ray resources (`GPU`, `CPU`), with `jobs` folds per GPU.

    The GPUs of a node share its CPUs equally. If no node has a GPU, a place has as many CPUs as the
    smallest node. Raises UserError for a cluster that has neither.
    """
    with_gpus = [node for node in nodes if node.get("GPU", 0) >= 1]
    with_cpus = [node["CPU"] for node in nodes if node.get("CPU", 0) >= 1]
    if with_gpus:
        cpus = min(node.get("CPU", 0) / int(node["GPU"]) for node in with_gpus)
        most = max(int(node["GPU"]) for node in with_gpus)
        layout = Layout(0, jobs, _rounded_down(1 / jobs), _rounded_down(cpus / jobs), most)
    elif with_cpus:
        layout = Layout(0, jobs, 0.0, _rounded_down(min(with_cpus) / jobs), 1)
    else:
        raise UserError("the Ray cluster has neither GPUs nor CPUs; add nodes that have some")
    return replace(layout, places=layout.capacity(nodes))


def _rounded_down(amount: float) -> float:
    """Round down to an amount that Ray can count."""
    units = 1 if amount >= 1 else UNITS
    return math.floor(amount * units) / units


@dataclass(frozen=True)
class Cluster:
    """A cluster that this process is connected to. ray: the package."""

    ray: Any
    address: str
    folder: tempfile.TemporaryDirectory[str] | None = None  # of a cluster that ends with this run

    def nodes(self) -> list[Mapping[str, float]]:
        """Resources of the nodes that are alive."""
        return [node["Resources"] for node in self.ray.nodes() if node["Alive"]]

    def is_alive(self, node_id: str) -> bool:
        return any(node["NodeID"] == node_id and node["Alive"] for node in self.ray.nodes())

    def close(self) -> None:
        self.ray.shutdown()
        if self.folder is not None:
            self.folder.cleanup()


def connect(address: str) -> Cluster:
    """Connect to `host:port`, `ray://host:port` or `auto`, or start a cluster for `local`.

    Raises UserError if the package is missing or there is no cluster at the address.
    """
    try:
        ray: Any = importlib.import_module("ray")
    except ImportError as error:
        raise UserError(
            f"--executor ray needs the package ray ({error}); install it with: "
            "pip install 'clip_pkg[ray]'"
        ) from None
    if address == LOCAL:
        return _start_local(ray)
    wanted = os.environ.get("RAY_ADDRESS", "") if address == AUTO else address
    if wanted:
        host, _, port = wanted.removeprefix(CLIENT).rpartition(":")
        try:  # Ray would try for minutes before it reports that nothing listens there
            socket.create_connection((host.strip("[]"), int(port)), SECONDS_TO_REACH).close()
        except (OSError, ValueError) as error:
            raise _unusable(wanted, error) from None
    errors: list[BaseException] = []

    def enter() -> None:
        try:
            ray.init(wanted or AUTO, log_to_driver=False, logging_level="ERROR")
        except BaseException as error:
            errors.append(error)

    # If another program listens there, `init` may never return: it gets a thread and a
    # deadline. Ray starts nothing that would belong to that thread, since the cluster exists.
    thread = threading.Thread(target=enter, daemon=True)
    thread.start()
    thread.join(SECONDS_TO_CONNECT)
    if thread.is_alive():
        raise _unusable(address, f"no response within {SECONDS_TO_CONNECT:.0f} s")
    if errors:
        raise _unusable(address, errors[0])
    return Cluster(ray, wanted or AUTO)


def _start_local(ray: Any) -> Cluster:
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
    except Exception as error:  # a node that does not start in time is a plain Exception
        folder.cleanup()
        raise _unusable(LOCAL, error) from None
    return Cluster(ray, LOCAL, folder)


def _unusable(address: str, reason: object) -> UserError:
    text = " ".join(str(reason).split()).rstrip(".")
    if address.startswith(CLIENT) and "timeout" in text:
        text += " (for a cluster with token authentication, set RAY_AUTH_MODE=token)"
    return UserError(
        f"--ray-address {address}: no Ray cluster can be used there: {text}. Start one (ray start "
        "--head), name another address, or use --ray-address local"
    )
