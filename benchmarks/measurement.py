"""Time and memory of two ways to do one thing, measured side by side in one process.

Time: after a warm-up both sides run in turn, round by round, and the side that begins changes every
round, so that a machine that slows down slows both. A round repeats each side for about 20 ms and
waits for the device. The ratio is taken within each round.

Memory: bytes that torch's allocator holds at its peak, beyond what was there before; inputs and
parameters are not counted, results, gradients and everything in between are. CUDA's allocator tells
its peak. The CPU's tells the profiler of every block it gives out and takes back, with the running
sum, whose maximum is exact to the byte and does not depend on what the process did before, as its
resident size would. Only scratch space that a library takes from the system by itself stays unseen.
"""

from __future__ import annotations

import gc
import json
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

Step = Callable[[], object]
ROUND_SECONDS = 0.02


@dataclass(frozen=True)
class Spread:
    """Median and quartiles."""

    median: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles of at least one value."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, low, high)


def interleaved(
    sides: Sequence[Step], device: torch.device, *, rounds: int, seconds: float
) -> list[list[float]]:
    """Seconds per call of each side, [side][round], after a warm-up.

    Args:
        sides: what is compared.
        device: what they run on.
        rounds: how many, at least 1.
        seconds: begin no further round after so long, but run at least 3 (or `rounds`, if fewer).
    """
    repeats = [max(1, math.ceil(ROUND_SECONDS / warm_up(side, device))) for side in sides]
    seen: list[list[float]] = [[] for _ in sides]
    started = time.perf_counter()
    for number in range(rounds):
        if number >= 3 and time.perf_counter() - started > seconds:
            break
        order = range(len(sides))
        for which in order if number % 2 == 0 else reversed(order):
            seen[which].append(timed(sides[which], device, repeats[which]))
    return seen


def warm_up(step: Step, device: torch.device) -> float:
    """Let happen what happens only once; about how many seconds a call takes then."""
    first = timed(step, device, 1)
    return first if first > 50 * ROUND_SECONDS else timed(step, device, 1)


def timed(step: Step, device: torch.device, repeats: int) -> float:
    """Seconds per call, with the device's work."""
    synchronize(device)
    started = time.perf_counter()
    for _ in range(repeats):
        step()
    synchronize(device)
    return (time.perf_counter() - started) / repeats


def synchronize(device: torch.device) -> None:
    """Wait until the device has nothing left to do."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_bytes(step: Step, device: torch.device) -> int:
    """Most bytes that torch holds at once during a call, beyond those from before it.

    What the call frees of those from before it is taken off.
    """
    if device.type == "cuda":
        gc.collect()  # what it would free during the call is no part of it
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        step()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler tells of every start and stop
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profiler.export_chrome_trace(str(trace))
        events = json.loads(trace.read_bytes())["traceEvents"]
    blocks = [event["args"] for event in events if event["name"] == "[memory]"]
    if not blocks:
        return 0
    sums = [block["Total Allocated"] for block in blocks]
    return int(max(sums)) - int(sums[0] - blocks[0]["Bytes"])
