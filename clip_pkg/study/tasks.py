"""The unit of work: one training, as a JSON file that any process can carry out.

A task is a fold of a config, its refit on all images, or a pre-training. The launcher writes
`task.json`; a worker reads it, trains, and writes a `FoldResult` or a `FoldFailure`. Nothing else
passes between them, so the same files serve a child process, a cluster job and a later rerun.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeAlias, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from clip_pkg.base.errors import RunFolderError
from clip_pkg.base.files import write_json
from clip_pkg.base.paths import ConfigPaths, FoldPaths
from clip_pkg.config.schema import RunConfig
from clip_pkg.study.identity import StoredIdentity, digest

FailureKind: TypeAlias = Literal[
    "diverged", "out of memory", "disk full", "error", "crash", "hung", "user error"
]
Record = TypeVar("Record", "FoldResult", "FoldFailure")

ALL_IMAGES = 0  # in place of a fold's number, where no image is held out


@dataclass(frozen=True, kw_only=True)
class _TaskBase(ABC):
    """What every task has. Paths are absolute.

    pixel_store: the decoded images; None where they did not fit, and the worker decodes them.
    n_images: of the whole image set. micro_batch_size: overrides the config's after a batch did
    not fit into memory. cache_limit: bytes that all files of `cache_dir` may take, if limited.
    gpus: how many train the task together.
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
    @abstractmethod
    def short_title(self) -> str:
        """The same for a narrow column: `1/5`, `refit`, or `pre`."""

    @property
    def long_title(self) -> str:
        """The same in full: `fold 1 of 5`."""
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
        """Files of the config that it belongs to; a pre-training has a folder of its own."""
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

    resume_from: a checkpoint that the user named, for a training without one of its own.
    profile: whether it measures where its time goes. starts_from: `run_dir` of the pre-training
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

    fold: counts from 1.
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
        return f"fold {self.fold} of {self.n_folds}"

    @property
    def paths(self) -> FoldPaths:
        return self.config_paths.fold(self.fold)

    @property
    def images_per_epoch(self) -> float:
        return self.n_images * (1 - 1 / max(self.n_folds, 2))


@dataclass(frozen=True, kw_only=True)
class RefitTask(_ModelTaskBase):
    """A config trained on all of its images: no image validates it."""

    kind: Literal["refit"] = "refit"
    # In records, seeds and the ledger, where a fold has its number.
    fold: ClassVar[int] = ALL_IMAGES

    @property
    def title(self) -> str:
        return "refit"

    @property
    def short_title(self) -> str:
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

    fold, folds_info_file: whose training images it learns from; `ALL_IMAGES` and None where it
    learns from all.
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

    best_epoch: None where no image was held out to choose it by; `best`, `last` and `untrained`,
    the scores on held-out images, are empty then.
    peak_memory_bytes: reserved on the GPU at most; None on a CPU.
    test: scores on the `n_test` test images of the model that validation chose; empty without
    test images.
    A pre-training has the measures of its features in `last`.
    """

    identity: StoredIdentity
    fold: int
    n_train: int
    n_val: int
    best_epoch: int | None
    last_epoch: int
    stopped_early: bool
    best: dict[str, float | None]
    last: dict[str, float | None]
    untrained: dict[str, float | None]
    chosen_on: Literal["reported fold", "inner validation split", "no image"]
    device: str
    environment: dict[str, str]
    seconds: float
    train_seconds: float
    peak_memory_bytes: int | None
    notices: list[str]
    n_test: int = 0
    test: dict[str, float | None] = field(default_factory=dict)


@dataclass(frozen=True)
class FoldFailure:
    """Why an attempt ended without a result; `detail` is the traceback, for our own bugs."""

    identity: StoredIdentity
    fold: int
    kind: FailureKind
    reason: str
    detail: str = ""
    log_file: str = ""


def failure_of(
    task: Task, kind: FailureKind, reason: str, log_file: str | Path, detail: str = ""
) -> FoldFailure:
    return FoldFailure(task.identity, task.fold, kind, reason, detail, str(log_file))


_TASKS: TypeAdapter[Task] = TypeAdapter(Annotated[Task, Field(discriminator="kind")])
_RECORDS: dict[type[Any], TypeAdapter[Any]] = {
    kind: TypeAdapter(kind) for kind in (FoldResult, FoldFailure)
}


def write_record(path: Path, record: FoldResult | FoldFailure) -> None:
    """Write a result or failure, whole or not at all."""
    write_json(path, asdict(record))


def read_record(kind: type[Record], path: Path) -> Record | None:
    """Read a result or failure; None if there is none.

    Raises RunFolderError when the file is there but is not one of ours.
    """
    content = _read(path, {"identity", "fold"})
    record: Record | None = None if content is None else _validated(_RECORDS[kind], content, path)
    return record


def write_task(task: Task) -> None:
    """Write a task into its folder, whole or not at all."""
    write_json(task.paths.task, task_to_json(task))


def read_task(path: Path) -> Task | None:
    """Read a task file; None if there is none.

    Raises RunFolderError when the file is there but is not one of ours.
    """
    content = _read(path, {"identity", "run_dir"})
    if content is None:
        return None
    task: Task = _validated(_TASKS, content if "kind" in content else _from_flags(content), path)
    return task


def task_to_json(task: Task) -> dict[str, Any]:
    content: dict[str, Any] = _TASKS.dump_python(task, mode="json")
    return content


def task_from_json(content: Any) -> Task:
    """Inverse of `task_to_json`; raises ValueError for anything else."""
    return _TASKS.validate_json(json.dumps(content))


def failure_from_json(content: Any) -> FoldFailure:
    """Inverse of `dataclasses.asdict`; raises ValueError for anything else."""
    failure: FoldFailure = _RECORDS[FoldFailure].validate_python(content)
    return failure


def _read(path: Path, keys: set[str]) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as error:
        raise RunFolderError(
            f"{path} cannot be read ({error}); move it away and run again"
        ) from None
    if not isinstance(content, dict) or not keys <= set(content):
        raise RunFolderError(f"{path} was not written by this program; move it away and run again")
    return content


def _validated(adapter: TypeAdapter[Any], content: dict[str, Any], path: Path) -> Any:
    try:
        return adapter.validate_json(json.dumps(content))
    except ValidationError:
        raise RunFolderError(
            f"{path} was written by another version of this program; move it away and run again"
        ) from None


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


def finished(task: Task) -> FoldResult | None:
    """Return the task's result if an earlier run left one that fits, else None."""
    result = read_record(FoldResult, task.paths.result)
    return result if result is not None and result.identity == task.identity else None


def unfinished(tasks: Sequence[Task]) -> list[Task]:
    """Return what is still to be trained, pre-trainings only where such a fold starts from them."""
    waiting = [task for task in tasks if finished(task) is None]
    needed = {task.starts_from for task in waiting if not isinstance(task, PretrainTask)}
    return [
        task for task in waiting if not isinstance(task, PretrainTask) or task.run_dir in needed
    ]


def nouns(tasks: Iterable[Task]) -> str:
    """Plural noun for these tasks in a message."""
    return "trainings" if any(isinstance(task, PretrainTask) for task in tasks) else "folds"
