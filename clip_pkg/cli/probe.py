"""Questions that only torch can answer, asked in a child process.

The launcher itself never imports torch: it starts in a fraction of a second and holds no memory
and no CUDA context while the workers train.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from clip_pkg.config.schema import RunConfig
from clip_pkg.errors import WeightsError

ENCODER_FIELDS = ("image_encoder_name", "text_encoder_name", "img_size", "weights_dir")


@dataclass(frozen=True)
class EncoderProbe:
    """A child that builds the encoders of `configs` without weights and looks for the weights."""

    process: subprocess.Popen[str]
    requests: list[dict[str, Any]]

    def problems(self) -> list[str]:
        """Wait for the child; one sentence per problem, without repetition."""
        answer = _communicate(self.process, self.requests)
        return list(dict.fromkeys(f"{one['encoder']}: {one['message']}" for one in answer))


def start_probe(configs: Sequence[RunConfig]) -> EncoderProbe:
    """Start asking; importing torch overlaps with the scan of the images."""
    return EncoderProbe(_start("probe"), _requests(configs))


def prefetch_weights(configs: Sequence[RunConfig]) -> list[str]:
    """Download what is missing. Raises WeightsError naming all that could not be had."""
    answer = _communicate(_start("prefetch"), _requests(configs))
    failed = [one["message"] for one in answer if one["kind"] == "failed"]
    if failed:
        raise WeightsError("\n  ".join(["some weights could not be downloaded:", *failed]))
    return [one["message"] for one in answer]


def _requests(configs: Sequence[RunConfig]) -> list[dict[str, Any]]:
    requests = [{name: getattr(config, name) for name in ENCODER_FIELDS} for config in configs]
    return [request for n, request in enumerate(requests) if request not in requests[:n]]


def _start(command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "clip_pkg.encoders.probe", command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )


def _communicate(
    process: subprocess.Popen[str], requests: list[dict[str, Any]]
) -> list[dict[str, str]]:
    output, errors = process.communicate(json.dumps(requests))
    if process.returncode != 0:
        raise RuntimeError(f"the encoder check failed:\n{errors}")
    answer: list[dict[str, str]] = json.loads(output)
    return answer
