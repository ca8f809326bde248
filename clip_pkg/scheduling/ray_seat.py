"""Seats: actors on the nodes of a Ray cluster, each with a share of it and one open question."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from clip_pkg.base.errors import UserError
from clip_pkg.scheduling.ray_connection import Connection, Layout
from clip_pkg.study.identity import PACKAGE

# Where the launcher looks for weights the nodes look too.
FORWARDED = ("HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "TORCH_HOME", "XDG_CACHE_HOME")

SECONDS_BETWEEN_LOOKS = 0.1


class SeatLost(Exception):
    """An actor is gone; says how."""


def _make_actor_class() -> type:
    class Actor:
        """Travels by value, so that it can tell where there is no `clip_pkg` to travel to."""

        def __init__(self, checkout: str, settings: dict[str, Any]) -> None:
            import sys  # noqa: PLC0415
            from importlib import import_module  # noqa: PLC0415

            ray = import_module("ray")
            self.node = {
                "id": ray.get_runtime_context().get_node_id(),
                "ip": ray.util.get_node_ip_address(),
                "problem": "",
            }
            sys.path.insert(0, checkout)
            try:
                from clip_pkg.scheduling.ray_node import NodeWorker  # noqa: PLC0415
            except ImportError as error:
                self.node["problem"] = f"{error}; there must be {checkout}, as there is here"
            else:
                self.worker = NodeWorker(**settings)
                self.node.update(self.worker.describe())

        def describe(self) -> dict[str, Any]:
            return self.node

        def call(self, name: str, *arguments: Any) -> Any:
            return getattr(self.worker, name)(*arguments)

    return Actor


class Seat:
    """An actor, and the question to it that is not answered yet."""

    def __init__(self, connection: Connection, layout: Layout, gpus: int) -> None:
        self.gpus = gpus
        self.idle_since = 0.0
        self.node: dict[str, Any] | None = None  # None until Ray has found room
        self._connection = connection
        settings = {
            "has_gpu": layout.gpus > 0,
            "threads": layout.threads(gpus),
            "folder": str(Path.cwd()),
            "settings": {name: os.environ[name] for name in FORWARDED if name in os.environ},
        }
        # Folds spread out over the nodes; those that share a GPU come together where they must.
        options = {**layout.resources(gpus), "max_restarts": 0, "scheduling_strategy": "SPREAD"}
        actor_class = connection.ray.remote(_make_actor_class()).options(**options)
        self._actor = actor_class.remote(str(PACKAGE.parent), settings)
        self._ask: Callable[[], Any] = self._actor.describe.remote
        self._question: Any = self._ask()
        self._next_look = 0.0

    @property
    def place(self) -> str:
        """The node in words."""
        if self.node is None:
            return "a Ray node"
        return f"{self.node['host']} ({self.node['ip']}, {self.node['id'][:8]})"

    def ask(self, name: str, *arguments: Any) -> None:
        """Ask the actor; `answer` has the answer sooner or later."""
        self._ask = lambda: self._actor.call.remote(name, *arguments)
        self._question = self._ask()

    def tell(self, name: str, *arguments: Any) -> Any:
        """Ask for something whose answer does not matter; returns what can be waited for."""
        return self._actor.call.remote(name, *arguments)

    @property
    def is_silent(self) -> bool:
        """Whether no question is open."""
        return self._question is None

    def is_ready(self) -> bool:
        """Whether the actor has begun. Raises SeatLost."""
        if self.node is None:
            self.node = self.answer()
        return self.node is not None

    def answer(self) -> Any:
        """Return the answer, None while there is none.

        Raises SeatLost for this actor, UserError when the whole cluster is out of reach.
        """
        ray, now = self._connection.ray, time.monotonic()
        if self._question is None or now < self._next_look:
            return None
        self._next_look = now + SECONDS_BETWEEN_LOOKS
        try:
            if not ray.wait([self._question], timeout=0)[0]:
                return None
            answer = ray.get(self._question)
        except ray.exceptions.ActorUnavailableError:
            self._question = self._ask()  # the network hiccups; every question may be repeated
            return None
        except ray.exceptions.RayError as error:
            raise SeatLost(self._how(error)) from None
        except ConnectionError as error:
            raise UserError(
                f"the connection to the Ray cluster broke ({error}); the same command goes on"
            ) from None
        self._question = None
        return answer

    def _how(self, error: Exception) -> str:
        if self.node is not None and not self._connection.is_alive(self.node["id"]):
            return f"was lost with its node {self.place}"
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        return f"on {self.place} was lost ({lines[-1] if lines else type(error).__name__})"

    def kill(self) -> None:
        """End the actor, or withdraw it; its worker notices."""
        self._connection.ray.kill(self._actor)
