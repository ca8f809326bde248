"""Checks that need torch: whether encoders can be built and their weights are on this machine.

The launcher itself never imports torch: it starts in a fraction of a second and holds no memory
and no CUDA context while the workers train. A process with torch does the check, while the launcher
checks the images.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from clip_pkg.config.schema import RunConfig
from clip_pkg.scheduling.process import Worker

ENCODER_FIELDS = (
    "image_encoder_name",
    "text_encoder_name",
    "stem",
    "img_size",
    "weights_dir",
    "activation_checkpointing",
)
SECONDS_BETWEEN_POLLS = 0.02


class Probe(Protocol):
    """A check of encoders that is under way."""

    def problems(self) -> list[str]:
        """Wait for the result: one sentence per problem, without repetition."""
        ...

    def cancel(self) -> None:
        """Stop the check."""
        ...


class NoProbe:
    """No check."""

    def problems(self) -> list[str]:
        """See `Probe`."""
        return []

    def cancel(self) -> None:
        """Nothing was started."""


@dataclass(frozen=True)
class ChildProbe:
    """A check in a process of its own."""

    process: subprocess.Popen[str]
    requests: Sequence[Mapping[str, Any]]

    def problems(self) -> list[str]:
        """See `Probe`."""
        output, errors = self.process.communicate(json.dumps(self.requests))
        if self.process.returncode != 0:
            raise RuntimeError(f"the encoder check failed:\n{errors}")
        return _sentences(json.loads(output))

    def cancel(self) -> None:
        """See `Probe`."""
        self.process.kill()
        self.process.communicate()


@dataclass(frozen=True)
class WorkerProbe:
    """A check in the worker that will train the first fold, so that torch is imported once."""

    worker: Worker

    def problems(self) -> list[str]:
        """See `Probe`."""
        while (answer := self.worker.answer()) is None:
            if self.worker.exit_code() is not None:
                raise RuntimeError(f"the worker ended with exit code {self.worker.exit_code()}")
            time.sleep(SECONDS_BETWEEN_POLLS)
        if "error" in answer:
            raise RuntimeError(f"the encoder check failed:\n{answer['error']}")
        return _sentences(answer["problems"])

    def cancel(self) -> None:
        """The executor ends its workers."""


@dataclass(frozen=True)
class InlineProbe:
    """A check within this process, for the inline executor."""

    requests: Sequence[Mapping[str, Any]]

    def problems(self) -> list[str]:
        """See `Probe`."""
        from clip_pkg.models.probe import probe  # noqa: PLC0415

        return _sentences([asdict(problem) for problem in probe(self.requests)])

    def cancel(self) -> None:
        """Nothing was started."""


def encoder_requests(configs: Sequence[RunConfig]) -> list[dict[str, Any]]:
    """Settings of the configs' encoders to check."""
    return [{name: getattr(config, name) for name in ENCODER_FIELDS} for config in configs]


def start_child_probe(configs: Sequence[RunConfig], *, fetch: bool = False) -> ChildProbe:
    """Start a check in a process of its own.

    With `fetch` it first downloads missing weights, with progress bars on standard error.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "clip_pkg.models.probe", *(["--fetch"] if fetch else [])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=None if fetch else subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    return ChildProbe(process, encoder_requests(configs))


def _sentences(problems: Sequence[Mapping[str, Any]]) -> list[str]:
    """Each once; messages about weights begin with the encoder already."""
    heads = [f"{one['encoder']}: " for one in problems]
    messages = [str(one["message"]) for one in problems]
    lines = (head + text.removeprefix(head) for head, text in zip(heads, messages, strict=True))
    return list(dict.fromkeys(lines))
