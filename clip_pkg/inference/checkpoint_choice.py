"""Which checkpoints a path stands for: all folds of a config, one fold, or one file.

No torch here, so that a wrong path is reported before a model is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from clip_pkg.base.errors import RunFolderError, shown, some
from clip_pkg.base.paths import ConfigPaths, FoldPaths
from clip_pkg.study.folds_info import read_folds_info
from clip_pkg.study.tasks import FoldResult, read_record

FOLD_PREFIX = "fold_"


@dataclass(frozen=True)
class CheckpointChoice:
    """checkpoints: in the order of their folds. notices: for the user."""

    checkpoints: tuple[Path, ...]
    notices: tuple[str, ...] = ()


def choose_checkpoints(model: Path) -> CheckpointChoice:
    """Find the checkpoints of `model`.

    The result folder of a config means the best checkpoints of all its finished folds, the folder
    of a fold its best checkpoint, that of a refit its only one, an export to safetensors its
    models, and a file itself. Without a best checkpoint (`save_best: false`), the latest is used.

    Raises:
        RunFolderError: There is no such file or folder, or no fold is finished.
    """
    try:
        if model.is_file():
            return CheckpointChoice((model,))
        if not model.exists():
            raise RunFolderError(f"{shown(model)}: no such checkpoint or result folder")
        if not model.is_dir():
            raise RunFolderError(f"{shown(model)}: is neither a file nor a folder")
        if (checkpoint := _checkpoint(FoldPaths(model))) is not None:
            return _of_fold(FoldPaths(model), checkpoint)
        if exported := sorted(model.glob("model*.safetensors"), key=_by_number):
            return CheckpointChoice(tuple(exported))
        if folds := _folds(model):
            return _of_config(ConfigPaths(model), folds)
        configs = [folder.name for folder in sorted(model.iterdir()) if _folds(folder)]
    except OSError as error:
        raise RunFolderError(f"{shown(model)}: cannot be read: {error.strerror}") from None
    if configs:
        raise RunFolderError(
            f"{shown(model)} contains the results of {len(configs)} config(s); choose one, for "
            f"example {shown(model / configs[0])} ({some(configs, 10)})"
        )
    raise RunFolderError(
        f"{shown(model)} is not the result folder of a config or fold: it has neither "
        f"{FOLD_PREFIX}1 nor {FoldPaths(model).checkpoint_best.name}"
    )


def _by_number(path: Path) -> tuple[int, str]:
    return len(path.name), path.name


def _checkpoint(paths: FoldPaths) -> Path | None:
    choices = (paths.checkpoint_best, paths.checkpoint_latest)
    return next((path for path in choices if path.is_file()), None)


def _folds(folder: Path) -> list[int]:
    """Numbers of the folds with a folder."""
    if not folder.is_dir():
        return []
    numbers = (
        path.name.removeprefix(FOLD_PREFIX)
        for path in folder.glob(f"{FOLD_PREFIX}*")
        if path.is_dir()
    )
    return sorted(int(number) for number in numbers if number.isdecimal())


def _of_fold(paths: FoldPaths, checkpoint: Path) -> CheckpointChoice:
    result = read_record(FoldResult, paths.result)
    is_refit = result is not None and result.best_epoch is None
    notices = [] if is_refit else _substitute(paths, checkpoint)
    if result is None:
        notices.append(f"{shown(paths.root)} is unfinished: this is its latest model")
    return CheckpointChoice((checkpoint,), tuple(notices))


def _of_config(paths: ConfigPaths, found: list[int]) -> CheckpointChoice:
    chosen: list[Path] = []
    missing: list[str] = []
    notices: list[str] = []
    for number in sorted({*found, *_planned(paths)}):
        fold = paths.fold(number)
        checkpoint = _checkpoint(fold)
        if read_record(FoldResult, fold.result) is None:
            missing.append(f"{fold.root.name} (unfinished)")
        elif checkpoint is None:
            missing.append(f"{fold.root.name} (its checkpoints are missing)")
        else:
            chosen.append(checkpoint)
            notices += _substitute(fold, checkpoint)
    if not chosen:
        raise RunFolderError(
            f"{shown(paths.root)}: no fold can be used: {', '.join(missing)}; run the training "
            "command again to resume"
        )
    if missing:
        notices.append(f"without {', '.join(missing)}")
    return CheckpointChoice(tuple(chosen), tuple(notices))


def _planned(paths: ConfigPaths) -> range:
    """Numbers of the config's folds; none if only fold folders were copied."""
    if not paths.folds_info.exists():
        return range(0)
    return range(1, len(read_folds_info(paths.folds_info)["folds"]) + 1)


def _substitute(paths: FoldPaths, checkpoint: Path) -> list[str]:
    if checkpoint == paths.checkpoint_best:
        return []
    return [
        f"{shown(paths.root)} has no {paths.checkpoint_best.name}; the model of its last epoch is "
        "used"
    ]
