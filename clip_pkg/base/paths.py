"""Every file name of a run.

`OUTPUT_BASE_DIR/<config name>/` is the result of a config, `fold_<k>/` in it that of a fold.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from pathlib import Path

MAX_NAME_BYTES = 200  # leaves room for suffixes below the 255 bytes that file systems allow


def folder_name(text: str) -> str:
    """A safe path component from a user's name.

    `:` and `/` become `_`, as in `resnet18_clip_ViT-B_32`. Raises ValueError for names that would
    escape the folder, be hidden or exceed the file system's limit.
    """
    name = unicodedata.normalize("NFC", text).translate(str.maketrans(":/\\", "___"))
    name = name.strip()
    if (
        not name
        or name.startswith(".")
        or any(unicodedata.category(char)[0] == "C" for char in name)
    ):
        raise ValueError(
            f"{text!r} is not a valid folder name: it is empty, starts with a dot or has control "
            "characters"
        )
    if len(name.encode("utf-8")) > MAX_NAME_BYTES:
        raise ValueError(f"{text[:40]!r}… is longer than {MAX_NAME_BYTES} bytes; shorten `name`")
    return name


@dataclass(frozen=True)
class FoldPaths:
    """Files of one fold. `task` and `result` are the protocol between launcher and worker."""

    root: Path

    @property
    def task(self) -> Path:
        """Written by the launcher."""
        return self.root / "task.json"

    @property
    def result(self) -> Path:
        """Written by the worker; its presence means success."""
        return self.root / "result.json"

    @property
    def progress(self) -> Path:
        """Progress of the worker."""
        return self.root / "progress.json"

    @property
    def failure(self) -> Path:
        """Why the last attempt ended without a result."""
        return self.root / "failure.json"

    @property
    def history(self) -> Path:
        """One entry per epoch and column."""
        return self.root / "history.json"

    @property
    def predictions(self) -> Path:
        """Validation predictions of the best epoch."""
        return self.root / "predictions.csv"

    @property
    def predictions_last(self) -> Path:
        """Validation predictions of the last epoch."""
        return self.root / "predictions_last.csv"

    @property
    def epoch_predictions(self) -> Path:
        """Validation probabilities after every epoch, unless an inner split chooses the epoch."""
        return self.root / "predictions_epochs.npz"

    @property
    def unfinished_epoch_predictions(self) -> Path:
        """The same while the fold trains, uncompressed."""
        return self.root / "predictions_epochs.part"

    @property
    def exposure(self) -> Path:
        """How often the sampler showed each training image."""
        return self.root / "sampler_exposure.csv"

    @property
    def checkpoint_best(self) -> Path:
        """Model of the best epoch by the monitored metric."""
        return self.root / "checkpoint_best.pth"

    @property
    def checkpoint_latest(self) -> Path:
        """Everything needed to resume."""
        return self.root / "checkpoint_latest.pth"

    @property
    def encoder(self) -> Path:
        """Final image encoder of a pre-training, from which folds start."""
        return self.root / "encoder.pth"

    @property
    def test_predictions(self) -> Path:
        """Test predictions at the epoch that validation chose."""
        return self.root / "test_predictions.csv"


@dataclass(frozen=True)
class ConfigPaths:
    """Files of one config."""

    root: Path

    @property
    def config(self) -> Path:
        """The canonical config, which can be used as input."""
        return self.root / "config.json"

    @property
    def identity(self) -> Path:
        """Identity of the result; decides whether a run may resume in the folder."""
        return self.root / "identity.json"

    @property
    def summary(self) -> Path:
        """The cross-validated result."""
        return self.root / "cv_summary.json"

    @property
    def folds_info(self) -> Path:
        """Which image is in which fold."""
        return self.root / "folds_info.json"

    @property
    def class_texts(self) -> Path:
        """The resolved prompts."""
        return self.root / "class_texts.json"

    @property
    def preflight(self) -> Path:
        """Findings of the data check."""
        return self.root / "preflight.json"

    @property
    def tensorboard(self) -> Path:
        """Event files, one folder per fold and one for mean ± std."""
        return self.root / "tensorboard"

    def profile(self, fold: int) -> Path:
        """Seconds of a fold by phase, with `--profile`."""
        return self.root / "profile" / f"fold_{fold}.json"

    def trace(self, fold: int) -> Path:
        """Trace of some training steps, for Chrome and Perfetto, with `--profile`."""
        return self.root / "profile" / f"fold_{fold}_trace.json.gz"

    def fold(self, number: int) -> FoldPaths:
        """Files of fold `number`, from 1."""
        return FoldPaths(self.root / f"fold_{number}")

    @property
    def refit(self) -> FoldPaths:
        """Files of the model that was trained on all images."""
        return FoldPaths(self.root / "refit")

    @property
    def refit_summary(self) -> Path:
        """Data and length of the refit, and its cross-validated estimate."""
        return self.refit.root / "refit_summary.json"


@dataclass(frozen=True)
class ReportPaths:
    """Files of a report."""

    root: Path

    @property
    def page(self) -> Path:
        """The page, self-contained."""
        return self.root / "index.html"

    @property
    def figures(self) -> Path:
        """Every figure of the page, as SVG and PDF; a folder per config."""
        return self.root / "figures"

    @property
    def methods(self) -> Path:
        """The methods paragraph."""
        return self.root / "methods.txt"

    @property
    def latex(self) -> Path:
        """The table of results for LaTeX."""
        return self.root / "results.tex"

    def numbers(self, name: str) -> Path:
        """A table of the page, such as `leaderboard`."""
        return self.root / f"{name}.csv"


@dataclass(frozen=True)
class RunPaths:
    """Files of one launch over many configs."""

    output_dir: Path

    def config(self, name: str) -> ConfigPaths:
        """Files of the config called `name`."""
        return ConfigPaths(self.output_dir / folder_name(name))

    @property
    def cache(self) -> Path:
        """Decoded pixels, text features and image lists of all configs; safe to delete."""
        return self.output_dir / ".cache"

    @property
    def pretraining(self) -> Path:
        """A folder per pre-training, shared by the folds and configs that start from it."""
        return self.output_dir / "pretraining"

    @property
    def lock(self) -> Path:
        """Held while a launcher works on this folder."""
        return self.output_dir / ".launcher.lock"

    @property
    def holder(self) -> Path:
        """Describes the holder of the lock; a killed launcher leaves it behind."""
        return self.lock.with_suffix(".holder")

    @property
    def ledger(self) -> Path:
        """Append-only record of the events of each task."""
        return self.output_dir / "ledger.jsonl"

    @property
    def slurm(self) -> Path:
        """Scripts and output of Slurm jobs."""
        return self.output_dir / ".slurm"

    def image_table(self, digest: str) -> Path:
        """Images and labels that a Python program passed as lists, as a CSV file."""
        return self.output_dir / f".images-{digest[:16]}.csv"

    @property
    def logs(self) -> Path:
        """Logs of folds trained from Python."""
        return self.output_dir / ".logs"

    @property
    def report(self) -> ReportPaths:
        """Files of the report."""
        return ReportPaths(self.output_dir / "report")

    @property
    def replaced(self) -> Path:
        """Results replaced with `--overwrite`."""
        return self.output_dir / "replaced"
