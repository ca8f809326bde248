"""RESULTS.md: every benchmark owns one section of it, between two markers.

<!-- NAME: begin -->
…
<!-- NAME: end -->
"""

from __future__ import annotations

import datetime
import os
import platform
import re
import statistics
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import torch

from clip_pkg.base.files import write_text

RESULTS = Path(__file__).with_name("RESULTS.md")
TITLE = "# Results\n\nWritten by the scripts of this folder; [README.md](README.md) says how.\n"


def markers(name: str) -> tuple[str, str]:
    """Lines that enclose the section called `name`: letters, digits, hyphens and underscores."""
    if not re.fullmatch(r"[\w-]+", name):
        raise ValueError(f"a section is named by letters, digits, - and _, not {name!r}")
    return f"<!-- {name}: begin -->", f"<!-- {name}: end -->"


def section(text: str, name: str) -> str | None:
    """Body of a section of `text`, without the line breaks around it; None if there is none.

    Raises:
        ValueError: its markers are not there once each, in their order.
    """
    place = _place(text, name)
    return None if place is None else text[place].strip("\n")


def replace_section(text: str, name: str, body: str) -> str:
    """Put `body` in the place of a section, or add the section at the end; the rest stays as it is.

    Raises:
        ValueError: `body` holds a marker of its own, or the markers in `text` do not match.
    """
    begin, end = markers(name)
    if begin in body or end in body:
        raise ValueError(f"the section {name} holds its own marker")
    inner = "\n" + body.strip("\n") + "\n"
    place = _place(text, name)
    if place is not None:
        return text[: place.start] + inner + text[place.stop :]
    before = text.rstrip("\n") or TITLE.rstrip("\n")
    return f"{before}\n\n{begin}{inner}{end}\n"


def write_section(name: str, body: str, path: Path = RESULTS) -> None:
    """Replace a section of the file, which need not exist yet."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    write_text(path, replace_section(text, name, body))


def _place(text: str, name: str) -> slice | None:
    """What lies between the two markers."""
    begin, end = markers(name)
    counts = text.count(begin), text.count(end)
    if counts == (0, 0):
        return None
    start, stop = text.find(begin) + len(begin), text.find(end)
    if counts != (1, 1) or stop < start:
        raise ValueError(f"the section {name} needs {begin!r} and {end!r} once each, in this order")
    return slice(start, stop)


def measured_on(device: torch.device, packages: Sequence[str]) -> str:
    """When, on what and with what was measured: a Markdown list.

    Args:
        device: cpu or cuda.
        packages: distributions beside torch whose versions matter.
    """
    versions = [f"{name} {metadata.version(name)}" for name in ("torch", *packages)]
    lines = [
        f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}, revision {revision()}",
        f"{cpu_model()}, {os.cpu_count()} cores, {torch.get_num_threads()} used by torch",
        f"Python {platform.python_version()}, {', '.join(versions)}",
    ]
    if device.type == "cuda":
        toolkit = f"CUDA {torch.version.cuda}"
        lines.insert(1, f"measured on {torch.cuda.get_device_name(device)}, {toolkit}; its host:")
    return "\n".join(f"- {line}" for line in lines)


def median_and_range(values: Sequence[float], digits: int = 2) -> str:
    """Median (smallest to largest); a single value alone."""
    median, least, most = (
        f"{value:.{digits}f}" for value in (statistics.median(values), min(values), max(values))
    )
    return median if len(values) == 1 else f"{median} ({least} to {most})"


def cpu_model() -> str:
    """Name of the processor, as the system tells it."""
    try:
        described = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        described = ""
    found = re.search(r"^model name\s*: (.+)$", described, re.MULTILINE)
    return found[1] if found else platform.processor() or platform.machine()


def revision() -> str:
    """Commit of the checkout, and whether files differ from it; `unknown` outside of git."""
    git = ["git", "-C", str(RESULTS.parent)]
    commit = _output([*git, "rev-parse", "--short", "HEAD"])
    if not commit:
        return "unknown"
    changed = _output([*git, "status", "--porcelain", "--", ":/", f":(exclude){RESULTS}"])
    return commit + (" with changes" if changed else "")


def _output(command: Sequence[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()
