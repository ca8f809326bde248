"""Where each stage of a run resumes, printed on request; a run resumes without the request too."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from clip_pkg.base.errors import DamagedFile, RunFolderError, UserError, shown
from clip_pkg.base.files import write_with
from clip_pkg.base.paths import ConfigPaths, FoldPaths
from clip_pkg.base.reading import check_archive, open_regular, read_json
from clip_pkg.study.differences import differences
from clip_pkg.study.fold_files import read_history
from clip_pkg.study.identity import StoredIdentity
from clip_pkg.study.preflight import PreparedConfig
from clip_pkg.study.tasks import ModelTask, PretrainTask, Task, finished

if TYPE_CHECKING:
    from clip_pkg.launch.terminal import Terminal

PRETRAINING, TRAINING = "pre-training", "fine-tuning"
# Keys of a checkpoint_latest.pth, as they lie in its pickle.
KEYS = (b"format_version", b"identity", b"fold", b"optimisation")


def check_source(source: Path, configs: Sequence[PreparedConfig]) -> None:
    """Raise RunFolderError unless these configs may resume from `source`, as `--resume-from` does.

    Reads no pickle and needs no torch; the worker that resumes checks what is left.
    """
    if not source.is_dir():
        _check_checkpoint(source)
        return
    paths = ConfigPaths(source)
    if paths.identity.exists():
        found = read_json(paths.identity, StoredIdentity)
        for prepared in configs:
            if changed := differences(prepared, paths, found):
                raise RunFolderError(
                    "\n  ".join(
                        [
                            f"--resume-from: {shown(source)} holds other results than those of "
                            f"{prepared.config.name}; leave it out to start anew:",
                            *changed,
                        ]
                    )
                )
    folds = [fold.number for prepared in configs for fold in prepared.splits.folds]
    checkpoints = [paths.fold(number).checkpoint_latest for number in sorted(set(folds))]
    there = [path for path in checkpoints if path.exists()]
    if not there:
        raise RunFolderError(
            f"--resume-from: {shown(source)} has no fold_<k>/{checkpoints[0].name}; name the "
            "result folder of a config, or a checkpoint"
        )
    for path in there:
        _check_checkpoint(path)


def adopt_fold(task: ModelTask) -> None:
    """Copy what the fold has in the run to resume from, unless it has a checkpoint of its own.

    The best model and its predictions are not in `checkpoint_latest.pth`, and a finished fold is
    not trained again. Nothing is copied for a checkpoint outside of a folder of the same fold.
    """
    source, own = task.resume_from, task.paths
    if source is None or own.checkpoint_latest.exists() or own.result.exists():
        return
    theirs = FoldPaths(source.parent)
    if source != theirs.checkpoint_latest or theirs.root.name != own.root.name:
        return
    # The last two make the others count.
    for path in (
        *(theirs.history, theirs.predictions, theirs.predictions_last, theirs.exposure),
        *(theirs.epoch_predictions, theirs.unfinished_epoch_predictions),
        *(theirs.test_predictions, theirs.checkpoint_best),
        *(theirs.checkpoint_latest, theirs.result),
    ):
        with suppress(FileNotFoundError), path.open("rb") as stream:
            write_with(own.root / path.name, partial(shutil.copyfileobj, stream))


def _check_checkpoint(path: Path) -> None:
    try:
        check_archive(path)
        with open_regular(path) as stream, zipfile.ZipFile(stream) as archive:
            record = next(one for one in archive.infolist() if one.filename.endswith("/data.pkl"))
            content = archive.read(record)
    except OSError as error:
        raise RunFolderError(
            f"--resume-from: {shown(path)} cannot be read ({error.strerror})"
        ) from None
    except (UserError, StopIteration, ValueError, EOFError, RuntimeError, zipfile.BadZipFile):
        content = b""
    if not all(key in content for key in KEYS):
        raise RunFolderError(
            f"--resume-from: {shown(path)} is damaged or no checkpoint_latest.pth of this program; "
            "leave it out to start anew"
        )


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
        return str(len(read_history(checkpoint.with_name("history.json"))["train_loss"]))
    except (DamagedFile, KeyError):
        return "?"
