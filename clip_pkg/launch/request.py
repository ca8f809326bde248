"""Typed requests, which the command line and Python programs build."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from clip_pkg.base.paths import RunPaths
from clip_pkg.config.load import LoadedConfigs
from clip_pkg.scheduling.resources import Execution

LOG_DIR = Path("logs/clip_training")


@dataclass(frozen=True, kw_only=True)
class StudyRequest:
    """Configs and the images to train them on.

    data_dir: a folder with one sub-folder per class, or a CSV file. config_file: where the configs
    were read from, if from a file. splits_file: a folds_info.json to take the folds from.
    skip_unreadable: leave out images that cannot be read.
    """

    loaded: LoadedConfigs
    data_dir: Path
    config_file: Path | None = None
    splits_file: Path | None = None
    skip_unreadable: bool = False

    @property
    def search_dirs(self) -> Sequence[Path]:
        """Folders besides the current one that relative paths in a config may start from."""
        return [] if self.config_file is None else [self.config_file.parent]


@dataclass(frozen=True, kw_only=True)
class RunFolders:
    """Where a run writes. cache_limit: bytes that the cache may take; None: what the disk holds."""

    output_dir: Path
    log_dir: Path = LOG_DIR
    cache_dir: Path | None = None
    cache_limit: int | None = None

    @property
    def run(self) -> RunPaths:
        """Files of the run."""
        return RunPaths(self.output_dir.resolve())

    @property
    def cache(self) -> Path:
        """Folder of decoded images, text features and image lists."""
        return (self.cache_dir or self.run.cache).resolve()


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """A study to train.

    overwrite: move aside folders that hold other results. resume_from: a result folder or a
    checkpoint to resume from. profile: measure the first unfinished fold of each config.
    report_pretraining, report_training: print where each task of this stage starts.
    """

    study: StudyRequest
    folders: RunFolders
    execution: Execution = field(default_factory=Execution)
    overwrite: bool = False
    resume_from: Path | None = None
    profile: bool = False
    report_pretraining: bool = False
    report_training: bool = False


@dataclass(frozen=True, kw_only=True)
class RefitRequest:
    """A cross-validated config to train on all of its images.

    folders: of the run that `config_dir` belongs to. epochs: None: the median of the folds' best.
    data_dir: where the images are now; None: where they were.
    """

    config_dir: Path
    folders: RunFolders
    execution: Execution = field(default_factory=Execution)
    epochs: int | None = None
    data_dir: Path | None = None
    overwrite: bool = False
