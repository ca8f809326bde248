"""Where each stage of a run resumes, printed on request; a run resumes without the request too."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from clip_pkg.study.tasks import PretrainTask, Task, finished

if TYPE_CHECKING:
    from clip_pkg.launch.terminal import Terminal

PRETRAINING, TRAINING = "pre-training", "fine-tuning"


def report_continuation(
    tasks: Sequence[Task], terminal: Terminal, *, pretraining: bool, training: bool
) -> None:
    """Print a line per resumed task of the requested stages, and count the others."""
    stages = ((PRETRAINING, pretraining), (TRAINING, training))
    for stage, is_requested in stages:
        if is_requested:
            mine = [t for t in tasks if isinstance(t, PretrainTask) == (stage == PRETRAINING)]
            for line in _lines(stage, mine):
                terminal.line(line)


def _lines(stage: str, tasks: Sequence[Task]) -> list[str]:
    if not tasks:
        return [f"{stage}: no config of this run has one"]
    unfinished = [task for task in tasks if finished(task) is None]
    resumed = [
        (task, source) for task in unfinished if (source := task.checkpoint_to_resume) is not None
    ]
    lines = [
        f"{stage}: {task.display_name}: resumes after epoch {_epochs_done(source)} of "
        f"{task.config.epochs} from {source}"
        for task, source in resumed
    ]
    done, fresh = len(tasks) - len(unfinished), len(unfinished) - len(resumed)
    if done:
        lines.append(f"{stage}: {done} of {len(tasks)} finished")
    if fresh and fresh == len(tasks):
        lines.append(f"{stage}: no checkpoint of this stage: starts from scratch")
    elif fresh:
        lines.append(f"{stage}: {fresh} of {len(tasks)} without a checkpoint: start from scratch")
    return lines


def _epochs_done(checkpoint: Path) -> str:
    """Epochs of the history beside a checkpoint; `?` where there is none."""
    try:
        history = json.loads((checkpoint.parent / "history.json").read_text(encoding="utf-8"))
        return str(len(history["train_loss"]))
    except (OSError, ValueError, KeyError, TypeError):
        return "?"
