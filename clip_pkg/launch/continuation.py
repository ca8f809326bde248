"""What `--continue-pretrain` and `--continue-finetune` say: where each stage of a run goes on.

A run goes on by itself, with these switches or without; with one, the program says from where.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from clip_pkg.study.tasks import PretrainTask, Task, finished

if TYPE_CHECKING:
    from clip_pkg.launch.terminal import Terminal

PRETRAINING, TRAINING = "pre-training", "fine-tuning"


def add_continuation_flags(group: argparse._ArgumentGroup) -> None:
    """Add the two switches."""
    for stage, what in (("pretrain", PRETRAINING), ("finetune", TRAINING)):
        group.add_argument(
            f"--continue-{stage}",
            f"--continue_{stage}",
            action="store_true",
            help=f"say where each {what} goes on, or that it starts fresh; an interrupted run goes "
            "on by itself in any case",
        )


def report_continuation(
    tasks: Sequence[Task], parsed: argparse.Namespace, terminal: Terminal
) -> None:
    """Write a line per task of the stages that were asked about which goes on, and sum up the rest.

    parsed: the command line, with the switches of `add_continuation_flags`.
    """
    asked = ((PRETRAINING, parsed.continue_pretrain), (TRAINING, parsed.continue_finetune))
    for stage, is_asked in asked:
        if is_asked:
            mine = [t for t in tasks if isinstance(t, PretrainTask) == (stage == PRETRAINING)]
            for line in _lines(stage, mine):
                terminal.line(line)


def _lines(stage: str, tasks: Sequence[Task]) -> list[str]:
    if not tasks:
        return [f"{stage}: no config of this run has one"]
    unfinished = [task for task in tasks if finished(task) is None]
    going_on = [
        (task, source) for task in unfinished if (source := task.checkpoint_to_resume) is not None
    ]
    lines = [
        f"{stage}: {task.display_name}: going on after epoch {_epochs_done(source)} of "
        f"{task.config.epochs} from {source}"
        for task, source in going_on
    ]
    done, fresh = len(tasks) - len(unfinished), len(unfinished) - len(going_on)
    if done:
        lines.append(f"{stage}: {done} of {len(tasks)} done, nothing to go on with")
    if fresh and fresh == len(tasks):
        lines.append(f"{stage}: no checkpoint of this stage: starts fresh")
    elif fresh:
        lines.append(f"{stage}: {fresh} of {len(tasks)} without a checkpoint: start fresh")
    return lines


def _epochs_done(checkpoint: Path) -> str:
    """Epochs of the history beside a checkpoint; `?` where there is none."""
    try:
        history = json.loads((checkpoint.parent / "history.json").read_text(encoding="utf-8"))
        return str(len(history["train_loss"]))
    except (OSError, ValueError, KeyError, TypeError):
        return "?"
