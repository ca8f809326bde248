"""Every file name of a run, in one place.

`OUTPUT_BASE_DIR/<config name>/` holds one config's result; `fold_<k>/` below it one fold's.
"""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass
from pathlib import Path

MAX_NAME_BYTES = 200  # leaves room for suffixes below the 255 bytes that file systems allow


def folder_name(text: str) -> str:
    """Turn an encoder pair or a user's name into one safe path component.

    `:` and `/` become `_`, as in `resnet18_clip_ViT-B_32`. Raises ValueError for names that
    would leave the folder, hide in it or exceed the file system's limit.
    """
    name = unicodedata.normalize("NFC", text).translate(str.maketrans(":/\\", "___"))
    name = name.strip()
    if (
        not name
        or name.startswith(".")
        or any(unicodedata.category(char)[0] == "C" for char in name)
    ):
        raise ValueError(
            f"{text!r} cannot name a folder: it is empty, starts with a dot or has control "
            "characters"
        )
    if len(name.encode("utf-8")) > MAX_NAME_BYTES:
        raise ValueError(
            f"{text[:40]!r}… is longer than {MAX_NAME_BYTES} bytes; set a shorter `name`"
        )
    return name


@dataclass(frozen=True)
class FoldPaths:
    """Files of one fold. `task` and `result` are the protocol between launcher and worker."""

    root: Path

    @property
    def task(self) -> Path:
        """What to do, written by the launcher."""
        return self.root / "task.json"

    @property
    def result(self) -> Path:
        """What came out; its presence and validity mean success."""
        return self.root / "result.json"

    @property
    def progress(self) -> Path:
        """Where the worker is; rewritten as it goes."""
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
    def exposure(self) -> Path:
        """How often the sampler showed each training image."""
        return self.root / "sampler_exposure.csv"

    @property
    def checkpoint_best(self) -> Path:
        """Model of the best epoch by the monitored metric."""
        return self.root / "checkpoint_best.pth"

    @property
    def checkpoint_latest(self) -> Path:
        """Everything needed to go on."""
        return self.root / "checkpoint_latest.pth"

    @property
    def encoder(self) -> Path:
        """Image encoder that a pre-training ended with; folds start from it."""
        return self.root / "encoder.pth"

    @property
    def test_predictions(self) -> Path:
        """Predictions on the test images, of the epoch that validation chose."""
        return self.root / "test_predictions.csv"


@dataclass(frozen=True)
class ConfigPaths:
    """Files of one config."""

    root: Path

    @property
    def config(self) -> Path:
        """The canonical config; can be fed back in."""
        return self.root / "config.json"

    @property
    def identity(self) -> Path:
        """What the folder's numbers follow from; decides whether a run may go on in it."""
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
        """The prompts that were used, resolved."""
        return self.root / "class_texts.json"

    @property
    def preflight(self) -> Path:
        """What the data check found."""
        return self.root / "preflight.json"

    @property
    def tensorboard(self) -> Path:
        """Event files, one folder per fold and one for mean ± std."""
        return self.root / "tensorboard"

    def profile(self, fold: int) -> Path:
        """Seconds of a fold by phase, of a run with `--profile`."""
        return self.root / "profile" / f"fold_{fold}.json"

    def trace(self, fold: int) -> Path:
        """Trace of some training steps of a fold, for Chrome and Perfetto; the same runs."""
        return self.root / "profile" / f"fold_{fold}_trace.json.gz"

    def fold(self, number: int) -> FoldPaths:
        """Files of fold `number`, which counts from 1."""
        return FoldPaths(self.root / f"fold_{number}")

    @property
    def refit(self) -> FoldPaths:
        """Files of the model that was trained on all images."""
        return FoldPaths(self.root / "refit")

    @property
    def refit_summary(self) -> Path:
        """What the refit was trained on, for how long and why; the cross-validated estimate."""
        return self.refit.root / "refit_summary.json"


@dataclass(frozen=True)
class ReportPaths:
    """Files of a report."""

    root: Path

    @property
    def page(self) -> Path:
        """The page; it needs none of the other files."""
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
        """Numbers behind the page; `name` is such as `leaderboard`."""
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
        """Decoded pixels, text features and image lists, shared by all configs; safe to delete."""
        return self.output_dir / ".cache"

    @property
    def pretraining(self) -> Path:
        """A folder per pre-training, each shared by all folds and configs that start from it."""
        return self.output_dir / "pretraining"

    @property
    def lock(self) -> Path:
        """Held while a launcher works on this folder."""
        return self.output_dir / ".launcher.lock"

    @property
    def holder(self) -> Path:
        """Who holds the lock, in words; left behind by a launcher that was killed."""
        return self.lock.with_suffix(".holder")

    @property
    def ledger(self) -> Path:
        """Append-only record of what happened to each fold task."""
        return self.output_dir / "ledger.jsonl"

    @property
    def slurm(self) -> Path:
        """Scripts and output of Slurm's jobs, while there are any and after failures."""
        return self.output_dir / ".slurm"

    def image_table(self, digest: str) -> Path:
        """Images and labels that a program gave as lists, as a CSV file."""
        return self.output_dir / f".images-{digest[:16]}.csv"

    @property
    def logs(self) -> Path:
        """Logs of folds that a program, not a command line, had trained."""
        return self.output_dir / ".logs"

    @property
    def report(self) -> ReportPaths:
        """The page about all configs, and what belongs to it."""
        return ReportPaths(self.output_dir / "report")

    @property
    def replaced(self) -> Path:
        """Where `--overwrite` keeps what it replaces."""
        return self.output_dir / "replaced"
