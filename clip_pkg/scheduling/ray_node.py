"""The part of the Ray executor that runs on the nodes: an actor that keeps a worker process.

The actor itself trains nothing. It starts a worker process as the local executor does, so that a
fold has a process, a CUDA context and an output of its own, hears the same signals, and ends by
itself when the actor is gone. Every method returns at once and may be repeated: an answer that
got lost on the network is asked for again.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from clip_pkg.scheduling.devices import Device, find_devices
from clip_pkg.scheduling.job import Assignment, Slot
from clip_pkg.scheduling.process import Worker
from clip_pkg.study.identity import NUMERICS_VERSION


class NodeWorker:
    """A worker process on the GPUs that Ray gave to this actor.

    has_gpu: whether Ray gave any. threads: the actor's share of the node's CPUs. folder: the
    launcher's working directory, from which relative paths of a config count. settings: variables
    of the launcher's environment.
    """

    def __init__(
        self, *, has_gpu: bool, threads: int, folder: str, settings: Mapping[str, str]
    ) -> None:
        os.environ.update(settings)
        os.environ["OMP_NUM_THREADS"] = str(threads)
        os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
        if Path(folder).is_dir():
            os.chdir(folder)
        self._host = socket.gethostname()
        self._has_gpu = has_gpu
        self._devices = self._find_devices()
        self._threads = threads
        self._worker: Worker | None = None
        self._begun: tuple[str, int] | None = None
        self._report: dict[str, Any] | None = None

    def _find_devices(self) -> list[Device]:
        """What Ray chose, named as people of the cluster would."""
        granted = os.environ.get("CUDA_VISIBLE_DEVICES", "")
        devices, _ = find_devices(None) if self._has_gpu else find_devices(None, gpus=())
        if not devices[0].is_gpu:
            return [replace(devices[0], id=f"{self._host} CPU")]
        return [
            replace(device, id=f"{self._host} GPU {name}")
            for device, name in zip(devices, granted.split(","), strict=False)
        ]

    def describe(self) -> dict[str, Any]:
        """Describe the node: its `host`, and `numerics`, the version of the numerics there."""
        return {"host": self._host, "numerics": NUMERICS_VERSION}

    def begin(self, assignment: Assignment) -> dict[str, Any]:
        """Start an assignment. Returns `problem`, a sentence or empty, and the worker's `pid`."""
        task = assignment.task
        for path in (task.paths.task, assignment.log_file.parent):
            if not path.exists():
                return {"problem": f"{path} is not there on the node {self._host}", "pid": 0}
        if self._worker is None:
            self._worker = Worker(self._devices)
        if self._begun != (task.display_name, assignment.attempt):
            self._begun, self._report = (task.display_name, assignment.attempt), None
            if self._has_gpu and not self._devices[0].is_gpu:
                with assignment.log_file.open("a", encoding="utf-8") as log:
                    log.write(
                        f"NOTE: Ray gave a GPU of {self._host}, but there is no CUDA device\n"
                    )
            slots = tuple(Slot(device) for device in self._devices)
            self._worker.send(replace(assignment, slots=slots, threads=self._threads))
        return {"problem": "", "pid": self._worker.pid}

    def look(self) -> dict[str, Any]:
        """Return the worker's `report` and `exit_code`, None while there are none."""
        assert self._worker is not None, "begin comes first"
        exit_code = self._worker.exit_code()
        if self._report is None:
            self._report = self._worker.answer()
        return {"report": self._report, "exit_code": exit_code}

    def signal(self, number: int) -> None:
        """Send a signal to the worker."""
        if self._worker is not None:
            self._worker.signal(signal.Signals(number))

    def close(self) -> None:
        """End the worker: politely if it is idle, else at once."""
        if self._worker is not None:
            if self._begun is not None and self._report is None:
                self._worker.signal(signal.SIGKILL)
            self._worker.close()
            self._worker = None
