"""The unit of work: one fold of one config, as a JSON file that any process can carry out.

The launcher writes a `FoldTask`; a worker reads it, trains, and writes a `FoldResult` or a
`FoldFailure`. Nothing else passes between them, so the same files serve a child process, a
cluster's job and a rerun next Monday.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

from clip_pkg.base.errors import RunFolderError
from clip_pkg.base.files import write_json
from clip_pkg.base.paths import ConfigPaths, FoldPaths

PACKAGE = Path(__file__).resolve().parent.parent
# What can change a trained number. The command line, reports and schedulers cannot.
ROOMS_THAT_MAKE_NUMBERS = ("losses", "models", "metrics", "data", "training", "study")
# Settings that say where, how fast or in how much memory a config runs, not what comes out.
NO_PART_OF_THE_RESULT = frozenset(
    {
        "name",
        "activation_checkpointing",
        "compile",
        "cuda_graphs",
        "gpu_id",
        "gpus_per_task",
        "num_workers",
        "test_dir",
    }
)

FailureKind: TypeAlias = Literal[
    "diverged", "out of memory", "disk full", "error", "crash", "hung", "user error"
]
Stage: TypeAlias = Literal["training", "pretraining"]
Record = TypeVar("Record", "FoldTask", "FoldResult", "FoldFailure")


@dataclass(frozen=True)
class Identity:
    """Digests of everything that a fold's numbers follow from.

    Two runs with equal identities may share folds; where one part differs, its name tells which.
    """

    config: str
    data: str
    splits: str
    class_texts: str
    code: str

    def differences(self, other: Identity) -> list[str]:
        """Name the parts in which `other` is different."""
        mine, theirs = asdict(self), asdict(other)
        return [part.replace("_", " ") for part in mine if mine[part] != theirs[part]]


@dataclass(frozen=True)
class FoldTask:
    """What a worker needs to know. Paths are absolute; `fold` counts from 1.

    folds_info_file: the folds; None where no image is held out and all of them train. `fold` is 0
    then, and such a training has no score.
    pixel_store: the decoded images; None where there was no room for them, and whoever trains the
    fold decodes them. n_images: of the whole image set. gpus: how many train the fold together.
    micro_batch_size: images that go through the encoder at once, on all of its GPUs together, after
    more did not fit into the memory. profile: whether it says where its time goes. cache_limit:
    bytes that all files of `cache_dir` may take, if there is a limit.
    stage: a pre-training has a folder of its own, `run_dir`, no config's; its `folds_info_file` and
    `fold` say whose training images it looks at, None and 0 that it looks at all.
    starts_from: `run_dir` of the pre-training whose encoder the fold starts from.
    test_manifest_file, test_pixel_store: images that are looked at once, after the training.
    """

    identity: Identity
    config: dict[str, Any]
    fold: int
    n_folds: int
    run_dir: str
    manifest_file: str
    folds_info_file: str | None
    class_texts_file: str
    pixel_store: str | None
    cache_dir: str
    n_images: int
    gpus: int = 1
    micro_batch_size: int | None = None
    resume_from: str | None = None
    profile: bool = False
    cache_limit: int | None = None
    stage: Stage = "training"
    starts_from: str | None = None
    test_manifest_file: str | None = None
    test_pixel_store: str | None = None

    @property
    def name(self) -> str:
        """The config's name."""
        return str(self.config["name"])

    @property
    def holds_out(self) -> bool:
        """Whether some images do not train but validate."""
        return self.folds_info_file is not None

    @property
    def is_pretraining(self) -> bool:
        """Whether it trains an image encoder for others to start from."""
        return self.stage == "pretraining"

    @property
    def part(self) -> str:
        """Which of the config's trainings it is: `fold 1`, `refit`, or `pre-training`."""
        if self.is_pretraining:
            return "pre-training"
        return f"fold {self.fold}" if self.holds_out else "refit"

    @property
    def position(self) -> str:
        """The same for a narrow column: `1/5`, `refit`, or `pre`."""
        if self.is_pretraining:
            return "pre"
        return f"{self.fold}/{self.n_folds}" if self.holds_out else "refit"

    @property
    def label(self) -> str:
        """How people call it."""
        return f"{self.name} {self.part}"

    @property
    def images_at_once(self) -> int:
        """Images of a training batch that go through the encoder at once."""
        sizes = (
            self.micro_batch_size,
            self.config.get("micro_batch_size"),
            self.config["batch_size"],
        )
        return min(int(size) for size in sizes if size is not None)

    @property
    def lock(self) -> Path:
        """Held by the one worker that may write into the fold's folder."""
        return Path(self.cache_dir) / "locks" / f"{digest([self.run_dir, self.fold])[:24]}.lock"

    @property
    def config_paths(self) -> ConfigPaths:
        """Files of the config that the fold belongs to."""
        return ConfigPaths(Path(self.run_dir))

    @property
    def paths(self) -> FoldPaths:
        """Files of the fold."""
        if self.is_pretraining:
            return FoldPaths(Path(self.run_dir))
        paths = self.config_paths
        return paths.fold(self.fold) if self.holds_out else paths.refit

    @property
    def checkpoint_to_continue(self) -> Path | None:
        """Its own latest checkpoint, or else the one that the user named; None to begin."""
        own = self.paths.checkpoint_latest
        if own.exists():
            return own
        return None if self.resume_from is None else Path(self.resume_from)

    @property
    def curves(self) -> Path:
        """Folder of its curves for TensorBoard."""
        return self.config_paths.tensorboard / self.paths.root.name


@dataclass(frozen=True)
class FoldResult:
    """A finished fold. Metrics are by history column, None where undefined.

    best_epoch: None where no image was held out, so that there was nothing to choose it by; `best`,
    `last` and `untrained`, the scores on held-out images, are empty then.
    peak_memory_bytes: what the process had reserved on its GPU at most; None on a CPU.
    test: scores on the `n_test` test images of the model that validation chose, which are looked at
    once; empty without test images.
    A pre-training has its measures of the features in `last`.
    """

    identity: Identity
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

    identity: Identity
    fold: int
    kind: FailureKind
    reason: str
    detail: str = ""
    log_file: str = ""


def digest(value: Any) -> str:
    """SHA-256 of a JSON value, independent of key order."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def config_digest(canonical: Mapping[str, Any]) -> str:
    """Digest of the part of a canonical config that decides the numbers."""
    return digest({key: canonical[key] for key in canonical if key not in NO_PART_OF_THE_RESULT})


def code_digest(rooms: Sequence[str] = ROOMS_THAT_MAKE_NUMBERS) -> str:
    """Digest of the package's own sources that make numbers, or those of some rooms."""
    sources: list[Path] = []
    for room in rooms:
        path = PACKAGE / room
        sources += sorted(path.rglob("*.py")) if path.is_dir() else [path]
    checksum = hashlib.sha256()
    for source in sources:
        checksum.update(source.relative_to(PACKAGE).as_posix().encode())
        checksum.update(source.read_bytes())
    return checksum.hexdigest()


def write_record(path: Path, record: FoldTask | FoldResult | FoldFailure) -> None:
    """Write a task, result or failure, whole or not at all."""
    write_json(path, asdict(record))


def read_record(kind: type[Record], path: Path) -> Record | None:
    """Read a record; None if there is none.

    Raises RunFolderError when the file is there but is not one of ours.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, OSError) as error:
        raise RunFolderError(
            f"{path} cannot be read ({error}); move it away and run again"
        ) from None
    names = {item.name for item in fields(kind)}
    if not isinstance(content, dict) or not {"identity", "fold"} <= set(content) <= names:
        raise RunFolderError(f"{path} was not written by this program; move it away and run again")
    try:
        content["identity"] = Identity(**content["identity"])
        return kind(**content)
    except TypeError:
        raise RunFolderError(
            f"{path} was written by another version of this program; move it away and run again"
        ) from None


def finished(task: FoldTask) -> FoldResult | None:
    """Return the task's result if an earlier run left one that fits, else None."""
    result = read_record(FoldResult, task.paths.result)
    return result if result is not None and result.identity == task.identity else None


def unfinished(tasks: Sequence[FoldTask]) -> list[FoldTask]:
    """Return what is still to be trained, pre-trainings only where such a fold starts from them."""
    waiting = [task for task in tasks if finished(task) is None]
    needed = {task.starts_from for task in waiting}
    return [task for task in waiting if not task.is_pretraining or task.run_dir in needed]


def nouns(tasks: Sequence[FoldTask]) -> str:
    """How people call several of these tasks together."""
    return "trainings" if any(task.is_pretraining for task in tasks) else "folds"
