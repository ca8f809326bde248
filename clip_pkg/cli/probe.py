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

ENCODER_FIELDS = ("image_encoder_name", "text_encoder_name", "img_size", "weights_dir")


@dataclass(frozen=True)
class EncoderProbe:
    """A child that builds the encoders without weights and looks for their weights."""

    process: subprocess.Popen[str]
    requests: list[dict[str, Any]]

    def problems(self) -> list[str]:
        """Wait for the child; one sentence per problem, without repetition."""
        output, errors = self.process.communicate(json.dumps(self.requests))
        if self.process.returncode != 0:
            raise RuntimeError(f"the encoder check failed:\n{errors}")
        return list(
            dict.fromkeys(f"{one['encoder']}: {one['message']}" for one in json.loads(output))
        )


def start_probe(configs: Sequence[RunConfig], *, fetch: bool = False) -> EncoderProbe:
    """Start asking; importing torch overlaps with the scan of the images.

    With `fetch` the child downloads what is missing and shows its progress on standard error.
    """
    requests = [{name: getattr(config, name) for name in ENCODER_FIELDS} for config in configs]
    process = subprocess.Popen(
        [sys.executable, "-m", "clip_pkg.encoders.probe", *(["--fetch"] if fetch else [])],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=None if fetch else subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    return EncoderProbe(process, requests)
