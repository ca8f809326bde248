"""One training at a time in an output folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from filelock import FileLock, Timeout

from clip_pkg.errors import RunFolderError
from clip_pkg.paths import RunPaths


def refuse_folder_in_use(run: RunPaths) -> None:
    """Raise RunFolderError at once if another launcher works there; writes nothing."""
    if run.lock.exists():
        with _acquired(run):
            pass


@contextmanager
def sole_launcher(run: RunPaths) -> Iterator[None]:
    """Hold the output folder; the operating system lets go of the lock when the process ends."""
    run.output_dir.mkdir(parents=True, exist_ok=True)
    with _acquired(run):
        run.holder.write_text(f"process {os.getpid()} on {os.uname().nodename}", encoding="utf-8")
        try:
            yield
        finally:
            run.holder.unlink(missing_ok=True)


def _acquired(run: RunPaths) -> AbstractContextManager[object]:
    lock = FileLock(run.lock)
    try:
        return lock.acquire(timeout=0)
    except Timeout:
        known = run.holder.exists()
        who = run.holder.read_text(encoding="utf-8") if known else "an unknown process"
        raise RunFolderError(
            f"{run.output_dir} is in use by {who}; wait for it or use another --output-dir"
        ) from None
