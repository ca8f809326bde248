"""Which failures are worth another attempt, and how that attempt differs."""

from __future__ import annotations

from dataclasses import dataclass, replace

from clip_pkg.study.tasks import FailureKind, FoldFailure, Task

MAX_RESTORATIONS = 3  # of damaged files, per task
# The same numbers would come out again.
HOPELESS: frozenset[FailureKind] = frozenset({"diverged", "user error"})
MIN_MICRO_BATCH = 2  # BatchNorm has no statistics of one image
SECONDS_FOR_DISK_SPACE = 30.0  # before the second attempt; doubled before each further one


@dataclass(frozen=True)
class Retry:
    """Another attempt at `task` after `delay` seconds; `reason` is shown to the user."""

    task: Task
    delay: float
    reason: str


@dataclass(frozen=True)
class FailurePolicy:
    """Allows `retries` attempts beyond the first.

    After running out of memory the next attempt halves the micro-batches. The loss still sees whole
    batches, so negatives and the effective batch size do not change; the fold's notices state
    differences. Damaged files are restored before an attempt, and cost none.
    """

    retries: int = 2

    def decide(
        self, task: Task, failure: FoldFailure, attempt: int, restorations: int = 0
    ) -> Retry | None:
        """Return the next attempt after attempt number `attempt`, or None to give up.

        restorations: how many earlier ones of the task ended because of damaged files; they do not
        count as attempts.
        """
        if failure.kind == "damaged file":
            restored = Retry(task, 0.0, "its files are restored, which costs no attempt")
            return restored if restorations < MAX_RESTORATIONS else None
        if attempt > self.retries or failure.kind in HOPELESS:
            return None
        count = f"attempt {attempt + 1} of {self.retries + 1}"
        if failure.kind == "out of memory":
            whole = task.images_at_once
            half = (whole + 1) // 2
            if half < MIN_MICRO_BATCH or half == whole:
                return None
            smaller = replace(task, micro_batch_size=half)
            return Retry(smaller, 0.0, f"{count} uses micro-batches of {half} images")
        if failure.kind == "disk full":
            delay = SECONDS_FOR_DISK_SPACE * 2 ** (attempt - 1)
            return Retry(task, delay, f"{count} starts in {delay:.0f} s; free some disk space")
        return Retry(task, 0.0, f"{count} starts in a new process")
