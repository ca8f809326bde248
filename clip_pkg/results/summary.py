"""`cv_summary.json`: one config's folds as publishable numbers, from the folds' files alone.

Scores that the log shows with a percent sign (`acc`, `balanced_acc`, `mAP`) are percentages here
too; all others are fractions. Missing and diverged folds are named and excluded from all averages.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any, TypeAlias

from clip_pkg.base.errors import DamagedFile, RunFolderError
from clip_pkg.base.files import write_json
from clip_pkg.base.paths import ConfigPaths
from clip_pkg.metrics.classification import (
    ClassificationMetrics,
    classification_metrics,
    history_scores,
)
from clip_pkg.metrics.table import METRICS, TOP_K
from clip_pkg.results.folders import ConfigFiles, Epoch, FoldFiles
from clip_pkg.results.pretraining_rows import pretraining_block
from clip_pkg.results.summary_schema import SCHEMA_VERSION
from clip_pkg.study.groups import patients_notice
from clip_pkg.study.predictions import Predictions
from clip_pkg.study.tasks import FoldResult

Scores: TypeAlias = Mapping[str, float | None]
DDOF = 1  # sample standard deviation
# Equal predictions have equal values here, to the last digit; intervals and headline follow from
# them.
INTERVALS_FOLLOW_FROM = (
    *("schema_version", "identity", "status", "best_epoch", "last_epoch", "per_class"),
    "confusion_matrix",
)


def summarize(paths: ConfigPaths) -> dict[str, Any]:
    """Build the summary of one config from its folder and write `cv_summary.json`.

    A second call is cheap: while the predictions are the same, their intervals are not computed
    again. Several processes may summarise a config at once, while its folds are trained: the
    summary of all results stays, whichever of them is the last to write.

    Raises RunFolderError if the folder is not a result folder or its files contradict each other.
    """
    summary, summarized = {}, None
    # A fold may end meanwhile, and the summary with it be written before this one.
    while summarized != (results := set(paths.root.glob("fold_*/result.json"))):
        summary, summarized = build_summary(ConfigFiles.read(paths)), results
        write_json(paths.summary, summary)
    return summary


def build_summary(files: ConfigFiles) -> dict[str, Any]:
    """Compute what `summary_schema.CvSummary` describes.

    Raises RunFolderError if the files contradict each other.
    """
    folds, folds_info = files.folds, files.folds_info
    results = [fold.result for fold in folds]
    done = [result for result in results if result is not None]
    pooled = files.pooled()
    metrics, best = _epoch_block("best", files)
    _, last = _epoch_block("last", files)
    pretraining = pretraining_block(files)
    notices = {note for result in done for note in result.notices}
    patients = []
    if folds_info.get("groups") is None:
        try:
            suggestion = files.preflight.get("group_suggestion")
        except DamagedFile:  # no score depends on it
            suggestion = None
        patients.append(patients_notice(suggestion))
    summary = {
        "schema_version": SCHEMA_VERSION,
        "config": dict(files.config),
        "n_folds": len(folds),
        "status": {f"fold_{fold.number}": fold.status for fold in folds},
        "complete": len(done) == len(folds),
        "headline": None,
        "units": {
            "percent": sorted(name for name, row in METRICS.items() if row.unit == "percent"),
            "all other scores": "fractions; losses in nats",
        },
        "epoch_choice": _epoch_choice(files.config),
        "fold_results": {
            "fold": [fold.number for fold in folds],
            "fold_best_epoch": best["fold_results"]["fold_best_epoch"],
            "fold_n_train": [result and result.n_train for result in results],
            "fold_n_val": [result and result.n_val for result in results],
            "fold_stopped_early": [result and result.stopped_early for result in results],
            **best["fold_results"],
        },
        "average_results": best["average_results"],
        "best_epoch": best,
        "last_epoch": last,
        "repeats": _repeats(files) if files.n_repeats > 1 else None,
        "test": _test(results),
        "baselines": {
            "majority_class": _majority_baseline(folds_info),
            "untrained_model": _averages([result.untrained for result in done]),
        },
        "out_of_fold": best["out_of_fold"],
        "per_class": None,
        "confusion_matrix": None,
        "confidence_intervals": None,
        "pretraining": pretraining,
        "failures": {
            f"fold_{fold.number}": {"kind": fold.failure.kind, "reason": fold.failure.reason}
            for fold in folds
            if fold.failure is not None
        },
        "identity": asdict(files.identity),
        "data_fingerprint": folds_info["data_fingerprint"],
        "splits_hash": folds_info["splits_hash"],
        "environment": _shared([result.environment for result in done]),
        "timing": {
            "fold_seconds": [result and round(result.seconds, 3) for result in results],
            "fold_train_seconds": [result and round(result.train_seconds, 3) for result in results],
            "written": datetime.now(UTC).isoformat(timespec="seconds"),
        },
        "notices": [
            *sorted(notices | set(() if pretraining is None else pretraining["notices"])),
            *patients,
        ],
    }
    if pooled is None or metrics is None:
        return summary
    summary["per_class"] = dict(zip(pooled.classes, map(asdict, metrics.per_class), strict=True))
    summary["confusion_matrix"] = confusion_block(pooled.classes, metrics)
    if "missing" not in summary["status"].values():
        summary |= _inference(files, pooled, summary)
    return summary


def confusion_block(classes: Sequence[str], metrics: ClassificationMetrics) -> dict[str, Any]:
    """The confusion matrix as JSON values."""
    return {
        "classes": list(classes),
        "rows": "true class",
        "columns": "predicted class",
        "counts": metrics.confusion.tolist(),
    }


def _epoch_block(
    epoch: Epoch, files: ConfigFiles
) -> tuple[ClassificationMetrics | None, dict[str, Any]]:
    """Scores at one epoch of each fold, None for unfinished folds, and of all folds pooled."""
    results = [fold.result for fold in files.folds]
    scores = [_fold_scores(fold, epoch) for fold in files.folds]
    block: dict[str, Any] = {
        "fold_results": {
            f"fold_{epoch}_epoch": [r and getattr(r, f"{epoch}_epoch") for r in results],
            **_columns(scores),
        },
        "average_results": _averages([row for row in scores if row is not None]),
        "out_of_fold": None,
    }
    pooled = files.pooled(epoch)
    if pooled is None:
        return None, block
    metrics = classification_metrics(pooled.probabilities, pooled.targets)
    planned = (sum(fold["val_per_class"].values()) for fold in files.folds_info["folds"])
    block["out_of_fold"] = {
        **history_scores(metrics),
        "n": metrics.n,
        "n_planned": sum(planned),
        "top_k_is": metrics.k,
        "defined_classes": dict(metrics.defined_classes),
    }
    return metrics, block


def _fold_scores(fold: FoldFiles, epoch: Epoch) -> Scores | None:
    """A fold's scores at an epoch; None for an unfinished fold.

    Earlier versions left classes that are never predicted out of their macro precision, so it is
    computed again from the predictions.
    """
    predictions = fold.predictions if epoch == "best" else fold.predictions_last
    if fold.result is None or predictions is None:
        return None
    stored: Scores = getattr(fold.result, epoch)
    found = history_scores(classification_metrics(predictions.probabilities, predictions.targets))
    again = {f"val_{name}": found[name] for name in ("precision", "precision_weighted")}
    return {name: again.get(name, value) for name, value in stored.items()}


def _repeats(files: ConfigFiles) -> dict[str, Any]:
    """Means over the folds of each repeat, and their mean and deviation over the repeats."""
    numbers = range(1, files.n_repeats + 1)
    parts = [[fold for fold in files.folds if fold.repeat == number] for number in numbers]
    block: dict[str, Any] = {"n_repeats": files.n_repeats, "n_splits": len(parts[0])}
    epochs: tuple[Epoch, ...] = ("best", "last")
    for epoch in epochs:
        rows: list[Scores | None] = []
        for part in parts:
            found = (_fold_scores(fold, epoch) for fold in part)
            scores = [score for score in found if score is not None]
            is_complete = len(scores) == len(part)
            averages = _averages(scores)
            rows.append({n: averages[f"avg_{n}"] for n in scores[0]} if is_complete else None)
        block[f"{epoch}_epoch"] = {
            "repeat_results": _columns(rows, "repeat"),
            "average_results": _averages([row for row in rows if row is not None]),
        }
    return block


def _inference(
    files: ConfigFiles, pooled: Predictions, summary: Mapping[str, Any]
) -> dict[str, Any]:
    """Headline and intervals: of the summary on disk if the predictions are the same, else new."""
    blocks = ("headline", "confidence_intervals")
    try:
        stored = files.stored_summary
    except RunFolderError:
        stored = {}
    if stored and all(stored[key] == summary[key] for key in INTERVALS_FOLLOW_FROM):
        was_kept = (stored["headline"] or {}).get("rule") == files.headline_rule
        if was_kept or stored["headline"] is None:
            return {key: stored[key] for key in blocks}
    # scipy takes half a second to import, which the start of a run need not wait for
    from clip_pkg.results import headline  # noqa: PLC0415

    return {
        "headline": headline.headline_block(files),
        "confidence_intervals": headline.intervals_block(files, pooled),
    }


def without_times(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a summary that two equal runs share."""
    shared = {key: value for key, value in summary.items() if key != "timing"}
    if summary.get("pretraining"):
        times = ("seconds", "train_images_per_second")
        block = summary["pretraining"].items()
        shared["pretraining"] = {key: value for key, value in block if key not in times}
    return shared


def _epoch_choice(config: Mapping[str, Any]) -> str:
    monitor = config["early_stopping_monitor"]
    if config["inner_val_fraction"] > 0:
        return (
            f"best epoch by {monitor} on an inner validation split of the training fold; the "
            "reported fold had no say"
        )
    return (
        f"best epoch by {monitor} on the reported fold itself, which makes best-epoch scores "
        "optimistic; last_epoch scores involve no choice"
    )


def _test(results: Sequence[FoldResult | None]) -> dict[str, Any] | None:
    """Scores on the test images, which no fold trained on; None without test images."""
    rows = [result.test if result and result.n_test else None for result in results]
    tested = [row for row in rows if row is not None]
    if not tested:
        return None
    return {
        "n": max(result.n_test for result in results if result),
        "model": "of the epoch that validation chose",
        "top_k_is": TOP_K,
        "fold_results": _columns(rows),
        "average_results": _averages(tested),
    }


def _columns(rows: Sequence[Scores | None], of: str = "fold") -> dict[str, list[float | None]]:
    names = next((list(row) for row in rows if row is not None), [])
    return {f"{of}_{name}": [row and row.get(name) for row in rows] for name in names}  # type: ignore[misc]


def _averages(rows: Sequence[Scores]) -> dict[str, Any]:
    """Mean and sample standard deviation of each column over the rows where it is defined."""
    averages: dict[str, Any] = {"n": len(rows), "ddof": DDOF}
    for name in rows[0] if rows else ():
        values = [value for row in rows if (value := row.get(name)) is not None]
        averages[f"avg_{name}"] = statistics.fmean(values) if values else None
        averages[f"std_{name}"] = statistics.stdev(values) if len(values) > DDOF else None
        if len(values) < len(rows):
            averages[f"n_{name}"] = len(values)
    return averages


def _majority_baseline(folds_info: Mapping[str, Any]) -> dict[str, Any]:
    """Scores of always predicting the largest class of the training fold."""
    rows: list[Scores] = []
    for fold in folds_info["folds"]:
        train, val = fold["train_per_class"], fold["val_per_class"]
        majority = max(train, key=lambda name: (train[name], name))
        present = sum(1 for count in val.values() if count)
        rows.append(
            {
                "val_acc": 100 * val[majority] / sum(val.values()),
                "val_balanced_acc": 100 / present if val[majority] else 0.0,
            }
        )
    return _averages(rows)


def _shared(environments: Sequence[Mapping[str, str]]) -> dict[str, Any]:
    """A value per fact; a list where the folds differ."""
    keys = dict.fromkeys(key for environment in environments for key in environment)
    values = {key: sorted({e.get(key, "") for e in environments}) for key in keys}
    return {key: found[0] if len(found) == 1 else found for key, found in values.items()}
