"""The unit of work: one training, described by a JSON file that any process can execute.

A task is a fold of a config, its refit on all images, or a pre-training. The launcher writes
`task.json`; a worker reads it, trains, and writes a `FoldResult` or a `FoldFailure`. They share
nothing else, so child processes, cluster jobs and reruns use the same files.
"""

from __future__ import annotations

import contextlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Final, Literal, TypeAlias, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from clip_pkg.base.errors import DamagedFile
from clip_pkg.base.files import make_folder, write_json
from clip_pkg.base.paths import ConfigPaths, FoldPaths
from clip_pkg.base.reading import Count, Number, Ordinal, first_problem, read_json
from clip_pkg.config.schema import RunConfig
from clip_pkg.study.fold_files import AGAIN, Mark, check_marks, read_history
from clip_pkg.study.identity import StoredIdentity, digest

FailureKind: TypeAlias = Literal[
    "diverged", "out of memory", "disk full", "error", "crash", "hung", "user error", "damaged file"
]
Record = TypeVar("Record", "FoldResult", "FoldFailure")

DAMAGED: Final = "damaged file"  # the kind of a failure that training again mends
ALL_IMAGES = 0  # instead of a fold's number if no image is held out


@dataclass(frozen=True, kw_only=True)
class _TaskBase(ABC):
    """Fields of every task. Paths are absolute.

    pixel_store: the decoded images; None if they did not fit, and the worker decodes them.
    n_images: of the whole image set. micro_batch_size: overrides the config's after a batch did
    not fit into memory. cache_limit: maximum bytes of all files of `cache_dir`, if limited. gpus:
    number of GPUs that train the task together.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    identity: StoredIdentity
    config: RunConfig
    run_dir: Path
    manifest_file: Path
    cache_dir: Path
    n_images: int
    pixel_store: Path | None = None
    micro_batch_size: int | None = None
    cache_limit: int | None = None
    gpus: int = 1

    @property
    @abstractmethod
    def title(self) -> str:
        """Which of the config's trainings it is: `fold 1`, `refit`, or `pre-training`."""

    @property
    def short_title(self) -> str:
        """The title for a narrow column: `1/5`, `refit`, or `pre`."""
        return self.title

    @property
    def long_title(self) -> str:
        """The full title: `fold 1 of 5`, `refit`, or `pre-training`."""
        return self.title

    @property
    @abstractmethod
    def paths(self) -> FoldPaths:
        """Files of this training."""

    @property
    @abstractmethod
    def images_per_epoch(self) -> float:
        """Images that go through the encoder in one epoch, each view counted."""

    @property
    def name(self) -> str:
        """The config's name."""
        return self.config.name

    @property
    def display_name(self) -> str:
        return f"{self.name} {self.title}"

    @property
    def config_paths(self) -> ConfigPaths:
        """Files of its config; a pre-training has its own folder."""
        return ConfigPaths(self.run_dir)

    @property
    def curves(self) -> Path:
        """Folder of its curves for TensorBoard."""
        return self.config_paths.tensorboard / self.paths.root.name

    @property
    def lock(self) -> Path:
        """Held by the one worker that may write into its folder."""
        return self.cache_dir / "locks" / f"{digest(str(self.paths.root))[:24]}.lock"

    @property
    def images_at_once(self) -> int:
        """Images of a training batch that go through the encoder at once, on all its GPUs."""
        sizes = (self.micro_batch_size, self.config.micro_batch_size, self.config.batch_size)
        return min(size for size in sizes if size is not None)

    @property
    def checkpoint_to_resume(self) -> Path | None:
        """Checkpoint that training resumes from; None if it starts fresh."""
        latest = self.paths.checkpoint_latest
        return latest if latest.exists() else None


@dataclass(frozen=True, kw_only=True)
class _ModelTaskBase(_TaskBase):
    """A training of the whole model.

    resume_from: a checkpoint that the user named, used if the training has none of its own.
    profile: whether to measure the time of each phase. starts_from: `run_dir` of the pre-training
    whose encoder it starts from. test_manifest_file, test_pixel_store: images that are evaluated
    once, after training.
    """

    class_texts_file: Path
    resume_from: Path | None = None
    profile: bool = False
    starts_from: Path | None = None
    test_manifest_file: Path | None = None
    test_pixel_store: Path | None = None

    @property
    def checkpoint_to_resume(self) -> Path | None:
        return super().checkpoint_to_resume or self.resume_from


@dataclass(frozen=True, kw_only=True)
class FoldTask(_ModelTaskBase):
    """One fold of a config: trains on some images and validates on those held out.

    fold: counts from 1, through all repeats. n_folds: of all repeats.
    """

    kind: Literal["fold"] = "fold"
    fold: int
    n_folds: int
    folds_info_file: Path

    @property
    def title(self) -> str:
        return f"fold {self.fold}"

    @property
    def short_title(self) -> str:
        return f"{self.fold}/{self.n_folds}"

    @property
    def long_title(self) -> str:
        return f"fold {self.place}"

    @property
    def place(self) -> str:
        """`1 of 5`, or `7 of 20 (repeat 2, fold 2 of 5)`."""
        text, n_splits = f"{self.fold} of {self.n_folds}", self.n_splits
        if n_splits == self.n_folds:
            return text
        repeat, fold = divmod(self.fold - 1, n_splits)
        return f"{text} (repeat {repeat + 1}, fold {fold + 1} of {n_splits})"

    @property
    def n_splits(self) -> int:
        """Folds of each repeat."""
        return self.n_folds // self.config.n_repeats

    @property
    def paths(self) -> FoldPaths:
        return self.config_paths.fold(self.fold)

    @property
    def images_per_epoch(self) -> float:
        return self.n_images * (1 - 1 / max(self.n_splits, 2))


@dataclass(frozen=True, kw_only=True)
class RefitTask(_ModelTaskBase):
    """A config trained on all of its images: no image validates it."""

    kind: Literal["refit"] = "refit"
    # Stands for a fold's number in records, seeds and the ledger.
    fold: ClassVar[int] = ALL_IMAGES

    @property
    def title(self) -> str:
        return "refit"

    @property
    def paths(self) -> FoldPaths:
        return self.config_paths.refit

    @property
    def images_per_epoch(self) -> float:
        return float(self.n_images)


@dataclass(frozen=True, kw_only=True)
class PretrainTask(_TaskBase):
    """Trains an image encoder without labels, for folds to start from.

    fold, folds_info_file: the fold whose training images it uses; `ALL_IMAGES` and None if it uses
    all images.
    """

    kind: Literal["pretrain"] = "pretrain"
    fold: int = ALL_IMAGES
    folds_info_file: Path | None = None

    VIEWS: ClassVar[int] = 2  # of each image and epoch

    @property
    def title(self) -> str:
        return "pre-training"

    @property
    def short_title(self) -> str:
        return "pre"

    @property
    def paths(self) -> FoldPaths:
        return FoldPaths(self.run_dir)

    @property
    def images_per_epoch(self) -> float:
        return float(self.VIEWS * self.n_images)


ModelTask: TypeAlias = FoldTask | RefitTask
Task: TypeAlias = FoldTask | RefitTask | PretrainTask


@dataclass(frozen=True)
class FoldResult:
    """A finished training. Metrics are by history column, None where undefined.

    best_epoch: None without held-out images; then `best`, `last` and `untrained`, the scores on
    them, are empty. peak_memory_bytes: largest reserved memory of the GPU; None on a CPU. test:
    scores of the selected model on the `n_test` test images; empty without test images. A
    pre-training has the measures of its features in `last`. seconds, train_seconds: of all
    attempts, as far as they were recorded. undisturbed_seconds: what a single attempt would have
    taken: the last one, and the epochs that it restored; None in results of earlier revisions.
    files: name → [bytes, CRC-32] of each file that belongs to the result; empty in results of
    earlier revisions.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(allow_inf_nan=False)

    identity: StoredIdentity
    fold: Count
    n_train: Count
    n_val: Count
    best_epoch: Ordinal | None
    last_epoch: Ordinal
    stopped_early: bool
    best: dict[str, Number | None]
    last: dict[str, Number | None]
    untrained: dict[str, Number | None]
    chosen_on: Literal["reported fold", "inner validation split", "no image"]
    device: str
    environment: dict[str, str]
    seconds: Number
    train_seconds: Number
    peak_memory_bytes: Count | None
    notices: list[str]
    n_test: Count = 0
    test: dict[str, Number | None] = field(default_factory=dict)
    undisturbed_seconds: Number | None = None
    files: dict[str, Mark] = field(default_factory=dict)

    @property
    def expected_seconds(self) -> float:
        """What another training like this one takes."""
        return self.seconds if self.undisturbed_seconds is None else self.undisturbed_seconds


@dataclass(frozen=True)
class FoldFailure:
    """Why an attempt ended without a result; `detail` is the traceback."""

    identity: StoredIdentity
    fold: Count
    kind: FailureKind
    reason: str
    detail: str = ""
    log_file: str = ""


def failure_of(
    task: Task, kind: FailureKind, reason: str, log_file: str | Path, detail: str = ""
) -> FoldFailure:
    return FoldFailure(task.identity, task.fold, kind, reason, detail, str(log_file))


_TASKS: TypeAdapter[Task] = TypeAdapter(Annotated[Task, Field(discriminator="kind")])
_FAILURE: TypeAdapter[FoldFailure] = TypeAdapter(FoldFailure)


def write_record(path: Path, record: FoldResult | FoldFailure) -> None:
    """Write a result or failure atomically."""
    write_json(path, asdict(record))


def record_failure(task: Task, failure: FoldFailure) -> FoldFailure:
    """Write a failure into the task's folder; without it, or room in it, only the ledger has it."""
    with contextlib.suppress(OSError):
        if task.paths.root.is_dir():
            write_record(task.paths.failure, failure)
    return failure


def left_failure(task: Task) -> FoldFailure | None:
    """Why the last attempt at a task failed; None if it did not."""
    try:
        return read_record(FoldFailure, task.paths.failure)
    except DamagedFile as error:
        return failure_of(task, DAMAGED, str(error), "")


def read_record(kind: type[Record], path: Path) -> Record | None:
    """Read a result or failure; None if there is none. Raises DamagedFile for anything else."""
    try:
        return read_json(path, kind, AGAIN)
    except FileNotFoundError:
        return None


def write_task(task: Task) -> None:
    """Write a task into its folder atomically."""
    make_folder(task.paths.root)
    write_json(task.paths.task, task_to_json(task))


def read_task(path: Path) -> Task | None:
    """Read a task file; None if there is none. Raises DamagedFile for anything else."""
    try:
        content = read_json(path, dict[str, Any], AGAIN)
        return task_from_json(content if "kind" in content else _from_flags(content))
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise DamagedFile(path, f"is damaged ({first_problem(error)})", AGAIN) from None


def task_to_json(task: Task) -> dict[str, Any]:
    content: dict[str, Any] = _TASKS.dump_python(task, mode="json")
    return content


def task_from_json(content: Any) -> Task:
    """Inverse of `task_to_json`; raises ValueError for anything else."""
    return _TASKS.validate_json(json.dumps(content))


def failure_from_json(content: Any) -> FoldFailure:
    """Inverse of `dataclasses.asdict`; raises ValueError for anything else."""
    return _FAILURE.validate_python(content)


def _from_flags(content: dict[str, Any]) -> dict[str, Any]:
    """Translate a task file from before tasks had kinds, so that old runs can be read."""
    known = dict(content)
    stage = known.pop("stage", "training")
    if stage == "pretraining":
        kind, dropped = "pretrain", ["n_folds", "class_texts_file", "resume_from", "profile"]
        dropped += ["starts_from", "test_manifest_file", "test_pixel_store"]
    elif known.get("folds_info_file") is None:
        kind, dropped = "refit", ["fold", "n_folds", "folds_info_file"]
    else:
        kind, dropped = "fold", []
    return {key: value for key, value in known.items() if key not in dropped} | {"kind": kind}


def whole_result(paths: FoldPaths, *, with_models: bool = True) -> FoldResult | None:
    """The result of a training whose files are as it left them; None if there is none.

    with_models: whether its models count, on which no number of a result rests: people delete them
    to save space.

    Raises DamagedFile if the result or a file that belongs to it is missing or damaged.
    """
    result = read_record(FoldResult, paths.result)
    if result is None:
        return None
    marks = result.files
    if not with_models:
        marks = {name: mark for name, mark in marks.items() if not name.endswith(".pth")}
    check_marks(paths.root, marks)
    if not result.files:  # of an earlier revision
        # It imports numpy, for which the help of a command need not wait.
        from clip_pkg.study.predictions import read_predictions  # noqa: PLC0415

        read_history(paths.history)
        if result.best_epoch is not None:
            read_predictions(paths.predictions)
        if result.n_val:
            read_predictions(paths.predictions_last)
    return result


def finished(task: Task) -> FoldResult | None:
    """The task's result if an earlier run left a whole one with the same identity, else None."""
    try:
        result = whole_result(task.paths)
    except DamagedFile:
        return None
    return result if result is not None and result.identity == task.identity else None


def damage(task: Task) -> DamagedFile | None:
    """Why a result that an earlier run left is not used; None if there is no such reason."""
    try:
        whole_result(task.paths)
    except DamagedFile as error:
        return error
    return None


def unfinished(tasks: Sequence[Task]) -> list[Task]:
    """Tasks without a result; pre-trainings only if such a task starts from them."""
    waiting = [task for task in tasks if finished(task) is None]
    needed = {task.starts_from for task in waiting if not isinstance(task, PretrainTask)}
    return [
        task for task in waiting if not isinstance(task, PretrainTask) or task.run_dir in needed
    ]


def nouns(tasks: Iterable[Task]) -> str:
    """Plural noun for these tasks in a message."""
    return "trainings" if any(isinstance(task, PretrainTask) for task in tasks) else "folds"
