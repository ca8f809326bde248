"""What becomes of a fold whose attempt failed: another attempt, with its reason, or none."""

from __future__ import annotations

from dataclasses import dataclass, replace

from clip_pkg.planning.tasks import FailureKind, FoldFailure, FoldTask

# The same numbers would come out again.
HOPELESS: frozenset[FailureKind] = frozenset({"diverged", "user error"})
SMALLEST_MICRO_BATCH = 2  # BatchNorm has no statistics of one image
SECONDS_FOR_DISK_SPACE = 30.0  # before the second attempt; doubled before each further one


@dataclass(frozen=True)
class Retry:
    """Another attempt: of `task`, not before `delay` seconds; `reason` is for people."""

    task: FoldTask
    delay: float
    reason: str


@dataclass(frozen=True)
class FailurePolicy:
    """Allows `retries` attempts beyond the first.

    After running out of memory the next attempt computes each batch in two halves. The batch that
    the loss sees stays whole, so that negatives and the effective batch size are what the config
    says; what can differ is told in the fold's notices.
    """

    retries: int = 2

    def decide(self, task: FoldTask, failure: FoldFailure, attempt: int) -> Retry | None:
        """Return what to do after attempt number `attempt`; None gives up."""
        if attempt > self.retries or failure.kind in HOPELESS:
            return None
        count = f"attempt {attempt + 1} of {self.retries + 1}"
        if failure.kind == "out of memory":
            whole = task.images_at_once
            half = (whole + 1) // 2
            if half < SMALLEST_MICRO_BATCH or half == whole:
                return None
            smaller = replace(task, micro_batch_size=half)
            return Retry(smaller, 0.0, f"{count} computes its batches in parts of {half} images")
        if failure.kind == "disk full":
            delay = SECONDS_FOR_DISK_SPACE * 2 ** (attempt - 1)
            return Retry(task, delay, f"{count} follows in {delay:.0f} s; free some space")
        return Retry(task, 0.0, f"{count} follows in a fresh process")
