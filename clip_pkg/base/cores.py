"""CPU cores that this process may use."""

from __future__ import annotations

import os


def usable_cores() -> int:
    """CPU cores that this process may use: a cluster or a container can allow fewer than exist."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
